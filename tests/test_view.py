from __future__ import annotations

import inspect

import pytest
import torch
from planted import SHAPE, Detector, Linear, Noise, Scale, Seen, conv, images, seeds
from torch import nn

from robustbench_gan.base.batching import MICRO_BATCH, micro_batches
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import (
    THREATS,
    Bare,
    Counts,
    Defended,
    QueryLimit,
    View,
    answer,
    blend,
)
from robustbench_gan.models.convolutional import small_cnn
from robustbench_gan.models.defense_gan_2018 import a
from robustbench_gan.models.resnet import resnet18
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.seeds import fold, normal
from robustbench_gan.training.loop import freeze, fresh

SIZE = MICRO_BATCH["cpu"]
NETWORKS = {"linear": Linear(), "conv": conv()}


def goal_of(count, classes=3):
    return Goal.untargeted(torch.arange(count) % classes)


def plain_gradient(model, x, loss):
    leaf = x.clone().requires_grad_()
    value = loss(Output.of(model(leaf)))
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def counts_of(view):
    return view.counts.forward.tolist(), view.counts.backward.tolist()


class CountingModel(nn.Module):
    """Remembers the batch sizes it was called with."""

    def __init__(self):
        super().__init__()
        self.inner, self.sizes = conv(), []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.inner(x)


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


def test_passes_are_counted_a_sample_draws_included():
    x, goal = images(4), goal_of(4)
    view = View.on(Defended(Detector(conv())), seeds(4), draws=3)
    view.output(x)
    assert counts_of(view) == ([3] * 4, [0] * 4)
    view.labels(x)
    assert counts_of(view) == ([6] * 4, [0] * 4)
    view.value_and_grad(goal.loss, x)
    assert counts_of(view) == ([9] * 4, [3] * 4)
    view.jacobian(x)  # three logits and a score
    assert counts_of(view) == ([12] * 4, [3 + 3 * 4] * 4)
    assert view.counts.calls.tolist() == [4] * 4


def test_the_defenses_calls_are_those_that_were_counted():
    model = CountingModel()
    view = View.on(Bare(model), seeds(SIZE + 8), draws=2)
    view.output(images(SIZE + 8))
    assert model.sizes == [SIZE] * 4  # two draws of two micro-batches
    assert view.counts.forward.unique().tolist() == [2]


def test_narrowed_views_count_for_their_own_samples_in_the_shared_counts():
    x, goal = images(6), goal_of(6)
    view = View.on(Bare(conv()), seeds(6))
    some = torch.tensor([4, 1])
    narrow = view.rows(some)
    narrow.value_and_grad(goal.rows(some).loss, x[some])
    narrow.rows(torch.tensor([True, False])).output(x[[4]])
    assert narrow.counts is view.counts
    assert counts_of(view) == ([0, 1, 0, 0, 2, 0], [0, 1, 0, 0, 1, 0])


def test_asking_many_times_of_one_sample_at_once_is_counted_as_many():
    x = images(2)
    view = View.on(Bare(conv()), seeds(2), limit=6)
    many = torch.tensor([0, 0, 0, 1, 0])
    view.rows(many).output(x[many])
    assert view.counts.forward.tolist() == [4, 1]
    with pytest.raises(QueryLimit):
        view.rows(many).value_and_grad(goal_of(5).loss, x[many])


@pytest.mark.parametrize("zero", [True, False])
def test_zero_gradients_are_counted_a_sample(zero):
    x = images(3)
    factors = torch.tensor([0.0 if zero else 1.0, 1.0, 1.0])
    view = View.on(Bare(Linear()), seeds(3))
    view.value_and_grad(lambda out: out.logits[:, 0] * factors, x)
    assert view.counts.zero_gradients.tolist() == [int(zero), 0, 0]


