"""A network that an attacker trains to imitate a purifier, so that BPDA has a gradient to follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.seeds import fold, integers
from robustbench_gan.training import Stateful, going_on


class Encoder(nn.Module):
    """An encoder and decoder of two layers each: (N, C, H, W) to images in [0, 1], by way of `code` numbers."""

    def __init__(self, shape: tuple[int, int, int], *, width: int = 256, code: int = 64) -> None:
        super().__init__()
        self.shape, pixels = shape, math.prod(shape)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, code), nn.ReLU(),
            nn.Linear(code, width), nn.ReLU(), nn.Linear(width, pixels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The imitated answer of the purifier."""
        return torch.sigmoid(self.layers(x)).view(-1, *self.shape)


def imitate(
    network: nn.Module, x: Tensor, purified: Tensor, *, steps: int, batch_size: int, lr: float, seed: int
) -> float:
    """Train the network in place on pairs (x, purified), both (N, C, H, W), by mean squared error.

    Returns the error of the last batch. Batches are functions of (seed, step); the rate falls to 0 along a cosine.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rows = torch.arange(batch_size, device=x.device)
    network.train()
    parts: dict[str, Stateful] = {"network": network, "adam": optimiser, "cosine": schedule}
    with torch.enable_grad(), going_on("imitating the purifier", steps, seed=seed, parts=parts) as run:
        for step in run:
            picked = integers(fold(rows, "encoder", seed, step), len(x))
            error = F.mse_loss(network(x[picked]), purified[picked])
            optimiser.zero_grad(set_to_none=True)
            error.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            run.notes["error"] = error.detach()
    network.eval()
    return run.notes["error"].item()
