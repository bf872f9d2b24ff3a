"""Composition: `outer+inner`, and what of it has not been fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import micro_batches
from robustbench_gan.nouns.seeds import fold

if TYPE_CHECKING:
    from robustbench_gan.data.dataset import Dataset
    from robustbench_gan.training.store import Store
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import Gradient, declared_gradients, through_purifier


def unfitted(defense: Defense) -> list[str]:
    """The names of the defenses in it whose `fit` has something to do and was not called."""
    if isinstance(defense, Composed):
        return [name for stage in defense._defenses for name in unfitted(stage)]
    due = type(defense).fit is not Defense.fit and not defense.fitted
    return [type(defense).__name__] if due else []


class Composed(Defense):
    """`outer+inner`: the first defense sees the input first; each has its own seed stream."""

    purifies = True  # where a stage does, which an instance knows

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
        return self._path_from(x, seed, through_purifier)[-1]

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        """Every stage's scores, each on the input that stage sees.

        Takes a pass of its own through the purifiers, whose images between the stages `purified` does not hold.
        """
        return self._scores_along(self._path_from(x, seed, through_purifier), seed)

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
