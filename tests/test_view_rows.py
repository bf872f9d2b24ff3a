"""A sample's answers do not depend on the rows beside it: randomness, narrowing, micro-batches."""

from __future__ import annotations

import pytest
import torch
from planted import Noise, conv, images, seeds
from viewed import SIZE, CountingModel, goal_of, plain_gradient

from robustbench_gan.base.batching import micro_batches
from robustbench_gan.contracts.systems import Bare, Defended, answer
from robustbench_gan.contracts.view import View
from robustbench_gan.models.convolutional import small_cnn
from robustbench_gan.models.defense_gan_2018 import a
from robustbench_gan.models.resnet import resnet18
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.training.networks import freeze, fresh


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


def test_a_part_computes_in_micro_batches_of_one_shape():
    model = CountingModel()
    view = View.on(Bare(conv()), seeds(1), parts={"classifier": model})
    x = images(SIZE + 3)
    leaf = x.clone().requires_grad_()
    out = view.part("classifier")(leaf)
    assert model.sizes == [SIZE, SIZE] and torch.allclose(out, model.inner(x), atol=1e-6)
    (grad,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.allclose(grad, plain_gradient(model.inner, x, lambda o: o.logits.sum(dim=1))[1], atol=1e-6)


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
