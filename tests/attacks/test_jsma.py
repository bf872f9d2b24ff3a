"""JSMA's walk against optima known in closed form, and what it costs."""

from __future__ import annotations

import pytest
import torch
from planted import Detector, Linear, Noise, conv, images, seeds
from rbg_attacks.jsma import jsma
from torch import nn
from walked_jsma import N, Recorder, run, sizes

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output


def opposing(weights, x):
    """Two classes, where each feature speaks for class 1 with its weight; class 0 leads by 1 at x."""
    model = Linear(2, (1, 1, len(weights)))
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weights) * torch.tensor([[-0.5], [0.5]]))
        model.bias.copy_(torch.stack([1 + x.flatten() @ torch.tensor(weights), torch.tensor(0.0)]))
    return model


def close(classes=3, seed=2):
    """As `conv` on 6x6 pixels, where no class leads by much; images to go with it, and the class that comes second."""
    model, x = conv(classes, (1, 6, 6), seed), images(N, (1, 6, 6)) * 0.5
    with torch.no_grad():
        model[-1].bias.sub_(model(x).mean(dim=0))
    return model, x, model(x).topk(2, dim=1).indices[:, 1]


@pytest.mark.parametrize("space", ["probs", "logits"])
@pytest.mark.parametrize("theta", [1.0, -1.0, 0.5, -0.25])
def test_on_a_linear_model_the_size_is_the_optimum_rounded_up_to_even(theta, space):
    for seed in range(6):
        weights = (images(1, (1, 1, 12), seed).flatten() * 2 - 0.8).tolist()
        x = torch.full((1, 1, 1, 12), 0.0 if theta > 0 else 1.0)
        model = opposing(weights, x)
        best = torch.tensor(weights).mul(theta).sort(descending=True).values.cumsum(dim=0)
        made, _ = run(model, x, Goal.targeted(torch.tensor([1])), theta=theta, space=space)
        if best.max() <= 1.0001:
            assert torch.equal(made, x)
            continue
        optimum = int((best > 1).nonzero()[0, 0]) + 1
        assert sizes(made, x).item() == optimum + optimum % 2


@pytest.mark.parametrize("space", ["probs", "logits"])
def test_without_an_admissible_pair_it_stops_at_once_and_gives_the_image_back(space):
    x = torch.full((1, 1, 1, 6), 0.5)
    model = opposing([-1.0, -2.0, -0.5, -1.0, -1.0, -1.0], x)
    goal = Goal.targeted(torch.tensor([1]))
    made, view = run(model, x, goal, space=space)
    assert torch.equal(made, x)
    assert view.counts.backward.item() == (1 if space == "probs" else 2)
    lower, _ = run(model, x, goal, space=space, theta=-1.0)
    assert not torch.equal(lower, x)  # the other way there is


