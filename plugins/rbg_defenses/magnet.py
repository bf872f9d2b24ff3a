"""MagNet: move the input to the manifold of clean images with an autoencoder, and reject what lies far from it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from rbg_defenses._autoencoder import Training
from rbg_defenses._sizes import not_generated
from robustbench_gan.contracts import Dataset, Defense, UsageError
from robustbench_gan.seeds import fold, integers
from robustbench_gan.training import Schedule, Store, device_of, module_digest

RECIPE_VERSION = 1
TEMPERATURES = {"jsd-10": 10.0, "jsd-40": 40.0}
BATCH, TINY = 500, 1e-12
Networks = Literal["mnist", "cifar10", "defense-gan"]
Detectors = Literal["off", "reconstruction", "divergence", "all"]
# Width and noise as published; of Defense-GAN's baseline no noise is said.
NUMBERS: dict[str, tuple[int, float]] = {"mnist": (3, 0.1), "cifar10": (3, 0.025), "defense-gan": (64, 0.0)}
RECONSTRUCTION: dict[str, tuple[str, ...]] = {"mnist": ("l2", "l1"), "cifar10": ("l1",), "defense-gan": ()}


class MagNet(Defense):
    """MagNet (Meng and Chen 2017): an autoencoder that learned to remove noise reforms the input, detectors reject it.

    `networks`: `mnist` reforms by autoencoder I, with which the L2 detector measures mean |x - AE(x)|^2; the L1
    detector measures mean |x - AE(x)| with autoencoder II. `cifar10` has II alone, for reformer and L1; the paper's
    rates there are `fpr=0.005,divergence_fpr=0.01`. `defense-gan` is the baseline of Samangouei et al. 2018, an encoder
    (their Table 7) and a decoder, which they do not give and which is Defense-GAN's generator here: a reformer and
    nothing else. `width` (channels) and `noise` (trained on x + noise * N(0, 1), clipped, to give x back by mean
    squared error) are the published ones of these networks where none is given. Training is by Adam at a constant
    `lr`, as published, or by a cycle up to it and down to 0, `one_cycle`, for a short training whose thresholds are
    tight all the same.

    `detectors`: `reconstruction` those of L1 and L2, `divergence` those of the Jensen-Shannon divergence between the
    classifier's answers to x and AE(x) at temperatures 10 and 40, `all` both kinds. An input is rejected where any
    one fires. Each rejects the share `fpr` (`divergence_fpr`) of the validation images, and no more; neither retrains.

    `collection` > 1 trains so many of each autoencoder, `diversity` times their squared distance from their mean
    being taken off the loss after three epochs, and each sample's seed draws the one that reforms and detects: only
    then is the defense random. Every member is computed. Differentiable throughout, detectors included.

    Unlike the reference code it draws the training noise anew for each batch and puts no penalty (there 1e-9) on
    activations. Raises UsageError for an impossible value, or images that the networks cannot make.
    """

    purifies = True

    def __init__(
        self,
        base: nn.Module,
        *,
        networks: Networks = "mnist",
        width: int | None = None,
        noise: float | None = None,
        epochs: int = 100,
        batch_size: int = 256,
        lr: float = 1e-3,
        one_cycle: bool = False,
        detectors: Detectors = "off",
        fpr: float = 0.001,
        divergence_fpr: float = 0.001,
        collection: int = 1,
        diversity: float = 0.2,
    ) -> None:
        super().__init__(base)
        usual = NUMBERS[networks]
        width, noise = usual[0] if width is None else width, usual[1] if noise is None else noise
        _check(width, noise)
        if epochs < 1 or batch_size < 1 or lr <= 0:
            raise UsageError(
                f"magnet needs epochs and batch_size >= 1 and lr > 0, not {epochs}, {batch_size}, {lr}."
            )
        if not (0 <= fpr < 1 and 0 <= divergence_fpr < 1):
            raise UsageError(
                f"magnet needs fpr and divergence_fpr in [0, 1), not {fpr} and {divergence_fpr}."
            )
        if collection < 1 or diversity < 0:
            raise UsageError(
                f"magnet needs collection >= 1 and diversity >= 0, not {collection}, {diversity}."
            )
        self.detectors = _detectors(networks, detectors)
        self.rates = tuple(divergence_fpr if name in TEMPERATURES else fpr for name in self.detectors)
        # Read from the instance: one autoencoder is not random, several are.
        self.randomised = collection > 1  # type: ignore[misc]
        schedule = Schedule(epochs, batch_size, lr, one_cycle)
        first: Literal["I", "II", "defense-gan"] = (
            "I" if networks == "mnist" else "II" if networks == "cifar10" else "defense-gan"
        )
        self.trainings = {"reformer": Training(first, width, float(noise), schedule, collection, diversity)}
        if networks == "mnist" and "l1" in self.detectors:
            self.trainings["detector"] = Training("II", width, float(noise), schedule, collection, diversity)
        self.autoencoders = nn.ModuleDict()
        self.prober: nn.Module = base
        self.thresholds: Tensor
        self.register_buffer("thresholds", torch.ones(collection, len(self.detectors)))
        self.keys: dict[str, str] = {}

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        """Autoencoder I halves the image, and the generator makes some sizes alone."""
        _, height, width = shape
        architecture = self.trainings["reformer"].architecture
        if architecture == "I" and (height % 2 or width % 2):
            return (
                f"magnet needs images with even sides, not {height}x{width}: resize the data or take networks=cifar10, "
                "which does not pool"
            )
        return not_generated(shape, "magnet:networks=defense-gan") if architecture == "defense-gan" else ""

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the autoencoders, or load them, and read the thresholds off the validation images.

        The autoencoders do not depend on the classifier; the marks of the divergence detectors do.
        """
        self.keys, self.prober, device = {}, self.core, device_of(self.base)
        for name, training in self.trainings.items():
            self.autoencoders[name], artifact = training.fetch(data, seed, store, device)
            self.keys[name] = artifact.key
        if self.detectors:
            recipe = {
                "recipe_version": RECIPE_VERSION,
                "code": module_digest(type(self)),
                "detectors": self.detectors,
                "autoencoders": self.keys,
                "classifier": self.base_key if self._probes else None,
            }
            marks = store.fetch("magnet-marks", recipe, lambda: (self._validation_marks(data, device), {}))
            each = [
                threshold(marks.tensors[n], rate) for n, rate in zip(self.detectors, self.rates, strict=True)
            ]
            self.thresholds = torch.stack(each, dim=1).to(device)
            self.keys = {**self.keys, "marks": marks.key}

    def training_keys(self) -> dict[str, str]:
        """The keys of the autoencoders, and of the validation images' marks that thresholds are read off."""
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The reformed image, in [0, 1]."""
        return self._rebuilt("reformer", x, self._drawn(seed))

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        """Each detector's mark over its threshold, less 1: (N, M).

        Under autograd the input is reformed once more: with BPDA `purified` carries the gradient of its stand-in,
        with the identity's x - AE(x) would have none.
        """
        if not self.detectors:
            return super().scores(x, purified, seed)
        drawn = self._drawn(seed)
        reformed = self._rebuilt("reformer", x, drawn) if purified.requires_grad else purified
        other = self._rebuilt("detector", x, drawn) if "detector" in self.trainings else reformed
        return self._marks(x, reformed, other) / self.thresholds[drawn] - 1

    def parts(self) -> dict[str, nn.Module]:
        """The reforming autoencoder as `reformer`; each of a collection as `reformer-0`, `reformer-1` and so on."""
        members = self._members("reformer") if self.keys else [nn.Identity()]
        if len(members) == 1:
            return {"reformer": members[0]}
        return {f"reformer-{at}": member for at, member in enumerate(members)}

    def _members(self, name: str) -> list[nn.Module]:
        return list(self.autoencoders[name].children())

    def _drawn(self, seed: Tensor) -> Tensor:
        """Which of the collection serves each sample, (N,) int64."""
        return integers(fold(seed, "magnet"), len(self.thresholds))

    def _rebuilt(self, name: str, x: Tensor, drawn: Tensor) -> Tensor:
        """What each sample's own autoencoder makes of it; all are run, so that no shape depends on the draw."""
        made = [member(x).clamp(0, 1) for member in self._members(name)]
        return made[0] if len(made) == 1 else torch.stack(made)[drawn, torch.arange(len(x), device=x.device)]

    def _marks(self, x: Tensor, reformed: Tensor, other: Tensor) -> Tensor:
        """Each detector's mark, (N, M), from the images that the two autoencoders make of x."""
        columns = []
        if self._probes:
            here, there = self.prober(x), self.prober(reformed)
        for name in self.detectors:
            if name in TEMPERATURES:
                columns.append(jensen_shannon(here, there, TEMPERATURES[name]))
            elif name == "l2":
                columns.append((x - reformed).square().flatten(1).mean(dim=1))
            else:
                columns.append((x - other).abs().flatten(1).mean(dim=1))
        return torch.stack(columns, dim=1)

    @property
    def _probes(self) -> bool:
        """Does any detector ask the classifier?"""
        return not TEMPERATURES.keys().isdisjoint(self.detectors)

    @torch.no_grad()
    def _validation_marks(self, data: Dataset, device: torch.device) -> dict[str, Tensor]:
        """Every detector's marks of the validation images, (collection, V), largest first."""
        pieces = []
        for index in torch.arange(len(data.validation)).split(BATCH):
            x = data.validation.pixels(index).to(device)
            made = [[member(x) for member in self._members(name)] for name in self.trainings]
            marks = [self._marks(x, first, last) for first, last in zip(made[0], made[-1], strict=True)]
            pieces.append(torch.stack(marks))
        sorted_ = torch.cat(pieces, dim=1).sort(dim=1, descending=True).values
        return dict(zip(self.detectors, sorted_.unbind(dim=2), strict=True))