def test_cross_entropy_of_a_softmax_that_rounds_to_1_is_counted_as_flat():
    x, model = images(6), Linear()
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 3
    goal = Goal.untargeted(y)
    for scale, flat in ((1.0, False), (1e3, True)):
        view = View.on(Bare(model), seeds(6))
        view.value_and_grad(lambda out, s=scale: goal.loss(Output.of(s * out.logits)), x)
        rounds = (scale * model(x)).softmax(dim=1).amax(dim=1) == 1
        rounds[0] = False  # far from 0: it is wrong already
        assert view.counts.flat_losses.tolist() == rounds.long().tolist()
        assert bool(rounds[1:].all()) or not flat


def test_gradients_that_vanish_or_are_no_numbers_are_counted_a_sample():
    x, factors = images(5), torch.tensor([0.0, 1e-20, 1.0, torch.nan, torch.inf])
    view = View.on(Bare(Linear()), seeds(5))
    view.value_and_grad(lambda out: out.logits[:, 0] * factors, x)
    counts = view.counts
    assert counts.zero_gradients.tolist() == [1, 0, 0, 0, 0]
    assert counts.tiny_gradients.tolist() == [1, 1, 0, 0, 0]
    assert counts.nan_gradients.tolist() == [0, 0, 0, 1, 1]
    view.jacobian(x)
    assert [int(c.sum()) for c in (counts.zero_gradients, counts.tiny_gradients, counts.nan_gradients)] == [
        1,
        2,
        2,
    ]


@pytest.mark.parametrize("draws", [1, 3])
def test_a_samples_randomness_does_not_depend_on_the_other_samples(draws):
    x, goal, system = images(SIZE + 8), goal_of(SIZE + 8), Defended(Noise(conv()))
    together = View.on(system, seeds(SIZE + 8), draws=draws)
    first, second = together.value_and_grad(goal.loss, x), together.output(x)
    for at in (0, 7, SIZE + 7):
        alone = View.on(system, seeds(SIZE + 8)[at : at + 1], draws=draws)
        only = torch.tensor([at])
        value, grad, out = alone.value_and_grad(goal.rows(only).loss, x[only])
        assert torch.equal(value, first[0][only]) and torch.equal(grad, first[1][only])
        assert torch.equal(out.logits, first[2].logits[only])
        assert torch.equal(alone.output(x[only]).logits, second.logits[only])


def test_narrowing_in_the_middle_changes_nothing_for_those_who_stay():
    x, goal, system = images(SIZE + 8), goal_of(SIZE + 8), Defended(Noise(conv()))
    everyone, leaving = View.on(system, seeds(SIZE + 8)), View.on(system, seeds(SIZE + 8))
    stay = torch.tensor([SIZE + 6, 3, 17])
    everyone.output(x), leaving.output(x)
    leaving = leaving.rows(stay)
    _, grad, _ = everyone.value_and_grad(goal.loss, x)
    _, narrowed, _ = leaving.value_and_grad(goal.rows(stay).loss, x[stay])
    assert torch.equal(narrowed, grad[stay])
    assert torch.equal(leaving.jacobian(x[stay])[0], everyone.jacobian(x)[0][stay])


def test_what_others_were_asked_before_changes_nothing_for_a_sample():
    x, system = images(4), Defended(Noise(conv()))
    shared, alone = View.on(system, seeds(4)), View.on(system, seeds(4))
    for _ in range(3):
        shared.rows(torch.tensor([3])).output(x[[3]])
    one = torch.tensor([1])
    for view in (shared, alone):
        view.rows(one).output(x[one])
    together = shared.output(x).logits
    assert torch.equal(together[one], alone.rows(one).output(x[one]).logits)
    assert torch.equal(together[[0]], View.on(system, seeds(4)).output(x).logits[[0]])


def network(name):
    factory = {"small-cnn": small_cnn, "a": a, "resnet18": resnet18}[name]
    shape = (3, 16, 16) if name == "resnet18" else (1, 28, 28)
    options = {"width": 8} if name == "resnet18" else {}
    return freeze(fresh(lambda: factory(shape, 10, **options), 0)), shape


