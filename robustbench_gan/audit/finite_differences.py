"""P5: the gradient must foretell what small steps do to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.record import Finding
from robustbench_gan.base.progress import task
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.flags import flag
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import fold, signs

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System

IMAGES: Final = 20
DIRECTIONS: Final = 64
STEP: Final = 1e-2  # of every pixel
CORRELATION: Final = 0.1
ROUNDING: Final = 1e-5  # changes below this share of the logits are float32's own


def no_full_gradient(system: System) -> str:
    """The reason for defenses that are attacked through stand-ins for their gradient alone."""
    return (
        "" if system.full_gradient else "the defense's gradient is not given in full: it is attacked by BPDA"
    )


def look(system: System) -> Finding:
    """The correlation over random directions of finite differences with what the gradient foretells, an image.

    The median of the correlations is taken with its sign, not of their absolute values: with 64 directions a
    gradient that is noise has a median absolute correlation of 0.085, so one in four of them would pass by luck, and
    one that points the wrong way would always pass.
    """
    x, y = system.images(IMAGES)
    found = correlations(system, x, y)
    if len(found) == 0:
        return Finding(not_applicable="no small step changes the loss of any image")
    middle = float(found.median())
    raised = []
    if middle < CORRELATION:
        raised = [
            flag("masked-gradient", correlation=round(middle, 4), images=len(found), directions=DIRECTIONS)
        ]
    return Finding(figure=f"correlation {middle:.3f}", n=len(found), flags=raised)


def correlations(system: System, x: Tensor, y: Tensor) -> Tensor:
    """One correlation for each image whose loss changes at all, (M,); 0 where the gradient is.

    The margin is the loss, which cannot saturate. Images are first moved STEP inside the box,
    so that no step leaves it.
    """
    x, seed, goal = STEP + (1 - 2 * STEP) * x, system.seeds("differences", len(x)), Goal.untargeted(y)
    view = View.on(Defended(system.defense), seed, fixed=True)
    _, grad, out = view.value_and_grad(goal.margin, x)
    measured, foretold = [], []
    with task("finite differences", DIRECTIONS) as advance:
        for at in range(DIRECTIONS):
            along = signs(fold(seed, "direction", at), x.shape[1:])
            there, back = (goal.margin(system.answer(x + s * STEP * along, seed)) for s in (1, -1))
            measured.append((there - back) / (2 * STEP))
            foretold.append((grad * along).flatten(1).sum(dim=1))
            advance(1)
    d, g = torch.stack(measured, dim=1).double(), torch.stack(foretold, dim=1).double()
    least = ROUNDING * out.logits.abs().amax(dim=1) / STEP
    rows = d.abs().amax(dim=1) > least
    d, g = d[rows] - d[rows].mean(dim=1, keepdim=True), g[rows] - g[rows].mean(dim=1, keepdim=True)
    size = d.norm(dim=1) * g.norm(dim=1)
    found: Tensor = torch.where(size > 0, (d * g).sum(dim=1) / size.clamp(min=1e-300), 0.0)
    return found


def seconds(system: System) -> float:
    """Of two answers a direction."""
    return DIRECTIONS * 2 * system.forward_seconds(min(IMAGES, system.asked.samples))


CHECK = Check(
    "finite-differences", "P5", "does the gradient agree with finite differences?", ("masked-gradient",), look,
    f"{2 * DIRECTIONS} answers an image, {IMAGES} images", why_not=no_full_gradient, seconds=seconds,
)  # fmt: skip
