"""The state of one unfinished training: put back to the bit, and taken only where it fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from planted import separable
from planted_kill import Killed, killed_after
from planted_plugins import installed  # noqa: F401 - a fixture
from torch import nn

from robustbench_gan.training import building, checkpoint
from robustbench_gan.training.building import Pace
from robustbench_gan.training.checkpoint import Checkpoint, fits, kept, restore, state_of, unfinished
from robustbench_gan.training.loop import going_on
from robustbench_gan.training.networks import fresh
from robustbench_gan.training.store import Store


def networks(seed=0):
    """Parts of every kind, with a memory layout of their own, and one step of them."""
    network = fresh(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2)), seed)
    network = network.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network[0].parameters(), 0.1)
    descent = torch.optim.SGD(network[1].parameters(), 0.1, 0.9, nesterov=True)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 / (1 + step))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(descent, 9)
    parts = {"network": network, "adam": adam, "descent": descent, "rate": rate, "cosine": cosine}

    def step():
        network.zero_grad()
        network(torch.rand(5, 3, 6, 6)).square().mean().backward()
        for part in (adam, descent, rate, cosine):
            part.step()

    return parts, step


def test_a_state_is_put_back_to_the_bit_and_in_its_memory_layout(tmp_path):
    parts, step = networks()
    with torch.random.fork_rng():
        for _ in range(4):
            step()
        file = Checkpoint(tmp_path / "a.safetensors")
        file.save(state_of(parts), {"steps": 4.0})
        others, goes_on = networks(1)
        state, facts = file.load(lambda state: fits(state, others))
        restore(state, others)
        assert facts == {"steps": 4.0}
        drawn = torch.get_rng_state()
        step()
        torch.set_rng_state(drawn)
        goes_on()
    after, as_well = state_of(parts), state_of(others)
    assert after.keys() == as_well.keys() and all(torch.equal(after[name], as_well[name]) for name in after)
    moments = others["adam"].state[others["network"][0].weight]["exp_avg"]
    assert moments.is_contiguous(memory_format=torch.channels_last) and not moments.is_contiguous()


def test_a_state_of_other_networks_or_names_does_not_fit(tmp_path):
    state = state_of({"a": nn.Linear(2, 3)})
    assert fits(state, {"a": nn.Linear(2, 3)})
    for other in ({"a": nn.Linear(2, 4)}, {"b": nn.Linear(2, 3)}, {"a": nn.Linear(2, 3), "b": nn.ReLU()}):
        assert not fits(state, other)
    with pytest.raises(TypeError, match="a object cannot be kept"):
        state_of({"a": type("", (), {"state_dict": lambda self: {"x": object()}})()})


def other_core(monkeypatch):
    monkeypatch.setattr(checkpoint, "_core", lambda: "of another version")


def other_instructions(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")


def other_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)


def other_plugin(monkeypatch):
    monkeypatch.setattr(checkpoint, "code_digest", lambda function: "edited")


def nothing_else(monkeypatch):
    pass


@pytest.mark.parametrize(
    "change", [nothing_else, other_core, other_instructions, other_threads, other_plugin]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_only_what_the_same_recipe_code_threads_and_processor_left_is_taken(
    tmp_path, monkeypatch, change, seed
):
    monkeypatch.setattr(Pace, "due", lambda self: True)
    store, first = Store(tmp_path), []

    def build():
        network = fresh(lambda: nn.Linear(2, 2), 0)
        adam = torch.optim.Adam(network.parameters())
        with going_on("test", 9, seed=0, parts={"network": network, "adam": adam}) as run:
            first.append(run.first)
            for _ in run:
                network(torch.ones(1, 2)).sum().backward()
                adam.step()
        return network.state_dict(), {}

    with pytest.raises(Killed), killed_after(5):
        store.fetch("test", {"seed": 0}, build)
    change(monkeypatch)
    store.fetch("test", {"seed": seed}, build)
    assert first == [0, 4 if change is nothing_else and not seed else 0]
    left = {path.name for path in (tmp_path / "unfinished").iterdir()}
    assert len(left) == seed  # that of the other recipe
    assert store.clear() == 1 and not list((tmp_path / "unfinished").iterdir())


def test_long_work_without_steps_is_done_once_and_what_is_counted_beside_it_counted_once(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Pace, "due", lambda self: True)
    monkeypatch.setattr(building.time, "perf_counter", lambda: 10.0 * len(made))  # seconds a piece
    count, made = torch.zeros(1, dtype=torch.int64), []

    def work(at):
        made.append(at)
        count.add_(at)
        return torch.full((2,), float(at))

    def build(stop):
        checkpoint.keep_beside({"count": count.zero_()})
        pieces = []
        for at in range(1, 5):
            if at == stop:
                raise Killed
            pieces.append(kept(lambda at=at: work(at), torch.device("cpu")))
        return {"made": torch.cat(pieces)}, {"count": int(count)}

    store = Store(tmp_path)
    with pytest.raises(Killed):
        store.fetch("test", {}, lambda: build(3))
    artifact = store.fetch("test", {}, lambda: build(9))
    assert made == [1, 2, 3, 4] and artifact.info["count"] == 10
    assert artifact.info["build_seconds"] == 40
    assert artifact.tensors["made"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert (
        unfinished() is None
        and kept(lambda: work(7), torch.device("cpu")).tolist() == [7, 7]
        and made[-1] == 7
    )


def test_no_more_than_a_minute_of_several_short_parts_is_lost(tmp_path, monkeypatch):
    """Parts of 25 seconds: the second end is written with the first, since a third one would make 75 seconds."""
    now = 0.0
    monkeypatch.setattr(building.time, "monotonic", lambda: now)
    seen = []

    def piece(at):
        nonlocal now
        now += 25
        return torch.tensor(at)

    def build():
        for at in range(5):
            kept(lambda at=at: piece(at), torch.device("cpu"))
            seen.append(len(list((tmp_path / "unfinished").glob("*"))))
        return {"x": torch.ones(1)}, {}

    Store(tmp_path).fetch("test", {}, build)
    assert seen == [0, 2, 2, 4, 4]


def test_the_training_of_the_guide_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Pace, "due", lambda self: True)
    text = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(# goes on.*?)^```$", text, re.MULTILINE | re.DOTALL)
    space = {"__name__": "guide"}
    exec(compile(code, "plugins.md", "exec"), space)

    def build():
        network = fresh(lambda: nn.Conv2d(1, 1, 3, padding=1), 0)
        space["train"](network, separable().train, 0, epochs=3)
        return network.state_dict(), {}

    whole, store = Store(tmp_path / "whole").fetch("test", {}, build), Store(tmp_path / "killed")
    with pytest.raises(Killed), killed_after(4):
        store.fetch("test", {}, build)
    with killed_after(-1) as steps:
        assert store.fetch("test", {}, build).digest == whole.digest
        assert steps() == 6 - 3