@pytest.mark.parametrize("name", ["small-cnn", "a", "resnet18"])
def test_results_are_equal_to_the_last_bit_for_any_split_of_the_rows(name):
    model, shape = network(name)
    count = SIZE + 5
    x, goal = images(count, shape), goal_of(count, 10)
    value, grad, out = View.on(Bare(model), seeds(count)).value_and_grad(goal.loss, x)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    last = torch.arange(count - 3, count)
    for split in [shuffled.split([1, count - 1]), shuffled.split([20, count - 20]), [last], [last[:1]]]:
        for rows in split:
            v, g, o = View.on(Bare(model), seeds(count)[rows]).value_and_grad(goal.rows(rows).loss, x[rows])
            assert torch.equal(o.logits, out.logits[rows])
            assert torch.equal(v, value[rows])
            assert torch.equal(g, grad[rows])


@pytest.mark.parametrize("name", ["small-cnn", "resnet18"])
def test_jacobians_and_answers_are_equal_to_the_last_bit_for_any_split_of_the_rows(name):
    model, shape = network(name)
    x, s = images(SIZE + 2, shape), seeds(SIZE + 2)
    (whole, _), logits = View.on(Bare(model), s).jacobian(x), answer(Bare(model), x, s).logits
    for rows in torch.arange(SIZE + 2).split([3, SIZE - 1]):
        assert torch.equal(View.on(Bare(model), s[rows]).jacobian(x[rows])[0], whole[rows])
        assert torch.equal(answer(Bare(model), x[rows], s[rows]).logits, logits[rows])


def test_whole_batches_run_in_one_piece_of_the_callers_size():
    model = CountingModel()
    View.on(Bare(model), seeds(70), whole_batches=True).value_and_grad(goal_of(70).loss, images(70))
    assert model.sizes == [70]


def test_micro_batches_hold_every_row_once_and_pad_to_one_length():
    for count in (0, 1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE, 2 * SIZE + 7):
        chunks = list(micro_batches(count, torch.device("cpu")))
        assert {len(rows) for rows, _ in chunks} <= {SIZE}
        assert [int(r) for rows, real in chunks for r in rows[:real]] == list(range(count))
        assert all((rows[real:] == rows[0]).all() for rows, real in chunks)


GRANTED = {
    "nothing": [],
    "labels": ["labels"],
    "scores": ["labels", "output"],
    "gradient": ["labels", "output", "value_and_grad", "jacobian"],
}


@pytest.mark.parametrize("access", GRANTED)
@pytest.mark.parametrize("ask", GRANTED["gradient"])
def test_a_view_gives_what_its_threat_model_grants_and_no_more(access, ask):
    x, view = images(2), View.on(Bare(conv()), seeds(2), access=access)

    def asked():
        return view.value_and_grad(goal_of(2).loss, x) if ask == "value_and_grad" else getattr(view, ask)(x)

    if ask in GRANTED[access]:
        asked()
    else:
        with pytest.raises(PermissionError, match=f"this threat model grants {access}, the attack asked for"):
            asked()
        assert view.counts.forward.sum() == 0


def test_labels_are_the_judges_with_rejections():
    model, x = conv(), images(8)
    view = View.on(Defended(Detector(model, threshold=0.5)), seeds(8), access="labels")
    bright = x.flatten(1).mean(dim=1) > 0.5
    assert bright.any() and not bright.all()
    assert view.labels(x).tolist() == torch.where(bright, -1, model(x).argmax(dim=1)).tolist()


@pytest.mark.parametrize(("draws", "allowed"), [(1, 3), (2, 1)])
def test_the_query_limit_holds_for_each_image(draws, allowed):
    x = images(3)
    view = View.on(Bare(conv()), seeds(3), access="scores", limit=3, draws=draws)
    for _ in range(allowed):
        view.output(x)
    with pytest.raises(QueryLimit, match="more than its limit of 3 queries"):
        view.rows(torch.tensor([1])).output(x[[1]])
    fresh_view = View.on(Bare(conv()), seeds(3), limit=0)  # no limit
    for _ in range(20):
        fresh_view.output(x)


