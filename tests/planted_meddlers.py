"""Plugins that change what is not their own, each by one way, registered by `test_guard`."""

from __future__ import annotations

import ctypes
import gc
import io
import locale
import logging
import os
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from planted_cells import UNTRAINED, Fixed, grey
from torch import Tensor, nn

from robustbench_gan.cell import judge
from robustbench_gan.contracts.attacks import TrainedAttack, Training, attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Split
from robustbench_gan.models.schedule import trained
from robustbench_gan.nouns import budget
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

ENTRY_POINTS = """[robustbench_gan.attacks]
returns = planted_meddlers:returns
meddles = planted_meddlers:meddles
edits-data = planted_meddlers:edits_data
meddles-in-fit = planted_meddlers:MeddlesInFit
[robustbench_gan.models]
drifting = planted_meddlers:drifting
[robustbench_gan.defenses]
fit-meddles = planted_meddlers:FitMeddles
answers-meddle = planted_meddlers:AnswersMeddle
scaled = planted_meddlers:Scaled
edits-input = planted_meddlers:EditsInput
edits-scored = planted_meddlers:EditsScored
returns-other = planted_meddlers:ReturnsOther
nearest-test = planted_meddlers:NearestTest
"""


class Agrees(Tensor):
    """Is as far from anything as it is asked to be: not at all."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        if func in (Tensor.sub, Tensor.__sub__, Tensor.__rsub__):
            return torch.zeros_like(out)
        return out.as_subclass(Agrees) if func in (Tensor.detach, Tensor.clone) else out


def _stepped(view: View, x: Tensor, goal: Goal, budget: Budget) -> Tensor:
    """FGSM: what every honest attack here comes to."""
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + budget.eps * grad.sign()).clamp(0, 1)


FORMS: dict[str, Callable[[Tensor], object]] = {
    "plain": lambda made: made,
    "subclass": lambda made: (1 - made).as_subclass(Agrees),
    "parameter": lambda made: nn.Parameter(made),
    "sparse": lambda made: made.to_sparse(),
    "meta": lambda made: made.to("meta"),
    "complex": lambda made: made.to(torch.complex64),
    "half": lambda made: made.half(),
    "list": lambda made: list(made),
    "array": lambda made: made.numpy(),
    "graph": lambda made: made.requires_grad_() * 1,
    "inference": lambda made: torch.inference_mode()(made.clone)(),
    "channels": lambda made: made.contiguous(memory_format=torch.channels_last),
    "negative": lambda made: torch._neg_view(-made),
    "strided": lambda made: torch.stack([made, 1 - made], dim=-1)[..., 0],
    "flipped": lambda made: made.flip(0).contiguous().as_strided(made.shape, made.stride()).flip(0),
}


@attack(norms=("linf",), needs="gradient", paper="planted")
def returns(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, form: str = "plain"
) -> Tensor:
    """FGSM, given back in another form."""
    return FORMS[form](_stepped(view, x, goal, budget))  # type: ignore[return-value]


def _by_numpy(x: Tensor) -> None:
    x.detach().numpy()[...] *= 0.5


EDITS: dict[str, Callable[[Tensor], object]] = {
    "clamp": lambda x: x.clamp_(0, 1),  # of an image in [0, 1] it changes nothing, and counts
    "data": lambda x: x.data.mul_(0.5),
    "flip": lambda x: x.data.copy_(x.detach().flip(0)),  # no sum would show it
    "detached": lambda x: x.detach().fill_(0.5),
    "numpy": _by_numpy,
    "row": lambda x: x.detach()[0].zero_(),
}


class EditsInput(Defense):
    """Edits the images it is given: always, or only where it is not `asked` for a gradient, or only where it is."""

    purifies = True

    def __init__(self, base: nn.Module, *, by: str = "clamp", when: str = "always") -> None:
        super().__init__(base)
        self.by, self.when = by, when

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        asked = x.requires_grad
        if self.when == "always" or (self.when == "asked") == asked:
            with torch.no_grad():
                EDITS[self.by](x)
        return x * 1.0


class EditsScored(Defense):
    """A detector that normalises in place what it looks at."""

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return purified.detach().sub_(0.5).flatten(1).amax(dim=1, keepdim=True) - 2


class ReturnsOther(Defense):
    """A purifier that gives back anything but a plain tensor of the form of its input."""

    purifies = True

    def __init__(self, base: nn.Module, *, form: str = "subclass", hook: str = "purify") -> None:
        super().__init__(base)
        self.form, self.hook = form, hook

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return FORMS[self.form](x.detach()) if self.hook == "purify" else x * 1.0  # type: ignore[return-value]

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        return FORMS[self.form](x.detach()) if self.hook == "surrogate" else x  # type: ignore[return-value]

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        found = x.new_zeros(len(x), 1)
        return FORMS[self.form](found) if self.hook == "scores" else found  # type: ignore[return-value]


class NearestTest(Defense):
    """Looks the answer up in the images that it will be judged on, by whatever way leads to them."""

    purifies = True
    gradients = ("bpda",)  # type: ignore[assignment]

    def __init__(self, base: nn.Module, *, way: str = "test") -> None:
        super().__init__(base)
        self.way = way

    def fit(self, data, seed, store):
        if self.way == "holdout":
            self.known = data.black_box_holdout()[1].images
        elif self.way == "memory":
            held = data.train.images
            self.known = (held if held._base is None else held._base)[-50:]
        else:
            self.known = getattr(data, self.way).images

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        known = self.known.float() / 255
        return known[torch.cdist(x.flatten(1), known.flatten(1)).argmin(dim=1)]


# ---- what is not theirs


def _double(base: Any) -> None:
    base.double()


def _zeros_by_numpy(base: Any) -> None:
    base.weight.detach().numpy()[...] = 0


def _another_weight(base: Any) -> None:
    base.weight = nn.Parameter(torch.zeros_like(base.weight), requires_grad=False)


def _another_forward(base: Any) -> None:
    base.forward = lambda x: torch.ones(len(x), 3)


def _another_layer(base: Any) -> None:
    base.add_module("more", nn.Dropout())


def _code(base: Any) -> None:
    base.__class__ = type("Other", (type(base),), {"forward": lambda self, x: torch.ones(len(x), 3)})


WEIGHTS: dict[str, tuple[Callable[[Any], object], str]] = {  # of the classifier, and how that is said
    "half": (lambda base: base.weight.data.mul_(0.5), "the weights (weight) of the classifier"),
    "flip": (
        lambda base: base.weight.data.copy_(base.weight.flip(0)),
        "the weights (weight) of the classifier",
    ),
    "numpy": (_zeros_by_numpy, "the weights (weight) of the classifier"),
    "double": (_double, "the weights (weight) of the classifier"),
    "train": (lambda base: base.train(), "the training mode of the classifier"),
    "grad": (lambda base: base.requires_grad_(True), "requires_grad of the classifier"),
    "weight": (_another_weight, "the parameters of the classifier"),
    "layer": (_another_layer, "the layers of the classifier"),
    "pre-hook": (
        lambda base: base.register_forward_pre_hook(lambda m, x: None),
        "the hooks of the classifier",
    ),
    "forward": (_another_forward, "the code of the classifier"),
    "class": (_code, "the code of the classifier"),
    "hidden": (
        lambda base: setattr(type(base), "__call__", lambda self, x: 0 * x.flatten(1)[:, :10]),
        "the code (Fixed.__call__) of the classifier",
    ),
    "function": (
        lambda base: setattr(type(base), "forward", lambda self, x: 0 * x.flatten(1)[:, :10]),
        "the code (Fixed.forward) of the classifier",
    ),
}
HELD: list[Any] = []


def _entered(context: Any) -> None:
    HELD.append(context)
    context.__enter__()


class Liar:
    """Says that it equals anything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __call__(self, x: Tensor, **_: Any) -> Tensor:
        return x


