"""Auto-PGD: its checkpoints, its step sizes, and optima known in closed form."""

from __future__ import annotations

import pytest
import torch
from planted import Linear, conv, images, seeds
from rbg_attacks.apgd import _State, apgd, checkpoints
from rbg_attacks.pgd import pgd
from torch import nn

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

N = 8


class Steep(nn.Module):
    """A linear classifier whose cross-entropy has no gradient left in float32: logits of thousands."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear(seed=5, classes=4)

    def forward(self, x):
        return self.inner(x) * 1e4


def view_of(model, n=N, **options):
    return View.on(Bare(model), seeds(n), **options)


def margin(model, goal, made):
    return goal.margin(Output.of(model(made))).detach()


def test_the_checkpoints_are_the_paper_s():
    # 0.22 of them, then each interval 0.03 shorter than the last and at least 0.06
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(20) == [4, 7, 9, *range(10, 20)]
    assert checkpoints(1) == []


def state(rises, peak, checked, halved):
    start = _State.of(torch.zeros(3, 1, 2, 2), torch.full((3, 1, 2, 2), 0.5), 1.0)
    start.rises, start.checked = torch.tensor(rises), torch.tensor(checked)
    start.peak_value, start.halved = torch.tensor(peak), torch.tensor(halved)
    start.peak = torch.full_like(start.at, 0.25)
    return start


def test_a_step_is_halved_by_that_sample_s_own_losses():
    found = state([8.0, 7.0, 7.5], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [False] * 3)
    found.judge(10)
    assert found.size.tolist() == [2, 1, 2]  # at least 0.75 of 10 steps have to rise
    assert found.at[:, 0, 0, 0].tolist() == [0.5, 0.25, 0.5]  # and who is halved goes back to its peak
    assert found.halved.tolist() == [False, True, False]


def test_a_peak_that_does_not_rise_halves_a_step_unless_it_just_was():
    found = state([9.0, 9.0, 9.0], [2.0, 2.0, 3.0], [2.0, 2.0, 2.0], [False, True, False])
    found.judge(10)
    assert found.size.tolist() == [1, 2, 2]
    assert found.checked.tolist() == [2, 2, 3] and found.rises.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.2)])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_the_optimum_of_two_linear_classes_is_reached(norm, eps, loss):
    model, x = Linear(classes=2), images(N) * 0.2 + 0.4
    goal, w = Goal.untargeted(model(x).argmax(dim=1)), model.weight.detach()
    dual = {"linf": (w[1] - w[0]).abs().sum(), "l2": (w[1] - w[0]).norm()}[norm]
    made = apgd(view_of(model), x, goal, Budget(norm, eps), seeds(N), steps=40, loss=loss)
    risen = margin(model, goal, made) - margin(model, goal, x)
    assert torch.allclose(risen, (eps * dual).expand(N), rtol=1e-3)


def test_aiming_at_every_class_wins_where_the_closed_form_says_that_one_can():
    # Off the box, class t overtakes y within eps exactly where z_t - z_y + eps * |w_t - w_y|_1 > 0.
    n, eps = 60, 0.09
    model, x = Linear(classes=6, seed=3), images(n) * 0.8 + 0.1
    logits, w = model(x).detach(), model.weight.detach()
    y = logits.argmax(dim=1)
    reach = logits - logits.gather(1, y[:, None]) + eps * (w[None] - w[y][:, None]).abs().sum(dim=2)
    best = reach.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    clear = best.abs() > 0.02
    goal = Goal.untargeted(y)
    made = apgd(view_of(model, n), x, goal, Budget("linf", eps), seeds(n), steps=20, loss="dlr-targeted")
    assert torch.equal((margin(model, goal, made) > 0)[clear], (best > 0)[clear])
    assert 0.1 < (best > 0).double().mean() < 0.9


@pytest.mark.parametrize("loss", ["dlr", "dlr-targeted", "margin"])
def test_logits_too_large_for_cross_entropy_hide_nothing(loss):
    x, model, budget = images(40) * 0.2 + 0.4, Steep(), Budget("linf", 0.1)
    goal = Goal.untargeted(model(x).argmax(dim=1))

    def share(name):
        made = apgd(view_of(model, 40), x, goal, budget, seeds(40), steps=10, loss=name)
        return (margin(model, goal, made) > 0).double().mean()

    assert share(loss) > 0.3 + share("ce")


def test_it_ends_as_high_as_pgd_of_as_many_steps_on_a_curved_model():
    for seed in (1, 2, 3):
        x, model = images(40, seed=seed), conv(seed=seed)
        goal, budget = Goal.untargeted(model(x).argmax(dim=1)), Budget("l2", 0.4)
        made = [f(view_of(model, 40), x, goal, budget, seeds(40), steps=20) for f in (apgd, pgd)]
        high, plain = (margin(model, goal, z) for z in made)
        assert high.mean() >= plain.mean() - 1e-3


def test_passes_are_counted_and_winners_stop():
    x, model = images(40), Linear(classes=5)
    goal, budget = Goal.untargeted(model(x).argmax(dim=1)), Budget("linf", 0.08)

    def passes(exact, **options):
        view = view_of(model, 40, exact=exact)
        made = apgd(view, x, goal, budget, seeds(40), steps=6, **options)
        return view.counts.forward, margin(model, goal, made) > 0

    assert set(passes(False, restarts=3)[0].tolist()) == {21}
    assert set(passes(False, loss="dlr-targeted", classes=2, restarts=2)[0].tolist()) == {29}
    assert set(passes(False, loss="dlr-targeted")[0].tolist()) == {29}  # there are only four wrong classes
    forward, won = passes(True, restarts=3)
    assert 0 < won.sum() < 40
    assert (forward[won] < 21).all() and set(forward[~won].tolist()) == {21}


def test_a_targeted_goal_takes_the_targeted_ratio_and_nothing_more():
    x, model = images(N), Linear(classes=5)
    goal, budget = Goal.targeted(model(x).argmin(dim=1)), Budget("linf", 0.2)
    made = [
        apgd(view_of(model), x, goal, budget, seeds(N), steps=10, loss=loss)
        for loss in ("dlr", "dlr-targeted")
    ]
    assert torch.equal(*made)
    assert (margin(model, goal, made[0]) > margin(model, goal, x)).all()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"restarts": 0}, {"classes": 0}, {"loss": "cross-entropy"}])
def test_what_means_nothing_is_refused(bad):
    goal = Goal.untargeted(torch.zeros(N).long())
    with pytest.raises(UsageError):
        apgd(view_of(conv()), images(N), goal, Budget("linf", 0.1), seeds(N), **bad)
    with pytest.raises(NotApplicable, match="finite"):
        apgd(view_of(conv()), images(N), goal, Budget("l2", float("inf")), seeds(N))
