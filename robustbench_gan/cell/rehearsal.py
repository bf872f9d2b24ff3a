"""What an attack refuses, known without a system: it is called on a view that ends it at its first pass.

An attack checks its parameters, budget, goal, classes and parts before it asks for anything, so what it raises here it
raises against every defense, and what it raises only later is not a matter of what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import NotApplicable, UsageError, said
from robustbench_gan.contracts.attacks import AttackInfo, Training
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Loss, Output
from robustbench_gan.nouns.seeds import own_generators
from robustbench_gan.training.networks import fresh


class _FirstPass(BaseException):
    """The end of a rehearsal: the attack has begun. No Exception, which an attack may catch."""


@dataclass(frozen=True)
class Asked:
    """All that an attack may refuse for, beside its parameters: how far, towards what, on images of which form.

    `shape` is that of an image, `parts` names those of the defense that the attacker may use: names alone, so that no
    refusal hangs on a defense's code. None: not known yet.
    """

    budget: Budget
    targeted: bool
    shape: tuple[int, int, int]
    classes: int
    parts: frozenset[str] | None = None


def refusal(function: Any, info: AttackInfo, parameters: Mapping[str, Any], asked: Asked) -> str:
    """Why an attack, a function or a TrainedAttack, cannot be what is asked; empty where it begins.

    Raises UsageError for parameters that it refuses. Any other error is for the cell to record.
    """
    try:
        with stopping.PluginCall(), own_generators(0):
            if info.trained:
                _train(function, parameters, asked)
            else:
                view, x, goal, seed = _given(asked)
                function(view, x, goal, asked.budget, seed, **parameters)
    except NotApplicable as why:
        return said(why) or "it does not say why"
    except UsageError:
        raise
    except _FirstPass:
        return ""
    except BaseException as error:
        stopping.pass_on(error)
    return ""


def _given(asked: Asked) -> tuple[View, Tensor, Goal, Tensor]:
    """One grey image and what goes with it."""
    none = torch.zeros(1, dtype=torch.int64)
    system = Defended(Defense(nn.Identity()))
    view = _Rehearsal.on(system, none, asked=asked, parts=dict.fromkeys(asked.parts or (), nn.Identity()))
    goal = Goal.targeted(none) if asked.targeted else Goal.untargeted(none)
    return view, torch.full((1, *asked.shape), 0.5), goal, none.clone()


def _train(kind: Any, parameters: Mapping[str, Any], asked: Asked) -> None:
    """Up to the first image that the training takes."""
    module = fresh(lambda: kind(asked.shape, asked.classes, **parameters), 0)
    goal_class = 0 if asked.targeted and not kind.conditional else None
    module.fit(Training(_NoImages(), _first_pass), goal_class, asked.budget, 0)  # type: ignore[operator]


def _first_pass(*_: Any) -> NoReturn:
    raise _FirstPass


class _NoImages:
    """In the place of the images to train on: whoever looks at them has begun."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _FirstPass

    def __len__(self) -> int:
        raise _FirstPass


@dataclass(frozen=True)
class _Rehearsal(View):
    """A view of nothing. A loss is still given one answer, all zeros: it may want more classes than there are."""

    asked: Asked | None = None

    def value_and_grad(self, loss: Loss, x: Tensor) -> NoReturn:
        """Give the loss its answer."""
        assert self.asked is not None
        loss(Output(torch.zeros(len(x), self.asked.classes), torch.zeros(len(x), 0)))
        raise _FirstPass

    def part(self, name: str) -> nn.Module:
        """Raises PermissionError where the defense is known to lack it."""
        if self.asked is not None and self.asked.parts is not None:
            super().part(name)
        raise _FirstPass

    def _draw_seeds(self) -> NoReturn:
        raise _FirstPass