def test_a_finished_sample_over_its_limit_does_not_stop_the_others():
    x = images(2)
    view = View.on(Bare(conv()), seeds(2), limit=2)
    view.rows(torch.tensor([0])).output(x[:1])
    view.output(x)
    view.rows(torch.tensor([1])).output(x[1:])
    assert view.counts.forward.tolist() == [2, 2]


def test_parts_are_given_only_where_the_threat_model_gives_them():
    defense, x = Detector(conv()), torch.rand(3, 2)
    with pytest.raises(PermissionError, match="no part 'scale'; it has: none"):
        View.on(Defended(defense), seeds(3)).part("scale")
    view = View.on(Defended(defense), seeds(3), parts=defense.parts())
    with pytest.raises(PermissionError, match="no part 'generator'; it has: scale"):
        view.part("generator")
    assert torch.allclose(view.part("scale")(x), defense.scale(x), atol=1e-6)  # computed in a padded batch


def test_the_passes_of_a_part_are_charged_to_the_views_samples():
    defense = Detector(conv())
    view = View.on(Defended(defense), seeds(3), parts=defense.parts())
    view.rows(torch.tensor([2, 0])).part("scale")(torch.rand(2, 2))
    assert view.counts.forward.tolist() == [1, 0, 1]
    view.part("scale")(torch.rand(9, 2))  # three candidates a sample
    assert view.counts.forward.tolist() == [4, 3, 4]


def test_an_attack_can_differentiate_through_a_part():
    defense = Detector(conv())
    z = torch.rand(3, 2, requires_grad=True)
    View.on(Defended(defense), seeds(3), parts=defense.parts()).part("scale")(z).sum().backward()
    assert torch.allclose(z.grad, defense.scale.weight.sum(dim=0).expand(3, -1))


def test_differentiating_through_a_part_is_a_backward_pass_and_asking_it_is_none():
    defense = Detector(conv())
    view = View.on(Defended(defense), seeds(3), parts=defense.parts())
    part = view.part("scale")
    with torch.no_grad():
        part(torch.rand(3, 2))
    part(torch.rand(3, 2, requires_grad=True))  # asked, and not differentiated
    assert counts_of(view) == ([2, 2, 2], [0, 0, 0])
    out = view.rows(torch.tensor([1, 2])).part("scale")(torch.rand(6, 2, requires_grad=True))
    torch.autograd.grad(out.sum(), out, retain_graph=True)  # reaches the part's answer, not what is behind it
    assert counts_of(view) == ([2, 5, 5], [0, 3, 3])
    assert not view.counts.calls.any()


