"""Plugins that end the process: while they are imported, made or asked what they are; registered by `test_endings`."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

import torch
from planted_cells import UNTRAINED, Fixed
from torch import Tensor, nn

from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.models.schedule import trained
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

ENTRY_POINTS = """[robustbench_gan.attacks]
ends-imported = planted_ends_import:attack
fills = planted_endings:fills
ends-asked = planted_endings:ends_asked
[robustbench_gan.models]
ends-model = planted_endings:ends_model
[robustbench_gan.defenses]
ends-made = planted_endings:EndsMade
"""
ENDS_IMPORT = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
ENDINGS: dict[str, tuple[Callable[[], object], str]] = {
    "exit": (lambda: os._exit(0), "with exit code 0"),
    "abort": (os.abort, "by signal 6"),
    "null": (lambda: ctypes.string_at(0), "by signal 11"),
    "group": (lambda: os.kill(os.getpid(), signal.SIGTERM), "by signal 15"),
}


class EndsMade(Defense):
    """Ends the process in its constructor, or when it is asked which images it is for."""

    purifies = True

    def __init__(self, base: nn.Module, *, how: str = "exit", where: str = "made") -> None:
        super().__init__(base)
        self.how, self.where = how, where
        if where == "made" or (where == "real" and not isinstance(base, nn.Identity)):
            ENDINGS[how][0]()

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        if self.where == "asked":
            ENDINGS[self.how][0]()
        return ""


@attack(norms=("linf",), needs="nothing", checks_first=True, paper="planted")
def ends_asked(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Ends the process before its first pass."""
    os._exit(0)


@attack(norms=("linf",), needs="nothing", paper="planted")
def fills(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, by: str = "python") -> Tensor:
    """Takes more memory than there is."""
    return x + (len(bytearray(1 << 62)) if by == "python" else torch.ones(1 << 60).sum())


@trained(UNTRAINED)
def ends_model(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Ends the process while it is made."""
    os._exit(0)
    return Fixed(classes, side=shape[1])
