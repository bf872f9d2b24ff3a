"""Training: the loop that goes on where it was killed, the store of what was trained, and what defenses learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.base.public import offered

if TYPE_CHECKING:
    from robustbench_gan.base import machine, progress
    from robustbench_gan.base.digests import code_digest, module_digest
    from robustbench_gan.models.schedule import Schedule, Shape, schedule_of, trained
    from robustbench_gan.training.checkpoint import Checkpoint, Stateful, kept, restore, state_of, unfinished
    from robustbench_gan.training.loop import (
        EVALUATION_BATCH,
        BatchLoss,
        Diverged,
        accuracy,
        batches,
        classifier_recipe,
        cross_entropy,
        going_on,
        optimise,
        train_classifier,
    )
    from robustbench_gan.training.networks import device_of, freeze, fresh, reinitialised
    from robustbench_gan.training.store import Artifact, Build, Store, recipe_key
    from robustbench_gan.training.workshop import Workshop

__all__ = [
    "EVALUATION_BATCH", "Artifact", "BatchLoss", "Build", "Checkpoint", "Diverged", "Schedule", "Shape",
    "Stateful", "Store", "Workshop", "accuracy", "batches", "classifier_recipe", "code_digest",
    "cross_entropy", "device_of", "freeze", "fresh", "going_on", "kept", "machine", "module_digest",
    "optimise", "progress", "recipe_key", "reinitialised", "restore", "schedule_of", "state_of",
    "train_classifier", "trained", "unfinished",
]  # fmt: skip
__getattr__ = offered(__name__)
