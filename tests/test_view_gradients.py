"""Values, gradients and Jacobians of a view are autograd's, over all draws and of a part alone."""

from __future__ import annotations

import pytest
import torch
from planted import SHAPE, Detector, Linear, Noise, Scale, Seen, conv, images, seeds
from viewed import NETWORKS, SIZE, goal_of, plain_gradient

from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import fold


@pytest.mark.parametrize("count", [1, 5, SIZE, SIZE + 1, 2 * SIZE + 6])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("objective", ["loss", "margin"])
def test_value_and_grad_are_plain_autograds(network, count, objective):
    model, x, goal = NETWORKS[network], images(count), goal_of(count)
    loss = getattr(goal, objective)
    value, grad, out = View.on(Bare(model), seeds(count)).value_and_grad(loss, x)
    expected_value, expected_grad = plain_gradient(model, x, loss)
    assert value.shape == (count,) and grad.shape == x.shape
    assert torch.allclose(value, expected_value, atol=1e-6)
    assert torch.allclose(grad, expected_grad, atol=1e-6)
    assert torch.allclose(out.logits, model(x), atol=1e-6)
    assert not (value.requires_grad or grad.requires_grad or out.logits.requires_grad)


def test_the_gradient_of_a_linear_margin_is_a_difference_of_weight_rows():
    model, x = NETWORKS["linear"], images(6)
    goal = Goal.targeted(torch.tensor([2] * 6))
    _, grad, out = View.on(Bare(model), seeds(6)).value_and_grad(goal.margin, x)
    rival = out.logits[:, :2].argmax(dim=1)
    assert torch.allclose(grad.flatten(1), model.weight[2] - model.weight[rival], atol=1e-6)


@pytest.mark.parametrize("count", [1, SIZE + 1])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_jacobian_is_each_logits_gradient(network, count):
    model, x = NETWORKS[network], images(count)
    jacobian, _ = View.on(Bare(model), seeds(count)).jacobian(x)
    assert jacobian.shape == (count, 3, *SHAPE)
    for k in range(3):
        _, expected = plain_gradient(model, x, lambda out, k=k: out.logits[:, k])
        assert torch.allclose(jacobian[:, k], expected, atol=1e-6)


def test_the_jacobian_has_a_row_a_detector():
    model, x = Linear(), images(4)
    jacobian, _ = View.on(Defended(Detector(model)), seeds(4)).jacobian(x)
    assert jacobian.shape == (4, 4, *SHAPE)
    assert torch.allclose(jacobian[:, 3], torch.full_like(x, 1 / 16))
    assert torch.allclose(jacobian[:, :3].flatten(2), model.weight.expand(4, -1, -1))


def test_the_input_and_the_weights_are_left_alone():
    model, x, goal = conv(), images(4), goal_of(4)
    before = x.clone()
    view = View.on(Bare(model), seeds(4))
    with torch.no_grad():  # an attack may run under it
        view.value_and_grad(goal.loss, x)
    view.jacobian(x)
    view.output(x)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("ask", ["value_and_grad", "jacobian", "output"])
def test_eot_of_a_deterministic_model_is_the_model(ask):
    x, goal = images(5), goal_of(5)

    def asked(draws):
        view = View.on(Defended(Scale(conv())), seeds(5), draws=draws)
        if ask == "output":
            return view.output(x).logits
        return view.jacobian(x)[0] if ask == "jacobian" else view.value_and_grad(goal.loss, x)[1]

    assert torch.allclose(asked(7), asked(1), atol=1e-6)
    assert torch.equal(asked(4), asked(1))  # dividing by a power of two is exact


def test_eot_converges_to_the_analytic_mean_of_losses_not_to_the_loss_of_the_mean():
    """x + s*n into a linear logit l = w.x + b: E l^2 = l^2 + s^2 |w|^2 and its gradient is 2 l w."""
    model, x, sigma, draws = Linear(), images(32), 0.5, 200
    view = View.on(Defended(Noise(model, sigma=sigma)), seeds(32), draws=draws)
    value, grad, out = view.value_and_grad(lambda o: o.logits[:, 0] ** 2, x)
    logit, w = model(x)[:, 0], model.weight[0]
    spread = sigma * w.norm().item()
    assert (out.logits[:, 0] - logit).abs().max() < 5 * spread / draws**0.5
    variance = 2 * spread**4 + 4 * logit**2 * spread**2
    assert ((value - logit**2 - spread**2).abs() < 5 * (variance / draws).sqrt()).all()
    assert (
        abs((value - logit**2).mean().item() - spread**2) < 5 * (variance.mean().item() / draws / 32) ** 0.5
    )
    error = (grad.flatten(1) - 2 * logit[:, None] * w).abs() / (2 * w.abs())
    assert error.max() < 6 * spread / draws**0.5


