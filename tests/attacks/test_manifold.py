"""The latent-space attack: closed forms on a linear generator, what it needs, what it is counted for."""

from __future__ import annotations

import math

import pytest
import torch
from planted import SHAPE, Linear, Shift, conv, images, seeds
from rbg_attacks._latent import adam, invert, latent_size
from rbg_attacks.manifold import manifold
from torch import nn

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.cell.craft import check_examples
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

N, LATENT = 6, 8
CHEAP = {"inversions": 4, "inversion_steps": 60, "steps": 60, "search_steps": 4}
EVERYWHERE = Budget("l2", math.inf)


class Flat(nn.Module):
    """G(z) = 0.5 + 0.1 * A z: a plane of images, all in [0, 1] for the codes met here."""

    def __init__(self, latent=LATENT):
        super().__init__()
        self.linear = nn.Linear(latent, 16, bias=False)
        weight = torch.randn(16, latent, generator=torch.Generator().manual_seed(3))
        self.linear.weight.data = 0.1 * torch.linalg.qr(weight).Q

    def forward(self, z):
        return 0.5 + self.linear(z).view(-1, *SHAPE)


class Curved(Flat):
    """A smooth generator of every image with pixels in (0, 1)."""

    def __init__(self):
        super().__init__(16)

    def forward(self, z):
        return torch.sigmoid(self.linear(z) * 10).view(-1, *SHAPE)


def view_on(classifier, generator=None, defense=None, n=N, view_seed=None, **options):
    parts = {"generator": generator or Curved(), "classifier": classifier}
    system = Defended((defense or Shift)(classifier))
    return View.on(system, seeds(n) if view_seed is None else view_seed, parts=parts, **options)


def centred(classes=3):
    """A linear classifier whose classes meet at mid-grey, so that no image is far from another class."""
    model = Linear(classes, seed=3)
    model.bias.data = -0.5 * model.weight.data.sum(dim=1)
    return model


def near_the_plane(generator, count):
    codes = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(4))
    return generator(codes).detach() + 0.05 * (images(count) - 0.5)


def attack(view, x, goal, seed=None, budget=EVERYWHERE, **parameters):
    given = x.clone()
    seed = seeds(len(x), cell=1) if seed is None else seed
    made = manifold(view, given, goal, budget, seed, **{**CHEAP, **parameters})
    check_examples(made, x, given, budget)
    return made


def size(made, x):
    return (made - x).flatten(1).norm(dim=1)


def nearest_win(x, y, model, generator):
    """The distance from x to the nearest image of the plane that is given another class, in closed form."""
    basis = generator.linear.weight.data  # (16, k), its columns orthogonal
    flat = (x - 0.5).flatten(1)
    scale = basis.square().sum(dim=0)[0]
    code = flat @ basis / scale
    off = (flat - code @ basis.T).square().sum(dim=1)  # what no code can reach
    logits = model(generator(code))
    along = torch.full((len(x),), torch.inf)
    for rival in range(logits.shape[1]):
        normal = (model.weight[rival] - model.weight[y]) @ basis / scale.sqrt()
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, rival]
        along = torch.where(y == rival, along, torch.minimum(along, gap.clamp(min=0) / normal.norm(dim=1)))
    return (off + along.square()).sqrt().detach()


def test_on_a_linear_model_it_finds_the_nearest_image_of_the_plane():
    generator, model = Flat(), centred(classes=2)
    x = near_the_plane(generator, 20)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    goal = Goal.untargeted(y)
    view = view_on(model, generator, Defense, n=20)
    made = attack(view, x, goal, inversion_steps=200, steps=300, search_steps=8)
    assert goal.reached(Output.of(model(made))).all()
    ratio = size(made, x) / nearest_win(x, y, model, generator)
    assert (ratio > 1 - 1e-4).all() and (ratio < 1.01).all()


def test_more_weights_never_find_a_farther_image():
    model, x = conv(), images(N)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    few = attack(view_on(model, defense=Defense), x, goal, search_steps=4)
    more = attack(view_on(model, defense=Defense), x, goal, search_steps=7)
    won = goal.reached(Output.of(model(few)))
    assert won.any()
    assert (size(more, x) <= size(few, x) + 1e-6)[won].all()


def test_the_inversion_gives_the_projection_on_the_plane():
    generator = Flat()
    x = near_the_plane(generator, N)
    start = torch.randn(N, 5, LATENT, generator=torch.Generator().manual_seed(1))
    code = invert(generator, x, start, steps=300, lr=0.1)
    basis = generator.linear.weight.data
    expected = (x - 0.5).flatten(1) @ basis / basis.square().sum(dim=0)[0]
    assert torch.allclose(code, expected, atol=0.02)


def test_one_step_of_the_inversion_keeps_the_nearest_start():
    generator, x = Curved(), images(N)
    start = torch.randn(N, 5, 16, generator=torch.Generator().manual_seed(1))
    errors = (
        (generator(start.flatten(0, 1)) - x.repeat_interleave(5, dim=0)).flatten(1).norm(dim=1).view(N, 5)
    )
    found = (generator(invert(generator, x, start, steps=1, lr=1e-9)) - x).flatten(1).norm(dim=1)
    assert torch.allclose(found, errors.amin(dim=1), atol=1e-5)


