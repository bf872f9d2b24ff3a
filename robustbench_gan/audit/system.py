"""The system under audit: what is known of it before any run, its cells, and how a check asks it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustbench_gan.audit.check import Wanted
from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Run, Settings
from robustbench_gan.cell.estimate import estimate
from robustbench_gan.cell.question import Planned, Stage, stages_of
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.flags.thresholds import JUDGE_SEEDS
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Spec

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Asked
    from robustbench_gan.flags.paired import Numbers
    from robustbench_gan.nouns.outcome import Output
    from robustbench_gan.nouns.record import Result
    from robustbench_gan.training.orders import Names
    from robustbench_gan.training.workshop import Workshop


@dataclass
class System:
    """A defense in front of its classifier, as an audit asks about it. `results` are its cells so far."""

    asked: Asked
    workshop: Workshop
    batch_size: int = 200
    results: dict[Wanted, Result] = field(default_factory=dict)
    plans: dict[Wanted, Planned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.asked.eps < math.inf:
            raise UsageError(
                f"--eps {self.asked.eps:g}: an audit needs a ball to search: give a finite radius above 0."
            )

    @property
    def stages(self) -> list[Stage]:
        """The defenses of the chain, around no classifier."""
        return stages_of(self.asked.defense)

    @property
    def randomised(self) -> bool:
        """Declared to answer by a seed."""
        return any(stage.randomised for stage in self.stages)

    @property
    def full_gradient(self) -> bool:
        """Every stage that purifies says that its own gradient is one to attack by."""
        made = [s for s in self.stages if isinstance(s, Defense) and s.purifies]
        return all("full" in stage.gradients for stage in made)

    @property
    def budget(self) -> Budget:
        """The ball asked for."""
        cell = self.planned(self.pgd()).cell
        return Budget(cell.norm, cell.eps)

    @property
    def judge_seeds(self) -> int:
        """Seeds that each example is judged under."""
        return JUDGE_SEEDS if self.randomised else 1

    def pgd(
        self, *, steps: int = 0, restarts: int = 1, norm: str = "", eps: float = 0.0, draws: int = 0,
        threat: str = "white-box",
    ) -> Wanted:  # fmt: skip
        """PGD with every gradient that applies; what is left out is what the audit was asked with."""
        asked = self.asked
        draws = draws or (asked.eot if self.randomised else 1)
        averaged = f"white-box:draws={draws}" if threat == "white-box" else threat
        attack = f"pgd:steps={steps or asked.steps},restarts={restarts}"
        return Wanted(attack, averaged, norm or asked.norm, eps or asked.eps)

    def planned(self, wanted: Wanted) -> Planned:
        """The cell in full. Raises UsageError for names, parameters and budgets that cannot be."""
        if wanted not in self.plans:
            asked = self.asked
            matrix = Matrix(
                name="audit", datasets=[asked.dataset], classifiers=[asked.classifier], defenses=[asked.defense],
                attacks=[Spec.of(wanted.attack)], threats=[Spec.of(wanted.threat)], norm=wanted.norm, eps=[wanted.eps],
                samples=asked.samples, seed=asked.seed, judge_seeds=self.judge_seeds,
                train_seed=self.workshop.train_seed,
            )  # fmt: skip
            (self.plans[wanted],) = lay_out(matrix, self.workshop)
        return self.plans[wanted]

    def names(self) -> Names:
        """Data set, classifier and defense as the workshop asks for them."""
        cell = self.planned(self.pgd()).cell
        return cell.dataset, cell.classifier, cell.defense

    @property
    def published(self) -> Asked:
        """What was asked, as records say it: without the paths of this machine."""
        dataset, classifier, _ = self.names()
        own = self.workshop.aliases
        given = {"dataset": dataset, "classifier": classifier}
        return self.asked.model_copy(update={kind: name for kind, name in given.items() if name in own})

    @property
    def defense(self) -> Defense:
        """The fitted defense."""
        with (
            torch.enable_grad()
        ):  # it is trained where it is first asked for, and a check may ask without gradients
            return self.workshop.defense(*self.names())

    def images(self, most: int) -> tuple[Tensor, Tensor]:
        """The first of the audited images, (N, C, H, W), and their labels."""
        first = self.planned(self.pgd()).cell.first
        return self.workshop.images(self.names()[0], first, min(most, self.asked.samples))

    def seeds(self, purpose: str, count: int) -> Tensor:
        """One seed an image for one purpose, (N,) int64; none that the judge or an attack of the engine uses."""
        first = self.planned(self.pgd()).cell.first
        index = torch.arange(first, first + count, device=self.workshop.device)
        return sample_seeds(self.asked.seed, f"audit/{purpose}", index)

    def answer(self, x: Tensor, seed: Tensor) -> Output:
        """The defended answers, in micro-batches of one shape."""
        with torch.no_grad():
            return answer(Defended(self.defense), x, seed)

    def stands(self, wanted: Wanted) -> Numbers:
        """What a finished cell left standing, (N,): the mean over judge seeds."""
        outcomes = self.results[wanted].outcomes
        assert outcomes is not None, "looked at before it was run"
        stands: Numbers = outcomes.array("robust").mean(axis=0)
        return stands

    def run_of(self, wanted: Wanted) -> Run:
        """A cell ready to be crafted, for what no record keeps."""
        planned = self.planned(wanted)
        cell = planned.cell
        function, parameters = registry.resolve("attacks", cell.attack)
        x, y = self.workshop.images(cell.dataset, cell.first, cell.samples)
        defense, settings = self.defense, Settings(self.batch_size)
        return Run(
            planned, self.workshop, settings, function, info_of(function), parameters, defense, defense, x, y
        )

    def cell_seconds(self, wanted: Wanted) -> float:
        """An upper estimate of what a cell costs."""
        return estimate(self.run_of(wanted)).most

    def forward_seconds(self, images: int) -> float:
        """An estimate of so many defended answers, from timing one micro-batch."""
        size = micro_batch_size(self.workshop.device)

        def measure() -> float:
            x, _ = self.images(size)
            started = time.perf_counter()
            self.answer(x, self.seeds("timing", len(x)))
            return time.perf_counter() - started

        return -(-images // size) * self.workshop.once(("audit", "timing", self.names()), measure)
