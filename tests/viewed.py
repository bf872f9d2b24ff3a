"""Goals, networks and counts for the tests of views."""

from __future__ import annotations

import torch
from planted import Linear, conv
from torch import nn

from robustbench_gan.base.batching import MICRO_BATCH
from robustbench_gan.nouns.outcome import Goal, Output

SIZE = MICRO_BATCH["cpu"]
NETWORKS = {"linear": Linear(), "conv": conv()}


def goal_of(count, classes=3):
    return Goal.untargeted(torch.arange(count) % classes)


def plain_gradient(model, x, loss):
    leaf = x.clone().requires_grad_()
    value = loss(Output.of(model(leaf)))
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def counts_of(view):
    return view.counts.forward.tolist(), view.counts.backward.tolist()


class CountingModel(nn.Module):
    """Remembers the batch sizes it was called with."""

    def __init__(self):
        super().__init__()
        self.inner, self.sizes = conv(), []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.inner(x)
