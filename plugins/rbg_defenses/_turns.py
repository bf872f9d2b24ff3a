"""Training in turns: networks that translate images against networks that tell the translations apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustbench_gan.contracts import Samples, Split, UsageError
from robustbench_gan.training import EVALUATION_BATCH, Diverged, Schedule, Stateful, device_of, going_on

MEASURED = 1000  # validation images that a trained purifier's facts are measured on
BETAS = (0.5, 0.999)  # pix2pix's Adam, and that of every translation GAN after it


def checked(name: str, epochs: int, batch_size: int, lr: float) -> Schedule:
    """A schedule at a constant rate. Raises UsageError for an impossible one."""
    if epochs < 1 or batch_size < 2 or lr <= 0:
        raise UsageError(
            f"{name} needs epochs >= 1, batch_size >= 2 and lr > 0, not {epochs}, {batch_size} and {lr}."
        )
    return Schedule(epochs, batch_size, lr, one_cycle=False)


class Player:
    """Networks that one optimiser trains; a loss moves no weights but theirs."""

    def __init__(self, name: str, lr: float, *networks: nn.Module) -> None:
        self.name, self.networks = name, networks
        self.weights = [p for network in networks for p in network.train().parameters()]
        self.optimiser = torch.optim.Adam(self.weights, lr, BETAS)

    def lower(self, loss: Tensor) -> None:
        """Take one step down a scalar loss. Raises Diverged when it is not a number."""
        if not torch.isfinite(loss):
            raise Diverged(f"the loss of the {self.name} became {loss.item()}")
        for weight, slope in zip(self.weights, torch.autograd.grad(loss, self.weights), strict=True):
            weight.grad = slope
        self.optimiser.step()


def take_turns(
    turn: Callable[[int, Tensor, Tensor], None],
    players: Sequence[Player],
    samples: Samples,
    schedule: Schedule,
    *,
    seed: int,
    description: str,
) -> float:
    """Call `turn(step, x, y)` on every batch of every epoch, in an order that `seed` decides; returns the seconds.

    A turn changes nothing but the `players`: what was killed goes on from their state.
    """
    steps = schedule.epochs * math.ceil(len(samples) / schedule.batch_size)
    parts: dict[str, Stateful] = {
        f"{player.name}/{at}": network for player in players for at, network in enumerate(player.networks)
    }
    parts |= {f"{player.name}/adam": player.optimiser for player in players}
    with going_on(description, steps, seed=seed, parts=parts) as run:
        for step, x, y in run.batches(samples, schedule.batch_size, seed):
            turn(step, x, y)
    return run.seconds


@torch.no_grad()
def accuracies(model: nn.Module, purifier: nn.Module, held: Split, attacked: Tensor) -> dict[str, float]:
    """A classifier's accuracy behind a purifier on held-out images and on `attacked`, (N, C, H, W), made of them.

    The last one is its accuracy on those without the purifier.
    """
    device, right = device_of(model), dict.fromkeys(("", "_attacked", "_attacked_undefended"), 0)
    for index in torch.arange(len(held)).split(EVALUATION_BATCH):
        y, harmed = held.labels[index].to(device), attacked[index].to(device)
        given = purifier(held.pixels(index).to(device)), purifier(harmed), harmed
        for name, x in zip(right, given, strict=True):
            right[name] += int((model(x).argmax(dim=1) == y).sum())
    return {f"validation_accuracy{name}": count / len(held) for name, count in right.items()}
