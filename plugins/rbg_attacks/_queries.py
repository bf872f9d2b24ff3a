"""How many questions an attack by query may still ask."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_gan.contracts import View


def queries_left(view: View, queries: int) -> Tensor:
    """The queries, (N,) int64, that each sample may ask: `queries`, or what the view's limit leaves of them.

    A query of a view with several draws takes that many of its limit.
    """
    wanted = torch.full((len(view.seed),), queries, dtype=torch.int64, device=view.seed.device)
    if not view.limit:
        return wanted
    granted = (view.limit - view.counts.forward[view.index]) // view.draws
    return torch.minimum(wanted, granted.clamp(min=0))
