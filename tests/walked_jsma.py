"""JSMA run on a small model with its looks remembered."""

from __future__ import annotations

import math

from planted import seeds
from rbg_attacks.jsma import jsma
from torch import nn

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget

N = 8
ANY = Budget("l0", math.inf)


class Recorder(nn.Module):
    """Remembers what it was asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)


def run(model, x, goal, budget=ANY, system=None, **parameters):
    options = {key: parameters.pop(key) for key in ("fast",) if key in parameters}
    view = View.on(system or Bare(model), seeds(len(x)), exact=True, whole_batches=True, **options)
    return jsma(view, x, goal, budget, seeds(len(x)), **parameters), view


def sizes(made, x):
    return (made != x).flatten(1).sum(dim=1)
