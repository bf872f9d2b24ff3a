from __future__ import annotations

import contextlib
import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from planted import SHAPE, Linear, images, separable
from planted_kill import Killed, KillsAt
from torch import nn

from robustbench_gan.base import progress
from robustbench_gan.base.errors import UsageError
from robustbench_gan.models.resnet import resnet18
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.training.checkpoint import Checkpoint
from robustbench_gan.training.loop import (
    Diverged,
    accuracy,
    batches,
    classifier_recipe,
    cross_entropy,
    device_of,
    freeze,
    fresh,
    optimise,
    reinitialised,
    train_classifier,
)

DATA = separable()
QUICK = Schedule(epochs=4, batch_size=10, lr=0.02)


def network(dropout=0.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def trained_state(seed, dropout=0.3, schedule=QUICK, start=0):
    model = fresh(lambda: network(dropout), start)
    optimise(model, DATA.train, cross_entropy(model), schedule, seed=seed, description="test")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("one_cycle", [True, False])
def test_training_is_a_function_of_its_seed(one_cycle):
    schedule = Schedule(2, 10, 0.02, one_cycle)
    torch.manual_seed(1)
    first = trained_state(5, schedule=schedule)
    torch.manual_seed(2)
    assert torch.equal(trained_state(5, schedule=schedule), first)
    assert not torch.equal(trained_state(6, schedule=schedule), first)


@pytest.mark.parametrize("killed_at", [2, 5, 17, 20, 27])
@pytest.mark.parametrize("one_cycle", [True, False])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, killed_at, one_cycle):
    """Seven batches an epoch, a state every fourth: it goes on within an epoch, and at the head of one (27)."""
    schedule = Schedule(4, math.ceil(len(DATA.train) / 7), 0.02, one_cycle)
    checkpoint = Checkpoint(tmp_path / "unfinished" / "a.safetensors", every=4)

    def run(checkpoint=None, kill=None):
        model, display, told = fresh(lambda: network(0.3), 0), KillsAt(kill), []
        loss = cross_entropy(model)
        with progress.reporting_to(display):
            seconds = optimise(
                model, DATA.train, loss, schedule, seed=3, description="test",
                checkpoint=checkpoint, on_resume=told.append,
            )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()]), seconds, display.done, told

    whole, _, done, told = run()
    assert sum(done) == 28 and told == []
    with pytest.raises(Killed):
        run(checkpoint, killed_at)
    saved = 4 * (killed_at // 4)
    torch.manual_seed(9)  # what draws outside is not what it goes on with
    resumed, seconds, done, told = run(checkpoint)
    assert done == [saved] + [1] * (28 - saved) and told == ([saved] if saved else [])
    assert torch.equal(resumed, whole)
    assert seconds > 0 and (not saved or seconds > checkpoint.load()[1]["seconds"])


def test_a_state_is_written_by_the_clock_as_well_and_goes_on_from_there_to_the_bit(tmp_path, monkeypatch):
    """Steps of eleven seconds, on a clock that moves when it is looked at: after five, since six are 66 seconds."""
    clock = itertools.count(step=11.0)

    def run(checkpoint=None, kill=None):
        model = fresh(lambda: network(0.3), 0)
        with progress.reporting_to(KillsAt(kill)):
            optimise(
                model, DATA.train, cross_entropy(model), Schedule(4, math.ceil(len(DATA.train) / 7), 0.02), seed=3,
                description="test", checkpoint=checkpoint,
            )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = run()
    monkeypatch.setattr(
        "robustbench_gan.training.building.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    checkpoint = Checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(Killed):
        run(checkpoint, 26)
    monkeypatch.undo()
    assert checkpoint.load()[1]["steps"] == 25
    assert torch.equal(run(checkpoint), whole)


def test_the_seed_feeds_both_the_order_and_the_dropout():
    whole = Schedule(5, len(DATA.train), 0.02)  # one batch: the order cannot matter (but for rounding)
    assert torch.allclose(trained_state(1, 0.0, whole), trained_state(2, 0.0, whole), atol=1e-4)
    assert not torch.allclose(trained_state(1, 0.5, whole), trained_state(2, 0.5, whole), atol=1e-3)
    some = Schedule(2, 10, 0.02)
    assert not torch.allclose(trained_state(1, 0.0, some), trained_state(2, 0.0, some), atol=1e-3)


def test_training_leaves_the_global_generator_untouched():
    model = network()
    state = torch.random.get_rng_state()
    trained_state(3)
    reinitialised(model, 1)
    list(batches(DATA.train, 10, 0, torch.device("cpu")))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_separable_problem_is_learned_to_the_last_image():
    model = fresh(network, 0)
    before = accuracy(model.eval(), DATA.test)
    facts = train_classifier(model, DATA, Schedule(10, 10, 0.02), seed=0, description="separable")
    assert before < 1.0
    assert facts["validation_accuracy"] == 1.0 and facts["seconds"] > 0
    assert accuracy(model, DATA.test) == accuracy(model, DATA.train) == 1.0
    assert not model.training


def test_the_first_step_of_adam_moves_each_weight_by_the_learning_rate_downhill():
    model = Linear(2)
    x, y = DATA.train.pixels(), DATA.train.labels
    before = model.weight.detach().clone()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), model.weight)
    schedule = Schedule(1, len(y), 0.01, one_cycle=False)
    optimise(model, DATA.train, cross_entropy(model), schedule, seed=0, description="one step")
    assert torch.allclose(model.weight - before, -0.01 * grad.sign(), atol=1e-5)


