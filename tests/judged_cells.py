"""The images that a cell of planted data judges, and outcomes as text."""

from __future__ import annotations

from planted_cells import Fixed, grey

from robustbench_gan.data.dataset import HOLDOUT

N = 20


def bits(flags):
    return "".join("1" if flag else "0" for flag in flags.tolist())


def judged_images(classes=3):
    """The images a cell of N samples judges, their labels, and the weights of the known model."""
    split = grey(classes=classes).test.take(slice(HOLDOUT, HOLDOUT + N))
    return split.pixels(), split.labels, Fixed(classes).weight.detach()
