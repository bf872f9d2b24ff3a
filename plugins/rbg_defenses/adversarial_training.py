"""Adversarial training: the classifier is trained anew on the examples of an attack."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_defenses._pairs import InnerAttack
from robustbench_gan.contracts import (
    Bare,
    Budget,
    Dataset,
    Defense,
    Goal,
    Norm,
    Spec,
    UsageError,
    View,
    as_params,
    registry,
)
from robustbench_gan.seeds import integers, sample_seeds
from robustbench_gan.training import (
    Checkpoint,
    Schedule,
    Store,
    accuracy,
    classifier_recipe,
    code_digest,
    device_of,
    freeze,
    fresh,
    module_digest,
    optimise,
    recipe_key,
    reinitialised,
    schedule_of,
    train_classifier,
)

RECIPE_VERSION = 1


class AdversarialTraining(Defense):
    """Adversarial training (Goodfellow et al. 2015; Madry et al. 2018): a fresh classifier learns from attacks.

    `attack` is any registered attack that needs no training and no purifier, run on the weights of the moment inside
    `norm` and `eps`. `mix` in [0, 1] is the weight of the adversarial loss against the clean one: 0.5 for FGSM as in
    the Defense-GAN baseline, 1 for PGD as in Madry et al. `labels=predicted` crafts against the model's own answer,
    so that no label leaks. `warmup` in [0, 1) is the share of training over which eps grows from 0.

    `ensemble` (Tramer et al. 2018) names registered classifiers, as in `a/c/d`: each batch is crafted on one of them,
    trained on clean images and frozen, or on the model in training, drawn uniformly; `predicted` are then the labels
    of the one it is crafted on. The paper's: `ensemble=a/c/d,eps=0.3,epochs=12,batch_size=64,one_cycle=false`.
    The papers train at a constant rate, `one_cycle=false`; by default it rises and falls as it does for every other
    classifier here. A training that is killed goes on where it was.
    Raises UsageError for an impossible value.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        attack: str = "fgsm",
        norm: Norm = "linf",
        eps: float = 0.3,
        mix: float = 0.5,
        labels: Literal["predicted", "true"] = "predicted",
        warmup: float = 0.0,
        epochs: int = 10,
        batch_size: int = 50,
        lr: float = 1e-3,
        one_cycle: bool = True,
        ensemble: str = "",
    ) -> None:
        super().__init__(base)
        if not 0 <= mix <= 1 or not 0 <= warmup < 1:
            raise UsageError(
                f"adversarial-training needs mix in [0, 1] and warmup in [0, 1), not {mix}, {warmup}."
            )
        if epochs < 1 or batch_size < 1 or lr <= 0:
            raise UsageError(
                "adversarial-training needs epochs and batch_size >= 1 and lr > 0, not "
                f"{epochs}, {batch_size} and {lr}."
            )
        self.inner = InnerAttack.named(attack, norm, eps, by="adversarial-training")
        self.mix, self.labels, self.warmup = mix, labels, warmup
        self.schedule = Schedule(epochs, batch_size, lr, one_cycle)
        self.ensemble = [Source(name) for name in str(ensemble).split("/")] if ensemble else []
        self.keys: dict[str, str] = {}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the classifier, or load it. Its recipe holds the inner attack with every parameter."""
        recipe: dict[str, Any] = {
            "recipe_version": RECIPE_VERSION,
            "architecture_of": self.base_key,
            "code": module_digest(type(self)),
            **self.inner.recipe,
            "mix": self.mix,
            "labels": self.labels,
            "warmup": self.warmup,
            "schedule": vars(self.schedule),
            "data": data.digest,
            "seed": seed,
        }
        if self.ensemble:  # absent otherwise: whoever has no ensemble has the recipe of before
            recipe["ensemble"] = [recipe_key("classifier", s.recipe(data, seed)) for s in self.ensemble]
        model = copy.deepcopy(self.base)
        checkpoint = Checkpoint.of(store, "adversarial-training", recipe, every=200)

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            sources = [s.trained(data, seed, store, device_of(model)) for s in self.ensemble]
            reinitialised(model.requires_grad_(True), seed)
            seconds = self._train(model, data, seed, checkpoint, sources)
            return model.state_dict(), {
                "validation_accuracy": accuracy(model, data.validation),
                "seconds": seconds,
            }

        artifact = store.fetch("adversarial-training", recipe, build)
        checkpoint.clear()
        model.load_state_dict(dict(artifact.tensors))
        self.core = model
        self.keys = {"core": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of the trained classifier."""
        return self.keys

    def _train(
        self,
        model: nn.Module,
        data: Dataset,
        seed: int,
        checkpoint: Checkpoint | None = None,
        sources: Sequence[nn.Module] = (),
    ) -> float:
        steps = self.schedule.epochs * -(-len(data.train) // self.schedule.batch_size)
        done = 0

        def loss(x: Tensor, y: Tensor) -> Tensor:
            nonlocal done
            grown = min(1.0, done / (self.warmup * steps)) if self.warmup else 1.0
            done += 1
            attacked_on = _drawn([*sources, model], seed + done)
            target = attacked_on(x).argmax(dim=1) if self.labels == "predicted" else y
            adversarial = self._craft(
                attacked_on, x, target.detach(), self.inner.budget.eps * grown, seed + done
            )
            if self.mix == 1:
                return F.cross_entropy(model(adversarial), y)
            both = F.cross_entropy(model(torch.cat([x, adversarial])), torch.cat([y, y]), reduction="none")
            clean, attacked = both.chunk(2)
            return (1 - self.mix) * clean.mean() + self.mix * attacked.mean()

        def on_resume(steps_made: int) -> None:
            nonlocal done
            done = steps_made

        return optimise(
            model, data.train, loss, self.schedule, seed=seed,
            description=f"adversarial training ({self.inner.spec.name}, eps {self.inner.budget.eps:g})",
            checkpoint=checkpoint, on_resume=on_resume,
        )  # fmt: skip

    def _craft(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        """The attack on the weights of the moment, layers such as dropout in the mode they train in."""
        seeds = sample_seeds(seed, "adversarial-training", torch.arange(len(x), device=x.device))
        view = View.on(Bare(model), seeds, whole_batches=True)
        budget = Budget(self.inner.budget.norm, eps)
        crafted: Tensor = self.inner.function(
            view, x, Goal.untargeted(y), budget, seeds, **self.inner.parameters
        )
        return crafted.detach()


class Source:
    """A classifier of an ensemble by its spec, trained on clean images by its own standard recipe."""

    def __init__(self, spec: str) -> None:
        if not spec.strip():
            raise UsageError("adversarial-training: ensemble wants registered classifiers, as in a/c/d.")
        named = Spec.parse(spec)
        self.factory, self.parameters = registry.resolve("models", named)
        self.spec = str(Spec(named.name, as_params(self.parameters)))

    def recipe(self, data: Dataset, seed: int) -> dict[str, Any]:
        """The recipe of any classifier, so that one already in the store serves here as well."""
        schedule, code = schedule_of(self.factory), code_digest(self.factory)
        return classifier_recipe(self.spec, schedule, data, seed, code)

    def trained(self, data: Dataset, seed: int, store: Store, device: torch.device) -> nn.Module:
        """The frozen classifier, trained or loaded."""
        model = fresh(lambda: self.factory(data.shape, len(data.classes), **self.parameters), seed).to(device)

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            name, schedule = f"training {self.spec} for an ensemble", schedule_of(self.factory)
            facts = train_classifier(model, data, schedule, seed=seed, description=name)
            return model.state_dict(), facts

        model.load_state_dict(dict(store.fetch("classifier", self.recipe(data, seed), build).tensors))
        return freeze(model)


def _drawn(models: Sequence[nn.Module], seed: int) -> nn.Module:
    """One of the models, each as likely."""
    if len(models) == 1:
        return models[0]
    drawn = sample_seeds(seed, "ensemble", torch.zeros(1, dtype=torch.int64))
    return models[int(integers(drawn, len(models)))]