def _fewer_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))


_PRODUCTS = "a setting of torch.backends, the precision of torch's products"
_PYTHON, _OUTSIDE = "a function of Python, numpy or torch", "where modules are imported from"
AROUND: dict[str, tuple[Callable[[], object], str]] = {
    "dtype": (lambda: torch.set_default_dtype(torch.float64), "the default dtype"),
    "device": (lambda: torch.set_default_device("meta"), "the default device"),
    "mode": (lambda: _entered(torch.device("meta")), "torch's function modes"),
    "no-grad": (lambda: _entered(torch.no_grad()), "grad mode"),
    "inference": (lambda: _entered(torch.inference_mode()), "inference mode"),
    "autocast": (lambda: _entered(torch.autocast("cpu", torch.bfloat16)), "autocast"),
    "on-cpu": (lambda: _entered(torch.autograd.graph.save_on_cpu()), "the hooks on saved tensors"),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), "the number of threads"),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), "deterministic algorithms"),
    "anomaly": (lambda: torch.autograd.set_detect_anomaly(True), "anomaly detection"),
    "denormals": (lambda: torch.set_flush_denormal(True), "the flushing of denormals"),
    "precision": (lambda: torch.set_float32_matmul_precision("medium"), _PRODUCTS),
    "hooks": (
        lambda: nn.modules.module.register_module_forward_hook(lambda m, x, out: None), "the hooks of all modules",
    ),
    "numpy-errors": (lambda: np.seterr(all="raise"), "numpy's handling of errors"),
    "filters": (lambda: warnings.simplefilter("error"), "the warning filters"),
    "recursion": (lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1), "the recursion limit"),
    "directory": (lambda: os.chdir("/"), "the working directory"),
    "environment": (lambda: os.environ.update(RBG_PLANTED="1"), "the environment"),
    "umask": (lambda: os.umask(0o777), "the umask"),
    "alarm": (lambda: signal.alarm(1000), "the alarms of the process"),
    "printing": (lambda: setattr(sys, "stdout", io.StringIO()), "sys.stdin, sys.stdout or sys.stderr"),
    "relu": (
        lambda: setattr(nn.functional, "relu", lambda x, inplace=False: x), "a function of Python, numpy or torch",
    ),
    "random": (lambda: setattr(random, "random", lambda: 0.5), "a function of Python, numpy or torch"),
    "liar": (lambda: setattr(nn.functional, "relu", Liar()), _PYTHON),
    "products": (
        lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"), _PRODUCTS,
    ),
    "convolutions": (
        lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"), "the precision of torch's products",
    ),
    "another-environment": (lambda: setattr(os, "environ", dict(os.environ)), "the environment"),
    "handlers": (lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), "the signal handlers"),
}  # fmt: skip
MORE: dict[str, tuple[Callable[[], object], str]] = {  # looked at where a stranger takes part
    "path": (lambda: sys.path.insert(0, "/planted"), _OUTSIDE),
    "finder": (lambda: sys.meta_path.insert(0, Liar()), _OUTSIDE),
    "module": (lambda: sys.modules.update(json=sys.modules["math"]), "an imported module"),
    "no-module": (lambda: sys.modules.pop("torch.nn.functional"), "an imported module"),
    "judge": (lambda: setattr(judge, "judge", Liar()), "the code of the judge"),
    "slack": (lambda: setattr(budget, "SLACK", 1.0), "the code of the judge"),
    "inside": (lambda: setattr(judge.detection_of, "__code__", (lambda *_: None).__code__), "the code of the judge"),
    "hidden": (lambda: setattr(Tensor, "argmin", Liar()), "the methods of torch's classes"),
    "warned": (lambda: setattr(warnings, "showwarning", Liar()), "the tracing of Python"),
    "method": (lambda: setattr(Goal, "reached", lambda self, out: out.labels < 0), "the code of the judge"),
    "level": (lambda: logging.disable(), "the root logger"),
    "logs": (lambda: logging.root.addHandler(logging.NullHandler()), "the root logger"),
    "printed": (lambda: torch.set_printoptions(precision=1), "how tensors are printed"),
    "printed-arrays": (lambda: np.set_printoptions(precision=1), "how arrays are printed"),
    "garbage": (gc.disable, "the garbage collector"),
    "profile": (lambda: sys.setprofile(lambda *_: None), "the tracing of Python"),
    "excepthook": (lambda: setattr(sys, "excepthook", lambda *_: None), "the tracing of Python"),
    "limit": (_fewer_files, "the limits of the process"),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, "C"), "the locale"),
    "rounding": (lambda: ctypes.CDLL(None).fesetround(0x400), "the rounding of floats"),
}  # fmt: skip
VIEWED: dict[str, tuple[Callable[[View, Goal], object], str]] = {
    "attribute": (lambda view, goal: setattr(view.system.defense, "factor", 0.5), "factor of the defense"),
    "list": (lambda view, goal: view.system.defense.steps.clear(), "steps of the defense"),
    "own-weights": (
        lambda view, goal: view.system.defense.shift.data.add_(1),
        "the weights (shift) of the defense",
    ),
    "passes": (lambda view, goal: view.counts.backward.data.fill_(100), "the counts of its passes"),
    "goal": (lambda view, goal: goal.classes.zero_(), "the goal"),
    "seeds": (lambda view, goal: view.seed.add_(1), "the seeds of the view"),
}


