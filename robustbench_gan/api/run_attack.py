"""One attack on one torch model in one call, without matrix, plan or records."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.api.attacked import Attacked, described
from robustbench_gan.api.call import Call, Found, all_left_alone, crafted, judged_clean
from robustbench_gan.api.flagged import flags_of
from robustbench_gan.api.given import (
    applicable,
    checked,
    gradients_tried,
    pair,
    radii,
    resolved,
    whole_number,
)
from robustbench_gan.api.inside import inside_the_door
from robustbench_gan.base.errors import DisconnectedGradient, NoBackward, NotANumber, UsageError
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import GradientChoice
from robustbench_gan.guards.surroundings import ordinary
from robustbench_gan.models.logits import WrongForm
from robustbench_gan.nouns.budget import Budget, norm_named
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.outcome import Goal, correct
from robustbench_gan.nouns.seeds import own_generators

_ALONE = threading.RLock()  # calls of several threads wait: they share the model's hooks and torch's settings


class RedFlag(UserWarning):
    """A red flag of a call of run_attack."""


class Suspect(RuntimeError):
    """Raised by `strict=True`: a red flag says that the numbers cannot be trusted."""


def run_attack(
    attack: str | Callable[..., Any],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | float = "linf",
    epsilons: float | str | Sequence[float | str] = math.inf,
    targets: Tensor | None = None,
    gradient: GradientChoice | None = None,
    seed: int = 0,
    batch_size: int = 500,
    fast: bool = False,
    train: tuple[Tensor, Tensor] | None = None,
    strict: bool = False,
) -> Attacked:
    """Attack any torch model: `run_attack("pgd:steps=40", model, x, y, norm="linf", epsilons=["8/255", 0.1])`.

    `attack` is a registered name with its parameters, or itself what stands under `@attack`. `model` maps x,
    (N, C, H, W) float32 in [0, 1], to logits (N, K) and must be in evaluation mode; answers that hold logits are
    unpacked, and it is left as it was. y is (N,) int64, the true classes; with `targets` (N,) the goal is to reach
    those. `norm` is "linf", "l2", 2 and so on, `epsilons` one budget or several. A minimal-norm attack is run once and
    serves every budget.

    A fitted Defense may stand in the model's place, attacked with `gradient`: `full` where nothing is said, or `bpda`,
    `truncated`, or `auto`, which tries all that the defense declares and keeps each sample's strongest example.
    `fast` computes gradients in bfloat16 where the device has it; what is reported is judged in float32 always.
    `train` are images (M, C, H, W) and their classes (M,) for an attack that must be trained, such as `advgan`; it is
    trained through the model at each budget, and its passes are not counted.

    Red flags are those of `rbg evaluate`, but that no attack is called twice (`irreproducible-attack`): they stand in
    the result, and those that are more than a note are warned of; `strict` raises Suspect where one says that the
    numbers cannot be trusted. Global generators are seeded for the attack and put back. Raises UsageError for input
    that is not of this form and for a model that gives no answer (NaN, infinity), NotApplicable where the attack has
    no such norm or goal, AttackFault when the attack returns something that cannot be judged, and Meddled when it
    changes the model or what a process shares, which is undone.
    """
    function, parameters, name = resolved(attack)
    info = info_of(function)
    x, y = checked(model, x, y, targets)
    targets = None if targets is None else targets.as_subclass(Tensor).clone()
    given = None if train is None else checked(model, *pair(train), None, "train's ")
    budgets = [Budget(norm_named(norm), eps) for eps in radii(epsilons)]
    whole_number(seed=seed)
    if whole_number(batch_size=batch_size) < 1:
        raise UsageError(f"batch_size={batch_size}: expected a whole number of images, 1 or more.")
    applicable(name, info, budgets[0].norm, targets, train is not None)
    with (
        _mendable(model),
        _ALONE,
        ordinary(x.device),
        inside_the_door(model, x, y, targets, given) as system_of,
    ):
        systems = [system_of(g) for g in gradients_tried(gradient, model, info)]
        goal = Goal.untargeted(y) if targets is None else Goal.targeted(targets)
        call = Call(function, parameters, info, systems, goal, x, y, int(seed), int(batch_size), fast, given)
        found = _found(call, budgets)
        flags = flags_of(call, found)
    _tell(flags, strict)
    return _told(call, found, name, targets, flags)


@contextmanager
def _mendable(model: nn.Module) -> Iterator[None]:
    """Turns what a model does wrong while it is attacked into a UsageError that says how to mend it."""
    try:
        yield
    except NotANumber as error:
        raise UsageError(
            f"{error}: that is neither right nor robust; look for overflows and 0 / 0."
        ) from error
    except WrongForm as error:
        raise UsageError(str(error)) from error
    except DisconnectedGradient as error:
        raise UsageError(_no_gradient(model)) from error
    except NoBackward as error:
        raise UsageError(
            f"autograd fails on its way back through the model: {error}; mend it, or give an attack that needs no "
            "gradient, such as square."
        ) from error


def _no_gradient(model: nn.Module) -> str:
    """What to do where autograd finds no path from a model's answer to its input."""
    if isinstance(model, Defense):
        return (
            f"{type(model).__name__} detaches what it answers, so that it has no full gradient: give gradient='bpda', "
            "or an attack that needs none, such as square."
        )
    return (
        "the model's logits have no gradient with respect to x: it detaches them, by detach, no_grad, .data, numpy "
        "or quantised weights; take that out, or give an attack that needs no gradient, such as square."
    )


def _tell(flags: Sequence[Flag], strict: bool) -> None:
    """Warn of each flag in the line that called run_attack. Raises Suspect for an invalid one where that is asked."""
    invalid = [described(flag) for flag in flags if flag.severity == "invalid"]
    if strict and invalid:
        raise Suspect("; ".join(invalid))
    for flag in flags:
        if flag.severity != "note":
            warnings.warn(described(flag), RedFlag, stacklevel=3)


def _found(call: Call, budgets: Sequence[Budget]) -> Found:
    """Craft and judge at every budget; what seeks the smallest perturbation is run once, without a bound, for all."""
    once, clean = call.info.minimal, judged_clean(call)
    right = correct(clean, call.y)
    unbounded = Budget(budgets[0].norm, math.inf)
    with all_left_alone(call), own_generators(call.seed) as drew:
        made = [crafted(call, budget) for budget in ([unbounded] if once else budgets)]
    answers = [call.judge(one.examples, "examples") for one, _ in made]
    sizes = [
        unbounded.exact_size(one.examples - call.x) if one.sizes is None else one.sizes for one, _ in made
    ]
    repeated = len(budgets) if once else 1
    made, answers, sizes = made * repeated, answers * repeated, sizes * repeated
    inside = torch.stack([b.allows(size) for b, size in zip(budgets, sizes, strict=True)])
    success = torch.stack([call.goal.reached(out) for out in answers]) & inside
    return Found(tuple(budgets), clean, right, made, answers, torch.stack(sizes), success, tuple(drew))


def _told(call: Call, found: Found, attack: str, targets: Tensor | None, flags: tuple[Flag, ...]) -> Attacked:
    """What the caller is told."""
    examples = [one.examples for one, _ in found.made]
    forward, backward = (
        torch.stack([getattr(one.counts, name) for one, _ in found.made]) for name in ("forward", "backward")
    )
    return Attacked(
        found.budgets[0].norm, tuple(b.eps for b in found.budgets),
        examples[0][None] if len(examples) == 1 else torch.stack(examples),
        found.success, found.sizes.float(), found.right, forward, backward, attack, call.y, targets, flags,
    )  # fmt: skip
