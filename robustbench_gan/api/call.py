"""One call of run_attack at work: what is asked, the attack in batches, and the judgement under its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustbench_gan.base.errors import NotANumber, UsageError
from robustbench_gan.base.errors import described as described_error
from robustbench_gan.cell.context import Crafted
from robustbench_gan.cell.craft import keep_better, sized_examples, strength_of
from robustbench_gan.contracts.attacks import AttackInfo, Fitted, Training
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended, System, answer, ask_both_ways
from robustbench_gan.contracts.view import View
from robustbench_gan.guards.belongings import Belonging, Kept
from robustbench_gan.guards.guard import Accused, left_alone
from robustbench_gan.guards.seal import Attributes, Seal
from robustbench_gan.models.logits import WrongForm
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output, unanswered
from robustbench_gan.nouns.seeds import fold, sample_seeds
from robustbench_gan.training.networks import freeze, fresh
from robustbench_gan.training.substitute import Queried

Batches = list[tuple[slice | Tensor, int]]


@dataclass(frozen=True)
class Call:
    """One call of run_attack at work: a system for each gradient that is tried, and what is asked of it."""

    function: Any
    parameters: Mapping[str, Any]
    info: AttackInfo
    systems: Sequence[Bare | Defended]
    goal: Goal
    x: Tensor
    y: Tensor
    seed: int
    batch_size: int
    fast: bool
    train: tuple[Tensor, Tensor] | None

    @property
    def defense(self) -> Defense | None:
        """The defense in the model's place."""
        system = self.systems[0]
        return system.defense if isinstance(system, Defended) else None

    def seeds(self, purpose: str, rows: Any = slice(None)) -> Tensor:
        """The call's seeds of some images for one purpose, (N,)."""
        return sample_seeds(self.seed, purpose, torch.arange(len(self.x), device=self.x.device)[rows])

    @cached_property
    def judges_seeds(self) -> Tensor:
        """What the judge draws from, (N,)."""
        return self.seeds("judge")

    def batches(self, n: int) -> Batches:
        """Slices of so many images, which copy nothing."""
        size = self.batch_size
        return [(slice(start, start + size), min(size, n - start)) for start in range(0, n, size)]

    def judge(self, images: Tensor, named: str) -> Output:
        """The system's answers under the judge's seeds. Raises NotANumber where it has none to an image."""
        try:
            with torch.no_grad():
                out = answer(self.systems[0], images, self.judges_seeds, self.batches(len(images)))
        except NotANumber as error:
            raise NotANumber(f"{error} to {named}") from error
        if lost := int(unanswered(out, self.y).sum()):
            raise NotANumber(f"the model answers -infinity for the true class of {lost} {named}")
        return out

    def options(self) -> dict[str, Any]:
        """What the attacker's view grants: all there is, and the judge's own answer where that is not random."""
        still = self.defense is None or not self.defense.randomised
        parts = {} if self.defense is None else self.defense.parts()
        return {"exact": still, "fixed": still, "whole_batches": True, "fast": self.fast, "parts": parts}


def all_left_alone(call: Call) -> AbstractContextManager[None]:
    """While the attack runs: the model and all else stay as they are. Raises Meddled where they do not."""
    system = call.systems[0]
    model = Seal(system.defense if isinstance(system, Defended) else system.model, "the model")

    def ask() -> None:
        ask_both_ways(system, call.x[:2], call.judges_seeds[:2])

    own: list[Belonging] = [
        model,
        Attributes([model]),
    ]  # what a model changes in itself while it answers is no attack's doing
    return left_alone(
        "the attack", Kept({"the goal": call.goal.classes}), state=own, suspects=[Accused("the model", ask)]
    )


@dataclass(frozen=True)
class Found:
    """What an attack made of N images at E budgets, and what the judge says of it.

    `clean` answers the unperturbed images, `right` (N,) says where that is right. Of each budget `made` has what was
    crafted and all that was done for it, `answers` the judge's; `success` and `sizes` are (E, N). `drew` names the
    global generators that were moved meanwhile.
    """

    budgets: tuple[Budget, ...]
    clean: Output
    right: Tensor
    made: Sequence[tuple[Crafted, Counts]]
    answers: Sequence[Output]
    sizes: Tensor
    success: Tensor
    drew: tuple[str, ...]


