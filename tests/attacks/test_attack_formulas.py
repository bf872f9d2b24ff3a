"""The gradient attacks against their formulas, and against optima known in closed form."""

from __future__ import annotations

import pytest
import torch
from planted import Linear, conv, images, seeds
from rbg_attacks.bim import bim
from rbg_attacks.bpda import bpda
from rbg_attacks.fgsm import fgsm
from rbg_attacks.noise import noise
from rbg_attacks.pgd import pgd
from rbg_attacks.rand_fgsm import rand_fgsm
from torch.nn import functional as F

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.seeds import fold, signs

N = 8
Y = torch.arange(N) % 3


def view_of(model, n=N, **options):
    return View.on(Bare(model), seeds(n), **options)


def gradient(model, x, y=Y):
    """Of the cross-entropy, by hand."""
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    return grad


def loss(model, x, y=Y):
    with torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")


# ---- formulas


def test_fgsm_is_its_formula():
    x, model = images(N), conv()
    made = fgsm(view_of(model), x, Goal.untargeted(Y), Budget("linf", 0.1), seeds(N))
    assert torch.equal(made, (x + 0.1 * gradient(model, x).sign()).clamp(0, 1))


def test_targeted_fgsm_descends_towards_the_target():
    x, model = images(N), conv()
    made = fgsm(view_of(model), x, Goal.targeted(Y), Budget("linf", 0.1), seeds(N))
    assert torch.equal(made, (x - 0.1 * gradient(model, x).sign()).clamp(0, 1))


def test_fgsm_in_l2_is_the_normalised_gradient_and_in_l1_its_largest_values():
    x, model = images(N) * 0.2 + 0.4, conv()
    grad = gradient(model, x).flatten(1)
    made = fgsm(view_of(model), x, Goal.untargeted(Y), Budget("l2", 0.2), seeds(N))
    assert torch.allclose((made - x).flatten(1), 0.2 * grad / grad.norm(dim=1, keepdim=True), atol=1e-6)
    made = fgsm(view_of(model), x, Goal.untargeted(Y), Budget("l1", 0.2), seeds(N))
    delta = (made - x).flatten(1)
    assert torch.equal(delta.abs().argmax(dim=1), grad.abs().argmax(dim=1))


def test_one_gradient_is_all_that_the_fast_ones_take():
    for attack in (fgsm, rand_fgsm):
        view = view_of(conv())
        attack(view, images(N), Goal.untargeted(Y), Budget("linf", 0.1), seeds(N))
        assert view.counts.backward.tolist() == view.counts.forward.tolist() == [1] * N


def test_rand_fgsm_steps_at_random_and_then_as_fgsm_with_the_rest():
    x, model, budget = images(N), conv(), Budget("linf", 0.3)
    start = (x + 0.05 * signs(seeds(N, cell=3), x.shape[1:])).clamp(0, 1)
    made = rand_fgsm(view_of(model), x, Goal.untargeted(Y), budget, seeds(N, cell=3), alpha=0.05)
    assert torch.equal(made, (start + 0.25 * gradient(model, start).sign()).clamp(0, 1))
    assert (made - x).abs().max() <= 0.3 + 1e-6


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3, 1.0])
def test_rand_fgsm_stays_inside_eps_for_any_alpha_and_its_seed_decides(alpha):
    x, model, budget = images(N), conv(), Budget("linf", 0.2)

    def made(cell):
        return rand_fgsm(view_of(model), x, Goal.untargeted(Y), budget, seeds(N, cell=cell), alpha=alpha)

    assert ((made(3) - x).abs().amax(dim=(1, 2, 3)) <= 0.2 + 1e-6).all()
    assert torch.equal(made(3), made(3))
    if alpha == 0:
        assert torch.equal(made(3), made(4))
        assert torch.equal(made(3), fgsm(view_of(model), x, Goal.untargeted(Y), budget, seeds(N)))
    else:
        assert not torch.equal(made(3), made(4))


def plain_pgd(model, x, y, start, eps, size, steps):
    """Madry et al.'s loop in linf, keeping the last iterate."""
    at = (x + start).clamp(0, 1)
    for _ in range(steps):
        at = at + size * gradient(model, at, y).sign()
        at = (x + (at - x).clamp(-eps, eps)).clamp(0, 1)
    return at


def test_bim_is_pgd_from_the_image_itself():
    x, model, goal = images(N), conv(), Goal.untargeted(Y)
    for norm, eps in (("linf", 0.1), ("l2", 0.5), ("l1", 1.0)):
        a = bim(view_of(model), x, goal, Budget(norm, eps), seeds(N), steps=6, step=0.03)
        b = pgd(view_of(model), x, goal, Budget(norm, eps), seeds(N), steps=6, step=0.03, random_start=False)
        assert torch.equal(a, b)
    one = bim(view_of(model), x, goal, Budget("linf", 0.1), seeds(N), steps=1, step=0.1)
    moved = fgsm(view_of(model), x, goal, Budget("linf", 0.1), seeds(N))
    margin = [goal.margin(Output.of(model(z))) for z in (moved, x)]
    better = (margin[0] > margin[1])[:, None, None, None]
    assert torch.allclose(one, torch.where(better, moved, x), atol=1e-6)