def test_the_cycle_warms_up_and_cools_down():
    """Under a constant gradient Adam moves by the learning rate of each step: the path shows the schedule."""
    weight = nn.Parameter(torch.zeros(()))
    module = nn.Module()
    module.weight = weight
    path = []

    def loss(x, y):
        path.append(weight.item())
        return -weight

    optimise(module, DATA.train, loss, Schedule(5, 16, 0.1), seed=0, description="cycle")
    steps = torch.tensor([*path, weight.item()]).diff()
    assert len(path) == 5 * 4 and (steps > 0).all()
    assert steps.max().item() == pytest.approx(0.1, rel=0.3)  # the cycle moves Adam's momentum too
    assert steps.argmax() in range(3, 10) and steps[0] < 0.01 and steps[-1] < 0.01


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_a_number_ends_training_before_it_spoils_the_weights(bad):
    model = fresh(network, 0)
    calls = 0

    def loss(x, y):
        nonlocal calls
        calls += 1
        return cross_entropy(model)(x, y) * (bad if calls == 9 else 1)

    state = torch.random.get_rng_state()
    with pytest.raises(Diverged, match=r"bad run: the loss became .*in epoch 2"):
        optimise(model, DATA.train, loss, Schedule(4, 10, 0.02), seed=0, description="bad run")
    assert calls == 9 and all(torch.isfinite(p).all() for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_training_trains_in_training_mode_and_ends_in_evaluation_mode():
    model, modes = fresh(network, 0).eval(), []

    def loss(x, y):
        modes.append(model.training)
        return cross_entropy(model)(x, y)

    optimise(model, DATA.train, loss, Schedule(1, 32, 0.01), seed=0, description="modes")
    assert modes == [True, True] and not any(m.training for m in model.modules())


def test_every_step_is_reported():
    class Recorder:
        def __init__(self):
            self.tasks, self.advanced = [], 0

        @contextlib.contextmanager
        def task(self, description, total):
            self.tasks.append((description, total))

            def advance(amount):
                self.advanced += amount

            yield advance

    recorder, model = Recorder(), fresh(network, 0)
    with progress.reporting_to(recorder):
        optimise(model, DATA.train, cross_entropy(model), Schedule(3, 10, 0.01), seed=0, description="shown")
    assert (
        recorder.tasks == [("shown", 3 * 7)] and recorder.advanced == 3 * 7
    )  # 64 images: six tens and a four


def test_an_epoch_shows_every_image_once_with_its_label():
    shown = list(batches(DATA.train, 10, 3, torch.device("cpu")))
    assert [len(y) for _, y in shown] == [10] * 6 + [4]
    x, y = torch.cat([x for x, _ in shown]), torch.cat([y for _, y in shown])
    assert x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
    rows = sorted([*a.flatten().tolist(), b] for a, b in zip(x, y.tolist(), strict=True))
    stored = zip(DATA.train.pixels(), DATA.train.labels.tolist(), strict=True)
    assert rows == sorted([*a.flatten().tolist(), b] for a, b in stored)


def order(seed):
    return torch.cat([y for _, y in batches(DATA.train, 64, seed, torch.device("cpu"))]).tolist()


def test_the_order_of_an_epoch_comes_from_its_seed():
    assert order(1) == order(1) and order(1) != order(2)
    assert order(-3) == order(-3)


def test_accuracy_is_the_share_that_is_right():
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    assert accuracy(Fixed(), DATA.test) == (DATA.test.labels == 0).float().mean().item() == 0.5
    assert accuracy(Fixed(), DATA.test.take(DATA.test.labels == 1)) == 0.0
    big = separable(1203)
    assert accuracy(Fixed(), big.train) == 602 / 1203  # the last batch of evaluation counts too


def test_the_device_is_that_of_the_weights_or_the_cpu():
    assert device_of(nn.Linear(1, 1)) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_a_fresh_network_is_the_same_for_the_same_seed_whatever_came_before():
    torch.manual_seed(1)
    one = fresh(network, 4).state_dict()
    torch.manual_seed(2)
    same, other = fresh(network, 4).state_dict(), fresh(network, 5).state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["1.weight"], other["1.weight"])


def test_reinitialising_forgets_all_that_was_learned():
    model = fresh(lambda: resnet18(SHAPE, 2, width=4), 0)
    untrained = copy.deepcopy(model)
    optimise(model, DATA.train, cross_entropy(model), Schedule(1, 32, 0.01), seed=0, description="learn")
    assert reinitialised(model, 9) is model
    reinitialised(untrained, 9)
    for name, value in untrained.state_dict().items():  # running statistics included
        assert torch.equal(model.state_dict()[name], value), name
    again = copy.deepcopy(model)
    reinitialised(again, 10)
    assert not torch.equal(again[1].weight, model[1].weight)


def test_a_frozen_network_has_no_gradients_and_drops_nothing():
    model = network(0.5)
    assert freeze(model) is model
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    x = images(3).requires_grad_()
    model(x).sum().backward()
    assert x.grad.ne(0).any()


def test_the_recipe_of_a_classifier_holds_everything_that_decides_it():
    def recipe(name="a", schedule=QUICK, data=DATA, seed=0, code="x"):
        return classifier_recipe(name, schedule, data, seed, code)

    changed = [
        recipe(name="b"),
        recipe(schedule=Schedule(5, 10, 0.02)),
        recipe(schedule=Schedule(4, 10, 0.02, one_cycle=False)),
        recipe(data=separable(65)),
        recipe(seed=1),
        recipe(code="y"),
    ]
    assert recipe() == recipe(data=separable()) and all(other != recipe() for other in changed)


def test_a_layer_that_cannot_be_drawn_anew_is_an_error_and_never_stays_trained():
    class Token(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.token = torch.nn.Parameter(torch.ones(3))

    with pytest.raises(UsageError, match="'0' cannot be trained anew"):
        reinitialised(torch.nn.Sequential(Token(), torch.nn.Linear(3, 2)), 0)
