"""The evidence that a cell's run leaves, as the few numbers that its record keeps: `flags.derive` judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustbench_gan.contracts.attacks import AttackInfo
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.flags.counting import LEARNT_NOTHING, SATURATED_CONFIDENCE
from robustbench_gan.nouns.evidence import Evidence, Probe, Shown, in_short
from robustbench_gan.nouns.outcome import Output

Mask = NDArray[np.bool_]
WIDE = 0.1  # answers further than this from being probabilities are not measured any closer


@dataclass(frozen=True)
class Seen:
    """What a cell's run leaves to be told, of N samples under K judge seeds.

    `right`, `robust` and `stopped` are (K, N) bool: right unperturbed; that and not won; reached the goal but for a
    detector. `answers` holds the clean answers, one a judge seed. `drew` names the global generators that were moved
    while the attack was at work, `repeats` says that it did the same twice.
    """

    info: AttackInfo
    defense: Defense
    classes: int
    counts: Counts
    answers: Sequence[Output]
    right: Tensor
    robust: Tensor
    stopped: Tensor
    probe: Probe
    shown: Shown
    drew: tuple[str, ...] = ()
    repeats: bool = True


def evidence_of(seen: Seen) -> Evidence:
    """The numbers of a run."""
    info, defense, logits = seen.info, seen.defense, seen.answers[0].logits
    told: dict[str, int] = {}
    if info.needs == "gradient":
        told |= _of_gradients(seen)
    if seen.answers[0].scores.shape[1]:
        told["rejected"] = sum(int((~out.accepted).sum()) for out in seen.answers)
        told["stopped"] = int((seen.stopped & seen.right).sum())
    return Evidence(
        needs=info.needs,
        minimal=info.minimal,
        trained=info.trained,
        classes=seen.classes,
        randomised=bool(defense.randomised),
        purifies=bool(defense.purifies),
        unrolls=bool(defense.unrolls),
        off_simplex=_off_simplex(logits),
        probe=in_short(seen.probe),
        shown=in_short(seen.shown),
        drew=list(seen.drew),
        repeats=seen.repeats,
        **told,
    )


def _of_gradients(seen: Seen) -> dict[str, int]:
    """What the attack was given by way of gradients, in numbers of samples."""
    # numpy's functions take a tenth of the time of torch's for so few numbers.
    counts = {name: value.cpu().numpy() for name, value in vars(seen.counts).items()}
    attackable, stands = (bits.cpu().numpy().any(axis=0) for bits in (seen.right, seen.robust))
    given = counts["gradients"]
    asked = attackable & (given > 0)
    standing = asked & stands
    enough = given * LEARNT_NOTHING if seen.info.trained else given
    zero, tiny, flat = (
        standing & (counts[name] >= enough) for name in ("zero_gradients", "tiny_gradients", "flat_losses")
    )
    flat |= tiny
    told = {
        "called": attackable & (counts["calls"] > 0),
        "differentiated": attackable & (counts["backward"] > 0),
        "zero_gradients": zero,
        "nan_gradients": asked & (counts["nan_gradients"] > 0),
        "tiny_gradients": tiny,
        "flat_losses": flat,
    }
    if flat.any():
        sure = flat.copy()
        sure[flat] = _sure(seen.answers[0].logits.detach().cpu().numpy()[flat])
        told |= {"sure_tiny": tiny & sure, "sure_flat": sure}
    return {name: int(np.count_nonzero(which)) for name, which in told.items()}


def _sure(logits: NDArray[np.float32]) -> Mask:
    """(n,) bool: the softmax of logits, (n, K), is 1 in float32."""
    z = logits.astype(np.float64)
    others = np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1) - 1  # as shares of the largest
    return np.asarray(others / (1 + others) < SATURATED_CONFIDENCE)


def _off_simplex(logits: Tensor) -> float:
    """How far logits (N, K) are from all being probabilities, at most 1."""
    if len(logits) == 0:
        return 1.0
    low, high = map(float, logits.detach().aminmax())
    if not (low > -WIDE and high < 1 + WIDE):  # nearly always; nor is NaN
        return 1.0
    sums = logits.detach().double().sum(dim=1)
    off = max(-low, high - 1, float((sums - 1).abs().max()), 0.0)
    return min(float(f"{off:.4g}"), 1.0)
