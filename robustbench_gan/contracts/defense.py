"""Defense: a classifier with places to step in. Composition, and the gradients an attacker may ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import micro_batches
from robustbench_gan.base.errors import NotApplicable
from robustbench_gan.guards.guard import form, handed, plain
from robustbench_gan.nouns.outcome import Output
from robustbench_gan.nouns.seeds import fold

if TYPE_CHECKING:
    from robustbench_gan.data.dataset import Dataset
    from robustbench_gan.training.store import Store

Gradient = Literal["full", "bpda", "truncated", "cut"]
Surrogate = Callable[
    [Tensor, Tensor], Tensor
]  # images and seeds to images: a differentiable stand-in for `purify`


class StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another: the step BPDA takes (Athalye et al. 2018)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        """Give `value`, bit for bit."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        """Send the gradient to the surrogate alone."""
        return None, grads[0]


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
        composes = cls.__module__ == __name__  # a composition purifies where a stage does
        if cls.purify is not Defense.purify and not cls.purifies and not composes:
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
        path = self._path_from(x, seed, _purified)
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
            "full": _purified,
            "cut": _purified,
            "bpda": _straight_through,
            "truncated": truncated,
        }
        path = self._path_from(x, seed, steps[gradient])
        if gradient == "bpda" and surrogate is not None:
            stand_in = _images(surrogate(x, seed), x, "the attacker's surrogate")
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
        return self._path_from(x, seed, _purified)[-1]

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


def recipe_of(text: str, defense: Defense) -> list[Any]:
    """A fitted defense in the recipe of what is trained against it: its spec, its parts, what became of both here."""
    parts: list[Any] = [text, sorted(defense.training_keys().items())]
    return [*parts, dict(sorted(defense.precision().items()))] if defense.precision() else parts


def _marking(fit: Callable[..., None]) -> Callable[..., None]:
    """A `fit` that leaves a mark when it is through."""

    @functools.wraps(fit)
    def marked(self: Defense, *args: Any, **named: Any) -> None:
        fit(self, *args, **named)
        self.fitted = True

    return marked


def unfitted(defense: Defense) -> list[str]:
    """The names of the defenses in it whose `fit` has something to do and was not called."""
    if isinstance(defense, Composed):
        return [name for stage in defense._defenses for name in unfitted(stage)]
    due = type(defense).fit is not Defense.fit and not defense.fitted
    return [type(defense).__name__] if due else []


def declared_gradients(defense: Defense) -> tuple[Gradient, ...]:
    """The gradients that `auto` is to try. Raises ValueError where a defense names none, or one that is unknown."""
    found, known = defense.gradients, [name for name in get_args(Gradient) if name != "cut"]
    if isinstance(found, str) or not found or not set(found) <= set(known):
        raise ValueError(
            f"{type(defense).__name__}.gradients is {found!r}, expected a tuple of some of {', '.join(known)}"
        )
    return found


def _passed(stage: Defense, x: Tensor, seed: Tensor, step: Step) -> Tensor:
    """What one link makes of x. Raises ValueError where that is not of the form of x, Meddled where x was edited."""
    if type(stage).purify is Defense.purify and type(stage).surrogate is Defense.surrogate:
        return step(stage, x, seed)
    with handed(type(stage).__name__, x=x, seed=seed):
        made = step(stage, x, seed)
    return _images(made, x, f"{type(stage).__name__}.purify")


def _images(made: Tensor, x: Tensor, maker: str) -> Tensor:
    """What was made of x. Raises ValueError where it is not of the form of x; autocast makes shorter floats."""
    right = plain(made, x) and made.shape == x.shape
    shorter = right and made.is_floating_point() and torch.is_autocast_enabled(x.device.type)
    if not right or (made.dtype != x.dtype and not shorter):
        raise ValueError(f"{maker} returned {form(made)}, expected {form(x)}")
    return made


def _scored(stage: Defense, seen: Tensor, passed: Tensor, seed: Tensor) -> Tensor:
    """A link's scores. Raises ValueError where they are not one row an image, Meddled where an image was edited."""
    if type(stage).scores is Defense.scores:
        return stage.scores(seen, passed, seed)
    with handed(type(stage).__name__, x=seen, purified=passed, seed=seed):
        found = stage.scores(seen, passed, seed)
    if not plain(found, seen) or found.ndim != 2 or len(found) != len(seen) or not found.is_floating_point():
        raise ValueError(f"{type(stage).__name__}.scores returned {form(found)}, expected (N, M) floats")
    return found


Step = Callable[[Defense, Tensor, Tensor], Tensor]  # how one link's purifier is passed, with which gradient


