"""A few epochs of a small network on data that a line separates."""

from __future__ import annotations

import torch
from planted import separable
from torch import nn

from robustbench_gan.models.schedule import Schedule
from robustbench_gan.training.loop import cross_entropy, optimise
from robustbench_gan.training.networks import fresh

DATA = separable()
QUICK = Schedule(epochs=4, batch_size=10, lr=0.02)


def network(dropout=0.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def trained_state(seed, dropout=0.3, schedule=QUICK, start=0):
    model = fresh(lambda: network(dropout), start)
    optimise(model, DATA.train, cross_entropy(model), schedule, seed=seed, description="test")
    return torch.cat([p.detach().flatten() for p in model.parameters()])
