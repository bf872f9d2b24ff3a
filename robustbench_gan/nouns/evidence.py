"""Evidence: the few numbers that red flags are derived from, kept in the record beside them. No torch.

What a record says elsewhere, in its outcomes, sizes and accuracies, is not said again.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from pydantic import Field

from robustbench_gan.nouns.fields import Validated

Part = TypeVar("Part", bound=Validated)
PROBED: Final = 2  # images that a probe asks about: enough to see that two answers differ


class Probe(Validated):
    """What a short look at the defended system saw, on PROBED clean images.

    Distances are of logits, relative to their size, the largest over images.
    """

    core_varies: float = 0.0  # the classifier alone, asked twice
    seeds_vary: float = 0.0  # the defended system under other seeds
    repeats_vary: float = 0.0  # it under the same seeds
    own_randomness: bool = False  # the latter comes from torch's global generator, not from state
    label_changed: bool = False  # the latter changed a label
    company_matters: float = 0.0  # an image among others and among copies of itself
    company_changes: int = 0  # labels that the latter changed
    differentiates: bool = False  # it runs autograd backwards while it answers


class Shown(Validated):
    """Of all images that were looked at: those that a classifier was shown, beside those its defense was given."""

    outside: float = 0.0  # share of the values that lie well outside [0, 1]
    distance: float = 0.0  # mean squared distance of an image from the one given
    spread: float = 1.0  # how much the images differ from each other, as a share of how much those given do
    likeness: float = (
        1.0  # the correlation with those given, over images: 0 where nothing of the image is left
    )


class Evidence(Validated):
    """What a cell's run left to derive its red flags from, in numbers of samples where nothing else is said.

    An attackable sample is right unperturbed under some judge seed, and one that stands is not lost under some. The
    numbers about gradients are of attacks that take some, and of the training of those that are trained.
    """

    needs: Literal["nothing", "labels", "scores", "gradient"]  # of the system, by the attack
    minimal: bool = False  # the attack seeks the smallest perturbation
    trained: bool = False
    classes: int = Field(ge=1)
    randomised: bool = False  # what the defense declares of itself, as the next two
    purifies: bool = False
    unrolls: bool = False
    called: int = 0  # attackable, and the attack called the system it holds
    differentiated: int = 0  # attackable, and it asked for a gradient
    zero_gradients: int = 0  # standing, and it got nothing but zeros
    nan_gradients: int = 0  # attackable, and it got a gradient that is NaN or infinite
    tiny_gradients: int = 0  # standing, and every gradient had vanished
    flat_losses: int = 0  # standing, and every gradient had vanished or half of it was lost
    sure_tiny: int = 0  # of `tiny_gradients`, those answered with a softmax of 1 in float32
    sure_flat: int = 0  # of `flat_losses`, those
    rejected: int | None = None  # clean answers, over all judge seeds; None of a defense without detectors
    stopped: int = 0  # examples that reached their goal but for a detector, over all judge seeds
    off_simplex: float = (
        1.0  # how far clean answers are from being probabilities: values, sums; 1 is that or more
    )
    probe: Probe = Probe()
    shown: Shown = Shown()
    drew: list[str] = Field(default_factory=list)  # global generators that moved while the attack was at work
    repeats: bool = True  # the attack did the same twice


def in_short(part: Part) -> Part:
    """The same with four digits of each number, which rounding elsewhere rarely changes."""
    numbers = {name: value for name, value in vars(part).items() if type(value) is float}
    longer = {name: short for name, value in numbers.items() if (short := float(f"{value:.4g}")) != value}
    return part.model_copy(update=longer) if longer else part