def threshold(marks: Tensor, rate: float) -> Tensor:
    """The mark that a share `rate` of these, (..., V) largest first, exceeds: rounded down to whole images."""
    return marks[..., math.floor(marks.shape[-1] * rate + 1e-9)].clamp(min=TINY)


def jensen_shannon(logits: Tensor, others: Tensor, temperature: float) -> Tensor:
    """The Jensen-Shannon divergence (N,), in nats, of softmax(logits / T) and softmax(others / T) (section 4.2.2).

    In float64: at T = 40 the two are so alike that float32 would leave rounding.
    """
    p, q = ((z.double() / temperature).log_softmax(dim=1) for z in (logits, others))
    middle = torch.logaddexp(p, q) - math.log(2)
    both = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(dim=1)
    return (both / 2).float()


def _detectors(networks: str, asked: str) -> tuple[str, ...]:
    """The names of the detectors asked for. Raises UsageError where the networks have none."""
    if asked != "off" and not RECONSTRUCTION[networks]:
        raise UsageError(f"magnet's networks={networks} have no detectors, so detectors=off, not {asked}.")
    names: tuple[str, ...] = RECONSTRUCTION[networks] if asked in ("reconstruction", "all") else ()
    return names + (tuple(TEMPERATURES) if asked in ("divergence", "all") else ())


def _check(width: object, noise: object) -> None:
    """Raises UsageError for what no autoencoder can be made or trained with."""
    numbers = type(width) is int and type(noise) in (int, float)
    if not numbers or width < 1 or not 0 <= noise < math.inf:  # type: ignore[operator]
        raise UsageError(f"magnet needs width >= 1 and noise >= 0, not {width} and {noise}.")
