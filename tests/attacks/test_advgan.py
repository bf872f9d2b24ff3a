from __future__ import annotations

import math

import pytest
import torch
from planted import Detector, images, seeds
from planted_cells import Fixed
from rbg_attacks._perturbation_gan import (
    SMALLEST,
    Discriminator,
    Generator,
    l2_hinge,
    least_squares,
    padded,
    pull,
)
from rbg_attacks.advgan import AdvGAN

from robustbench_gan.base.errors import NotANumber, NotApplicable, UsageError
from robustbench_gan.contracts.attacks import Fitted, Training
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.training.loop import Diverged
from robustbench_gan.training.networks import fresh
from robustbench_gan.training.substitute import Queried

pytestmark = pytest.mark.rounding

SHAPE, CLASSES, N = (1, 4, 4), 3, 60
LINEAR = Fixed(CLASSES).requires_grad_(False)  # its classes are balanced on random images
BALL = Budget("linf", 0.2)


def owned(model, count=N):
    x = images(count, seed=9)
    return Queried(x, model(x).argmax(dim=1))


def learnt(model, *, target=None, budget=BALL, system=None, seed=0, share=1.0, **parameters):
    """A generator after a short training on images the model labels itself."""
    parameters = {"steps": 30, "batch_size": 30, "lr": 0.003, **parameters}
    module = fresh(lambda: AdvGAN(SHAPE, CLASSES, **parameters), 0)
    views = []

    def view(seed):
        views.append(View.on(system or Bare(model), seed, whole_batches=True))
        return views[-1]

    facts = module.fit(Training(owned(model), view, share), target, budget, seed)
    return module.eval().requires_grad_(False), views, facts


def crafted(module, goal, x, budget=BALL):
    return Fitted({None: module})(View.on(Bare(LINEAR), seeds(len(x))), x, goal, budget, seeds(len(x)))


# ---- networks


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 4, 4), (3, 30, 17)])
def test_the_networks_take_any_image_and_give_its_shape_back(shape):
    x = images(2, shape)
    made = Generator(shape[0], shape[0])(x)
    assert made.shape == x.shape and made.abs().max() <= 1
    assert Discriminator(shape, 5)(x).shape == (2, 5)


def test_the_generator_is_the_paper_s():
    # c3s1-8, d16, d32, r32 x4, u16, u8, c3s1-C: (inputs, outputs, stride) of every convolution in order.
    layers = [
        m for m in Generator(1, 1).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    ]
    found = [(m.in_channels, m.out_channels, m.stride[0], m.transposed) for m in layers]
    assert found == [
        (1, 8, 1, False), (8, 16, 2, False), (16, 32, 2, False), *[(32, 32, 1, False)] * 8,
        (32, 16, 2, True), (16, 8, 2, True), (8, 1, 1, False),
    ]  # fmt: skip


def test_padding_is_below_and_right_to_a_multiple_of_four():
    assert padded(images(1, (1, 28, 28))).shape == (1, 1, 28, 28)
    x = images(1, (1, 30, 17))
    assert padded(x).shape == (1, 1, 32, 20) and torch.equal(padded(x)[..., :30, :17], x)
    assert padded(images(1, (1, 3, 3))).shape == (1, 1, SMALLEST, SMALLEST)


# ---- losses


def test_pull_has_the_gradient_of_the_mean_loss_and_the_view_s_graph_is_never_seen():
    model, x = Fixed(CLASSES), images(5)
    goal = Goal.untargeted(torch.arange(5) % 3)
    adversarial = x.clone().requires_grad_()
    pull(View.on(Bare(model), seeds(5)), goal.loss, adversarial).backward()
    assert model.weight.grad is None
    leaf = x.clone().requires_grad_()
    goal.loss(Output.of(model(leaf))).mean().backward()
    assert torch.allclose(adversarial.grad, leaf.grad, atol=1e-7)


def test_the_hinge_is_a_mean_norm_above_its_bound_and_smooth_at_zero():
    delta = torch.zeros(3, 1, 2, 2)
    delta[1] = 1.0  # norm 2
    delta[2, 0, 0, 0] = 4.0
    delta.requires_grad_()
    value = l2_hinge(delta, 1.5)
    assert value.item() == pytest.approx((0 + 0.5 + 2.5) / 3)
    value.backward()
    assert torch.isfinite(delta.grad).all() and not delta.grad[0].any()


def test_least_squares():
    judged = torch.tensor([[1.0], [3.0]])
    assert least_squares(judged, True).item() == 2.0 and least_squares(judged, False).item() == 5.0


# ---- training


def test_on_a_linear_model_it_gains_most_of_what_is_possible():
    # Towards one target from two classes the best perturbation is known for each pair; ours is one network's.
    model, target = LINEAR, 1
    module, _, _ = learnt(model, target=target, hinge_weight=0.0, gan_weight=0.0, kappa=1e3, steps=60)
    x = images(40, seed=3)
    x = x[model(x).argmax(dim=1) != target] * 0.5 + 0.25  # no pixel can leave the box
    other = model(x).scatter(1, torch.full((len(x), 1), target), -torch.inf).argmax(dim=1)
    slope = model.weight[target] - model.weight[other]
    goal = Goal.targeted(torch.full((len(x),), target))
    gained = goal.margin(Output.of(model(crafted(module, goal, x)))) - goal.margin(Output.of(model(x)))
    assert (gained / (BALL.eps * slope.abs().sum(dim=1))).mean() > 0.7


