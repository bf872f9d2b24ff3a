"""Attacks with a known fault or a known answer, registered by `planted_plugins` and named after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import torch
from torch import Tensor

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

# ---- attacks with a fault


def _looked(view: View, x: Tensor, goal: Goal) -> None:
    view.value_and_grad(goal.loss, x)


@attack(needs="gradient", paper="planted")
def same(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Looks at gradients and returns its input."""
    _looked(view, x, goal)
    return x.clone()


@attack(needs="gradient", paper="planted")
def over(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Steps 1.01 * eps away in one sample."""
    _looked(view, x, goal)
    bad = x.clone()
    bad[0, 0, 0, 0] = (bad[0, 0, 0, 0] + 0.5).remainder(1)
    return bad


@attack(needs="gradient", paper="planted")
def out_of_box(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Inside a huge ball, outside [0, 1]."""
    _looked(view, x, goal)
    bad = x.clone()
    bad[-1, 0, 0, 0] = -0.01
    return bad


@attack(needs="gradient", paper="planted")
def nan(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """One NaN pixel in one sample."""
    _looked(view, x, goal)
    bad = x.clone()
    bad[0, 0, 1, 1] = torch.nan
    return bad


@attack(needs="gradient", paper="planted")
def wrong_shape(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Returns all samples but the last."""
    _looked(view, x, goal)
    return x[:-1].clone()


@attack(needs="gradient", paper="planted")
def wrong_dtype(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Returns float64."""
    _looked(view, x, goal)
    return x.double()


@attack(needs="gradient", paper="planted")
def no_tensor(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Returns nothing."""
    return None  # type: ignore[return-value]


@attack(needs="gradient", paper="planted")
def edits(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Edits its input in place by a legal step, and returns it."""
    _looked(view, x, goal)
    return x.add_(budget.eps / 2).clamp_(0, 1)


@attack(needs="gradient", paper="planted")
def crashes(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Raises."""
    raise ArithmeticError("planted crash")


@attack(needs="gradient", paper="planted")
def never_calls(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """A legal step that looked at nothing."""
    return (x + budget.eps).clamp(0, 1)


@attack(needs="gradient", paper="planted")
def no_backward(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Looks at answers, but asks for no gradient."""
    view.output(x)
    return (x + budget.eps).clamp(0, 1)


@attack(needs="gradient", paper="planted")
def interrupted(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, number: int = int(signal.SIGINT)
) -> Tensor:
    """Ctrl-C, or another signal, arrives while it works."""
    signal.raise_signal(number)
    return x.clone()


@attack(needs="gradient", paper="planted")
def waits(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, seconds: float = 60.0
) -> Tensor:
    """Takes its time, so that a signal finds it at work."""
    time.sleep(seconds)
    return x.clone()


@attack(needs="gradient", paper="planted")
def dies(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Takes its whole process with it, as a lack of memory does. Never run it but apart."""
    os.kill(os.getpid(), signal.SIGKILL)
    return x.clone()


def _endless() -> None:
    _endless()


def _raised(what: str) -> BaseException:
    """One of the exceptions that look like the end of a run, or have no ordinary text."""
    made = {
        "exit": SystemExit(0), "exit-3": SystemExit(3), "interrupt": KeyboardInterrupt(), "base": BaseException("base"),
        "generator": GeneratorExit(), "stop": StopIteration(), "cancel": asyncio.CancelledError(),
        "memory": MemoryError(), "usage": UsageError("planted: cannot be"), "half": RuntimeError("half \udcff \x1b[2J"),
        "huge": RuntimeError("A" * 3_000_000), "mute": Mute(),
    }  # fmt: skip
    one = made[what]
    one.__cause__, one.__context__ = one, one  # a cycle
    return one


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("planted: no text")


@attack(needs="gradient", paper="planted")
def raises(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, what: str = "exit") -> Tensor:
    """Raises what is asked for."""
    _looked(view, x, goal)
    if what == "recursion":
        _endless()
    raise _raised(what)


@attack(needs="gradient", paper="planted")
def clings(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    seconds: float = 600.0,
    where: str = "",
) -> Tensor:
    """Swallows every interrupt for so long, and then gives back legal images. `where` says that it is at it."""
    if where:
        Path(where).touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):
            time.sleep(0.02)
    return honest(view, x, goal, budget)


@attack(needs="gradient", paper="planted")
def leaves_a_copy(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Forks, and lets both processes return."""
    made = honest(view, x, goal, budget)
    os.fork()
    return made


@attack(needs="gradient", paper="planted")
def strays(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, where: str = "", then: str = "return"
) -> Tensor:
    """Starts processes that leave its group and session and forget their parent; writes their numbers to a file."""
    made = honest(view, x, goal, budget)
    own = subprocess.Popen(["sleep", "300"], start_new_session=True)
    twice = subprocess.run(
        ["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    marked = then == "dies"  # what is left of a process that died is known by its environment alone
    bare = subprocess.Popen(["sleep", "300"], env=None if marked else {}, start_new_session=True)
    Path(where).write_text(f"{own.pid} {int(twice.stdout)} {bare.pid}")
    if then == "hangs":
        time.sleep(600)
    if then == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return made


@attack(needs="gradient", paper="planted")
def tidies(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, where: str = "", link: str = ""
) -> Tensor:
    """Deletes a directory, or puts a link in its place."""
    shutil.rmtree(where)
    if link:
        Path(where).symlink_to(link)
    return honest(view, x, goal, budget)


def honest(view: View, x: Tensor, goal: Goal, budget: Budget) -> Tensor:
    """One step of the sign of the gradient."""
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + budget.eps * budget.steepest(grad)).clamp(0, 1)


# ---- attacks with a known answer


@attack(needs="labels", paper="planted")
def bit(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Writes the low bit of the seed it holds into the first pixel (0 where it holds none): see `Lock`."""
    view.labels(x)
    known = (view.seed & 1) if view.fixed else torch.zeros_like(view.seed)
    made = x.clone()
    made[:, 0, 0, 0] = known.float()
    return made


def unregistered(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Does not stand under @attack."""
    return x
