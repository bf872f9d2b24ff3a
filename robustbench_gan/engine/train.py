"""`rbg train`: models and defenses trained by name, with their accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.text import Text

from robustbench_gan.base import progress
from robustbench_gan.base.errors import UsageError, unknown
from robustbench_gan.base.redirect import aside
from robustbench_gan.base.terminal import console_for
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.engine.live import RichReporter, live_bars
from robustbench_gan.engine.naming import canonical, check_weights, name_classifier, name_dataset
from robustbench_gan.nouns.registry import names
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Chain, Classifier, Spec, classifier_of
from robustbench_gan.training.loop import accuracy
from robustbench_gan.training.workshop import Workshop


@aside()
def train_all(
    specs: Sequence[str], workshop: Workshop, *, dataset: str, classifier: str
) -> list[dict[str, Any]]:
    """Train what each spec names, a model or a defense, and print its accuracy on all test images.

    Raises UsageError for a spec that cannot be before anything is trained.
    """
    console, done = console_for(stderr=True), []
    given = classifier_of(classifier)
    check_weights([given], workshop)
    data = name_dataset(canonical("datasets", Spec.of(dataset)), workshop)
    base = name_classifier(given, workshop)
    models = names("models")
    asked = [(text, _in_full(text, models)) for text in specs]
    with live_bars(console) as bars, progress.reporting_to(RichReporter(bars)):
        for text, found in asked:
            row: dict[str, Any] = {"spec": text}
            if isinstance(found, Spec):
                row |= _train_model(found, data, workshop)
            else:
                row |= _train_defense(found, data, base, workshop)
            done.append(row)
            facts = ", ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
            console.print(Text(f"{text}: {facts}"))
    return done


def _in_full(text: str, models: Sequence[str]) -> Spec | Chain:
    """What a text names with every parameter: a model, or defenses."""
    if ".py:" in text:
        raise UsageError(
            f"{text}: a classifier given as a file brings its own weights; train what stands on it, as in "
            f"`rbg train magnet --classifier {text} --weights FILE.safetensors`."
        )
    chain = Chain.of(text)
    if len(chain) == 1 and chain[0].name in models:
        return canonical("models", chain[0])
    if len(chain) == 1 and chain[0].name not in names("defenses"):
        raise unknown("model or defense", chain[0].name, [*models, *names("defenses")])
    return Chain(tuple(canonical("defenses", spec) for spec in chain))


def _train_model(spec: Spec, data: Spec, workshop: Workshop) -> dict[str, Any]:
    model, artifact = workshop.classifier(data, spec)
    test = accuracy(model, workshop.dataset(data).test)
    return {"key": artifact.key, "test_accuracy": test, **artifact.info}


def _train_defense(chain: Chain, data: Spec, base: Classifier, workshop: Workshop) -> dict[str, Any]:
    """A defense's own clean accuracy is measured on the first 1,000 test images: some are slow."""
    defense = workshop.defense(data, base, chain)
    x, y = workshop.images(data, 0, min(1000, len(workshop.dataset(data).test)))
    with torch.no_grad():
        out = answer(Defended(defense), x, sample_seeds(0, "train", torch.arange(len(x), device=x.device)))
    keys = dict(defense.training_keys())
    info = {f"{n}.{k}": v for n, key in keys.items() for k, v in workshop.store.used[key].info.items()}
    return {"keys": keys, "test_accuracy": float((out.labels == y).double().mean()), **info}
