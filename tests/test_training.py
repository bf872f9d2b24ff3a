"""The training loop is a function of its seed, ends as undisturbed after a kill, and follows its schedule."""

from __future__ import annotations

import contextlib
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from planted import Linear
from planted_kill import Killed, KillsAt
from quick_training import DATA, network, trained_state
from torch import nn

from robustbench_gan.base import progress
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.training.checkpoint import Checkpoint
from robustbench_gan.training.loop import (
    Diverged,
    accuracy,
    batches,
    cross_entropy,
    optimise,
    train_classifier,
)
from robustbench_gan.training.networks import fresh, reinitialised


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
