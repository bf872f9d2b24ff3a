"""Defense: a classifier with places to step in, and the way of an input through them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import NotApplicable
from robustbench_gan.base.tensors import form, handed, plain
from robustbench_gan.contracts.gradients import (
    Gradient,
    Step,
    StraightThrough,
    Surrogate,
    as_images,
    straight_through,
    through_purifier,
)
from robustbench_gan.nouns.outcome import Output

if TYPE_CHECKING:
    from robustbench_gan.data.dataset import Dataset
    from robustbench_gan.training.store import Store


class Defense(nn.Module):
    """A classifier and what is done to protect it.

    A subclass overrides only what it changes. `base` is the classifier it was given, `core` the one that
    answers: adversarial training replaces it in `fit`, a purifier leaves it. `purifies` says that the input is
    changed before `core` sees it, `randomised` that the answer depends on the seed. `gradients` are the ones
    that apply to it and that `auto` tries; others may still be asked for by name. `detectors` names the columns
    of `scores`; a defense that names none has them numbered.
    """

    purifies: ClassVar[bool] = False
    randomised: ClassVar[bool] = False
    unrolls: ClassVar[bool] = False
    detectors: tuple[str, ...] = ()
    base_key: str = (
        ""  # the store's key of `base`, set by the engine: part of the recipe of what stands on it
    )

    fitted: bool = False  # set by `fit`, whatever a subclass makes of it
    on_trained: bool = False  # an inner defense of a composition made `base`, set by the composition

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises TypeError for a purifier that does not say so: nobody would attack it as one."""
        super().__init_subclass__(**options)
        if cls.purify is not Defense.purify and not cls.purifies:
            raise TypeError(f"{cls.__name__} overrides purify: it must say `purifies = True`")
        if "fit" in vars(cls):
            cls.fit = _marking(cls.fit)  # type: ignore[method-assign]

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.core = base

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """The gradients that `auto` tries, worst per sample."""
        return ("full", "bpda") if self.purifies else ("full",)

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        """Why the defense has no use for images of this shape, (C, H, W), in so many classes; empty where it has.

        Asked before anything is run, by the parameters alone: all cells of the defense are then `not applicable`.
        """
        return ""

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train or load what the defense needs; every trained part goes through `store.fetch`."""

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """Clean the input: (N, C, H, W) in [0, 1] to the same, with (N,) int64 seeds for what is random."""
        return x

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        """Detector scores (N, M), each scaled by its threshold: rejected where any is above 0."""
        return x.new_zeros(len(x), 0)

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        """A differentiable stand-in for `purify`; the identity unless better is known."""
        return x

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        """`purify` with a gradient through its last `steps` iterations only."""
        raise NotApplicable("the defense has no iterations to truncate")

    def parts(self) -> Mapping[str, nn.Module]:
        """Named modules a white-box attacker may use, such as a generator."""
        return {}

    def training_keys(self) -> Mapping[str, str]:
        """The store's keys of every trained part, by name, after `fit`."""
        return {}

    def controls(self, x: Tensor, y: Tensor, seed: Tensor) -> Mapping[str, float]:
        """Further clean accuracies that belong beside the defense's own, by name."""
        return {}

    def precision(self) -> Mapping[str, str]:
        """A precision that a parameter asks for, and what it becomes where this processor has another.

        Part of the recipe of what is trained against the defense, of the record and of the row's label.
        """
        return {}

    @final  # type: ignore[misc]
    def forward(self, x: Tensor, seed: Tensor) -> Output:  # type: ignore[misc]
        """The answer of the defended system: logits (N, K), scores (N, M)."""
        path = self._path_from(x, seed, through_purifier)
        return Output(self.core(path[-1]), self._scores_along(path, seed))

    @final
    def attacked(
        self, x: Tensor, seed: Tensor, gradient: Gradient, unroll: int, surrogate: Surrogate | None = None
    ) -> Output:
        """The same answer, with the gradient that a threat model grants, to logits and scores alike.

        `surrogate` is an attacker's own for BPDA and stands for the whole way from x to what `core` sees; the
        detectors between the stages of a composition keep the defender's.
        """

        def truncated(stage: Defense, x: Tensor, seed: Tensor) -> Tensor:
            alone = stage is self  # a defense that cannot truncate says so, unless another beside it can
            return stage.truncated(x, seed, unroll) if stage.unrolls or alone else stage.purify(x, seed)

        steps: dict[str, Step] = {
            "full": through_purifier,
            "cut": through_purifier,
            "bpda": straight_through,
            "truncated": truncated,
        }
        path = self._path_from(x, seed, steps[gradient])
        if gradient == "bpda" and surrogate is not None:
            stand_in = as_images(surrogate(x, seed), x, "the attacker's surrogate")
            path[-1] = StraightThrough.apply(path[-1], stand_in)  # type: ignore[no-untyped-call]
        return Output(self.core(path[-1]), self._scores_along(path, seed))

    @property
    def has_own_code(self) -> bool:
        """It does something to an answer: a hook is its own, or what answers is not the classifier it was given."""
        hooks = ("purify", "scores", "surrogate", "truncated", "controls")
        return self.core is not self.base or any(
            getattr(type(stage), hook) is not getattr(Defense, hook)
            for stage in self._chain
            for hook in hooks
        )

    @property
    def _chain(self) -> Sequence[Defense]:
        """The defenses that it is made of, the outermost first."""
        return [self]

    @final
    def purified(self, x: Tensor, seed: Tensor) -> Tensor:
        """`purify`, with what it is given and what it returns checked as on the way to an answer."""
        return self._path_from(x, seed, through_purifier)[-1]

    def _links(self, seed: Tensor) -> list[tuple[Defense, Tensor]]:
        """The defenses that an input passes in turn, each with its seeds."""
        return [(self, seed)]

    def _path_from(self, x: Tensor, seed: Tensor, step: Step) -> list[Tensor]:
        """The input as each link sees it, and last as `core` does: one image more than there are links."""
        path = [x]
        for stage, own in self._links(seed):
            path.append(_passed(stage, path[-1], own, step))
        return path

    def _scores_along(self, path: list[Tensor], seed: Tensor) -> Tensor:
        """Each link's scores of its own stretch of the path, side by side."""
        links = zip(self._links(seed), path, path[1:], strict=False)
        found = [_scored(stage, seen, passed, own) for (stage, own), seen, passed in links]
        return torch.cat(found, dim=1)