def test_adam_is_torchs():
    start, *slopes = torch.randn(8, 4, 2, LATENT, generator=torch.Generator().manual_seed(0))
    ours, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], 0.1)
    for step, slope in enumerate(slopes):
        ours, moments = adam(ours, slope, moments, step, 0.1)
        theirs.grad = slope
        optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


class Cautious(Defense):
    """Answers like its classifier, but for class 0, which it favours by one logit."""

    purifies = True

    def __init__(self, base):
        super().__init__(base)
        self.core = Favoured(base)


class Favoured(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x) + torch.tensor([1.0, 0.0, 0.0])


def test_an_example_that_the_defended_system_withstands_is_not_good_enough():
    model = centred()
    x = images(40)
    x = x[model(x).argmax(dim=1) == 0][:N]
    goal = Goal.untargeted(torch.zeros(len(x), dtype=torch.int64))
    defense = Cautious(model)

    def wins(confirm):
        made = attack(view_on(model, Curved(), Cautious, n=len(x)), x, goal, confirm=confirm, search_steps=6)
        return goal.reached(defense(made, seeds(len(x))))

    assert wins(True).sum() > wins(False).sum()


def test_confidence_is_the_margin_that_is_left():
    model, x = Linear(seed=3), images(N)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    made = attack(view_on(model, defense=Defense), x, goal, confidence=1.0, search_steps=6)
    margin = goal.margin(Output.of(model(made)))
    assert (margin > 1.0).all() and (margin < 1.5).all()


def test_a_targeted_goal_is_reached():
    model, x = Linear(seed=3), images(N)
    goal = Goal.targeted((model(x).argmax(dim=1) + 1) % 3)
    made = attack(view_on(model, defense=Defense), x, goal, search_steps=6)
    assert goal.reached(Output.of(model(made))).float().mean() > 0.5


def test_a_finite_budget_holds_and_what_finds_nothing_in_it_gives_x_back():
    x = images(N)
    goal = Goal.untargeted(torch.zeros(N, dtype=torch.int64))
    assert torch.equal(attack(view_on(conv()), x, goal, budget=Budget("l2", 1e-3)), x)
    attack(view_on(conv()), x, goal, budget=Budget("l2", 1.5))


def test_every_image_is_one_that_the_generator_makes():
    generator, model = Flat(), centred()
    x = near_the_plane(generator, N)
    goal = Goal.untargeted(torch.full((N,), 0))
    made = attack(view_on(model, generator), x, goal, inversion_steps=20, steps=20)
    basis = generator.linear.weight.data
    flat = (made - 0.5).flatten(1)
    inside = flat @ basis / basis.square().sum(dim=0)[0] @ basis.T
    assert torch.allclose(flat, inside, atol=1e-5)


def test_the_same_seed_gives_the_same_and_a_sample_does_not_depend_on_its_neighbours():
    model, x, goal = conv(), images(N), Goal.untargeted(torch.arange(N) % 3)
    seed, view_seed = seeds(N, cell=1), seeds(N)
    short = {"inversion_steps": 10, "steps": 10}
    together = attack(view_on(model), x, goal, **short)
    again = view_on(model)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(attack(again, x, goal, **short), together)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(attack(view_on(model), x, goal, seed=seeds(N, cell=2), **short), together)
    row = torch.tensor([N - 1])
    alone = attack(view_on(model, n=1, view_seed=view_seed[row]), x[row], goal.rows(row), seed[row], **short)
    assert torch.allclose(alone[0], together[N - 1], atol=1e-5)


@pytest.mark.parametrize("confirm", [True, False])
def test_passes_are_an_upper_bound_of_those_counted(confirm):
    view = view_on(conv())
    parameters = {**CHEAP, "confirm": confirm}
    attack(view, images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)), **parameters)
    bound = sum(manifold.info.cost(parameters, "l2", 3, 16))
    assert (view.counts.forward <= bound).all() and (view.counts.forward > bound / 4).all()
    assert (
        bool(view.counts.calls.any()) == confirm
    )  # without it the defended system is never asked: a red flag


@pytest.mark.parametrize("parts", [[], ["classifier"], ["generator"]])
def test_without_the_generator_or_the_classifier_it_does_not_apply(parts):
    known = {"generator": Curved(), "classifier": conv()}
    view = View.on(Defended(Shift(conv())), seeds(N), parts={name: known[name] for name in parts})
    with pytest.raises(NotApplicable, match="generator"):
        attack(view, images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)))


def test_a_generator_whose_codes_have_no_known_length_is_declined():
    view = view_on(conv(), nn.Identity())
    with pytest.raises(NotApplicable, match="linear layer"):
        attack(view, images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)))
    assert latent_size(Flat()) == LATENT


@pytest.mark.parametrize("name", ["inversions", "inversion_steps", "steps", "search_steps", "c", "lr"])
def test_fewer_than_one_of_anything_is_an_error(name):
    with pytest.raises(UsageError, match=name):
        attack(view_on(conv()), images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)), **{name: 0})
