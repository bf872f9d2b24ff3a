"""Threat models: what an attacker knows of a system, and which gradient it is granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from robustbench_gan.nouns.spec import Spec

Access = Literal["nothing", "labels", "scores", "gradient"]
ACCESS_ORDER: tuple[Access, ...] = ("nothing", "labels", "scores", "gradient")
GradientChoice = Literal["auto", "full", "bpda", "truncated", "cut"]
StepSign = Literal["plus", "periodic"]
NO_MODEL = Spec("")
ThreatName = Literal["black-box", "query", "gray-box", "gray-box:copy", "white-box", "seed-known"]


@dataclass(frozen=True)
class ThreatModel:
    """What the attacker has. `access` is to the system the attack is run on, `judged` always the defended one.

    `draws` are the EOT samples a pass averages over, `unroll` the steps of a truncated gradient. For black-box:
    the substitute's protocol (`substitute`), its architecture (`model`), its `rounds`, what the `oracle` that it
    learns from `answers`, and the sign of papernot's augmentation (`step_sign`). `limit` queries an image; 0: no limit.
    """

    name: ThreatName
    access: Access
    gradient: GradientChoice = "full"
    draws: int = 1
    unroll: int = 5
    substitute: str = ""
    model: Spec = NO_MODEL
    rounds: int = 0
    oracle: Literal["defended", "undefended"] = "defended"
    answers: Literal["labels", "scores"] = "labels"
    step_sign: StepSign = "plus"
    limit: int = 0

    @property
    def holds_defense(self) -> bool:
        """The attack runs through the defended system itself."""
        return self.name in ("white-box", "seed-known", "query")

    @property
    def copies(self) -> bool:
        """The attack runs through a copy of the defense that the attacker trained, never through the real one."""
        return self.name == "gray-box:copy"

    @property
    def differentiates(self) -> bool:
        """The attack gets gradients through a defense: the real one where `white`, else the attacker's copy."""
        return self.white or self.copies

    @property
    def white(self) -> bool:
        """Weights of classifier and defense are known."""
        return self.name in ("white-box", "seed-known")


def black_box(
    *,
    substitute: Literal["papernot", "static", "dynamic"] = "papernot",
    model: str = "e",
    rounds: int = 6,
    oracle: Literal["defended", "undefended"] = "defended",
    answers: Literal["labels", "scores"] = "labels",
    step_sign: StepSign = "plus",
) -> ThreatModel:
    """Answers by query only: trains a substitute and attacks that (Papernot et al. 2017).

    `papernot`: 150 held-out images with true labels, doubled by Jacobian augmentation between the `rounds`, labels
    only; six rounds make 4,800 points of 4,650 queries. `step_sign=plus` steps with the gradient always, as the code
    behind the Defense-GAN paper does; `periodic` turns the sign after every three augmentations.
    `static`: distillation on the 10,000 validation images, `rounds` passes over them (Xiao et al. 2018). `dynamic`: in
    each of the rounds a trained attack's generator and the substitute take turns, and the oracle is asked again for
    the examples. Scores are softmax probabilities.
    """
    return ThreatModel(
        "black-box",
        "gradient",
        substitute=substitute,
        model=Spec.of(model),
        rounds=rounds,
        oracle=oracle,
        answers=answers,
        step_sign=step_sign,
    )


def query(*, access: Literal["labels", "scores"] = "scores", limit: int = 10000) -> ThreatModel:
    """Labels or scores of the defended system, no gradient, at most `limit` queries an image, counted."""
    return ThreatModel("query", access, limit=limit)


def gray_box() -> ThreatModel:
    """The classifier's gradient, but nothing of the purifier in front of it (Meng and Chen 2017)."""
    return ThreatModel("gray-box", "gradient")


def gray_box_copy(*, gradient: GradientChoice = "auto", draws: int = 1, unroll: int = 5) -> ThreatModel:
    """Everything but the defense's own weights: trains a copy from another seed and attacks that (Meng and Chen 2017).

    The copy has the defense's spec and stands in front of the same classifier; gradients, EOT and parts are the
    copy's, as in white-box. Judged is the real defense.
    """
    return ThreatModel("gray-box:copy", "gradient", gradient=gradient, draws=draws, unroll=unroll)


def white_box(*, gradient: GradientChoice = "auto", draws: int = 1, unroll: int = 5) -> ThreatModel:
    """Classifier and defense with all weights; fresh randomness, EOT over `draws`, judged on fresh seeds."""
    return ThreatModel("white-box", "gradient", gradient=gradient, draws=draws, unroll=unroll)


def seed_known(*, gradient: GradientChoice = "auto", unroll: int = 5) -> ThreatModel:
    """White-box that also holds the judge's seed: one example a sample and seed, judged on that seed alone."""
    return ThreatModel("seed-known", "gradient", gradient=gradient, unroll=unroll)


NOTHING_TO_COPY = "nothing in the defense is trained: there is no copy of it to train"

THREATS: Mapping[str, Callable[..., ThreatModel]] = {
    "black-box": black_box,
    "query": query,
    "gray-box": gray_box,
    "gray-box:copy": gray_box_copy,
    "white-box": white_box,
    "seed-known": seed_known,
}