def test_a_part_computes_in_micro_batches_of_one_shape():
    model = CountingModel()
    view = View.on(Bare(conv()), seeds(1), parts={"classifier": model})
    x = images(SIZE + 3)
    leaf = x.clone().requires_grad_()
    out = view.part("classifier")(leaf)
    assert model.sizes == [SIZE, SIZE] and torch.allclose(out, model.inner(x), atol=1e-6)
    (grad,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.allclose(grad, plain_gradient(model.inner, x, lambda o: o.logits.sum(dim=1))[1], atol=1e-6)


def test_an_attackers_stand_in_changes_the_gradient_and_not_the_answer():
    defense, x, goal = Scale(conv(), factor=0.5, stand_in=1.0), images(4), goal_of(4)
    view = View.on(Defended(defense, "bpda"), seeds(4))
    value, grad, out = view.value_and_grad(goal.loss, x)
    for factor in (1.0, -3.0):
        other = view.through(lambda x, seed, factor=factor: factor * x).value_and_grad(goal.loss, x)
        assert torch.equal(other[0], value) and torch.equal(other[2].logits, out.logits)
        assert torch.allclose(other[1], factor * grad, atol=1e-6)
    assert view.counts.backward.tolist() == [3] * 4


def test_the_purified_image_is_shown_to_who_holds_the_defense_and_counted():
    defense, x = Scale(conv()), images(SIZE + 1)
    view = View.on(Defended(defense), seeds(SIZE + 1))
    assert torch.allclose(view.purified(x), 0.5 * x)
    assert (view.counts.forward == 1).all() and not view.counts.calls.any()


@pytest.mark.parametrize("name", ["through", "purified"])
def test_the_purifier_is_open_only_to_who_holds_the_defense(name):
    closed = [
        View.on(Bare(conv()), seeds(2)),
        View.on(Defended(Scale(conv())), seeds(2), access="scores"),
        View.on(Defended(Scale(conv()), "cut"), seeds(2)),
    ]
    for view in closed:
        with pytest.raises(PermissionError):
            getattr(view, name)(images(2) if name == "purified" else (lambda x, seed: x))


def test_counts_join_and_add():
    one, two = Counts.zeros(2), Counts.zeros(3)
    one.forward += 1
    two.backward += 5
    joined = Counts.cat([one, two])
    assert joined.forward.tolist() == [1, 1, 0, 0, 0] and joined.backward.tolist() == [0, 0, 5, 5, 5]
    assert joined.plus(joined).forward.tolist() == [2, 2, 0, 0, 0]


def test_answer_is_the_defense_itself():
    defense, x, s = Noise(conv()), images(70), seeds(70)
    assert torch.allclose(answer(Defended(defense), x, s).logits, defense(x, s).logits, atol=1e-6)
    assert torch.equal(defense.purify(x, s), x + 0.5 * normal(s, SHAPE))


def test_blend_takes_new_rows_where_the_mask_says():
    new, old = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    assert blend(torch.tensor([True, False, True]), new, old).flatten(1).mean(dim=1).tolist() == [1, 0, 1]


def test_a_bare_classifier_ignores_the_seed_and_rejects_nothing():
    x = images(3)
    out = Bare(conv())(x, seeds(3))
    assert torch.equal(out.logits, Bare(conv())(x, seeds(3, cell=9)).logits) and out.scores.shape == (3, 0)
    assert not Bare(conv()).defended and Defended(Defense(conv())).defended


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


@pytest.mark.parametrize("name", THREATS)
def test_every_threat_model_is_named_as_it_is_registered_and_documented(name):
    threat = THREATS[name]()
    assert threat.name == name and inspect.getdoc(THREATS[name])
    assert threat.white == (name in ("white-box", "seed-known"))
    assert threat.holds_defense == (name in ("white-box", "seed-known", "query"))
    assert threat.copies == (name == "gray-box:copy")
    assert threat.differentiates == (threat.white or threat.copies)


def test_threat_models_keep_what_they_were_given():
    assert THREATS["query"](access="labels", limit=5).limit == 5
    assert THREATS["query"](access="labels").access == "labels"
    white = THREATS["white-box"](gradient="truncated", draws=7, unroll=3)
    assert (white.gradient, white.draws, white.unroll) == ("truncated", 7, 3)
    assert THREATS["seed-known"]().draws == 1


@pytest.mark.parametrize("whole", [False, True])
def test_a_view_of_no_samples_answers_with_none(whole):
    view, none = View.on(Bare(conv()), seeds(0), whole_batches=whole), images(4)[:0]
    goal = Goal.untargeted(torch.zeros(0, dtype=torch.int64))
    value, grad, out = view.value_and_grad(goal.loss, none)
    assert (len(value), grad.shape, len(out.logits)) == (0, none.shape, 0)
    assert view.output(none).logits.shape == (0, 3) and view.jacobian(none)[0].shape == (
        0,
        3,
        *none.shape[1:],
    )


@pytest.mark.parametrize("has", [False, True])
def test_a_view_is_fast_only_where_the_device_multiplies_bfloat16_itself(has, monkeypatch):
    monkeypatch.setattr("robustbench_gan.contracts.threat.multiplies_bfloat16", lambda device: has)
    x, goal, model = images(4), Goal.untargeted(torch.zeros(4, dtype=torch.int64)), conv()
    view, plain = (View.on(Bare(model), seeds(4), fast=fast) for fast in (True, False))
    same = torch.equal(view.value_and_grad(goal.loss, x)[1], plain.value_and_grad(goal.loss, x)[1])
    assert view.fast is has and same is not has and plain.fast is False
