"""Defense-GAN: replace the input by the nearest image that a generator of clean images can make."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rbg_defenses._detector import distance, quantile, validation_errors
from rbg_defenses._frozen import FrozenGenerator
from rbg_defenses._projection import Projection, Unrolled, descend
from rbg_defenses._rebuilt_classifier import learn_from
from rbg_defenses._reconstructions import Reconstructions, purified
from rbg_defenses._sizes import not_generated
from rbg_defenses._wgan import Generator, WganRecipe, train_generator
from robustbench_gan.contracts import Dataset, Defense, Gradient, Output, UsageError, correct
from robustbench_gan.training import (
    Artifact,
    Checkpoint,
    Schedule,
    Store,
    device_of,
    freeze,
    fresh,
    machine,
    module_digest,
)

RECIPE_VERSION = 1
Preset = Literal["ref", "paper", "clean"]


class DefenseGAN(Defense):
    """Defense-GAN (Samangouei et al. 2018, eq. 8): classify G(z*), z* the code whose image is nearest the input.

    `preset` chooses the projection: `ref` as the reference code runs it, `paper` with the decay of the rate that
    the paper intends, `clean` from the generator's own prior and with the last update used. `iterations` is L,
    `restarts` R, `lr` the rate on the mean squared error over pixels in [0, 1], `momentum` in [0, 1) that of the
    descent. `init` overrides the preset's initial codes: `small` draws them from N(0, 1/k), as the reference code does,
    `prior` from N(0, I), which the generator was trained on.
    How it is computed: `precision=bf16` uses bfloat16 where the processor has it and chooses among the restarts in
    float32. `prune` keeps of an image's restarts the best 60% (rounded up) after a tenth of the iterations, 30% after
    a quarter and 20% after a half: at R = 10 that is 36% of the work; from the prior's codes it keeps 80%, 50% and
    30%, half of the work. With neither it is the published algorithm to rounding. Memory is bounded: at most 250 codes
    on a CPU and 16,384 on a GPU are in the generator at once, each about 0.4 MB at width 64.
    The generator is trained by WGAN-GP once per recipe, and goes on from its last checkpoint when killed; nothing
    named before retrains it. `width` are the channels of its last hidden layer, `latent` is k. It sees `gan_steps`
    updates, each after `critic_steps` of the critic on `gan_batch` images, by Adam at `gan_lr`, which `gan_decay` lets
    fall to 0 over the second half; `ema` in [0, 1) keeps an average of its weights. `gp` is the gradient penalty's
    norm: of the whole image as in Gulrajani et al. 2017 (`norm`, the default), or of each image column, which the
    reference code takes (`column`). Unlike there its networks start from torch's own initial weights, every batch is
    drawn anew from the training images instead of in shuffled passes, and in each step the critic learns before the
    generator.
    `classifier` has learned from originals (`orig`: the given one), from reconstructions (`rec`) or from `both`;
    those two are trained anew for `classifier_epochs` on the first `rec_images` training images, rebuilt once for
    every classifier as `ref` does it but from initial codes like those at test time, with `rec_iterations`,
    `rec_restarts`, prune and bf16, whatever L and R are there, at a rate that rises and falls as it does for every
    other classifier here. With `orig` two of the four clean accuracies exist, with `rec` and `both` all are recorded.
    `detect_fpr` in (0, 1) rejects inputs that lie farther from their reconstruction than that share of the first 1,000
    validation images does (eq. 9); 0 rejects none. Random: the initial codes come from the seed. Raises UsageError for
    an impossible value.
    """

    purifies = True
    randomised = True
    unrolls = True

    def __init__(
        self,
        base: nn.Module,
        *,
        preset: Preset = "ref",
        iterations: int = 200,
        restarts: int = 10,
        lr: float = 10.0,
        momentum: float = 0.7,
        init: Literal["preset", "small", "prior"] = "preset",
        prune: bool = False,
        precision: Literal["float32", "bf16"] = "float32",
        width: int = 64,
        latent: int = 128,
        gan_steps: int = 200_000,
        gan_batch: int = 50,
        gan_lr: float = 1e-4,
        critic_steps: int = 5,
        gp: Literal["norm", "column"] = "norm",
        ema: float = 0.0,
        gan_decay: bool = False,
        classifier: Literal["orig", "rec", "both"] = "orig",
        classifier_epochs: int = 10,
        rec_images: int = 50_000,
        rec_iterations: int = 200,
        rec_restarts: int = 10,
        detect_fpr: float = 0.0,
    ) -> None:
        super().__init__(base)
        if iterations < 1 or restarts < 1 or lr <= 0 or not 0 <= momentum < 1 or width < 1 or latent < 1:
            raise UsageError(
                "defense-gan needs iterations, restarts, width and latent >= 1, lr > 0, momentum in [0, 1); "
                f"not {iterations}, {restarts}, {width}, {latent}, {lr}, {momentum}."
            )
        if min(rec_images, rec_iterations, rec_restarts, classifier_epochs) < 1 or not 0 <= detect_fpr < 1:
            raise UsageError(
                "defense-gan needs rec_images, rec_iterations, rec_restarts and classifier_epochs >= 1 and "
                f"detect_fpr in [0, 1) (0: no detector); not {rec_images}, {rec_iterations}, {rec_restarts}, "
                f"{classifier_epochs}, {detect_fpr}."
            )
        own = "prior" if preset == "clean" else "small"
        self.projection = Projection(
            iterations, restarts, lr, momentum,
            init=own if init == "preset" else init,  # type: ignore[arg-type]
            decay=preset == "paper", after_last=preset == "clean", prune=prune, bf16=precision == "bf16",
        )  # fmt: skip
        self.for_training = Projection(
            rec_iterations, rec_restarts, init=self.projection.init, prune=True, bf16=True
        )
        self.recipe = WganRecipe(
            width, latent, gan_steps, critic_steps, gan_batch, gan_lr, gp=gp, ema=ema, decay=gan_decay
        )
        self.classifier, self.rec_images, self.detect_fpr = classifier, rec_images, detect_fpr
        self.schedule = Schedule(classifier_epochs)
        self.detectors = ("reconstruction",) if detect_fpr else ()
        self.generator: nn.Module = nn.Identity()
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(torch.inf))
        self.keys: dict[str, str] = {}

    def precision(self) -> Mapping[str, str]:
        """A projection asked for in bfloat16 is one in float32 where the processor would emulate that."""
        here = not self.projection.bf16 or machine.multiplies_bfloat16(device_of(self.base))
        return {} if here else {"bf16": "float32"}

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """Through the last updates, BPDA with the identity (Athalye et al. 2018), and through all updates."""
        return ("truncated", "bpda", "full")

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        """The generator makes some sizes alone."""
        return not_generated(shape, "defense-gan")

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the generator on the training images, or load it; then what stands on it.

        The generator does not depend on the classifier. Raises UsageError where a classifier of its own would take
        the place of one that another defense trained.
        """
        if self.classifier != "orig" and self.on_trained:
            raise UsageError(
                f"defense-gan:classifier={self.classifier} trains a classifier of its own and cannot stand in front "
                "of a defense that trained one: leave out one of the two, or write classifier=orig."
            )
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "gan": asdict(self.recipe),
            "code": module_digest(Generator),
            "data": data.digest,
            "seed": seed,
        }
        device = device_of(self.base)
        network = fresh(lambda: Generator(data.shape, self.recipe.width, self.recipe.latent), seed)
        assert isinstance(network, Generator)
        checkpoint = Checkpoint.of(store, "wgan-gp", recipe)

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            info = train_generator(network.to(device), data.shape, data.train, self.recipe, seed, checkpoint)
            return network.state_dict(), info

        artifact = store.fetch("wgan-gp", recipe, build)
        checkpoint.clear()
        network.load_state_dict(dict(artifact.tensors))
        self.generator = freeze(FrozenGenerator(network.to(device)))
        self.keys = {"generator": artifact.key}
        if self.classifier != "orig":
            trained = self._trained_classifier(data, seed, store)
            self.keys["classifier"] = trained.key
        if self.detect_fpr:
            recipe = self._projected_by(data, self.projection)
            errors = validation_errors(self.purify, recipe, data, seed, store, device)
            self.keys["errors"] = errors.key
            self.threshold = quantile(errors.tensors["errors"], self.detect_fpr).to(device)

    def training_keys(self) -> dict[str, str]:
        """The keys of the generator, of the classifier where it is trained here, and of the detector's errors."""
        return self.keys

    def parts(self) -> dict[str, nn.Module]:
        """The generator, codes (N, latent) to images, as `generator`; what classifies its images as `classifier`."""
        return {"generator": self.generator, "classifier": self.core}

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The nearest image found, in [0, 1]; under autograd its exact gradient, through every update."""
        if torch.is_grad_enabled() and x.requires_grad:
            return self.truncated(x, seed, self.projection.updates)
        return self._nearest(x, seed, self.projection)

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        """The same image with the gradient through the last `steps` updates."""
        start = self._start(x, seed, self.projection)
        z = Unrolled.apply(x, start, self.generator, self.projection, steps)  # type: ignore[no-untyped-call]
        image: Tensor = self.generator(z)
        return image

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        """The error of the reconstruction over its threshold, less 1: (N, 1), or (N, 0) without the detector.

        Its gradient holds the reconstruction still: at the least error over the codes, moving the code changes
        nothing to first order (the envelope theorem). The same then serves every gradient; through BPDA's
        identity, x - G(z*) would have none.
        """
        if not self.detect_fpr:
            return super().scores(x, purified, seed)
        return (distance(x, purified.detach()) / self.threshold - 1)[:, None]

    def controls(self, x: Tensor, y: Tensor, seed: Tensor) -> dict[str, float]:
        """Where the classifier is not the given one: it alone (`classifier_rec`), the given one defended.

        With the classifier alone and the defended system, which every record has, these are the four clean
        accuracies of Rec and Orig. Inputs that the detector rejects count as errors.
        """
        if self.core is self.base:
            return {}
        alone, defended = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
        for rows, image in purified(self.purify, x, seed):
            alone[rows] = correct(Output.of(self.core(x[rows])), y[rows])
            scores = self.scores(x[rows], image, seed[rows])
            defended[rows] = correct(Output(self.base(image), scores), y[rows])
        return {
            f"classifier_{self.classifier}": float(alone.double().mean()),
            "defended_orig": float(defended.double().mean()),
        }

    def _start(self, x: Tensor, seed: Tensor, how: Projection) -> Tensor:
        return how.start(seed.to(x.device), self.recipe.latent)

    @torch.no_grad()
    def _nearest(self, x: Tensor, seed: Tensor, how: Projection) -> Tensor:
        z, _, _ = descend(self.generator, x, self._start(x, seed, how), how)
        image: Tensor = self.generator(z)
        return image

    def _projected_by(self, data: Dataset, how: Projection) -> dict[str, Any]:
        """What decides the reconstruction of an image, but for the image and its seed."""
        return {
            "recipe_version": RECIPE_VERSION,
            "generator": self.keys["generator"],
            "projection": asdict(how),
            "code": [module_digest(Projection), module_digest(FrozenGenerator)],
            "bf16": how.bf16 and machine.multiplies_bfloat16(device_of(self.base)),
            "data": data.digest,
        }

    def _trained_classifier(self, data: Dataset, seed: int, store: Store) -> Artifact:
        """Make `core` a classifier of the given one's architecture, trained on reconstructions, with the originals
        beside them for `both`."""

        def purify(x: Tensor, s: Tensor) -> Tensor:
            return self._nearest(x, s, self.for_training)

        made_by = Reconstructions(
            purify, self._projected_by(data, self.for_training), store, device_of(self.base)
        )
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "architecture_of": self.base_key,
            "code": [module_digest(type(self)), module_digest(learn_from)],
            "classifier": self.classifier,
            "reconstructions": made_by.keys(data.train, "train", self.rec_images, seed),
            "images": min(self.rec_images, len(data.train)),
            "schedule": asdict(self.schedule),
            "data": data.digest,
            "seed": seed,
        }
        model = copy.deepcopy(self.base)

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            return learn_from(made_by, model, data, self.classifier, self.rec_images, self.schedule, seed)

        artifact = store.fetch("defense-gan-classifier", recipe, build)
        model.load_state_dict(dict(artifact.tensors))
        self.core = freeze(model)
        return artifact
