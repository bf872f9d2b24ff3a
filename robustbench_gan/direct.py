"""One attack on one torch model in one call, without matrix, plan or records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan import registry
from robustbench_gan.attack import Fitted, Training, info_of
from robustbench_gan.budget import NORMS, Budget
from robustbench_gan.crafting import check_examples
from robustbench_gan.defense import Defense, Gradient
from robustbench_gan.errors import NotApplicable, UsageError, unknown
from robustbench_gan.outcome import Goal, Output, correct
from robustbench_gan.record import Interval, interval
from robustbench_gan.registry import Spec
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.substitute import Queried
from robustbench_gan.threat import Bare, Counts, Defended, System, View, answer
from robustbench_gan.training import freeze, fresh


@dataclass(frozen=True)
class Attacked:
    """What an attack did to N images at E budgets.

    `examples` is (E, N, C, H, W), `success` and `size` (E, N): whether the goal was reached inside the budget, and
    the perturbation's size in `norm`. `right` is (N,): the unperturbed image was classified right. `forward` and
    `backward` are the passes, (E, N); a minimal-norm attack is run once and its passes stand at every budget.
    """

    norm: str
    epsilons: tuple[float, ...]
    examples: Tensor
    success: Tensor
    size: Tensor
    right: Tensor
    forward: Tensor
    backward: Tensor

    @property
    def robust_accuracy(self) -> list[Interval]:
        """At each budget the share of images right unperturbed that the attack did not win, with its n and interval."""
        robust = (self.right & ~self.success).double().numpy(force=True)
        return [interval(row, f"{self.norm}/{eps}") for row, eps in zip(robust, self.epsilons, strict=True)]

    @property
    def median_size(self) -> float:
        """The median size of the successes at the largest budget; NaN without one."""
        largest = self.epsilons.index(max(self.epsilons))
        return float(self.size[largest][self.success[largest]].median())


def run_attack(
    attack: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    epsilons: Sequence[float] = (math.inf,),
    targets: Tensor | None = None,
    gradient: Gradient = "full",
    seed: int = 0,
    batch_size: int = 500,
    fast: bool = False,
    train: tuple[Tensor, Tensor] | None = None,
) -> Attacked:
    """Attack any torch model: `run_attack("pgd:steps=40", model, x, y, norm="linf", epsilons=[0.1, 0.3])`.

    `attack` is a registered name with its parameters. `model` maps x, (N, C, H, W) float32 in [0, 1], to logits
    (N, K) and must be in evaluation mode; a fitted Defense may stand in its place, attacked with `gradient`. y is
    (N,) int64, the true classes; with `targets` (N,) the goal is to reach those. A minimal-norm attack is run once
    and serves every budget. `fast` computes gradients in bfloat16; what is reported is judged in float32 always.
    `train` are images (M, C, H, W) and their classes (M,) for an attack that must be trained, such as `advgan`; it is
    trained through the model at each budget, and its passes are not counted.
    Raises UsageError for input that is not of this form, NotApplicable where the attack has no such norm or goal,
    AttackFault when the attack returns something that cannot be judged.
    """
    _check(model, x, y, targets, epsilons, batch_size)
    if train is not None:
        _check(model, *train, None, epsilons, batch_size)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    function, parameters = registry.resolve("attacks", Spec.parse(attack))
    info = info_of(function)
    if info.trained != (train is not None):
        raise UsageError(
            f"{attack} must first be trained: give train=(images, labels), not those it is judged on."
            if info.trained
            else f"{attack} is not trained: leave train out."
        )
    if norm not in info.norms:
        raise NotApplicable(f"{attack} is defined in {', '.join(info.norms)}, not in {norm}")
    if targets is not None and not info.targeted:
        raise NotApplicable(f"{attack} has no targeted form")
    system: System = Defended(model, gradient) if isinstance(model, Defense) else Bare(model)
    random = isinstance(model, Defense) and model.randomised
    goal = Goal.untargeted(y) if targets is None else Goal.targeted(targets)
    index = torch.arange(len(x), device=x.device)
    judge_seeds = sample_seeds(seed, "judge", index)
    batches: list[tuple[slice | Tensor, int]] = [  # slices copy nothing
        (slice(start, start + batch_size), min(batch_size, len(x) - start))
        for start in range(0, len(x), batch_size)
    ]

    def craft(eps: float) -> tuple[Tensor, Counts]:
        made, counts, budget = [], [], Budget(norm, eps)  # type: ignore[arg-type]
        call, given_parameters = function, parameters
        if train is not None:
            call, given_parameters = _fitted(function, parameters, system, goal, budget, train, seed), {}
        for rows, _ in batches:
            view = View.on(
                system, sample_seeds(seed, "view", index[rows]), exact=not random, fixed=not random,
                whole_batches=True, fast=fast, parts=model.parts() if isinstance(model, Defense) else {},
            )  # fmt: skip
            given, own = x[rows].clone(), sample_seeds(seed, "attack", index[rows])
            found = call(view, given, goal.rows(index[rows]), budget, own, **given_parameters)
            made.append(check_examples(found, x[rows], given, budget))
            counts.append(view.counts)
        return torch.cat(made), Counts.cat(counts)

    def judge(examples: Tensor) -> Output:
        with torch.no_grad():
            return answer(system, examples, judge_seeds, batches)

    eps = [float(e) for e in epsilons]
    runs = [craft(math.inf)] * len(eps) if info.minimal else [craft(e) for e in eps]
    answers = [judge(runs[0][0])] * len(eps) if info.minimal else [judge(made) for made, _ in runs]
    deltas = [runs[0][0] - x] * len(eps) if info.minimal else [made - x for made, _ in runs]
    size = torch.stack([Budget(norm, math.inf).exact_size(delta) for delta in deltas])  # type: ignore[arg-type]
    inside = torch.stack(
        [Budget(norm, e).allows(s) for e, s in zip(eps, size, strict=True)]  # type: ignore[arg-type]
    )
    return Attacked(
        norm, tuple(eps), torch.stack([made for made, _ in runs]),
        torch.stack([goal.reached(out) for out in answers]) & inside, size.float(), correct(judge(x), y),
        torch.stack([counts.forward for _, counts in runs]),
        torch.stack([counts.backward for _, counts in runs]),
    )  # fmt: skip


def _fitted(
    kind: Any,
    parameters: dict[str, Any],
    system: System,
    goal: Goal,
    budget: Budget,
    train: tuple[Tensor, Tensor],
    seed: int,
) -> Fitted:
    """A trained attack, fitted through `system` for every class that the goal aims at."""
    images, labels = train
    with torch.no_grad():
        classes = system(images[:1], sample_seeds(seed, "classes", labels[:1])).logits.shape[1]
    training = Training(Queried(images, labels), lambda seeds: View.on(system, seeds, whole_batches=True))
    single = kind.conditional or goal.kind == "untargeted"
    generators = {}
    for target in [None] if single else goal.classes.unique().tolist():
        module = fresh(lambda: kind(tuple(images.shape[1:]), classes, **parameters), seed).to(images.device)
        module.fit(training, target, budget, seed)  # type: ignore[operator]
        generators[target] = freeze(module)
    return Fitted(generators)  # type: ignore[arg-type]


def _check(
    model: nn.Module, x: Any, y: Any, targets: Any, epsilons: Sequence[float], batch_size: int
) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is a {type(model).__name__}; expected a torch.nn.Module.")
    if any(module.training for module in model.modules()):
        raise UsageError("the model is in training mode: call model.eval() first.")
    if not isinstance(x, Tensor) or x.ndim != 4 or x.dtype != torch.float32 or len(x) == 0:
        raise UsageError(f"x is {_form(x)}; expected (N, C, H, W) float32 with N >= 1.")
    low, high = float(x.amin()), float(x.amax())
    if not (low >= 0 and high <= 1):  # nor is NaN
        raise UsageError(
            f"x spans [{low:g}, {high:g}]; pixels must be in [0, 1], normalisation a layer of the model."
        )
    for name, classes in (("y", y), ("targets", targets)):
        if name == "targets" and classes is None:
            continue
        if not isinstance(classes, Tensor) or classes.shape != (len(x),) or classes.dtype != torch.int64:
            raise UsageError(f"{name} is {_form(classes)}; expected ({len(x)},) int64.")
    if len(epsilons) == 0 or batch_size < 1:
        raise UsageError(
            f"epsilons={list(epsilons)}, batch_size={batch_size}: give at least one of each, positive."
        )


def _form(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