def test_each_draw_is_its_own_seed_and_every_pass_draws_anew():
    watcher, s = Seen(conv()), seeds(3)
    view = View.on(Defended(watcher), s, draws=2)
    x, goal = images(3), goal_of(3)
    view.output(x)
    view.value_and_grad(goal.loss, x)
    view.jacobian(x)
    view.labels(x)
    assert torch.cat([seen[:3] for seen in watcher.seen]).unique().numel() == 4 * 2 * 3
    assert torch.equal(watcher.seen[3][:3], fold(s, 1, 1))


def test_a_fixed_view_uses_the_judges_seed_at_every_pass():
    watcher, s = Seen(conv()), seeds(3)
    view = View.on(Defended(watcher), s, fixed=True)
    for _ in range(2):
        view.output(images(3))
        view.value_and_grad(goal_of(3).loss, images(3))
    assert all(torch.equal(seen[:3], s) for seen in watcher.seen)


@pytest.mark.parametrize("draws", [1, 3])
def test_a_fixed_view_gives_the_loss_and_gradient_of_that_seed(draws):
    defense, s, x, goal = Noise(Linear()), seeds(4), images(4), goal_of(4)
    view = View.on(Defended(defense), s, fixed=True, draws=draws)
    value, grad, out = view.value_and_grad(goal.loss, x)
    leaf = x.clone().requires_grad_()
    expected = goal.loss(defense(leaf, s))
    assert torch.allclose(value, expected, atol=1e-6)
    assert torch.allclose(grad, torch.autograd.grad(expected.sum(), leaf)[0], atol=1e-6)
    assert torch.allclose(
        view.jacobian(x)[0][:, 0].flatten(1), defense.core.weight[0].expand(4, -1), atol=1e-6
    )
    assert torch.allclose(out.logits, defense(x, s).logits, atol=1e-6)


def test_an_attack_can_differentiate_through_a_part():
    defense = Detector(conv())
    z = torch.rand(3, 2, requires_grad=True)
    View.on(Defended(defense), seeds(3), parts=defense.parts()).part("scale")(z).sum().backward()
    assert torch.allclose(z.grad, defense.scale.weight.sum(dim=0).expand(3, -1))


def test_an_attackers_stand_in_changes_the_gradient_and_not_the_answer():
    defense, x, goal = Scale(conv(), factor=0.5, stand_in=1.0), images(4), goal_of(4)
    view = View.on(Defended(defense, "bpda"), seeds(4))
    value, grad, out = view.value_and_grad(goal.loss, x)
    for factor in (1.0, -3.0):
        other = view.through(lambda x, seed, factor=factor: factor * x).value_and_grad(goal.loss, x)
        assert torch.equal(other[0], value) and torch.equal(other[2].logits, out.logits)
        assert torch.allclose(other[1], factor * grad, atol=1e-6)
    assert view.counts.backward.tolist() == [3] * 4


def test_a_cut_gradient_is_zeros_at_the_price_of_an_answer():
    drawn = []

    class Watch(Scale):
        def purify(self, x, seed):
            drawn.append(torch.is_grad_enabled())
            return super().purify(x, seed)

    defense, x, goal = Watch(conv()), images(3), Goal.untargeted(torch.tensor([0, 1, 2]))
    cut = View.on(Defended(defense, "cut"), seeds(3))
    value, grad, out = cut.value_and_grad(goal.loss, x)
    assert not grad.any() and not any(drawn)  # no graph is drawn
    open_value, _, open_out = View.on(Defended(defense), seeds(3)).value_and_grad(goal.loss, x)
    assert torch.equal(value, open_value) and torch.equal(out.logits, open_out.logits) and any(drawn)
    assert not cut.jacobian(x)[0].any() and cut.counts.zero_gradients.tolist() == [2, 2, 2]