def _purified(stage: Defense, x: Tensor, seed: Tensor) -> Tensor:
    return stage.purify(x, seed)


def _straight_through(stage: Defense, x: Tensor, seed: Tensor) -> Tensor:
    """BPDA of one purifier: its own value at x, and the gradient of its surrogate there."""
    with torch.no_grad():
        value = stage.purify(x, seed)
    name = type(stage).__name__
    stand_in = _images(stage.surrogate(x, seed), x, f"{name}.surrogate")
    passed: Tensor = StraightThrough.apply(_images(value, x, f"{name}.purify"), stand_in)  # type: ignore[no-untyped-call]
    return passed


class Composed(Defense):
    """`outer+inner`: the first defense sees the input first; each has its own seed stream."""

    def __init__(self, stages: Sequence[Defense]) -> None:
        super().__init__(stages[-1].base)
        self.stages = nn.ModuleList(stages)
        self.core = stages[-1].core
        self.purifies = any(s.purifies for s in stages)  # type: ignore[misc]
        self.randomised = any(s.randomised for s in stages)  # type: ignore[misc]
        self.unrolls = any(s.unrolls for s in stages)  # type: ignore[misc]

    @property
    def _defenses(self) -> list[Defense]:
        return [s for s in self.stages if isinstance(s, Defense)]

    @property
    def _chain(self) -> Sequence[Defense]:
        """Its stages."""
        return self._defenses

    @property
    def detectors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of every stage's, each under its position."""
        return tuple(f"{at}.{name}" for at, s in enumerate(self._defenses) for name in s.detectors)

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """Those that apply to every stage, a stage that changes nothing having no say."""
        common = [declared_gradients(s) for s in self._defenses if s.purifies]
        return tuple(g for g in common[0] if all(g in other for other in common)) if common else ("full",)

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        """What the first stage that has no use for them says: all see images of one shape."""
        return next(filter(None, (stage.why_not(shape, classes) for stage in self._defenses)), "")

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Fit from the classifier outwards: each stage stands on the classifier that the inner ones made."""
        core, key = self.base, self.base_key
        for stage in reversed(self._defenses):
            stage.base, stage.core, stage.base_key = core, core, key
            stage.on_trained = core is not self.base
            stage.fit(data, seed, store)
            key = "+".join([key, *stage.training_keys().values()]) if stage.core is not core else key
            core = stage.core
        for stage in self._defenses:
            stage.core = core
        self.core = core

    def _links(self, seed: Tensor) -> list[tuple[Defense, Tensor]]:
        """Those of every stage."""
        return [link for at, stage in enumerate(self._defenses) for link in stage._links(fold(seed, at))]

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """Each stage in turn."""
        return self._path_from(x, seed, _purified)[-1]

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        """Every stage's scores, each on the input that stage sees.

        Takes a pass of its own through the purifiers, whose images between the stages `purified` does not hold.
        """
        return self._scores_along(self._path_from(x, seed, _purified), seed)

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        """The stages' surrogates in turn."""
        for at, stage in enumerate(self._defenses):
            x = stage.surrogate(x, fold(seed, at))
        return x

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        """Truncate the stages that iterate; differentiate the others in full."""
        for at, stage in enumerate(self._defenses):
            s = fold(seed, at)
            x = stage.truncated(x, s, steps) if stage.unrolls else stage.purify(x, s)
        return x

    def parts(self) -> Mapping[str, nn.Module]:
        """The parts of every stage; the outermost wins a shared name."""
        merged: dict[str, nn.Module] = {}
        for stage in reversed(self._defenses):
            merged.update(stage.parts())
        return merged

    def training_keys(self) -> Mapping[str, str]:
        """The keys of every stage, each under its position."""
        return {f"{at}.{n}": k for at, s in enumerate(self._defenses) for n, k in s.training_keys().items()}

    def precision(self) -> Mapping[str, str]:
        """Those of every stage, each under its position."""
        return {f"{at}.{n}": text for at, s in enumerate(self._defenses) for n, text in s.precision().items()}

    def controls(self, x: Tensor, y: Tensor, seed: Tensor) -> dict[str, float]:
        """Those of every stage, each under its position, on the images as that stage sees them."""
        asked = [
            at for at, stage in enumerate(self._defenses) if type(stage).controls is not Defense.controls
        ]
        found: dict[str, float] = {}
        for at, (stage, own) in enumerate(self._links(seed)[: max(asked, default=-1) + 1]):
            found |= {f"{at}.{name}": value for name, value in stage.controls(x, y, own).items()}
            if at < max(asked):
                pieces = micro_batches(len(x), x.device)
                x = torch.cat([stage.purify(x[rows], own[rows])[:real] for rows, real in pieces])
        return found
