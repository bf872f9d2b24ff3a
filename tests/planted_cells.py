"""A data set, models, attacks and defenses with known answers or known faults, registered by `planted_plugins`.

Each is as small as its one property allows, and named after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.models.schedule import Schedule, trained
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import normal

SHAPE = (1, 4, 4)
PIXELS = 16
UNTRAINED = Schedule(epochs=0, one_cycle=False)  # the weights of the factory are the weights used


# ---- data and models


def grey(*, classes: int = 3, tests: int = 200, side: int = 4) -> Dataset:
    """Images of middle grey, in [0.25, 0.75], labelled by the known linear model: it is always right."""
    generator = torch.Generator().manual_seed(11)
    model = Fixed(classes, side=side)

    def split(n: int) -> Split:
        pixels = torch.randint(64, 192, (n, 1, side, side), generator=generator).to(torch.uint8)
        return Split(pixels, model(pixels.float() / 255).argmax(dim=1))

    names = tuple(f"class {c}" for c in range(classes))
    return Dataset("grey", names, split(60), split(20), split(tests))


class Fixed(nn.Module):
    """logits = weight @ (x - 1/2), with known weights."""

    def __init__(self, classes: int, seed: int = 3, side: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, side * side, generator=generator))

    def reset_parameters(self) -> None:
        """Other weights, to be trained from."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


@trained(UNTRAINED)
def fixed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The known linear model, not trained."""
    return Fixed(classes, side=shape[1])


def _away(z: Tensor, x: Tensor) -> Tensor:
    """NaN wherever a pixel is no multiple of 1/255, which those of clean images are."""
    moved = ((x * 255).round() / 255 - x).abs().flatten(1).amax(dim=1) > 1e-4
    return torch.where(moved[:, None], torch.nan, z)


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda z, x: (z, x),
    "dict": lambda z, x: {"logits": z},
    "double": lambda z, x: z.double(),
    "edits": lambda z, x: (z, x.mul_(0.5))[0],
    "away": _away,
    "masked": lambda z, x: z.masked_fill(torch.arange(z.shape[1]) == 2, -torch.inf),
    "coupled": lambda z, x: z - 3 * z.mean(dim=0, keepdim=True),
    "one": lambda z, x: z[:, :1],
    "few": lambda z, x: z[:, :2],
    "more": lambda z, x: torch.cat([z, z[:, :1] - 100], dim=1),
    "labels": lambda z, x: z.argmax(dim=1),
}


class Answers(Fixed):
    """The known linear model, whose answer has another form."""

    form = "tuple"

    def forward(self, x: Tensor) -> Any:
        return FORMS[self.form](super().forward(x), x)


@trained(UNTRAINED)
def answers(shape: tuple[int, int, int], classes: int, *, form: str = "tuple") -> nn.Module:
    """The known linear model with its answer in some form."""
    model = Answers(classes, side=shape[1])
    model.form = form
    return model


@trained(UNTRAINED)
def bent(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A small network with fixed weights, for which the optimum is not known."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(shape[0], 3, 3, padding=1), nn.Tanh(), nn.Flatten(),
            nn.Linear(3 * shape[1] * shape[2], classes),
        )  # fmt: skip


@trained(Schedule(epochs=2, batch_size=30, lr=0.05))
def quick(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A linear model that is trained."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


class Sharp(Fixed):
    """The known model with logits so far apart that its cross-entropy has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * super().forward(x)


class Stepped(Fixed):
    """The known model's class in the place of its logits: no loss has a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * (1e4 * super().forward(x)).softmax(dim=1)


class Softmaxed(Fixed):
    """The known model with probabilities for logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=1)


