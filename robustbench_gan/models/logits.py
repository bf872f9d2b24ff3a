"""What a classifier answers, made logits (N, K) in float32, or refused in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustbench_gan.base.tensors import form

TWO_LOGITS = "give two logits, torch.stack([torch.zeros_like(z), z], dim=1) of a sigmoid's logit z"


class WrongForm(RuntimeError):
    """A classifier cannot be asked, or its answer is no logits (N, K)."""


def logits_of(answer: Any, n: int) -> Tensor:
    """The logits in what a classifier returned for n images, (n, K) float32 of a plain tensor.

    Tuples, dicts and output objects are unpacked where they have `logits`, or one tensor alone that can be logits.
    Raises WrongForm for anything else.
    """
    sound = type(answer) is Tensor and answer.dtype is torch.float32 and answer.layout is torch.strided
    if (
        sound and answer.ndim == 2 and len(answer) == n and answer.shape[1] > 1
    ):  # nearly always, and next to no time
        return answer  # type: ignore[no-any-return]
    found = _unpacked(answer, n)
    fault = _fault(found, n)
    if fault:
        where = "" if found is answer else f" within a {type(answer).__name__}"
        raise WrongForm(
            f"the classifier answers {form(found)}{where} for {n} images, expected logits ({n}, K) in floating "
            f"point: {fault}."
        )
    return found.as_subclass(Tensor).flatten(1).float()  # type: ignore[no-any-return]


def _fault(found: Any, n: int) -> str:
    """What keeps something from being the logits of n images; empty where nothing does."""
    if not isinstance(found, Tensor):
        return "return them as a tensor"
    if found.is_complex():
        return "return real numbers"
    if not found.is_floating_point():
        return "return what comes before argmax or one-hot"
    if found.layout is not torch.strided:
        return "return a dense tensor, logits.to_dense()"
    if found.ndim == 0 or len(found) != n:
        return "one row an image"
    if found.ndim > 2 and found.shape[1] == 1 and found.numel() > n:
        return "one column a class in the second place; take away what stands before it, logits[:, 0]"
    if found.ndim == 1 or found.numel() == n:
        return f"one number an image is no class; {TWO_LOGITS}"
    if found.ndim != 2 and found.numel() != n * found.shape[1]:
        return "one column a class and nothing behind it; pool or flatten what is left of the image"
    return ""


def _unpacked(answer: Any, n: int) -> Any:
    """What may be the logits in an answer of several parts; the answer itself where it is no such thing."""
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        named, parts = answer.get("logits"), list(answer.values())
    else:
        named = getattr(answer, "logits", None)
        parts = list(answer) if isinstance(answer, Sequence) and not isinstance(answer, str | bytes) else []
    if isinstance(named, Tensor):
        return named
    able = [part for part in parts if not _fault(part, n)]
    if len(able) > 1:
        raise WrongForm(
            f"the classifier answers a {type(answer).__name__} of {', '.join(form(part) for part in parts)}: which "
            "are the logits? Return them alone, or under the name logits."
        )
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return able[0] if able else tensors[0] if len(tensors) == 1 else answer