@pytest.mark.parametrize("space", ["probs", "logits"])
def test_a_targeted_run_costs_one_look_a_step(space):
    model, x, target = close()
    made, view = run(model, x, Goal.targeted(target), space=space)
    won = model(made).argmax(dim=1) == target
    assert won.any() and (sizes(made, x)[won] % 2 == 0).all()
    each = 1 if space == "probs" else 2
    assert torch.equal(view.counts.backward[won], each * (sizes(made, x)[won] // 2 + 1))


def test_of_all_targets_the_nearest_is_kept():
    model, x, _ = close(5)
    y = model(x).argmax(dim=1)
    best, _ = run(model, x, Goal.untargeted(y))
    single, _ = run(model, x, Goal.untargeted(y), targets="runner-up")
    assert (model(best).argmax(dim=1) != y).all()
    reached = torch.stack([_alone(model, x, y, (y + k) % 5) for k in range(1, 5)])
    assert torch.equal(sizes(best, x), reached.amin(dim=0))
    runner_up = model(x).scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    assert torch.equal(sizes(single, x), _alone(model, x, y, runner_up))
    assert (sizes(best, x) < sizes(single, x)).any()


def _alone(model, x, y, target):
    """The steps after which a walk towards `target` has left y, by its own record."""
    left = torch.full((len(x),), 10**6)
    for i in range(len(x)):
        recorder = Recorder(model)
        made, _ = run(recorder, x[i : i + 1], Goal.targeted(target[i : i + 1]))
        for seen in [*recorder.seen, made]:
            if model(seen).argmax() != y[i]:
                left[i] = min(int(left[i]), int((seen != x[i : i + 1]).sum()))
    return left


def test_what_is_already_wrong_is_given_back_and_not_walked():
    x, model = images(N), conv()
    goal = Goal.untargeted((model(x).argmax(dim=1) + 1) % 3)
    made, view = run(model, x, goal)
    assert torch.equal(made, x)
    assert (view.counts.forward == 1).all()


def test_no_more_is_changed_than_gamma_or_a_finite_eps_allow():
    model, x, target = close()
    goal = Goal.targeted(target)
    whole, _ = run(model, x, goal, theta=0.05)
    free = sizes(whole, x)
    assert free.max() > 4 and free.min() <= 4
    for parameters in ({"gamma": 4 / 36}, {"budget": Budget("l0", 5)}):
        made, view = run(model, x, goal, theta=0.05, **parameters)
        assert torch.equal(made != x, (whole != x) & (free <= 4)[:, None, None, None])
        assert view.counts.forward.max() == 3


def test_softmax_may_saturate():
    model, x, _ = close()
    y = model(x).argmax(dim=1)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(1e5)
    assert (model(x).softmax(dim=1).amin(dim=1) == 0).all()
    made, view = run(model, x, Goal.untargeted(y))
    assert not view.counts.zero_gradients.any()
    assert (model(made).argmax(dim=1) != y).all()


def test_a_firing_detector_is_walked_away_from():
    # Dark pixels change nothing in the answer, but the detector accepts dark images only.
    x = torch.tensor([0.0, 0.0, 0.9, 0.9, 0.9, 0.9]).view(1, 1, 1, 6)
    base = opposing([1.0, 0.9, 0.01, 0.01, 0.01, 0.01], x)
    defense = Detector(base, threshold=0.5).eval()
    goal = Goal.untargeted(torch.tensor([0]))
    made, _ = run(None, x, goal, system=Defended(defense), theta=-1.0)
    assert torch.equal(made, x)  # darker is accepted but right, and x is rejected
    wrong = torch.tensor([1.0, 1.0, 0.9, 0.9, 0.9, 0.9]).view(1, 1, 1, 6)
    made, _ = run(None, wrong, goal, system=Defended(defense), theta=-1.0)
    assert goal.reached(defense(made, seeds(1))).all()
    assert sizes(made, wrong).item() == 4


@pytest.mark.usefixtures("bfloat16")
def test_a_success_in_bfloat16_alone_is_not_believed():
    class Boasting(nn.Module):
        def forward(self, x):
            logits = model(x)
            return logits.flip(1) if torch.is_autocast_enabled("cpu") and x.requires_grad else logits

    x, model = images(N), conv(2)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    boast = Goal.untargeted(model(x).argmax(dim=1)).reached(Output.of(model(x).flip(1)))
    assert boast.all()
    made, view = run(Boasting(), x, goal, fast=True)
    untouched = (made == x).flatten(1).all(dim=1)
    assert (goal.reached(Output.of(model(made))) | untouched).all()
    assert (view.counts.forward > 2).any()  # it went on where it was lied to


def test_two_logit_gradients_of_a_random_system_see_the_same_draws():
    x, goal = images(N), Goal.targeted(torch.zeros(N, dtype=torch.int64))
    system = Noise(conv(), sigma=0.1).eval()
    seen = []

    class Watched:
        defended = True

        def __call__(self, v, seed):
            seen.append(seed.clone())
            return system.attacked(v, seed, "full", 0)

    view = View.on(Watched(), seeds(N), whole_batches=True)
    jsma(view, x, goal, Budget("l0", 2), seeds(N), space="logits")
    assert torch.equal(seen[0][:N], seen[0][N:])


@pytest.mark.parametrize("wrong", [{"theta": 0.0}, {"theta": 1.5}, {"gamma": 0.0}, {"gamma": 1.1}])
def test_parameters_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        run(conv(), images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)), **wrong)
