"""The attack of a cell is run under its threat model, and what it returns is checked before anything is judged."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustbench_gan.base import progress
from robustbench_gan.base.tensors import form, plain, same
from robustbench_gan.cell.context import Crafted, Run, goals_of, systems_of
from robustbench_gan.cell.repeated import IMAGES, Recorded, Tape, repeats
from robustbench_gan.contracts.counts import Counts, QueryLimit
from robustbench_gan.contracts.systems import System
from robustbench_gan.contracts.view import View
from robustbench_gan.guards.belongings import Kept
from robustbench_gan.nouns.budget import SLACK, Budget
from robustbench_gan.nouns.outcome import REJECTED, Goal
from robustbench_gan.nouns.seeds import fold, judge_seeds, own_generators, stable_hash
from robustbench_gan.training.fetched import core_keys


class AttackFault(RuntimeError):
    """What an attack returned cannot be judged: outside its budget or the box, NaN, or not of the input's form.

    `flag` names the red flag that stands for it, where there is one.
    """

    def __init__(self, message: str, flag: str = "") -> None:
        super().__init__(message)
        self.flag = flag


def craft(run: Run) -> tuple[list[Crafted], float]:
    """The attack's examples and the seconds they took: one set judged under every seed, or one a judge seed.

    Examples made on a classifier alone are made once for all the defenses in front of it. Raises AttackFault
    when the attack returns something that cannot be judged.
    """

    def make() -> tuple[list[Crafted], float]:
        started = time.perf_counter()
        if run.threat.name == "seed-known":
            seeds = [
                judge_seeds(run.cell.seed, k, run.x, run.cell.first) for k in range(run.cell.judge_seeds)
            ]
            sets = [_craft_once(run, seed, fixed=True) for seed in seeds]
        else:
            sets = [_craft_once(run, run.seeds("view"), fixed=False)]
        return sets, time.perf_counter() - started

    if run.threat.holds_defense or run.threat.copies or run.info.needs == "nothing":
        return make()
    asked = run.cell.model_dump(
        include={"dataset", "attack", "goal", "norm", "eps", "first", "samples", "seed"}
    )
    key = ("crafted", _attacked_alone(run), *sorted(asked.items()))
    sets, seconds, kept = run.workshop.once(key, lambda: _kept(*make()))
    kept.put_back()
    return sets, seconds


def _kept(sets: list[Crafted], seconds: float) -> tuple[list[Crafted], float, Kept]:
    """Examples for other cells, with a copy of them."""
    tensors = {
        f"{at} {name}": tensor
        for at, one in enumerate(sets)
        for name, tensor in {"examples": one.examples, "goal": one.goal.classes, **vars(one.counts)}.items()
    }
    return sets, seconds, Kept(tensors)


def _attacked_alone(run: Run) -> tuple[str, ...]:
    """The keys of the classifier that a gray-box or black-box attack is run on."""
    if run.info.trained:
        return tuple(part.artifact.key for part in run.fitted.values())
    if run.threat.name == "black-box":
        return (run.workshop.substitute(*run.system_names(), run.threat)[1].key,)
    return (run.defense.base_key, *sorted(core_keys(run.workshop, run.defense)))


def _craft_once(run: Run, view_seeds: Tensor, fixed: bool) -> Crafted:
    """Every gradient and goal tried in turn; per sample the example that the attacker finds strongest.

    Where the view is exact, a sample that is won is not tried again.
    """
    tries = [(system, goal) for system in systems_of(run) for goal in goals_of(run)]
    best = Crafted(run.x.clone(), replace(tries[0][1]), Counts.zeros(len(run.x), run.x.device))
    strongest = torch.full((len(run.x),), -torch.inf, device=run.x.device)
    drew, repeats = set[str](), True
    name = f"{run.function.__name__} on {run.cell.defense[0].name}"
    with progress.task(f"crafting: {name}, {run.threat.name}", len(tries) * len(run.x)) as advance:
        for at, (system, goal) in enumerate(tries):
            options = _view_options(run, system, fixed, len(tries))
            won = strongest > 0 if options["exact"] else torch.zeros_like(strongest, dtype=torch.bool)
            rows = torch.nonzero(~won)[:, 0]
            advance(int(won.sum()))
            if len(rows) == 0:
                continue
            seeds = view_seeds if fixed else fold(view_seeds, at)
            new = _attack(run, system, goal, seeds, options, rows, advance, again=at == 0)
            drew, repeats = drew | set(new.drew), repeats and new.repeats
            best.counts.add(rows, new.counts)
            strength = torch.full((len(rows),), torch.inf, device=rows.device)
            if len(tries) > 1:
                strength, passes = strength_of(system, new, view_seeds[rows], options)
                best.counts.add(rows, passes)
            best = keep_better(
                best, new, rows, ~(strength <= strongest[rows])
            )  # NaN is kept: the judge must see it
            strongest[rows] = torch.maximum(strength, strongest[rows])
    return replace(best, drew=tuple(sorted(drew)), repeats=repeats)


def keep_better(best: Crafted, new: Crafted, rows: Tensor, better: Tensor) -> Crafted:
    """Put the better ones of new examples, made for `rows`, in the place of the old."""
    taken = rows[better]
    examples, classes = best.examples.clone(), best.goal.classes.clone()
    examples[taken] = new.examples[better]
    classes[taken] = new.goal.classes[better]
    return Crafted(examples, replace(best.goal, classes=classes), best.counts)


def _view_options(run: Run, system: System, fixed: bool, tries: int) -> dict[str, Any]:
    """What a view of this system grants; a system that is not random needs no draws, and is exact.

    A copy of the defense is never exact. Several tries share a limit of queries, the one that chooses between their
    examples included.
    """
    threat, still = run.threat, fixed or not (system.defended and run.defense.randomised)
    limit = threat.limit if tries == 1 else threat.limit // tries - 1
    return {
        "access": threat.access,
        "draws": 1 if still else threat.draws,
        "fixed": still,
        "exact": still and system.defended and not threat.copies,
        "limit": limit if threat.limit else 0,
        "parts": run.parts if threat.differentiates else {},
        "deadline": run.deadline,
    }


def _attack(
    run: Run,
    system: System,
    goal: Goal,
    seeds: Tensor,
    options: Mapping[str, Any],
    rows: Tensor,
    advance: progress.Advance,
    *,
    again: bool,
) -> Crafted:
    """Run the attack on some samples, in groups of `batch_size`, and check what it returns.

    `again` looks at the first group twice: does it come out the same?
    """
    examples: list[Tensor] = []
    counts, drew, repeated = [], set[str](), True
    attack_seeds = run.seeds("attack")
    for group in rows.split(run.settings.batch_size):
        tape = Tape() if again and not examples else None
        view = Recorded.on(system, seeds[group], **options, tape=tape) if tape else None
        view = view or View.on(system, seeds[group], **options)
        own, given, aim = attack_seeds[group], run.x[group].clone(), goal.rows(group)
        with run.guarded(view, aim):
            with own_generators(drawn_from := _generator_seed(run, own)) as moved:
                made = run.call(view, given, aim, own.clone())
            examples.append(check_examples(made, run.x[group], given, run.budget))
            if tape:
                again_from = drawn_from if moved else None
                repeated = _repeats(run, system, goal, seeds, group, options, tape, again_from, examples[0])
        if view.deadline is not None:
            view.deadline.insist()  # whatever an attack that caught it has made of it
        _check_queries(view)
        drew.update(moved)
        counts.append(view.counts)
        advance(len(group))
    return Crafted(torch.cat(examples), goal.rows(rows), Counts.cat(counts), tuple(drew), repeated)


def _repeats(
    run: Run,
    system: System,
    goal: Goal,
    seeds: Tensor,
    group: Tensor,
    options: Mapping[str, Any],
    tape: Tape,
    drawn_from: int | None,
    made: Tensor,
) -> bool:
    """Does the attack do the same again to the first images of a group, as far as the tape reaches?"""
    group = group[:IMAGES]
    own, aim = run.seeds("attack")[group], goal.rows(group)

    def call(view: View) -> Any:
        with nullcontext() if drawn_from is None else own_generators(drawn_from):
            return run.call(view, run.x[group].clone(), aim, own.clone())

    return repeats(call, lambda: View.on(system, seeds[group], **options), tape, made)


def _generator_seed(run: Run, seed: Tensor) -> int:
    """What global generators begin with for a group of samples: a function of the cell's seed and the first of them."""
    return stable_hash(f"{run.cell.seed}/generators/{int(seed[0])}")