def test_pgd_is_the_plain_loop():
    x, model, budget = images(N), conv(), Budget("linf", 0.15)
    goal = Goal.untargeted(model(x).argmax(dim=1))  # ascent makes the last iterate the best almost surely
    start = budget.random(x, fold(seeds(N, cell=3), "pgd", 0))
    expected = plain_pgd(model, x, goal.classes, start, 0.15, 0.02, 10)
    made = pgd(view_of(model), x, goal, budget, seeds(N, cell=3), steps=10, step=0.02)
    margins = [goal.margin(Output.of(model(z))) for z in (made, expected)]
    assert (margins[0] >= margins[1]).all()  # the best iterate, so never below the last
    last = (made - expected).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert last.sum() >= N - 2


def test_bpda_is_pgd_under_the_gradient_that_the_threat_model_grants():
    x, model, goal = images(N), conv(), Goal.untargeted(Y)
    for budget in (Budget("linf", 0.1), Budget("l2", 0.5)):
        made = [f(view_of(model), x, goal, budget, seeds(N), steps=5, restarts=2) for f in (bpda, pgd)]
        assert torch.equal(*made)


def test_noise_is_a_point_of_the_ball_and_of_the_cube_where_there_is_none():
    x = torch.full((200, 1, 4, 4), 0.5)
    made = noise(None, x, Goal.untargeted(Y), Budget("linf", 0.2), seeds(200))
    assert 0.19 < (made - x).abs().max() <= 0.2 + 1e-6 and (made - x).mean().abs() < 0.01
    free = noise(None, x, Goal.untargeted(Y), Budget("l2", float("inf")), seeds(200))
    assert free.min() == 0 and free.max() == 1


# ---- strength


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pgd_ends_at_least_as_high_as_fgsm(seed):
    x, model = images(N, seed=seed), conv(seed=seed)
    goal, budget = Goal.untargeted(model(x).argmax(dim=1)), Budget("linf", 0.1)
    weak = fgsm(view_of(model), x, goal, budget, seeds(N))
    strong = pgd(view_of(model), x, goal, budget, seeds(N), steps=40, step=0.01, random_start=False)
    assert (loss(model, strong, goal.classes) >= loss(model, weak, goal.classes) - 1e-4).all()


def test_more_restarts_and_more_room_never_weaken_pgd():
    x, model = images(N), conv()
    goal = Goal.untargeted(model(x).argmax(dim=1))

    def margin(eps, restarts, exact=False):
        made = pgd(
            view_of(model, exact=exact), x, goal, Budget("linf", eps), seeds(N), steps=5, restarts=restarts
        )
        return goal.margin(Output.of(model(made)))

    assert (margin(0.05, 4) >= margin(0.05, 1)).all()
    assert margin(0.1, 2).mean() > margin(0.05, 2).mean()


def test_stopping_early_changes_no_verdict_and_saves_passes():
    x, model = images(40), Linear()
    goal, budget = Goal.untargeted(model(x).argmax(dim=1)), Budget("linf", 0.1)
    whole, stopped = view_of(model, 40), view_of(model, 40, exact=True)
    made = [pgd(v, x, goal, budget, seeds(40), steps=8, restarts=3) for v in (whole, stopped)]
    won = [goal.reached(Output.of(model(z))) for z in made]
    assert torch.equal(*won) and 0 < won[0].sum() < 40
    assert set(whole.counts.forward.tolist()) == {27}
    assert (stopped.counts.forward[won[0]] < 27).all() and set(stopped.counts.forward[~won[0]].tolist()) == {
        27
    }


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.2), ("l1", 0.3)])
@pytest.mark.parametrize("attack", [fgsm, bim, pgd])
def test_the_optimum_of_two_linear_classes_is_reached(attack, norm, eps):
    # The margin rises by eps times the dual norm of the weights' difference; pixels stay off the box.
    model, x = Linear(classes=2), images(N) * 0.2 + 0.4
    y = model(x).argmax(dim=1)
    w = model.weight.detach()
    dual = {"linf": (w[1] - w[0]).abs().sum(), "l2": (w[1] - w[0]).norm(), "l1": (w[1] - w[0]).abs().max()}[
        norm
    ]
    goal = Goal.untargeted(y)
    more = {} if attack is fgsm else {"steps": 40}
    made = attack(view_of(model), x, goal, Budget(norm, eps), seeds(N), **more)
    with torch.no_grad():
        risen = goal.margin(Output.of(model(made))) - goal.margin(Output.of(model(x)))
    tolerance = 0.05 if attack is pgd and norm != "linf" else 1e-3  # from a random start it comes close
    assert torch.allclose(risen, (eps * dual).expand(N), rtol=tolerance)


# ---- bad parameters


@pytest.mark.parametrize("bad", [{"steps": 0}, {"restarts": 0}, {"step": -0.1}, {"steps": -3}])
def test_pgd_refuses_what_means_nothing(bad):
    with pytest.raises(UsageError, match="pgd needs"):
        pgd(view_of(conv()), images(N), Goal.untargeted(Y), Budget("linf", 0.1), seeds(N), **bad)


def test_rand_fgsm_refuses_a_negative_alpha_and_pgd_an_unbounded_ball():
    with pytest.raises(UsageError, match="negative"):
        rand_fgsm(view_of(conv()), images(N), Goal.untargeted(Y), Budget("linf", 0.1), seeds(N), alpha=-0.1)
    with pytest.raises(NotApplicable, match="finite"):
        pgd(view_of(conv()), images(N), Goal.untargeted(Y), Budget("linf", float("inf")), seeds(N))
