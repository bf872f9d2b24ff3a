"""How attacks are raced: same model, batch and threads, in turns within one test, quality beside time.

    def test_fmn(benchmark, mnist_cnn):
        x, y = mnist_cnn.take(200)
        compare(
            benchmark, "FMN l2, 100 steps", setting="MNIST small-cnn",
            ours=ours("fmn:steps=100", mnist_cnn.model, x, y, "l2"),
            others={"foolbox": lambda: foolbox_attacks().L2FMNAttack(steps=100)(...)[1]},
            quality=quality_of(mnist_cnn.model, x, y, "l2"),
            faster={"foolbox": 2.0},
        )

RBG_BENCH_CPU=1 counts processor time, of all threads, instead of the wall's clock: for a machine that others use.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.nouns.budget import Budget, Norm
from robustbench_gan.nouns.outcome import Goal, Output

Craft = Callable[[], Tensor]  # makes the examples, (N, C, H, W)
Quality = Callable[[Tensor], tuple[float, float]]  # of examples: success rate, median norm of the successes
CPU_TIME = os.environ.get("RBG_BENCH_CPU") == "1"


def keep_memory() -> None:
    """Let glibc keep what was freed, for everybody alike.

    Else it hands large buffers back to the system and takes them anew, a page fault every 4 kB: up to a third of the
    time of a small network, which falls on one candidate or another by chance.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


keep_memory()


@dataclass(frozen=True)
class Lap:
    """One candidate of a comparison. `ratio` is how many times longer than ours it took."""

    name: str
    seconds: float
    per_image: float
    ratio: float
    success: float
    median: float


def compare(
    benchmark: Any,
    name: str,
    *,
    setting: str,
    ours: Craft,
    others: Mapping[str, Craft],
    quality: Quality,
    faster: Mapping[str, float] | None = None,
    rounds: int = 5,
    points: float = 0.02,
    norm_within: float = 1.03,
    judge_quality: bool = True,
) -> list[Lap]:
    """Race `ours` against `others`, print and keep the table, and hold what is promised.

    Every candidate runs once to warm up, which gives the examples that are judged, then `rounds` times in turns.
    `faster` names the least ratio to each other candidate (default 1: no slower). Against every other candidate
    success must be within `points` and the median norm within a factor `norm_within`, or better.
    """
    crafts = {"ours": ours, **others}
    made = {who: craft().detach() for who, craft in crafts.items()}
    judged = {who: quality(examples) for who, examples in made.items()}
    laps = _race(benchmark, crafts, rounds)
    table = [
        Lap(who, s, s / len(made[who]), s / laps["ours"], *judged[who]) for who, s in laps.items()
    ]  # the medians
    benchmark.extra_info.update(_record(name, setting, len(made["ours"]), rounds, table))
    print(f"\n{render(benchmark.extra_info)}")
    if judge_quality:
        hold_quality(table, points, norm_within)
    for lap in table[1:]:
        least = (faster or {}).get(lap.name, 1.0)
        assert lap.ratio >= least, f"{name}: {lap.ratio:.2f} x {lap.name}, promised {least:g}"
    return table


def hold_quality(table: list[Lap], points: float = 0.02, norm_within: float = 1.03) -> None:
    """Assert that ours, the first of the table, is as strong as every other."""
    ours = table[0]
    for lap in table[1:]:
        assert ours.success >= lap.success - points, f"{ours.success:.3f} < {lap.name}'s {lap.success:.3f}"
        if lap.success > 0:
            assert ours.median <= lap.median * norm_within, (
                f"{ours.median:.4g} > {lap.name}'s {lap.median:.4g}"
            )


def ours(
    attack: str, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, eps: float = math.inf, **options: Any
) -> Craft:
    """Our attack by `run_attack`, whose own judging of the examples is part of the time."""
    options = {"batch_size": len(x), **options}
    return lambda: run_attack(attack, model, x, y, norm=norm, epsilons=[eps], **options).examples[0]


def quality_of(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, eps: float = math.inf, *, targeted: bool = False
) -> Quality:
    """Judge examples of x by the float32 model: y are the true classes, the targets where `targeted`.

    A success is inside the box and the ball. The median is over the successes' norms, NaN without any.
    """
    goal, budget = (Goal.targeted if targeted else Goal.untargeted)(y), Budget(norm, eps)

    def quality(examples: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            won = goal.reached(Output.of(model(examples)))
        delta = examples - x
        won &= budget.contains(delta) & ((examples >= 0) & (examples <= 1)).flatten(1).all(dim=1)
        return float(won.double().mean()), float(budget.size(delta)[won].median()) if won.any() else math.nan

    return quality


def seconds(craft: Callable[[], object]) -> float:
    """How long one call takes."""
    start = _now()
    craft()
    return _now() - start


def _race(benchmark: Any, crafts: Mapping[str, Craft], rounds: int) -> dict[str, float]:
    """The median seconds of each candidate; pytest-benchmark times `ours`, the others run before it each round."""
    taken: dict[str, list[float]] = {who: [] for who in crafts}

    def lap(who: str) -> None:
        taken[who].append(seconds(crafts[who]))

    def the_others() -> None:
        for who in crafts:
            if who != "ours":
                lap(who)

    benchmark.pedantic(partial(lap, "ours"), setup=the_others, rounds=rounds, iterations=1)
    return {who: statistics.median(times) for who, times in taken.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() if CPU_TIME else time.perf_counter()


def _record(name: str, setting: str, images: int, rounds: int, table: list[Lap]) -> dict[str, Any]:
    return {
        "name": name, "setting": setting, "images": images, "rounds": rounds,
        "threads": torch.get_num_threads(), "clock": "cpu" if CPU_TIME else "wall",
        "laps": [asdict(lap) for lap in table],
    }  # fmt: skip


def render(record: Mapping[str, Any]) -> str:
    """A comparison as lines of text."""
    head = "{name} ({setting}; {images} images, {threads} threads, {clock} clock, {rounds} rounds)".format(
        **record
    )
    rows = [
        f"  {lap['name']:<14} {lap['per_image'] * 1e3:10.4f} ms/image  {lap['ratio']:7.2f} x ours"
        f"  success {lap['success']:.3f}  median {lap['median']:.4g}"
        for lap in record["laps"]
    ]
    return "\n".join([head, *rows])