def test_untargeted_it_beats_random_noise_of_full_size_by_far():
    """At 120 steps of 0.001 it wins 0.71 to 0.81 over six seeds and three kinds of processors.

    A step of 0.003 never settles on so small a problem: there, rounding alone moves the share by 0.14.
    """
    x = images(100, seed=3)
    goal = Goal.untargeted(LINEAR(x).argmax(dim=1))
    module, _, _ = learnt(LINEAR, steps=120, lr=0.001)
    won = goal.reached(Output.of(LINEAR(crafted(module, goal, x)))).double().mean()
    noise = (x + BALL.eps * (images(100, seed=4) - 0.5).sign()).clamp(0, 1)
    assert won > 0.65 and goal.reached(Output.of(LINEAR(noise))).double().mean() < 0.35


def test_every_step_asks_for_one_gradient_and_crafting_for_nothing():
    _, views, facts = learnt(LINEAR, steps=7)
    assert len(views) == 7 and facts["steps"] == 7
    assert all((view.counts.backward == 1).all() and (view.counts.forward == 1).all() for view in views)
    module, _, _ = learnt(LINEAR, steps=1)
    view = View.on(Bare(LINEAR), seeds(4), access="nothing")
    Fitted({None: module})(
        view, images(4), Goal.untargeted(torch.zeros(4, dtype=torch.int64)), BALL, seeds(4)
    )
    assert not view.counts.calls.any()


def test_no_two_batches_share_a_seed():
    _, views, _ = learnt(LINEAR, steps=5)
    drawn = torch.cat([view.seed for view in views])
    assert len(drawn.unique()) == len(drawn) == 5 * 30


def test_a_targeted_training_leaves_out_images_of_the_target():
    share = float((owned(LINEAR).labels != 2).double().mean())
    _, views, _ = learnt(LINEAR, target=2, steps=4)
    assert 0.3 < share < 0.9 and sum(len(view.seed) for view in views) == round(4 * 30 * share)


def test_share_takes_a_part_of_the_steps_and_goes_on_from_the_weights():
    _, views, facts = learnt(LINEAR, steps=9, share=1 / 3)
    assert len(views) == 3 == facts["steps"]
    module = fresh(lambda: AdvGAN(SHAPE, CLASSES, steps=2, batch_size=30), 0)
    training = Training(owned(LINEAR), lambda s: View.on(Bare(LINEAR), s, whole_batches=True))
    before = [p.clone() for p in module.parameters()]
    module.fit(training, None, BALL, 0)
    between = [p.clone() for p in module.parameters()]
    module.fit(training, None, BALL, 1)
    assert any(not torch.equal(a, b) for a, b in zip(before, between, strict=True))
    moved = sum((a - p).abs().sum() for a, p in zip(between, module.parameters(), strict=True))
    assert 0 < moved < sum((a - b).abs().sum() for a, b in zip(before, between, strict=True)) * 5


def test_the_same_seed_trains_the_same_weights_and_another_others():
    one, two, other = (learnt(LINEAR, steps=4, seed=s)[0].state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_the_hinge_holds_the_perturbation_down():
    def norm(**parameters):
        module, _, _ = learnt(LINEAR, gan_weight=0.0, **parameters)
        x = images(20)
        delta = crafted(module, Goal.untargeted(torch.zeros(20, dtype=torch.int64)), x) - x
        return delta.flatten(1).norm(dim=1).mean()

    assert norm(hinge_weight=100.0, hinge=0.2) < 0.3 < norm(hinge_weight=0.0)


def test_kappa_says_when_a_win_is_enough():
    # The model always says 1, so every image of class 0 is won by a thousand: only a larger kappa asks for more.
    model = Fixed(CLASSES)
    data = Queried(images(30), torch.zeros(30, dtype=torch.int64))

    def moved(kappa):
        module = fresh(lambda: AdvGAN(SHAPE, CLASSES, steps=1, gan_weight=0, hinge_weight=0, kappa=kappa), 0)
        before = [p.clone() for p in module.generator.parameters()]
        system = Bare(Always(model))
        module.fit(Training(data, lambda s: View.on(system, s, whole_batches=True)), None, BALL, 0)
        return any(not torch.equal(a, b) for a, b in zip(before, module.generator.parameters(), strict=True))

    assert not moved(10.0) and moved(1e4)


class Always(torch.nn.Module):
    """A linear model that says class 1 by about a thousand."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) + torch.tensor([0.0, 1e3, 0.0])


def test_detectors_are_attacked_too():
    # Bright images are rejected, so half of what fools the classifier alone fools nobody here.
    defense = Detector(LINEAR).eval()
    x = images(100, seed=3)
    goal = Goal.untargeted(LINEAR(x).argmax(dim=1))
    won = []
    for system in (Bare(LINEAR), Defended(defense)):
        module, _, _ = learnt(LINEAR, system=system)
        won.append(goal.reached(defense(crafted(module, goal, x), seeds(100))).double().mean())
    assert won[1] > won[0] + 0.15


# ---- errors


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"gan_weight": -1.0}, {"kappa": -1.0}]
)
def test_impossible_parameters_are_named(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        learnt(LINEAR, **bad)


def test_what_cannot_be_trained_is_not_applicable():
    with pytest.raises(NotApplicable, match="finite eps"):
        learnt(LINEAR, budget=Budget("linf", math.inf))
    with pytest.raises(NotApplicable, match="target class 1"):
        learnt(Always(LINEAR), target=1)


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(Diverged, match="became nan"):
        learnt(LINEAR, lr=1e30)


def test_a_system_that_answers_no_number_ends_the_training():
    class Broken(Fixed):
        def forward(self, x):
            return super().forward(x) * torch.nan

    with pytest.raises(NotANumber, match="answered NaN"):
        learnt(LINEAR, system=Bare(Broken(CLASSES)))
