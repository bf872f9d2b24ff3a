"""The short look at a system: each fault is seen in its own field, and an honest system shows none."""

from __future__ import annotations

import pytest
import torch
from planted import Detector, Noise, Round, Scale, conv, images, seeds
from torch import nn
from torch.nn import functional as F

from robustbench_gan.cell.probe import MANY, probe
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.nouns.evidence import PROBED, Probe
from robustbench_gan.nouns.outcome import Output, distance

X = images(6)
MANY_X = images(MANY)


def look(defense: Defense) -> Probe:
    return probe(defense.eval(), X, seeds(len(X)))


def look_beside(defense: Defense) -> Probe:
    """After the judge, whose answers are handed on."""
    seed = seeds(MANY)
    with torch.no_grad(), torch.random.fork_rng():
        judged = defense.eval()(MANY_X, seed)
    return probe(defense, MANY_X, seed, judged)


LOOKS = pytest.mark.parametrize("look", [look, look_beside], ids=["alone", "beside the judge"])


class Plain(Defense):
    purifies = True


class HiddenNoise(Plain):
    """Draws from torch's global generator, whatever seed it is given."""

    def purify(self, x, seed):
        return x + 0.1 * torch.randn_like(x)


class Seeded(Noise):
    """Noise from its seeds that it does not declare."""

    randomised = False


class Remembers(Plain):
    """Adds a little of what it was shown last."""

    def __init__(self, base):
        super().__init__(base)
        self.last = None

    def purify(self, x, seed):
        before, self.last = self.last, x.clone()
        return x if before is None else x + 0.2 * before[:1]


class Optimises(Plain):
    """One step of descent on the image's mean."""

    def purify(self, x, seed):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(leaf.square().mean(dim=(1, 2, 3)).sum(), leaf)
        return x - 0.1 * slope


class OptimisesByFunctions(Plain):
    """The same by torch.func, which refuses hooks."""

    def purify(self, x, seed):
        return x - 0.1 * torch.func.grad(lambda z: z.square().mean(dim=(1, 2, 3)).sum())(x.detach())


class OtherRange(Plain):
    """Speaks [-1, 1]."""

    def purify(self, x, seed):
        return 2 * x - 1


class Untrained(Plain):
    def purify(self, x, seed):
        return 1 - x


class AlwaysOn(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(F.dropout(x, 0.5, training=True))


class Answers(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), torch.nan)


HONEST = {
    "nothing": Defense(conv()), "scale": Scale(conv()), "round": Round(conv()), "declared noise": Noise(conv(), sigma=0.01),
    "detector": Detector(conv()), "composed": Composed([Scale(conv()), Scale(conv())]),
}  # fmt: skip


@LOOKS
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_system_shows_nothing(look, name):
    seen = look(HONEST[name])
    faults = (seen.core_varies, seen.seeds_vary, seen.repeats_vary)
    assert max(faults) == 0 and not (seen.own_randomness or seen.label_changed or seen.differentiates)


@LOOKS
def test_noise_that_is_not_declared(look):
    seen = look(Seeded(conv()))
    assert seen.seeds_vary > SAME_ANSWER and seen.repeats_vary == 0


@LOOKS
def test_noise_that_no_seed_governs(look):
    seen = look(HiddenNoise(conv()))
    assert seen.repeats_vary > SAME_ANSWER and seen.own_randomness and seen.core_varies == 0


@LOOKS
def test_what_is_carried_over_is_told_from_noise(look):
    seen = look(Remembers(conv()))
    assert seen.repeats_vary > SAME_ANSWER and not seen.own_randomness