def judged_clean(call: Call) -> Output:
    """The answers to the unperturbed images. Raises UsageError where the model cannot be asked about so many."""
    try:
        return call.judge(call.x, "clean images")
    except (NotANumber, WrongForm):
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise UsageError(
            f"the model fails on {len(call.x)} clean images: {described_error(error)}"
        ) from error


def crafted(call: Call, budget: Budget) -> tuple[Crafted, Counts]:
    """Each sample's strongest example over the gradients tried, and what was done to get it, trainings included."""
    best, trained, strongest = None, Counts.zeros(len(call.x), call.x.device), None
    for at, system in enumerate(call.systems):
        options = call.options()
        everything = torch.arange(len(call.x), device=call.x.device)
        rows = everything if strongest is None or not options["exact"] else everything[~(strongest > 0)]
        if len(rows) == 0:
            break
        new, training = _craft(call, system, budget, rows, options, at)
        trained = trained.plus(training)
        if len(call.systems) == 1:
            return new, new.counts.plus(trained)
        seeds = call.seeds("view", rows)
        strength, passes = strength_of(system, new, seeds, options)
        new.counts.add(torch.arange(len(rows), device=rows.device), passes)
        if best is None or strongest is None:
            best, strongest = new, strength
            continue
        best.counts.add(rows, new.counts)
        best = keep_better(best, new, rows, ~(strength <= strongest[rows]))
        strongest[rows] = torch.maximum(strength, strongest[rows])
    assert best is not None
    return best, best.counts.plus(trained)


def _craft(
    call: Call, system: System, budget: Budget, rows: Tensor, options: Mapping[str, Any], at: int
) -> tuple[Crafted, Counts]:
    """The attack on some samples through one gradient, in batches, and the counts of its training."""
    function, parameters, training = call.function, call.parameters, Counts.zeros(len(call.x), call.x.device)
    if call.train is not None:
        function, training = _fitted(call, system, budget)
        parameters = {}
    view_seeds = call.seeds("view", rows)
    if at and not options["fixed"]:
        view_seeds = fold(view_seeds, at)
    own, made, sizes, counts = call.seeds("attack", rows), [], [], []
    whole = len(rows) == len(call.x)  # then slices serve, which copy nothing
    images, goal = (call.x, call.goal) if whole else (call.x[rows], call.goal.rows(rows))
    for batch, _ in call.batches(len(rows)):
        view = View.on(system, view_seeds[batch], **options)
        given = images[batch].clone()
        found = function(view, given, goal.rows(batch), budget, own[batch], **parameters)  # type: ignore[arg-type]
        examples, size = sized_examples(found, images[batch], given, budget)
        made.append(examples)
        sizes.append(size)
        counts.append(view.counts)
    whole_set = made[0] if len(made) == 1 else torch.cat(made)
    return Crafted(whole_set, goal, Counts.cat(counts), sizes=torch.cat(sizes)), training


def _fitted(call: Call, system: System, budget: Budget) -> tuple[Fitted, Counts]:
    """A trained attack, fitted through `system` for every class that the goal aims at, and what that took."""
    assert call.train is not None
    images, labels = call.train
    seen: list[Counts] = []

    def view(seeds: Tensor) -> View:
        made = View.on(system, seeds, whole_batches=True)
        seen.append(made.counts)
        return made

    with torch.no_grad():
        classes = system(images[:1], sample_seeds(call.seed, "classes", labels[:1])).logits.shape[1]
    training = Training(Queried(images, labels), view)
    single = call.function.conditional or call.goal.kind == "untargeted"
    generators = {}
    for target in [None] if single else call.goal.classes.unique().tolist():
        module = fresh(lambda: call.function(tuple(images.shape[1:]), classes, **call.parameters), call.seed)
        module.to(images.device).fit(training, target, budget, call.seed)  # type: ignore[operator]
        generators[target] = freeze(module)
    total = Counts.zeros(len(call.x), call.x.device)
    for name, value in vars(total).items():
        value += sum(int(getattr(counts, name).sum()) for counts in seen)
    return Fitted(generators), total  # type: ignore[arg-type]
