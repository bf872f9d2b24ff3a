"""What a plugin touches: attacks, defenses, threat models and views, with the nouns that these speak in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.base.public import offered

if TYPE_CHECKING:
    from robustbench_gan.base.batching import micro_batches
    from robustbench_gan.base.errors import NotApplicable, UsageError, unknown
    from robustbench_gan.contracts.attacks import AttackInfo, TrainedAttack, Training, attack, info_of
    from robustbench_gan.contracts.defense import Defense
    from robustbench_gan.contracts.gradients import Gradient, Surrogate
    from robustbench_gan.contracts.systems import Bare, Defended, System
    from robustbench_gan.contracts.threat import ThreatModel
    from robustbench_gan.contracts.view import View, blend
    from robustbench_gan.data.dataset import Dataset, Split
    from robustbench_gan.data.samples import Samples
    from robustbench_gan.nouns import registry
    from robustbench_gan.nouns.budget import TINY, Budget, Norm, flat, norm_of, per_sample
    from robustbench_gan.nouns.outcome import REJECTED, Goal, Loss, Output, correct
    from robustbench_gan.nouns.spec import Spec, as_params

__all__ = [
    "REJECTED", "TINY", "AttackInfo", "Bare", "Budget", "Dataset", "Defended", "Defense", "Goal",
    "Gradient", "Loss", "Norm", "NotApplicable", "Output", "Samples", "Spec", "Split", "Surrogate",
    "System", "ThreatModel", "TrainedAttack", "Training", "UsageError", "View", "as_params", "attack",
    "blend", "correct", "flat", "info_of", "micro_batches", "norm_of", "per_sample", "registry", "unknown",
]  # fmt: skip
__getattr__ = offered(__name__)
