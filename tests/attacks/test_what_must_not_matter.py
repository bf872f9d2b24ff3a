"""What must not matter to any attack: a shift of the logits, the order of classes and images, how x is stored.

To those that call themselves scale-free neither the logits' scale nor masked classes matter; the others lose no
success by them, or stand in `SOFTMAX` with the equation that says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from crafted import attack_of, crafted
from planted import conv, images, seeds
from torch import nn

from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

SHAPE, CLASSES, N = (3, 5, 5), 4, 20
RADIUS = {"l0": 6.0, "l1": 1.2, "l2": 0.35, "linf": 0.05}
CHEAP = {
    "steps": 6, "queries": 40, "initial": 10, "epochs": 2, "images": 24, "inversions": 2,
    "inversion_steps": 5, "classes": 2,
}  # fmt: skip
MORE = {
    "cw-l2": {"preset": "fast", "steps": 15},
    "cw-l0": {"steps": 40},
    "cw-linf": {"steps": 40},
    "fmn": {"steps": 15},
}
CHANCE = 0.1  # of the images: two of twenty may fall to one run and not to the other
SIZES = 0.02
ATTACKS = registry.names("attacks")
A_PLANE_A_CLASS = (
    "ai-gan",
)  # a generator of x and one plane a class: of other classes it is another network
CROSS_ENTROPY = (
    "its gradient is sum_k p_k grad z_k - (1 - p_y) grad z_y up to sign (Goodfellow et al. 2015, eq. 1): 0 in float32 "
    "where the softmax is 1"
)
SOFTMAX = {
    **dict.fromkeys(("fgsm", "rand-fgsm", "bim", "pgd", "bpda", "bpda-learned", "apgd"), CROSS_ENTROPY),
    "advgan": "max(-margin, -kappa) on logits is weighed against losses of images (Xiao et al. 2018, eq. 4)",
    "ai-gan": "L_target is a cross-entropy, weighed against losses of images (Bai et al. 2021, section 3)",
}
COMBINATIONS = [
    pytest.param(name, norm, id=f"{name}-{norm}")
    for name in ATTACKS
    for norm in info_of(registry.load("attacks", name)).norms
]
SCALE_FREE = [p for p in COMBINATIONS if info_of(registry.load("attacks", p.values[0])).scale_free]
EXACT = [p for p in SCALE_FREE if p.values != ("cw", "l0")]  # that aims a given margin past the boundary
OTHERS = [p for p in COMBINATIONS if p not in SCALE_FREE]


class Changed(nn.Module):
    """A network whose logits are changed after it."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))


@dataclass(frozen=True)
class Made:
    """Examples, which of them won, and their sizes, (N,)."""

    examples: torch.Tensor
    won: torch.Tensor
    size: torch.Tensor


def network(classes=CLASSES):
    """A smooth network whose classes meet among the images, as one that was trained to tell them apart."""
    net, x = conv(classes, SHAPE), images(200, SHAPE, seed=9)
    with torch.no_grad():
        net[-1].bias -= net(x).mean(dim=0)
        factor = 2 / net(x).topk(2, dim=1).values.diff(dim=1).abs().mean()
        net[-1].weight *= factor
        net[-1].bias *= factor
    return net


def goal_of(classes=CLASSES):
    """Away from the answers, of which the first two are wrong already."""
    y = network(classes)(images(N, SHAPE)).argmax(dim=1)
    y[:2] = (y[:2] + 1) % classes
    return Goal.untargeted(y)


def attacked(name, norm, *, change=lambda z: z, x=None, goal=None, classes=CLASSES, rows=slice(None)):
    """The attack on the network whose logits are changed; `rows` are those of the seeds."""
    x, goal = images(N, SHAPE) if x is None else x, goal_of(classes) if goal is None else goal
    _, info, _ = attack_of(name)
    budget = Budget(norm, math.inf if info.minimal else RADIUS[norm])
    model = Changed(network(classes), change).eval()
    made, _ = crafted(
        name, budget, x, goal, model=Bare(model), seed=seeds(N, cell=1)[rows], view_seed=seeds(N)[rows],
        fit_steps=2, cheap={**CHEAP, **MORE.get(name, MORE.get(f"{name}-{norm}", {}))}, exact=True, fixed=True, whole_batches=True,
    )  # fmt: skip
    with torch.no_grad():
        return Made(made, goal.reached(Output.of(model(made))), budget.size(made - x))


_KNOWN: dict[tuple[str, str], Made] = {}


def plain(name, norm):
    """The attack on the network as it is, computed once."""
    if (name, norm) not in _KNOWN:
        _KNOWN[name, norm] = attacked(name, norm)
    return _KNOWN[name, norm]


def alike(one: Made, other: Made) -> bool:
    """Success but for chance, and the median of what both won by, but for 2 %."""
    both = one.won & other.won & (one.size > 0)
    ratio = (other.size[both] / one.size[both]).median() if bool(both.any()) else torch.ones(())
    return (
        abs(float(one.won.double().mean() - other.won.double().mean())) <= CHANCE + 1e-9
        and abs(float(ratio) - 1) <= SIZES
    )


# ---- for every attack


def shifted(z):
    """By a constant, and another one for another image."""
    return z + 5.0 + z.detach().sum(dim=1, keepdim=True).sign() * 3