class Dropped(Fixed):
    """The known model behind dropout that is always on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.2, training=True))


@trained(UNTRAINED)
def read(shape: tuple[int, int, int], classes: int, *, path: str = "") -> nn.Module:
    """The known linear model with the weights in a file, one number a line; those it has without one."""
    model = Fixed(classes, side=shape[1])
    if path:
        numbers = [float(line) for line in Path(path).read_text().split()]
        model.weight = nn.Parameter(torch.tensor(numbers).view_as(model.weight))
    return model


@trained(UNTRAINED)
def sharp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Saturated logits."""
    return Sharp(classes, side=shape[1])


@trained(UNTRAINED)
def stepped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Logits of 10 and 0."""
    return Stepped(classes, side=shape[1])


@trained(UNTRAINED)
def softmaxed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Probabilities."""
    return Softmaxed(classes, side=shape[1])


@trained(UNTRAINED)
def dropped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Dropout in evaluation mode."""
    return Dropped(classes, side=shape[1])


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


# ---- defenses with a fault


class RejectAll(Defense):
    """Rejects everything."""

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return x.new_ones(len(x), 1)


class Detached(Defense):
    """A purifier without a gradient: it changes nothing else."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x.detach().clone()


class ZeroGradient(Defense):
    """A purifier whose gradient is connected, and exactly zero."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x.detach() + 0 * x


class AnswersNaN(Defense):
    """NaN for the image that `never_calls` and others brighten, a right answer for clean ones."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        bright = x.flatten(1).mean(dim=1) > 0.55
        return torch.where(bright[:, None, None, None], torch.nan, x)


class SecretlyRandom(Defense):
    """Says that it is deterministic, and is not."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + 2 * normal(seed, x.shape[1:])


class FailsToFit(Defense):
    """Cannot be trained."""

    def fit(self, data: object, seed: int, store: object) -> None:
        raise ArithmeticError("planted: no convergence")


class ExitsWhereAsked(Defense):
    """Exits in its constructor, its training or its answer."""

    purifies = True

    def __init__(self, base: nn.Module, *, where: str = "init") -> None:
        super().__init__(base)
        self.where = where
        self._exit("init")

    def _exit(self, here: str) -> None:
        if self.where == here:
            raise SystemExit(0)

    def fit(self, data: object, seed: int, store: object) -> None:
        self._exit("fit")

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        self._exit("purify")
        return x * 1.0


class DiesInTraining(Defense):
    """Takes its whole process with it while it is trained. Never run it but apart."""

    def fit(self, data: object, seed: int, store: object) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Remembers(Defense):
    """Mixes in the first image that it was ever shown."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        before, self.first = getattr(self, "first", x[:1] * 0), x[:1].detach()
        return x + 2 * before


class OtherRange(Defense):
    """Speaks [-1, 1]."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return 2 * x - 1


class Untrained(Defense):
    """Gives back the negative of the image."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return (0.9 - 1.8 * (x - 0.5)).clamp(0, 1)


class Notices(Defense):
    """Rejects pixels that are no multiple of 1/255, by a detector without a gradient."""

    detectors = ("edited",)

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        levels = x.detach() * 255
        off = (levels - levels.round()).abs().flatten(1).amax(dim=1, keepdim=True)
        return off - 0.01


class Swaps(Defense):
    """Puts the network that knows every answer behind a purifier that does nothing, as if that had read the test."""

    purifies = True

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.core = Fixed(3)


class Descends(Defense):
    """Takes a step of descent while it answers."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(leaf.square().sum(), leaf)
        return x - 1e-3 * slope


# ---- defenses with a known answer


class Lock(Defense):
    """Random: shows the classifier an all-different image where the first pixel guesses the seed's low bit.

    First pixels are 0 or 1 for a guess; the inverse image of the known linear model is never its class.
    """

    purifies = True
    randomised = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        guess = x[:, 0, 0, 0]
        opened = guess == (seed & 1).to(guess.dtype)
        return torch.where(opened[:, None, None, None], 1 - x, x)


class Noisy(Defense):
    """Random: adds N(0, 1/4) noise from each sample's seed."""

    purifies = True
    randomised = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + 0.5 * normal(seed, x.shape[1:])
