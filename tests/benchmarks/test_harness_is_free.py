"""What the View, the counting and the bookkeeping cost: FGSM and PGD against a bare loop of the same gradients.

The ball is so small that no image is won: nobody stops early, and both sides compute the same passes. The bare loop
ends as any does, with a look at what it has made; `run_attack` also judges the clean images, and so does its rival.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from harness import compare, ours, quality_of
from rbg_attacks.fgsm import fgsm
from rbg_attacks.pgd import pgd
from torch.nn import functional as F

from robustbench_gan.base.batching import MICRO_BATCH
from robustbench_gan.contracts.image_gradient import gradient
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.models.defense_gan_2018 import a
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.training.networks import freeze, fresh

EPS = 1e-3
COUNTS = {"small-cnn": 500, "a": 100}
ROUNDS = {0: 41, 10: 11, 40: 5}
# The bare loop of anybody: the harness is free. With our gradient only the harness is left between the two.
FREE = {"bare loop": 1 / 1.03, "bare loop, our gradient": 0.85}
LINES = [(model, steps) for model in COUNTS for steps in ROUNDS]


@pytest.fixture(params=LINES, ids=[f"{model}-{steps or 'fgsm'}" for model, steps in LINES])
def race(request, mnist_cnn):
    """The name of the race, a frozen model, the images it is surest of, its answers and the steps, 0 for FGSM."""
    name, steps = request.param
    model = mnist_cnn.model if name == "small-cnn" else freeze(fresh(lambda: a((1, 28, 28), 10), 0))
    top = model(mnist_cnn.x).topk(2)
    sure = (top.values[:, 0] - top.values[:, 1]).topk(COUNTS[name]).indices
    return (
        f"{name}, {f'PGD {steps} steps' if steps else 'FGSM'}", model, mnist_cnn.x[sure], top.indices[sure, 0], steps,
    )  # fmt: skip


def autograd(value, leaf):
    return torch.autograd.grad(value.sum(), leaf)[0]


def our_gradient(value, leaf):
    return gradient(value, leaf, retain=False)


def iterates(model, x, y, steps, slope=autograd):
    """The loop that anybody would write; FGSM is its one step of size eps. All iterates, x first."""
    at, size = x, 2.5 * EPS / steps if steps else EPS
    yield at
    for _ in range(steps or 1):
        leaf = at.detach().requires_grad_()
        grad = slope(F.cross_entropy(model(leaf), y, reduction="none"), leaf)
        at = (x + (at + size * grad.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
        yield at


def bare(model, x, y, steps, slope=autograd):
    """Its last iterate; the others are let go, as they are there."""
    for at in iterates(model, x, y, steps, slope):
        made = at
    return made


def rivals(loop):
    return {"bare loop": partial(loop, autograd), "bare loop, our gradient": partial(loop, our_gradient)}


def look(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


def best(model, seen, y):
    """Of the iterates the one of largest margin, sample by sample: what our PGD keeps."""
    with torch.no_grad():
        margins = torch.stack([Goal.untargeted(y).margin(Output.of(model(at))) for at in seen])
    return torch.stack(seen)[margins.argmax(dim=0), torch.arange(len(y))]


def hold_equal(made, model, x, y, steps):
    seen = list(iterates(model, x, y, steps))
    wanted = best(model, seen, y) if steps else seen[-1]
    apart = (made - wanted).abs().amax(dim=(1, 2, 3))
    assert (
        apart < 1e-6
    ).double().mean() >= 0.98  # rounding may flip a sign, or which of two iterates is best


def test_the_engine_s_view(benchmark, race):
    """In the engine's micro-batches; the bare loop takes the same pieces, for else they are not the same gradients."""
    name, model, x, y, steps = race
    pieces = torch.arange(len(x)).split(MICRO_BATCH["cpu"])

    def made():
        view = View.on(Bare(model), sample_seeds(0, "view", torch.arange(len(x))), exact=True, fixed=True)
        goal, budget = Goal.untargeted(y), Budget("linf", EPS)
        if not steps:
            return fgsm(view, x, goal, budget, view.seed)
        return pgd(view, x, goal, budget, view.seed, steps=steps, random_start=False)

    def loop(slope):
        done = [bare(model, x[rows], y[rows], steps, slope) for rows in pieces]
        if steps:  # FGSM does not look
            for piece in done:
                look(model, piece)
        return torch.cat(done)

    hold_equal(made(), model, x, y, steps)
    compare(
        benchmark, f"the engine's view: {name}", setting=f"MNIST, linf {EPS}", ours=made,
        others=rivals(loop), quality=quality_of(model, x, y, "linf", EPS), faster=FREE,
        rounds=ROUNDS[steps],
    )  # fmt: skip


def test_run_attack(benchmark, race):
    name, model, x, y, steps = race
    attack = f"pgd:steps={steps},random_start=false" if steps else "fgsm"

    def loop(slope):
        made = bare(model, x, y, steps, slope)
        look(model, x), look(model, made)
        if steps:
            look(model, made)  # PGD chooses among its iterates before anybody judges: one pass more
        return made

    made = ours(attack, model, x, y, "linf", EPS)
    hold_equal(made(), model, x, y, steps)
    compare(
        benchmark, f"run_attack: {name}", setting=f"MNIST, linf {EPS}", ours=made,
        others=rivals(loop), quality=quality_of(model, x, y, "linf", EPS), faster=FREE,
        rounds=ROUNDS[steps],
    )  # fmt: skip