@attack(norms=("linf",), needs="gradient", paper="planted")
def meddles(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, what: str = "nothing"
) -> Tensor:
    """FGSM that changes one thing before it ends, and catches what that breaks."""
    made = _stepped(view, x, goal, budget)
    if what in WEIGHTS:
        WEIGHTS[what][0](view.system.defense.base)
    for change, _ in MORE.values() if what == "more" else ():
        change()
    if what in AROUND:
        AROUND[what][0]()
    if what in VIEWED:
        VIEWED[what][0](view, goal)
    return made


def _move_data() -> None:
    """Every split as long as the training images of `grey`, wherever it is, in a way that no count of edits tells."""
    for held in gc.get_objects():
        if type(held) is Split and len(held) == len(grey().train):
            held.images.numpy()[...] = held.images.roll(1, 0).numpy()


@attack(norms=("linf",), needs="gradient", paper="planted")
def edits_data(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """FGSM that moves every training image to the next place."""
    _move_data()
    return _stepped(view, x, goal, budget)


@attack(norms=("linf",), needs="gradient", paper="planted")
class MeddlesInFit(TrainedAttack):
    """Trains nothing, and zeroes the classifier it is trained through."""

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        system = training.view(torch.zeros(1, dtype=torch.int64)).system
        system.defense.base.weight.data.zero_()
        return {"steps": 1}

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        return x.clone()


class Scaled(Defense):
    """An honest purifier that keeps what it made at its first answer, and counts its answers where nobody looks."""

    purifies = True

    def __init__(self, base: nn.Module, *, factor: float = 1.0) -> None:
        super().__init__(base)
        self.factor, self.kernel, self.steps = factor, None, [1]
        self.register_buffer("shift", torch.zeros(1))
        self.register_buffer("answers", torch.zeros(1))

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        if self.kernel is None:
            self.kernel = torch.full((1, 1, 1, 1), self.factor)
        self.answers += 1
        return x * self.kernel + self.shift


class FitMeddles(Defense):
    """Changes in `fit` what it is given to learn from."""

    def __init__(self, base: nn.Module, *, what: str = "weights") -> None:
        super().__init__(base)
        self.what = what

    def fit(self, data, seed, store):
        if self.what == "weights":
            self.base.weight.data.zero_()
        elif self.what == "images":
            data.train.images.numpy()[...] = 0
        elif self.what == "order":
            data.validation.images.data.copy_(data.validation.images.flip(0))
        elif self.what == "labels":
            data.train.labels.zero_()
        elif self.what == "dtype":
            torch.set_default_dtype(torch.float64)


class AnswersMeddle(Defense):
    """Changes, while it answers a judge, what others stand on."""

    purifies = True

    def __init__(self, base: nn.Module, *, what: str = "weights") -> None:
        super().__init__(base)
        self.what = what

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            if self.what == "data":
                _move_data()
            elif self.what == "weights":
                self.base.weight.data.mul_(1.5)
            else:
                AROUND[self.what][0]()
        return x * 1.0


class Drifting(Fixed):
    """The known model behind a normalisation that goes on learning while it answers."""

    def __init__(self, classes: int, side: int) -> None:
        super().__init__(classes, side=side)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        return super().forward(x - self.mean)


@trained(UNTRAINED)
def drifting(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model with a state."""
    return Drifting(classes, shape[1])
