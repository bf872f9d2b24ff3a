"""Positive controls: faults on purpose with the flag or status meant for each, and honest systems that deserve none.

Each is an ordinary cell of registered names; the faulty ones begin with `control-`. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from robustbench_gan.nouns.flag import Flag
    from robustbench_gan.nouns.record import Result, Status

FoundBy = Literal["cell", "audit"]
CLASSIFIER: Final = "small-cnn"
HANG_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Control:
    """One system under one attack, or several, and what must come of it.

    A fault is caught where every result has the `status`, raises `flag` and gives a reason that holds `reason`, as far
    as each is given. An honest system has none of the three: it must be `ok`, without any flag that is `invalid`.
    It is run in cells, one an attack, or with `checks` audited by these. `timeout` is in seconds, 0 for none.
    """

    name: str
    what: str
    defense: str = "none"
    attacks: tuple[str, ...] = ("pgd:steps=20",)
    threat: str = "white-box"
    norm: str = "linf"
    eps: float = 0.1
    judge_seeds: int = 1
    flag: str = ""
    status: Status | None = None
    reason: str = ""
    checks: tuple[str, ...] = ()
    timeout: float = 0.0

    @property
    def honest(self) -> bool:
        """Nothing is wrong with it."""
        return not (self.flag or self.status)

    @property
    def found_by(self) -> FoundBy:
        """Who looks for a fault: the checks of each cell, or an audit."""
        return "audit" if self.checks else "cell"

    @property
    def meant(self) -> str:
        """What must come of it, for readers."""
        if self.honest:
            return "nothing invalid"
        says = f'"{self.reason}"' if self.reason else ""
        return ", ".join(part for part in (self.flag, self.status or "", says) if part)

    def told_by(self, result: Result) -> bool:
        """Does this result say of the fault what it must, and of an honest system nothing that it must not?"""
        if self.honest:
            return result.status == "ok" and not invalid(result.flags)
        flags = [f.id for f in result.flags]
        right_status = self.status is None or result.status == self.status
        return right_status and (not self.flag or self.flag in flags) and self.reason in result.reason


def invalid(flags: list[Flag]) -> list[str]:
    """The ids of the flags that make a number suspect."""
    return [f.id for f in flags if f.severity == "invalid"]


def _system(name: str, what: str, flag: str, status: Status | None = None, **more: object) -> Control:
    return Control(name, what, f"control-{name}", flag=flag, status=status, **more)  # type: ignore[arg-type]


def _attack(
    name: str, what: str, flag: str, status: Status, reason: str = "", timeout: float = 0.0
) -> Control:
    return Control(
        name, what, attacks=(f"control-{name}",), flag=flag, status=status, reason=reason, timeout=timeout
    )


FULL = "white-box:gradient=full"
AUDITED: Final = (
    "state",
    "batch",
    "finite-differences",
)  # of an audit's checks those that look for these faults
SYSTEMS: Final = (
    _system("zero-gradient", "gradient killer: identity forwards, zeros backwards", "zero-gradient", "suspect",
            threat=FULL),
    _system("noise", "noise from the seeds of a defense that is not declared random", "undeclared-randomness",
            "suspect"),
    Control("global-noise", "noise from torch's global generator, which no seed governs",
            "control-noise:seeded=false", flag="undeclared-randomness", status="suspect"),
    _system("quantiser", "rounds pixels, so that autograd gives zeros", "zero-gradient", "suspect", threat=FULL),
    _system("detached", "purifier that detaches what it returns", "disconnected-gradient", "failed", threat=FULL),
    _system("softmax", "probabilities in the place of logits", "probabilities-as-logits", "suspect"),
    _system("dropout", "dropout that never switches off", "always-on-dropout", "suspect"),
    _system("stateful", "every second call is given the negative image", "stateful-defense", "suspect"),
    _system("nan", "divides by zero", "not-a-number", "failed"),
    _system("reject-all", "rejects every input", "rejects-clean-images"),
    _system("saturated", "logits times 1000: the cross-entropy is flat", "saturated-loss", "suspect"),
    _system("range", "shows the classifier [-1, 1] in the place of [0, 1]", "range-mismatch"),
    Control("untrained-generator", "Defense-GAN whose generator was never trained: its rate is 1e-12",
            "defense-gan:gan_steps=1,gan_lr=1e-12,width=4,iterations=5,restarts=1",
            threat="white-box:gradient=bpda", judge_seeds=3, flag="misconfigured-purifier"),
    _system("batch-coupled", "takes the mean of the batch off each image", "batch-dependent", "suspect"),
    Control("batch-coupled-audited", "the same, over more images", "control-batch-coupled",
            flag="batch-dependent", checks=AUDITED),
    _system("wrong-gradient", "the identity with its gradient reversed", "masked-gradient", checks=AUDITED),
)  # fmt: skip
ATTACKS: Final = (
    _attack("over-budget", "steps half as far again as it may", "budget-violation", "failed"),
    _attack("out-of-box", "leaves [0, 1]", "budget-violation", "failed"),
    _attack("in-place", "writes its example into its input", "", "failed", "edited its input in place"),
    _attack("wrong-dtype", "returns float64", "budget-violation", "failed"),
    _attack("wrong-shape", "returns half of the samples", "", "failed", "expected"),
    _attack("clean-image", "returns the clean image", "no-perturbation", "suspect"),
    _attack("exception", "raises", "", "failed", "ArithmeticError"),
    _attack("hang", "never returns", "", "failed", "--cell-timeout", HANG_SECONDS),
    Control("too-few-steps", "PGD of three steps", attacks=("pgd:steps=3",), flag="weak-hyper-parameters"),
    Control("large-step", "PGD with a step larger than eps", attacks=("pgd:step=0.3",),
            flag="weak-hyper-parameters"),
)  # fmt: skip
BOTH = ("fgsm", "pgd:steps=20")
PGD_TRAINED = "adversarial-training:attack=pgd(steps=5),mix=1.0,eps=0.1,epochs=3"
APE_GAN = "ape-gan:width=8,epochs=4,eps=0.1"
HONEST: Final = (
    Control("none", "the classifier alone", attacks=("fgsm", "pgd:steps=20", "apgd:steps=20")),
    Control("pgd-trained", "adversarial training with PGD", PGD_TRAINED, BOTH),
    Control("fgsm-trained", "adversarial training with FGSM", "adversarial-training:eps=0.1,epochs=3", BOTH),
    Control("distillation", "under C&W on logits", "distillation:epochs=10", ("cw:preset=fast",), norm="l2",
            eps=2.0),
    Control("magnet", "with all detectors, under the white-box attack that knows them",
            "magnet:epochs=40,lr=0.05,one_cycle=true,detectors=all,fpr=0.01,divergence_fpr=0.01", BOTH),
    Control("magnet-collection", "one of two autoencoders at random, under EOT",
            "magnet:epochs=3,one_cycle=true,collection=2", BOTH, "white-box:draws=5", judge_seeds=3),
    Control("ape-gan", "through its generator", APE_GAN, BOTH),
    Control("cgan", "through its generator", "cgan:width=4,epochs=2,eps=0.1", BOTH),
    Control("jpeg", "under BPDA", "jpeg", BOTH),
    Control("bit-depth", "under BPDA", "bit-depth", BOTH, "white-box:gradient=bpda"),
    Control("median", "under BPDA and the full gradient", "median", BOTH),
    Control("defense-gan", "under BPDA with EOT, where many steps win clearly more than one",
            "defense-gan:gan_steps=200,gan_lr=0.001,critic_steps=2,width=8,latent=32,iterations=10,restarts=1",
            ("fgsm", "pgd:steps=40,step=0.02"), "white-box:gradient=bpda,draws=2", judge_seeds=3, eps=0.2),
    Control("none-audited", "the classifier alone", checks=AUDITED),
    Control("pgd-trained-audited", "adversarial training with PGD", PGD_TRAINED, checks=AUDITED),
    Control("ape-gan-audited", "with batch norm in its generator", APE_GAN, checks=AUDITED),
)  # fmt: skip
CONTROLS: Final[tuple[Control, ...]] = (*SYSTEMS, *ATTACKS, *HONEST)
