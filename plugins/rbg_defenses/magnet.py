"""MagNet: move the input to the manifold of clean images with an autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan import registry
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.defense import Defense
from robustbench_gan.errors import UsageError
from robustbench_gan.models import Schedule
from robustbench_gan.store import Store
from robustbench_gan.training import fresh, optimise

RECIPE_VERSION = 1


class Autoencoder(nn.Module):
    """Autoencoder I of MagNet (Meng and Chen 2017, Table 2): 3x3 convolutions, one average pooling, sigmoids."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = [(channels, width), (width, width), (width, width), (width, width)]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in sizes)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to the same; H and W even."""
        first, second, third, fourth = self.convolutions
        h = F.avg_pool2d(torch.sigmoid(first(x)), 2)
        h = torch.sigmoid(third(torch.sigmoid(second(h))))
        h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.last(torch.sigmoid(fourth(h))))


class MagNet(Defense):
    """MagNet's reformer (Meng and Chen 2017, section 4.3): an autoencoder that learned to remove noise.

    Trained on x + `noise` * N(0, 1), clipped, to give x back, by mean squared error. `width` is the number of
    channels of its hidden layers. Differentiable throughout and not random. Raises UsageError for an image
    whose sides are odd.
    """

    purifies = True

    def __init__(
        self,
        base: nn.Module,
        *,
        width: int = 3,
        noise: float = 0.1,
        epochs: int = 100,
        batch_size: int = 256,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(base)
        if width < 1 or noise < 0:
            raise UsageError(f"magnet needs width >= 1 and noise >= 0, not {width} and {noise}.")
        self.width, self.noise = width, noise
        self.schedule = Schedule(epochs, batch_size, lr, one_cycle=False)
        self.reformer: nn.Module = nn.Identity()
        self.keys: dict[str, str] = {}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the autoencoder, or load it; it does not depend on the classifier."""
        channels, height, width = data.shape
        if height % 2 or width % 2:
            raise UsageError(f"magnet needs images with even sides, not {height}x{width}.")
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "code": registry.module_digest(type(self)),
            "width": self.width,
            "noise": self.noise,
            "schedule": vars(self.schedule),
            "data": data.digest,
            "seed": seed,
        }
        network = fresh(lambda: Autoencoder(channels, self.width), seed)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
        artifact = store.fetch("magnet-reformer", recipe, lambda: self._build(network, data, seed))
        network.load_state_dict(dict(artifact.tensors))
        self.reformer = network
        self.keys = {"reformer": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of the autoencoder."""
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The reformed image, in [0, 1]."""
        reformed: Tensor = self.reformer(x)
        return reformed.clamp(0, 1)

    def parts(self) -> dict[str, nn.Module]:
        """The autoencoder, as `reformer`."""
        return {"reformer": self.reformer}

    def _build(
        self, network: nn.Module, data: Dataset, seed: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        def loss(x: Tensor, _: Tensor) -> Tensor:
            noisy = (x + self.noise * torch.randn_like(x)).clamp(0, 1)
            return F.mse_loss(network(noisy), x)

        seconds = optimise(
            network, data.train, loss, self.schedule, seed=seed, description="magnet autoencoder"
        )
        with torch.no_grad():
            x = data.validation.pixels(slice(0, 1000)).to(next(network.parameters()).device)
            error = F.mse_loss(network(x), x).item()
        return network.state_dict(), {"validation_mse": error, "seconds": seconds}
