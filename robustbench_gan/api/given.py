"""What a caller of run_attack gives, checked before anything runs: each fault in one line, with how to mend it."""

from __future__ import annotations

from numbers import Integral
from typing import Any, get_args

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import NotApplicable, UsageError, unknown
from robustbench_gan.base.tensors import form
from robustbench_gan.contracts.attacks import AttackInfo
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import declared_gradients
from robustbench_gan.contracts.threat import GradientChoice
from robustbench_gan.models.program import in_training_mode
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import radius
from robustbench_gan.nouns.spec import Spec


def gradients_tried(gradient: Any, model: nn.Module, info: AttackInfo) -> tuple[str, ...]:
    """The gradients to be tried. Raises UsageError for an unknown one, and for a choice that there is not."""
    known = get_args(GradientChoice)
    if gradient is not None and gradient not in known:
        raise unknown("gradient", str(gradient), [name for name in known if name != "cut"])
    if not isinstance(model, Defense):
        if gradient is not None:
            raise UsageError(
                f"gradient={gradient!r} chooses among the gradients of a defense, and the model is a bare "
                f"{type(model).__name__}: leave it out."
            )
        return ("full",)
    if info.needs != "gradient" or info.trained:
        return ("full",) if gradient in (None, "auto") else (gradient,)
    if info.gradient and gradient in (None, "auto"):
        return (info.gradient,)
    return declared_gradients(model) if gradient == "auto" else (gradient or "full",)


def resolved(attack: Any) -> tuple[Any, dict[str, Any], str]:
    """An attack, its parameters and its name. Raises UsageError for what is no attack, and for an unknown name."""
    if isinstance(getattr(attack, "info", None), AttackInfo):
        return attack, {}, attack.__name__
    if not isinstance(attack, str):
        raise UsageError(
            f"the attack is a {type(attack).__name__}; expected a registered name, as 'pgd:steps=40', or what stands "
            "under @attack(...)."
        )
    return *registry.resolve("attacks", Spec.of(attack)), attack


def applicable(attack: str, info: AttackInfo, norm: str, targets: Tensor | None, trained: bool) -> None:
    """Raises NotApplicable where the attack has no such norm or goal, UsageError for a training too many or missing."""
    if info.trained != trained:
        raise UsageError(
            f"{attack} must first be trained: give train=(images, labels), not those it is judged on."
            if info.trained
            else f"{attack} is not trained: leave train out."
        )
    if norm not in info.norms:
        raise NotApplicable(f"{attack} is defined in {', '.join(info.norms)}, not in {norm}")
    if targets is not None and not info.targeted:
        raise NotApplicable(f"{attack} has no targeted form")


def radii(epsilons: Any) -> list[float]:
    """The budgets of one number, text or several."""
    single = (
        isinstance(epsilons, str | bytes)
        or not hasattr(epsilons, "__iter__")
        or getattr(epsilons, "ndim", 1) == 0
    )
    found = [radius(epsilons)] if single else [radius(eps) for eps in epsilons]
    if not found:
        raise UsageError("epsilons=[]: give at least one budget, such as 8/255.")
    return found


def whole_number(**given: Any) -> int:
    """The whole number in the one argument given, by name."""
    ((name, value),) = given.items()
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is no whole number.")
    return int(value)


def checked(model: Any, x: Any, y: Any, targets: Any, whose: str = "") -> tuple[Tensor, Tensor]:
    """The images and labels as plain tensors. Raises UsageError for what cannot be attacked."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is a {type(model).__name__}; expected a torch.nn.Module.")
    if torch.is_inference_mode_enabled():
        raise UsageError("inside torch.inference_mode there are no gradients: call run_attack outside of it.")
    if in_training_mode(model):
        raise UsageError(f"the model is in training mode{_which(model)}: call model.eval() first.")
    if not isinstance(x, Tensor) or x.ndim != 4 or x.dtype != torch.float32 or x.numel() == 0:
        raise UsageError(f"{whose}x is {_form(x)}; expected (N, C, H, W) float32 with N >= 1{_as_images(x)}.")
    x = x.detach().as_subclass(Tensor)
    if x.is_meta:
        raise UsageError(f"{whose}x lies on the meta device, without values: load it first.")
    low, high = float(x.amin()), float(x.amax())
    if not (low >= 0 and high <= 1):  # nor is NaN
        cure = "pixels must be in [0, 1], normalisation a layer of the model."
        if low > -1e-3 and high < 1.001:
            cure = "pixels must be in [0, 1]; for so little write x.clamp(0, 1)."
        raise UsageError(f"{whose}x spans [{low:.9g}, {high:.9g}]; {cure}")
    for name, classes in (("y", y), ("targets", targets)):
        if name == "targets" and classes is None:
            continue
        if not isinstance(classes, Tensor) or classes.shape != (len(x),) or classes.dtype != torch.int64:
            raise UsageError(
                f"{whose}{name} is {_form(classes)}; expected ({len(x)},) int64{_as_classes(name, classes, len(x))}."
            )
        if classes.device != x.device:
            raise UsageError(f"{whose}{name} lies on {classes.device} and x on {x.device}: move one of them.")
    return x.clone(), y.as_subclass(Tensor).clone()  # they stay the caller's, whatever edits them


def _which(model: nn.Module) -> str:
    """The part in training mode, where it is not the whole."""
    parts = [(name, part) for name, part in model.named_modules() if name and part.training]
    return (
        "" if model.training or not parts else f" in its part {parts[0][0]}, a {type(parts[0][1]).__name__}"
    )


def _as_images(given: Any) -> str:
    """How images of another form become images, where they can."""
    if not isinstance(given, Tensor) or given.numel() == 0:
        return ""
    if given.dtype == torch.uint8:
        return ": write x.float() / 255"
    if given.is_floating_point() and given.dtype != torch.float32:
        return ": write x.float()"
    return ": write x[None] for one image" if given.ndim == 3 and len(given) in (1, 3) else ""


def _as_classes(name: str, given: Any, n: int) -> str:
    """How labels of another form become classes, where they can."""
    if isinstance(given, list | tuple) or type(given).__module__ == "numpy":
        return f": write torch.as_tensor({name}).long()"
    if isinstance(given, int):
        return f": write torch.full(({n},), {given})"
    if not isinstance(given, Tensor):
        return ""
    if given.shape == (n,):
        return f": write {name}.long()"
    if given.ndim == 2 and len(given) == n:
        return (
            f": write {name}[:, 0].long()"
            if given.shape[1] == 1
            else f": of one row an image {name}.argmax(1)"
        )
    return ""


def pair(train: Any) -> tuple[Any, Any]:
    """The images and labels to train on. Raises UsageError for anything else."""
    if not isinstance(train, tuple | list) or len(train) != 2:
        raise UsageError(f"train is {_form(train)}; expected (images, labels).")
    return train[0], train[1]


def _form(value: Any) -> str:
    hint = ", not a torch tensor: torch.from_numpy makes one" if type(value).__module__ == "numpy" else ""
    return form(value) + hint
