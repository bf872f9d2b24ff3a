"""A cell at work: what its steps share, and what the attacker is given to work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustbench_gan.base import stopping
from robustbench_gan.contracts.attacks import AttackInfo, Fitted
from robustbench_gan.contracts.counts import Counts, Deadline
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import declared_gradients
from robustbench_gan.contracts.systems import Bare, Defended, System, answer
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.contracts.view import View
from robustbench_gan.guards.belongings import Kept
from robustbench_gan.guards.guard import left_alone
from robustbench_gan.guards.seal import Attributes
from robustbench_gan.guards.strangers import take_part
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.record import Cell
from robustbench_gan.nouns.seeds import integers, sample_seeds

if TYPE_CHECKING:
    from robustbench_gan.cell.question import Planned
    from robustbench_gan.training.fitting import Trained
    from robustbench_gan.training.orders import Names
    from robustbench_gan.training.store import Artifact
    from robustbench_gan.training.workshop import Workshop


@dataclass(frozen=True)
class Settings:
    """What decides how a cell is computed but never what comes out.

    With `keep`, the directory of a run, each cell's examples are kept beside its record there.
    """

    batch_size: int = 200
    max_cell_minutes: float | None = None
    keep: Path | None = None


@dataclass
class Run:
    """A cell at work: the things its steps share.

    `defense` is judged; `held` is the one that an attack runs through: the same, or the attacker's own copy of it.
    """

    planned: Planned
    workshop: Workshop
    settings: Settings
    function: Any
    info: AttackInfo
    parameters: Mapping[str, Any]
    defense: Defense
    held: Defense
    x: Tensor
    y: Tensor
    fitted: dict[int | None, Trained] = field(default_factory=dict)
    deadline: Deadline | None = None
    around: Surroundings | None = None  # as they were before any plugin ran

    @property
    def cell(self) -> Cell:
        """The question."""
        return self.planned.cell

    @property
    def threat(self) -> ThreatModel:
        """What the attacker has."""
        return self.planned.threat

    @property
    def budget(self) -> Budget:
        """How far the attack may go."""
        return Budget(self.cell.norm, self.cell.eps)

    @property
    def strangers(self) -> bool:
        """Does code run that is not bundled?"""
        cell = self.cell
        return take_part(cell.classifier, cell.defense, cell.attack, cell.threat)

    @property
    def index(self) -> Tensor:
        """Positions of the judged images in the test split, (N,)."""
        return torch.arange(self.cell.first, self.cell.first + len(self.x), device=self.x.device)

    def seeds(self, purpose: str) -> Tensor:
        """The cell's seeds for one purpose, (N,)."""
        return sample_seeds(self.cell.seed, purpose, self.index)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Of `held`, asked for once, so that what an attacker finds does not depend on who looks."""
        key = ("parts", self.threat.copies, *self.system_names())
        return self.workshop.once(key, lambda: dict(self.held.parts()))

    def system_names(self) -> Names:
        """Data set, classifier and defense, as the workshop asks for them."""
        return self.cell.dataset, self.cell.classifier, self.cell.defense

    def call(self, view: View, x: Tensor, goal: Goal, seed: Tensor) -> Any:
        """The attack itself, a trained one by its generators; inside `guarded`."""
        if self.fitted:
            attack = Fitted({target: part.attack for target, part in self.fitted.items()})
            return attack(view, x, goal, self.budget, seed)
        return self.function(view, x, goal, self.budget, seed, **self.parameters)

    @contextmanager
    def guarded(self, view: View, goal: Goal) -> Iterator[None]:
        """Let an attack work. Raises Meddled where it changes what is not its own, the goal and its view among that."""
        given = Kept({"the goal": goal.classes, "the seeds of the view": view.seed})
        with self._others_left_alone(view, given), stopping.PluginCall():
            yield

    def _others_left_alone(self, view: View, given: Kept) -> AbstractContextManager[None]:
        shop, names, base = self.workshop, self.system_names(), self.defense.base
        models = [view.system.model] if isinstance(view.system, Bare) else []
        attacks = [part.attack for part in self.fitted.values()]
        own = shop.seals(self.defense, self.held)
        return left_alone(
            "the attack", view, given, shop.kept_images(self.x), shop.loaded(names[0]), *shop.answers(names),
            *shop.seals(base, *models, *attacks),
            state=[*own, Attributes([*own, *shop.seals(base)])],
            suspects=shop.suspects(names, Bare(base), view.system), around=self.around,
        )  # fmt: skip


@dataclass(frozen=True)
class Crafted:
    """Examples (N, C, H, W), the goal each aims at, and what making them took.

    `drew` names the global generators that were moved meanwhile; `repeats` says that a few, made again, were the same.
    `sizes` are those of the perturbations, (N,) float64, where they are known.
    """

    examples: Tensor
    goal: Goal
    counts: Counts
    drew: tuple[str, ...] = ()
    repeats: bool = True
    sizes: Tensor | None = None


def gradients_of(run: Run) -> tuple[str, ...]:
    """The gradients a white-box attack is run with; the strongest example of each sample is kept.

    A trained attack was trained with one, and asks for none when it crafts.
    """
    if run.info.trained:
        return tuple(sorted({part.ground.gradient for part in run.fitted.values()}))
    if not run.threat.differentiates or run.info.needs != "gradient":
        return ("full",)
    if run.info.gradient:
        return (run.info.gradient,)
    if run.threat.gradient == "auto":
        return declared_gradients(run.defense)
    return (run.threat.gradient,)


def systems_of(run: Run) -> list[System]:
    """What the attack is run on, one for each gradient."""
    if run.threat.differentiates and run.info.trained:
        return [Defended(run.held)]
    if run.threat.holds_defense or run.threat.copies:
        return [Defended(run.held, g, run.threat.unroll) for g in gradients_of(run)]  # type: ignore[arg-type]
    if run.threat.name == "gray-box":
        return [Bare(run.defense.core)]
    if run.info.needs == "nothing":
        return [Bare(run.defense.base)]
    return [Bare(substitutes_of(run)[0][0])]


def substitutes_of(run: Run) -> list[tuple[nn.Module, Artifact]]:
    """The black-box attacker's substitute; under the dynamic protocol one beside each generator."""
    if run.threat.substitute == "dynamic":
        parts = run.fitted.values()
        return [(part.substitute, part.artifact) for part in parts if part.substitute is not None]
    model, artifact = run.workshop.substitute(*run.system_names(), run.threat)
    run.workshop.put_back(run.system_names(), model)
    return [(model, artifact)]


def goals_of(run: Run) -> list[Goal]:
    """The goals an attack is tried with: one, or for `all` one a wrong class, the most successful kept."""
    kind, classes = run.cell.goal, len(run.workshop.dataset(run.cell.dataset).classes)
    if kind == "untargeted":
        return [Goal.untargeted(run.y)]
    if kind == "all":
        return [Goal.targeted((run.y + offset) % classes) for offset in range(1, classes)]
    if kind == "random":
        offset = 1 + integers(run.seeds("target"), classes - 1)
        return [Goal.targeted((run.y + offset) % classes)]
    with torch.no_grad():
        logits = answer(Bare(run.defense.base), run.x, run.seeds("target")).logits
    logits = logits.masked_fill(logits == -torch.inf, torch.inf)  # a masked class is no answer to be aimed at
    logits = logits.scatter(1, run.y[:, None], torch.inf)
    return [Goal.targeted(logits.argmin(dim=1))]
