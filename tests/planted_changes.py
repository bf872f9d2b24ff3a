"""Ways to change what is not one's own: a classifier's weights, the process, what a view holds."""

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
from torch import Tensor, nn

from robustbench_gan.cell import judge
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import budget
from robustbench_gan.nouns.outcome import Goal


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