def recipe_of(chain: object, defense: Defense) -> list[Any]:
    """A fitted defense in the recipe of what is trained against it: its spec, its parts, what became of both here."""
    parts: list[Any] = [str(chain), sorted(defense.training_keys().items())]
    return [*parts, dict(sorted(defense.precision().items()))] if defense.precision() else parts


def _marking(fit: Callable[..., None]) -> Callable[..., None]:
    """A `fit` that leaves a mark when it is through."""

    @functools.wraps(fit)
    def marked(self: Defense, *args: Any, **named: Any) -> None:
        fit(self, *args, **named)
        self.fitted = True

    return marked


def _passed(stage: Defense, x: Tensor, seed: Tensor, step: Step) -> Tensor:
    """What one link makes of x. Raises ValueError where that is not of the form of x, Meddled where x was edited."""
    if type(stage).purify is Defense.purify and type(stage).surrogate is Defense.surrogate:
        return step(stage, x, seed)
    with handed(type(stage).__name__, x=x, seed=seed):
        made = step(stage, x, seed)
    return as_images(made, x, f"{type(stage).__name__}.purify")


def _scored(stage: Defense, seen: Tensor, passed: Tensor, seed: Tensor) -> Tensor:
    """A link's scores. Raises ValueError where they are not one row an image, Meddled where an image was edited."""
    if type(stage).scores is Defense.scores:
        return stage.scores(seen, passed, seed)
    with handed(type(stage).__name__, x=seen, purified=passed, seed=seed):
        found = stage.scores(seen, passed, seed)
    if not plain(found, seen) or found.ndim != 2 or len(found) != len(seen) or not found.is_floating_point():
        raise ValueError(f"{type(stage).__name__}.scores returned {form(found)}, expected (N, M) floats")
    return found
