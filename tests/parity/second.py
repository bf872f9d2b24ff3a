"""The second libraries: foolbox, which is always there, and three that a machine may lack.

adv_lib and torchattacks import torchvision and visdom at their top without needing them for what is compared here;
where those are not installed they see stand-ins, and nothing else ever does. What is missing altogether skips the
test that asked for it (docs/parity.md brings it).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

STOOD_IN = ("torchvision", "visdom")


def foolbox_model(model: nn.Module) -> Any:
    """Foolbox's wrapper of a frozen torch model on pixels in [0, 1], on the model's own device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return _import("foolbox").PyTorchModel(model, bounds=(0, 1), device=device)


def foolbox_attacks() -> Any:
    """The module `foolbox.attacks`."""
    return _import("foolbox.attacks")


def foolbox_criterion(y: Tensor, *, targeted: bool = False) -> Any:
    """Foolbox's criterion: leave the classes y (N,), or reach them where `targeted`."""
    foolbox = _import("foolbox")
    return foolbox.criteria.TargetedMisclassification(y) if targeted else foolbox.Misclassification(y)


def adv_lib_attacks() -> Any:
    """The module `adv_lib.attacks`: functions of (model, inputs, labels, targeted=False, ...)."""
    return _installed("adv_lib", "adv_lib.attacks")


def torchattacks_module() -> Any:
    """The module `torchattacks`: `torchattacks.FGSM(model, eps=...)(x, y)`."""
    return _installed("torchattacks", "torchattacks")


def art_evasion() -> Any:
    """The module `art.attacks.evasion`, whose attacks take an `art_classifier` and make numpy arrays."""
    return _installed("art", "art.attacks.evasion")


def art_classifier(model: nn.Module, shape: Sequence[int], classes: int) -> Any:
    """ART's wrapper of a frozen torch model on images of this shape, (C, H, W), with pixels in [0, 1]."""
    estimators = _installed("art", "art.estimators.classification")
    return estimators.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(shape), nb_classes=classes,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip


def art_generate(attack: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    """What an ART attack makes of x (N, C, H, W), as a float32 tensor; y (N,) are classes to leave or to reach."""
    labels = None if y is None else np.asarray(y.numpy(force=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = attack.generate(x.numpy(force=True), labels)
    return torch.from_numpy(made).float()


def _installed(package: str, module: str) -> Any:
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: see docs/parity.md")
    return _import(module)


def _import(name: str) -> Any:
    with warnings.catch_warnings(), _stand_ins():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Inside the block what is not installed of STOOD_IN can be imported; afterwards nobody can see that it was."""
    missing = tuple(name for name in STOOD_IN if importlib.util.find_spec(name) is None)
    finder = _Finder(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition(".")[0] in missing]:
            del sys.modules[name]


class _Finder(MetaPathFinder, Loader):
    """Imports anything below some package names as a module of harmless classes."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self.roots = roots

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in self.roots:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Harmless(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = __file__


class _Harmless(ModuleType):
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
