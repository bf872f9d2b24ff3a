"""The model that run_attack is given, inside the door for as long as it is attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.errors import described as described_error
from robustbench_gan.contracts.composition import unfitted
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.models import door
from robustbench_gan.nouns.seeds import isolated, sample_seeds


@contextmanager
def inside_the_door(
    model: nn.Module, x: Tensor, y: Tensor, targets: Tensor | None, train: tuple[Tensor, Tensor] | None
) -> Iterator[Callable[[str], Bare | Defended]]:
    """The model, or the classifiers within a defense, inside the door; all are left as they were.

    Yields what makes the attacked system of a gradient. Raises UsageError for a model that cannot be attacked and for
    labels that it has no classes for.
    """
    stages = [part for part in model.modules() if isinstance(part, Defense)]
    if names := dict.fromkeys(name for part in stages for name in unfitted(part)):
        raise UsageError(
            f"{', '.join(names)} is not fitted: call fit(data, seed, store) first, or take the defense from "
            "Workshop().defense(dataset, classifier, spec); if you set its parts by hand, set fitted = True."
        )
    held = [(stage, name, getattr(stage, name)) for stage in stages for name in ("base", "core")]
    guests = list({id(module): module for _, _, module in held}.values()) if stages else [model]
    with door.visiting(guests, x, 2, "any task") as inside:
        admitted = {id(guest): made for guest, made in zip(guests, inside, strict=True)}
        try:
            for stage, name, module in held:
                setattr(stage, name, admitted[id(module)])
            classes = _asked_once(model, x) if isinstance(model, Defense) else door.classes_of(inside[0])
            _check_classes(classes, y, targets, None if train is None else train[1])
            yield (
                lambda gradient: (
                    Defended(model, gradient) if isinstance(model, Defense) else Bare(inside[0])  # type: ignore[arg-type]
                )
            )
        finally:
            for stage, name, module in held:
                setattr(stage, name, module)


def _asked_once(defense: Defense, x: Tensor) -> int:
    """How many classes a defense answers with. Raises UsageError where it fails on two clean images."""
    x = x[: door.LOOKED_AT].clone()
    try:
        with torch.no_grad(), isolated(0):
            out = defense(x, sample_seeds(0, "first", torch.arange(len(x), device=x.device)))
        return int(out.logits.shape[1])
    except Exception as error:  # a stranger's code may raise anything
        raise UsageError(
            f"the defense {type(defense).__name__} fails on {len(x)} clean images: {described_error(error)}"
        ) from error


def _check_classes(classes: int, y: Tensor, targets: Tensor | None, trained: Tensor | None) -> None:
    """Raises UsageError for labels or targets without a class, and for targets that are the label."""
    for name, values in (("y", y), ("targets", targets), ("train's y", trained)):
        if values is None:
            continue
        out = values[(values < 0) | (values >= classes)]
        if len(out):
            raise UsageError(
                f"{name} holds {int(out[0])}, and {len(out)} of {len(values)} are outside of 0 to {classes - 1}, the "
                f"{classes} classes that the model answers with: leave them out, or give the model a logit a class."
            )
    if targets is not None and (same := int((targets == y).sum())):
        raise UsageError(
            f"{same} of {len(y)} targets are the true class, which nothing must be changed to reach: leave those "
            "images out, or aim at another class, such as (y + 1) % classes."
        )