@pytest.mark.parametrize("asked", [0, 1])  # before: whatever falls together, two answers in a row differ
@pytest.mark.parametrize("period", [2, 3])
@LOOKS
def test_a_label_that_changes_from_one_call_to_the_next(look, period, asked):
    class Toggles(Plain):
        calls = asked

        def purify(self, x, seed):
            self.calls += 1
            return x if self.calls % period else 1 - 5 * x

    seen = look(Toggles(conv()))
    assert seen.repeats_vary > SAME_ANSWER and not seen.own_randomness and seen.company_matters == 0
    assert seen.label_changed


class Together(nn.Module):
    """Answers about each image and something of its batch."""

    def __init__(self, base, of):
        super().__init__()
        self.base, self.of = base, of

    def forward(self, x):
        return self.base(x - self.of(x))


COMPANY = {
    "mean": lambda x: x.mean(dim=0, keepdim=True), "first": lambda x: x[:1], "last": lambda x: x[-1:],
    "largest": lambda x: x.mean(dim=(1, 2, 3)).amax(), "norm": lambda x: F.batch_norm(x, None, None, training=True),
    "above": lambda x: x.roll(1, 0), "below": lambda x: x.roll(-1, 0), "mirror": lambda x: x.flip(0),
    "deviation": lambda x: x.std(dim=0, keepdim=True), "smallest": lambda x: x.mean(dim=(1, 2, 3)).amin(),
    "neighbour": lambda x: x[torch.arange(len(x)) ^ 1] if len(x) % 2 == 0 else 0 * x,
    "contrast": lambda x: x.std(dim=(1, 2, 3)).amax(), "dullest": lambda x: x.std(dim=(1, 2, 3)).amin(),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPANY)
@pytest.mark.parametrize("declared", [False, True], ids=["still", "randomised"])
@LOOKS
def test_an_image_that_is_answered_by_the_company_it_is_in(look, name, declared):
    base = Together(conv(), COMPANY[name])
    seen = look(Noise(base, sigma=0.01) if declared else Defense(base))
    assert seen.company_matters > SAME_ANSWER
    assert seen.core_varies == seen.seeds_vary == seen.repeats_vary == 0


def test_a_class_that_is_masked_out_is_no_difference():
    class Masks(nn.Module):
        def forward(self, x):
            return conv()(x).masked_fill(torch.tensor([False, True, False]), -torch.inf)

    assert look(Defense(Masks())) == Probe()
    one, two = (Output.of(torch.tensor([[3.0, -torch.inf, 4.0 + far]])) for far in (0.0, 0.5))
    assert distance(one, two) == pytest.approx(0.1)


@LOOKS
def test_dropout_in_the_classifier(look):
    assert look(Defense(AlwaysOn(conv()))).core_varies > SAME_ANSWER


@LOOKS
@pytest.mark.parametrize("kind", [Optimises, OptimisesByFunctions])
def test_optimisation_at_inference(look, kind):
    assert look(kind(conv())).differentiates


@LOOKS
def test_nothing_is_left_behind(look):
    before, base = torch.get_rng_state(), conv()
    look(HiddenNoise(base))
    assert torch.equal(torch.get_rng_state(), before)
    assert not base._forward_pre_hooks
    assert all(p.grad is None for p in base.parameters())


def test_two_images_are_asked_and_one_is_enough():
    shown = []

    class Counts(Plain):
        def purify(self, x, seed):
            shown.append(len(x))
            return x

    look(Counts(conv()))
    assert shown == [PROBED] * (1 + PROBED)  # together, and each among copies of itself
    shown.clear()
    look_beside(Counts(conv()))
    assert shown == [MANY, PROBED, PROBED]  # the judge's, one in other company, and one in a row with that
    assert probe(Defense(conv()), X[:1], seeds(1)) == Probe()


def test_the_distance_of_answers_is_relative_and_nan_is_far():
    one, two = Output.of(torch.tensor([[3.0, 4.0]])), Output.of(torch.tensor([[3.0, 4.5]]))
    assert distance(one, two) == pytest.approx(0.1)
    assert distance(one, one) == 0
    assert look(Defense(Answers())).core_varies == float("inf")
