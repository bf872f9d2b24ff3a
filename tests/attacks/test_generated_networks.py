"""Networks, changes to their logits and attacks, drawn at random: each outcome is recomputed in plain torch.

Behind every network stand two linear classes, for which the smallest perturbation inside the box is known; shifted,
scaled, in any order and beside masked classes they have the same one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import Linear, images, optimum
from torch import nn

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import NORMS

CHEAP = {
    "pgd": "steps=10", "apgd": "steps=15", "cw-bounded": "steps=20", "fmn": "steps=60", "lbfgs": "steps=20",
    "square": "queries=40", "hopskipjump": "queries=150,initial=20",
}  # fmt: skip
INFOS = {name: info_of(registry.load("attacks", name)) for name in registry.names("attacks")}
ASKED = [  # a purifier, a generator or a training are not drawn
    (name, norm)
    for name, info in INFOS.items()
    for norm in info.norms
    if info.gradient is None and not info.trained
]
CORNER = (
    "fgsm",
    "bim",
    "pgd",
    "apgd",
    "cw-bounded",
)  # in linf they end in the corner that the gradient points to
NEAREST = {"fmn": 1.05, "deepfool": 1.1, "cw": 1.1}  # how far above the optimum a minimal success may lie
SURE = 12.0  # above this gap a cross-entropy may have lost its gradient in float32


@dataclass(frozen=True)
class Drawn:
    """A question: `order` places the two classes and `masks` further ones, `classes` are where class 0 and 1 went."""

    attack: str
    norm: str
    seed: int
    shape: tuple[int, int, int]
    scale: float
    shift: float
    masks: tuple[float, ...]
    order: tuple[int, ...]
    layout: str
    targeted: bool
    eps: float


@st.composite
def questions(draw) -> Drawn:
    name, norm = draw(st.sampled_from(ASKED))
    masks = tuple(draw(st.lists(st.sampled_from([-math.inf, -1e9, -1e4]), max_size=3)))
    return Drawn(
        name, norm,
        draw(st.integers(0, 99)),
        (draw(st.sampled_from([1, 3])), draw(st.integers(3, 5)), draw(st.integers(3, 5))),
        draw(st.sampled_from([2.0**-6, 0.1, 1.0, 8.0, 100.0])),
        draw(st.sampled_from([0.0, 0.0, -20.0, 50.0])),
        masks,
        tuple(draw(st.permutations(range(2 + len(masks))))),
        draw(st.sampled_from(["contiguous", "channels-last", "strided"])),
        draw(st.booleans()),
        draw(st.sampled_from([0.01, 0.05, 0.2])),
    )  # fmt: skip


class Network(nn.Module):
    """Two linear classes, scaled and shifted, beside masked ones and in another order."""

    def __init__(self, linear: Linear, drawn: Drawn) -> None:
        super().__init__()
        self.linear, self.drawn = linear, drawn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2 + masks)."""
        z = self.drawn.scale * self.linear(x) + self.drawn.shift
        masked = z.new_tensor(self.drawn.masks).expand(len(z), -1)
        return torch.cat([z, masked], dim=1)[:, list(self.drawn.order)]


def stored(x, layout):
    if layout == "channels-last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = x.new_zeros(*x.shape[:3], 2 * x.shape[3])
        wide[..., ::2] = x
        return wide[..., ::2]
    return x


def linear_for(shape, seed):
    """Two classes that meet in the middle of the box."""
    linear = Linear(2, shape, seed=seed)
    with torch.no_grad():
        linear.bias.copy_(0.03 * linear.bias - 0.5 * linear.weight.sum(dim=1))
    return linear.eval()


def recomputed(drawn: Drawn) -> None:
    """Attack the drawn network, and hold what comes back against what is known of it."""
    linear, x = linear_for(drawn.shape, drawn.seed), images(6, drawn.shape, seed=drawn.seed) * 0.4 + 0.3
    network = Network(linear, drawn).eval()
    with torch.no_grad():
        logits = linear(x)
    own = logits.argmax(dim=1)
    own[0] = 1 - own[0]  # this one is wrong unperturbed
    place = torch.tensor(drawn.order).argsort()
    y, other = place[own], place[1 - own]
    name, norm = drawn.attack, drawn.norm
    more = {"l2": "preset=fast,steps=40"}.get(norm, "steps=100") if name == "cw" else CHEAP.get(name, "")
    eps = {"l0": 3.0, "l1": 20 * drawn.eps, "l2": 5 * drawn.eps, "linf": drawn.eps}[norm]
    if INFOS[name].minimal:
        eps = math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run_attack(
            f"{name}:{more}" if more else name, network, stored(x, drawn.layout), y, norm=norm, epsilons=eps,
            targets=other if drawn.targeted else None,
        )  # fmt: skip

    made = found.examples[0]
    with torch.no_grad():
        after, before = network(made), network(x)
    rows = torch.arange(len(x))
    margin = after[rows, other] - after[rows, y]
    won = (margin > 0) if drawn.targeted else (margin >= 0)
    delta = (made - x).flatten(1).double()
    size = {"l0": (delta != 0).sum(dim=1), "l1": delta.abs().sum(dim=1), "l2": delta.norm(dim=1),
            "linf": delta.abs().amax(dim=1)}[norm]  # fmt: skip
    assert ((made >= 0) & (made <= 1)).all() and (size <= eps * (1 + 1e-5) + 1e-5).all()
    assert torch.equal(found.success[0], won)
    assert torch.equal(found.right, before[rows, y] > before[rows, other])
    assert found.right[1:].all() and not found.right[0]
    assert torch.allclose(found.size[0].double(), size.double(), atol=1e-5)
    assert found.robust_accuracy[0].value == float((found.right & ~won).double().mean())

    least = optimum(linear, x[1:], own[1:], norm)
    won, size, gap = won[1:], size[1:], logits.diff(dim=1).abs()[1:, 0]
    clear = gap > 1e-3 * (1 + abs(drawn.shift) / drawn.scale)  # that rounding cannot bridge
    assert (~won | ~clear | (size >= least * (1 - 1e-2) - 1e-5)).all()
    if name in CORNER and norm == "linf":
        sees = INFOS[name].scale_free or drawn.targeted or bool(drawn.scale * gap.max() < SURE)
        assert not sees or won[clear & (least < 0.9 * eps)].all()
    if name in NEAREST:
        assert won[clear].all()
        room = 2 if norm == "l0" else 2e-3
        assert (size <= NEAREST[name] * least + room)[clear].all()


@given(questions())
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
def test_what_comes_back_is_right(drawn):
    recomputed(drawn)


@pytest.mark.nightly
@given(questions())
@settings(
    max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
def test_what_comes_back_is_right_two_thousand_times(drawn):
    recomputed(drawn)


def test_all_norms_and_most_attacks_are_drawn():
    assert {norm for _, norm in ASKED} == set(NORMS) and len({name for name, _ in ASKED}) >= 12