def strided(x):
    """Every other value of a wider tensor."""
    wide = x.new_zeros(*x.shape[:3], 2 * x.shape[3])
    wide[..., ::2] = x
    return wide[..., ::2]


ORDER = torch.tensor([2, 0, 3, 1])  # of classes
PARTS = (torch.arange(N - 1, 6, -1), torch.arange(7))  # of the images, in an order of their own
STORED = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": strided,
    "transposed": lambda x: x.mT.contiguous().mT,
}


def in_other_order(name, norm, change=lambda z: z, stored=lambda x: x):
    """Classes in another order, images in another and in two parts."""
    order = ORDER.sort().values if name in A_PLANE_A_CLASS else ORDER
    goal, x, made = Goal.untargeted(order.argsort()[goal_of().classes]), images(N, SHAPE), []
    for rows in PARTS:
        made.append(
            attacked(
                name,
                norm,
                change=lambda z: change(z)[:, order],
                x=stored(x[rows]),
                goal=goal.rows(rows),
                rows=rows,
            )
        )
    back = torch.cat(PARTS).argsort()
    return Made(*(torch.cat([getattr(m, f) for m in made])[back] for f in ("examples", "won", "size")))


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_shift_order_company_and_layout_do_not_matter(name, norm):
    assert alike(plain(name, norm), in_other_order(name, norm, shifted, STORED["strided"]))


@pytest.mark.nightly
@pytest.mark.parametrize("law", ["shift", "order", *STORED])
@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_each_of_them_alone_does_not_matter(name, norm, law):
    x = images(N, SHAPE)
    if law == "shift":
        made = attacked(name, norm, change=shifted)
    elif law == "order":
        made = in_other_order(name, norm)
    else:
        assert not STORED[law](x).is_contiguous() and torch.equal(STORED[law](x), x)
        made = attacked(name, norm, x=STORED[law](x))
    assert alike(plain(name, norm), made)


def test_most_attacks_divide_the_images():
    """Else the laws would hold of attacks that always win or never."""
    shares = {p.id: float(plain(*p.values).won.double().mean()) for p in COMBINATIONS}
    divided = [
        k for k, share in shares.items() if 0.2 <= share <= 0.95 or attack_of(k.rpartition("-")[0])[1].minimal
    ]
    assert len(divided) >= 0.9 * len(shares), shares


# ---- scale and masks


def masked(value):
    """Three more classes, of this logit."""
    return lambda z: torch.cat([z, z.new_full((len(z), 3), value)], dim=1)


def loses_nothing(name, norm, change):
    before, after = plain(name, norm).won.double(), attacked(name, norm, change=change).won.double()
    return float((after - before).mean()) >= -CHANCE


def nightly(*values):
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


@pytest.mark.parametrize("value", [-math.inf, *nightly(-1e9, -1e4)])
@pytest.mark.parametrize(("name", "norm"), SCALE_FREE)
def test_masked_classes_change_no_bit(name, norm, value):
    assert torch.equal(plain(name, norm).examples, attacked(name, norm, change=masked(value)).examples)


@pytest.mark.parametrize(("name", "norm"), EXACT)
def test_nor_does_a_power_of_two_though_masked_classes_are_not_scaled(name, norm):
    made = attacked(name, norm, change=lambda z: masked(-1e4)(z * 2.0**-10))
    assert torch.equal(plain(name, norm).examples, made.examples)


@pytest.mark.parametrize("scale", [10.0, *nightly(0.01, 0.1, 100.0)])
@pytest.mark.parametrize(("name", "norm"), [p for p in SCALE_FREE if p not in EXACT])
def test_the_scale_of_the_logits_does_not_matter(name, norm, scale):
    assert alike(plain(name, norm), attacked(name, norm, change=lambda z: scale * z))


@pytest.mark.nightly
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_search_for_c_of_the_original_c_and_w_finds_its_scale(scale):
    text = "cw:preset=original,steps=200,lr=0.02,search_steps=9"  # the authors' number of searches
    assert alike(attacked(text, "l2"), attacked(text, "l2", change=lambda z: scale * z))


@pytest.mark.parametrize("value", [-math.inf, *nightly(-1e9, -1e4)])
@pytest.mark.parametrize(("name", "norm"), [p for p in OTHERS if p.values[0] not in A_PLANE_A_CLASS])
def test_the_others_lose_no_success_to_masked_classes(name, norm, value):
    assert loses_nothing(name, norm, masked(value))


@pytest.mark.parametrize("scale", [10.0, *nightly(0.1)])
@pytest.mark.parametrize(("name", "norm"), [p for p in OTHERS if p.values[0] not in SOFTMAX])
def test_the_others_lose_no_success_to_scale_unless_they_are_listed(name, norm, scale):
    assert loses_nothing(name, norm, lambda z: scale * z)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name, why in SOFTMAX.items() if why == CROSS_ENTROPY])
def test_those_listed_for_their_cross_entropy_do_lose_where_it_saturates(name):
    text = "rand-fgsm:alpha=0.01" if name == "rand-fgsm" else name  # else all of eps goes to its random step
    assert not loses_nothing(text, "linf", lambda z: 1e3 * z)