def _check_queries(view: View) -> None:
    """An attack that caught the error of its limit and went on has still asked too much. Raises QueryLimit."""
    most = int(view.counts.forward.max()) if len(view.counts.forward) else 0
    if view.limit and most > view.limit:
        raise QueryLimit(f"the attack asked {most} queries an image, its limit is {view.limit}")


def check_examples(made: Any, x: Tensor, given: Tensor, budget: Budget) -> Tensor:
    """A copy of `made`. Raises AttackFault unless that is (N, C, H, W) float32 in the box and the budget around x.

    `given` is the copy of x that the attack was handed: it must come back unchanged. Checked is the copy that is
    returned, which nobody else holds; it must be of a plain Tensor, since a subclass can answer checks as it likes.
    """
    return sized_examples(made, x, given, budget)[0]


def sized_examples(made: Any, x: Tensor, given: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
    """`check_examples` that also gives the exact size of each perturbation, (N,) float64."""
    if not same(given, x):
        raise AttackFault("the attack edited its input in place")
    if not plain(made, x) or made.shape != x.shape or made.dtype != x.dtype:
        other = plain(made, x) and made.shape == x.shape
        raise AttackFault(
            f"the attack returned {form(made)}, expected {form(x)}", flag="budget-violation" if other else ""
        )
    copy: Tensor = made.detach().clone(memory_format=torch.contiguous_format)
    low, high = float(copy.amin()), float(copy.amax())  # NaN where one value is
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = _count(~torch.isfinite(copy))
        raise AttackFault(f"{bad} examples hold NaN or infinite values", flag="not-a-number")
    if low < -SLACK or high > 1 + SLACK:
        outside = (copy < -SLACK) | (copy > 1 + SLACK)
        raise AttackFault(f"{_count(outside)} examples leave the box [0, 1]", flag="budget-violation")
    delta = copy - x
    sizes = budget.exact_size(delta)
    over = ~budget.allows(sizes)
    if bool(over.any()):
        size = float(budget.size(delta).max())
        raise AttackFault(
            f"{int(over.sum())} examples leave the {budget.norm} ball: {size:g} > {budget.eps:g}",
            flag="budget-violation",
        )
    return copy, sizes


def _count(bad: Tensor) -> int:
    return int(bad.flatten(1).any(dim=1).sum())


def strength_of(
    system: System, crafted: Crafted, seeds: Tensor, options: Mapping[str, Any]
) -> tuple[Tensor, Counts]:
    """The attacker's own measure of its examples, (N,): the margin under draws that the judge never uses.

    An attacker who sees labels alone has 1 where the goal is reached and -1 elsewhere. Its passes are charged to the
    attack, but are no call that the attack made: red flags look at those.
    """
    seeds = seeds if options["fixed"] else fold(seeds, "choose")
    view, goal = View.on(system, seeds, **options), crafted.goal
    if view.access == "labels":
        labels = view.labels(crafted.examples)
        same = labels == goal.classes
        margin = torch.where(same if goal.kind == "targeted" else ~same & (labels != REJECTED), 1.0, -1.0)
    else:
        margin = goal.margin(view.output(crafted.examples))
    return margin, replace(view.counts, calls=torch.zeros_like(view.counts.calls))
