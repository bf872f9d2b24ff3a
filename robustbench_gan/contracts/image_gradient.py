"""The gradient of images through a network: autograd's, but for the last stretch, the first convolution.

Going back through a convolution is made for many channels on either side. To the one or three channels of an image it
takes a CPU five to twenty times as long as going forward, most of the pass on a small network. As one matrix product
an image, summed where the patches overlap, it takes a half to a fifth of that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional as F

FEW_CHANNELS = 4  # from here on autograd's own way is the faster
MOST_NODES = 2000  # a graph larger than this is a computation beside which a convolution does not count
MOST_VALUES = 2**23  # of patches held at once


def gradient(value: Tensor, leaf: Tensor, *, retain: bool) -> Tensor | None:
    """The gradient of the sum of `value` by `leaf`, of its shape; None where no path leads there.

    The same numbers as torch.autograd.grad's up to rounding, independent of how many images there are. Where the
    leaf (N, C, H, W) goes anywhere but straight into plain convolutions on a CPU it is autograd's own.
    """
    if value.grad_fn is None:
        return None
    each = torch.ones_like(value)
    first = _convolutions(value.grad_fn, leaf) if leaf.device.type == "cpu" and len(leaf) else []
    if not first:
        (grad,) = torch.autograd.grad(value, leaf, each, allow_unused=True, retain_graph=retain)
        return grad
    edges = [GradientEdge(node, 0) for node in first]
    found = torch.autograd.grad(value, edges, each, allow_unused=True, retain_graph=retain)
    parts = [_to_image(node, at, leaf) for node, at in zip(first, found, strict=True) if at is not None]
    return sum(parts[1:], parts[0]) if parts else None


def _convolutions(root: Node, leaf: Tensor) -> list[Node]:
    """The nodes that the leaf enters, if all of them are convolutions of the form that `_to_image` inverts."""
    entry = get_gradient_edge(leaf).node
    found = _entered(root, entry)
    if len(found) == 1 and found[0].name() == "ToCopyBackward0":  # autocast's, to bfloat16
        found = _entered(root, found[0])
    return found if all(_plain(node, leaf) for node in found) else []


def _entered(root: Node, entry: Node) -> list[Node]:
    """The nodes of a graph from which one steps down to `entry`; none where it is too large to be worth the search."""
    seen, todo, found = {root}, [root], []
    for node in todo:  # grows
        for below, _ in node.next_functions:
            if below is entry:
                found.append(node)
            elif below is not None and below not in seen:
                seen.add(below)
                todo.append(below)
        if len(todo) > MOST_NODES:
            return []
    return found


def _plain(node: Node, leaf: Tensor) -> bool:
    if node.name() != "ConvolutionBackward0":
        return False
    saved: Any = node
    weight = saved._saved_weight
    return (
        weight.ndim == leaf.ndim == 4
        and weight.dtype in (torch.float32, torch.bfloat16)
        and leaf.dtype == torch.float32
        and leaf.shape[1] <= FEW_CHANNELS
        and not saved._saved_transposed
        and saved._saved_groups == 1
        and all(d == 1 for d in saved._saved_dilation)
    )


def _to_image(node: Node, at: Tensor, leaf: Tensor) -> Tensor:
    """The gradient by a convolution's input (N, C, H, W), from that by its output, (N, O, H', W')."""
    saved: Any = node
    weight = saved._saved_weight.detach()
    back = weight.flatten(1).t()[None]  # (1, patch, O)
    columns = at.flatten(2) if at.is_contiguous() else _channels_last(at)
    most = max(1, MOST_VALUES // (back.shape[1] * columns.shape[2]))
    made = []
    for piece in columns.split(most):
        patches = torch.bmm(back.expand(len(piece), -1, -1), piece).float()
        made.append(
            F.fold(  # images as channels of one: a loop inside, and not over images
                patches.view(1, -1, patches.shape[2]), leaf.shape[2:], weight.shape[2:],
                padding=saved._saved_padding, stride=saved._saved_stride,
            ).view(-1, *leaf.shape[1:])
        )  # fmt: skip
    return made[0] if len(made) == 1 else torch.cat(made)


def _channels_last(at: Tensor) -> Tensor:
    """(N, O, H, W), of which convolutions often leave the channels last in memory, as (N, O, H * W) without a copy."""
    return at.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
