"""Tensors on their way to a plugin's code and back: their form, their bits, and that they are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from robustbench_gan.base.errors import said
from robustbench_gan.base.memory import memcmp


class Meddled(RuntimeError):
    """A plugin changed what is not its own. The message names both; the change is undone."""


def form(value: Any) -> str:
    """What something returned is, for messages: shape and type of a plain tensor, and whatever else it is instead."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    said = f"{tuple(value.shape)} {value.dtype}"
    if type(value) is not Tensor:
        return f"{said} as {type(value).__name__}, a subclass of Tensor"
    if value.layout is not torch.strided:
        return f"{said} of layout {str(value.layout).removeprefix('torch.')}"
    return f"{said} on {value.device}" if value.device.type == "meta" else said


def plain(value: Any, like: Tensor) -> bool:
    """Is it exactly a Tensor, dense and where `like` lies? A subclass may answer as it likes when it is checked."""
    return type(value) is Tensor and value.layout is torch.strided and value.device == like.device


def same(one: Tensor, other: Tensor) -> bool:
    """Do two tensors hold the same bits?"""
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    one, other = one.detach(), other.detach()
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one.layout is other.layout and same(one.to_dense(), other.to_dense())
    if one.device.type == "cpu" and one.is_contiguous() and other.is_contiguous():
        size = one.numel() * one.element_size()
        return not memcmp(one.data_ptr(), other.data_ptr(), size)  # a twentieth of the time of torch.equal
    return torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (one, other)))


def version(tensor: Tensor) -> int:
    """How often it was edited in place; those of inference mode are not counted."""
    return -1 if tensor.is_inference() else tensor._version


@contextmanager
def handed(owner: str, **given: Tensor) -> Iterator[None]:
    """Hand tensors to a plugin's code. Raises Meddled where it edits one, which is then as it was before.

    A micro-batch may be a view of the judge's own images. The count of edits misses those through numpy or `.data`,
    the copy one that changed nothing.
    """
    kept = {name: (tensor, version(tensor), tensor.detach().clone()) for name, tensor in given.items()}
    refused: RuntimeError | None = None
    try:
        yield
    except RuntimeError as error:
        if "leaf Variable that requires grad" not in said(error):
            raise
        refused = error
    finally:
        edited = [
            name
            for name, (tensor, was, copy) in kept.items()
            if version(tensor) != was or not same(tensor, copy)
        ]
        for name in edited:
            put_back(kept[name][0], kept[name][2])
    if edited or refused:
        what = " and ".join(edited or given)
        raise Meddled(f"{owner} edited its input in place ({what}): work on a copy, x.clone()") from refused


def put_back(tensor: Tensor, copy: Tensor) -> None:
    """Give a tensor its former values, and its former shape and type where those were changed as well."""
    with torch.no_grad():
        if tensor.shape == copy.shape and tensor.dtype == copy.dtype and tensor.device == copy.device:
            tensor.data.copy_(copy)
        else:
            tensor.data = copy.clone()
