"""P16: on MNIST the smallest example must not be further away than a digit of another class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags import flag
from robustbench_gan.flags.thresholds import MNIST_CLASS_DISTANCE

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def only_mnist(system: System) -> str:
    """The reason on other data, for which the distance between classes is not known."""
    known = system.asked.dataset.name == "mnist"
    return "" if known else "the distance between classes is known for mnist alone"


def cells(system: System) -> list[Wanted]:
    """FMN in l2; with the seed known where there is one, since a smallest example bears no other draw."""
    return [Wanted("fmn", "seed-known" if system.randomised else "white-box", "l2", float("inf"))]


def look(system: System) -> Finding:
    """The median size over images right unperturbed; one that was not reached is infinitely far."""
    outcomes = system.results[cells(system)[0]].outcomes
    assert outcomes is not None
    clean, robust = outcomes.array("clean"), outcomes.array("robust")
    if not clean.any():
        return Finding(not_applicable="no image is classified right unperturbed")
    sizes = np.broadcast_to(np.asarray(outcomes.size, dtype=np.float64), clean.shape)
    median = float(np.median(np.where(robust, np.inf, sizes)[clean]))
    raised = []
    if median > MNIST_CLASS_DISTANCE:
        raised = [flag("implausible-distortion", median=round(median, 4), bound=MNIST_CLASS_DISTANCE)]
    figure = f"median l2 {median:.3g}, between classes {MNIST_CLASS_DISTANCE:g}"
    return Finding(figure=figure, n=int(clean.any(axis=0).sum()), flags=raised)


CHECK = Check(
    "distortion", "P16", "is the smallest example further than another class?", ("implausible-distortion",), look,
    "FMN in l2", cells=cells, why_not=only_mnist,
)  # fmt: skip
