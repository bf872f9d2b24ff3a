"""What a view counts: passes, queries up to their limit, gradients that are zero."""

from __future__ import annotations

import pytest
import torch
from planted import Detector, Linear, conv, images, seeds
from viewed import SIZE, CountingModel, counts_of, goal_of

from robustbench_gan.contracts.counts import Counts, QueryLimit
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal, Output


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


def test_the_passes_of_a_part_are_charged_to_the_views_samples():
    defense = Detector(conv())
    view = View.on(Defended(defense), seeds(3), parts=defense.parts())
    view.rows(torch.tensor([2, 0])).part("scale")(torch.rand(2, 2))
    assert view.counts.forward.tolist() == [1, 0, 1]
    view.part("scale")(torch.rand(9, 2))  # three candidates a sample
    assert view.counts.forward.tolist() == [4, 3, 4]


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


def test_counts_join_and_add():
    one, two = Counts.zeros(2), Counts.zeros(3)
    one.forward += 1
    two.backward += 5
    joined = Counts.cat([one, two])
    assert joined.forward.tolist() == [1, 1, 0, 0, 0] and joined.backward.tolist() == [0, 0, 5, 5, 5]
    assert joined.plus(joined).forward.tolist() == [2, 2, 0, 0, 0]
