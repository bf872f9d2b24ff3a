"""Red flags: signs in the evidence of a cell that its number does not mean what it says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_gan.attack import AttackInfo
from robustbench_gan.record import Flag
from robustbench_gan.threat import Counts, ThreatModel

ZERO_GRADIENT_SHARE = 0.05  # above this share of attackable samples the result is invalid
MOVED_SHARE = 0.5  # a linf attack that uses less of eps than this on average has hardly attacked
AGREEMENT = 0.8  # a substitute that agrees less with its oracle is no evidence

EXPLANATIONS = {
    "zero-gradient": (
        "Every gradient the attack was given for these samples was exactly zero, so it could not move them. A "
        "defense that hides its gradient this way is not robust: it is unattacked. Try gradient=bpda, a loss on "
        "logits, or an attack without gradients."
    ),
    "no-perturbation": (
        "The attack changed none of the images it had to fool, or hardly used its budget. The accuracy shown is "
        "then little else than the clean accuracy."
    ),
    "no-backward": (
        "The attack is defined by gradients but asked for none, so nothing it did can have aimed at the system."
    ),
    "defense-not-attacked": (
        "A white-box attack must run through the defended system. This one never called it: at best it is a "
        "gray-box attack under a white-box name."
    ),
    "cut-gradient": (
        "The gradient was cut between the defense and the attacker, as the code behind the Defense-GAN paper did. "
        "It is kept as a positive control: the high accuracy shows what an attack that did nothing measures."
    ),
    "weak-substitute": (
        "The substitute disagrees with its oracle on too many clean images. That examples made on it do not "
        "transfer is then no evidence of robustness."
    ),
    "undeclared-randomness": (
        "The defense is registered as deterministic but answered the same images differently under different "
        "seeds. The attack took one answer for all of them; declare it randomised and use EOT."
    ),
}


@dataclass(frozen=True)
class Evidence:
    """What a cell's run leaves to check: `sizes` is (K or 1, N), `clean` and `robust` are (K, N)."""

    info: AttackInfo
    threat: ThreatModel
    gradients: tuple[str, ...]
    counts: Counts
    eps: float
    norm: str
    sizes: Tensor
    clean: Tensor
    robust: Tensor
    randomised: bool
    agreement: float | None = None


def red_flags(seen: Evidence) -> list[Flag]:
    """Every flag that the evidence raises; one of severity `invalid` makes the result suspect.

    Only samples that were right unperturbed under some seed are attackable and count.
    """
    attackable = seen.clean.any(dim=0)
    flags = []
    if "cut" in seen.gradients:
        flags.append(_flag("cut-gradient", "invalid"))
    if bool(attackable.any()):
        flags += [*_gradient_flags(seen, attackable), *_size_flags(seen, attackable)]
    if seen.agreement is not None and seen.agreement < AGREEMENT:
        flags.append(_flag("weak-substitute", "warning", agreement=round(seen.agreement, 4)))
    if not seen.randomised and bool((seen.clean != seen.clean[0]).any()):
        changed = int((seen.clean != seen.clean[0]).any(dim=0).sum())
        flags.append(_flag("undeclared-randomness", "invalid", samples=changed))
    return flags


def _gradient_flags(seen: Evidence, attackable: Tensor) -> list[Flag]:
    if seen.info.needs != "gradient":
        return []
    called, backward = seen.counts.calls[attackable], seen.counts.backward[attackable]
    if seen.threat.white and not bool(called.any()):
        return [_flag("defense-not-attacked", "invalid")]
    if not bool(backward.any()):
        return [_flag("no-backward", "invalid")]
    calls = seen.counts.gradients[attackable]
    stands = seen.robust.any(dim=0)[attackable]  # a sample that fell to a random start needed no gradient
    zero = (calls > 0) & (seen.counts.zero_gradients[attackable] == calls) & stands
    count, total = int(zero.sum()), int(attackable.sum())
    if count == 0:
        return []
    severity = "invalid" if count > ZERO_GRADIENT_SHARE * total else "note"
    return [_flag("zero-gradient", severity, samples=count, of=total)]


def _size_flags(seen: Evidence, attackable: Tensor) -> list[Flag]:
    sizes = seen.sizes[:, attackable]
    if seen.eps == 0:
        return []
    if not bool((sizes > 0).any()):
        return [_flag("no-perturbation", "invalid", changed=0)]
    used = float(torch.as_tensor(sizes).double().mean()) / seen.eps
    if seen.norm == "linf" and not seen.info.minimal and used < MOVED_SHARE:
        return [_flag("no-perturbation", "warning", mean_share_of_eps=round(used, 4))]
    return []


def _flag(name: str, severity: str, **evidence: float | int | str) -> Flag:
    return Flag.model_validate(
        {"id": name, "severity": severity, "message": EXPLANATIONS[name], "evidence": evidence}
    )
