"""The judge trusts nobody: it recomputes every success on the defended system with its own seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robustbench_gan.base import progress
from robustbench_gan.base.errors import NotANumber
from robustbench_gan.cell.context import Crafted, Run
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.defense import recipe_of
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.nouns.detection import measure
from robustbench_gan.nouns.outcome import Output, correct, unanswered
from robustbench_gan.nouns.record import Detection, Outcomes
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.training.loop import EVALUATION_BATCH

if TYPE_CHECKING:
    from robustbench_gan.training.memory import Judged

THRESHOLD_IMAGES = 1000  # one of them is 0.1%, the smallest of the fixed false positive rates


@dataclass(frozen=True)
class Verdict:
    """What the judge found: answers one a seed, sizes ((K or 1), N), the others (K, N) bool.

    `stopped` are examples that reached their goal but for a detector.
    """

    clean: list[Output]
    attacked: list[Output]
    right: Tensor
    robust: Tensor
    stopped: Tensor
    sizes: Tensor
    seconds: float

    def outcomes(self, counts: Counts) -> Outcomes:
        """The per-sample part of the record."""
        return Outcomes(
            clean=[_bits(row) for row in self.right],
            accepted=[_bits(out.accepted) for out in self.attacked],
            robust=[_bits(row) for row in self.robust],
            size=[[_shortest(v) for v in row] for row in self.sizes.cpu().float().numpy()],
            forward=counts.forward.tolist(),
            backward=counts.backward.tolist(),
        )


def judge(run: Run, crafted: list[Crafted]) -> Verdict:
    """Recompute everything on the defended system under the judge's seeds, beside an unperturbed control.

    Raises NotANumber when the defended system gives an image or an example no answer.
    """
    cell, names = run.cell, run.system_names()

    def ask(x: Tensor, k: int) -> Judged:
        answers = run.workshop.judged(names, x, cell.first, cell.seed, k)
        advance(1)
        return answers

    seeds = range(cell.judge_seeds)
    sets = [crafted[k % len(crafted)] for k in seeds]
    with progress.task("judging", 2 * len(seeds)) as advance:
        clean = [ask(run.x, k).out for k in seeds]
        judged = [ask(sets[k].examples, k) for k in seeds]
    attacked = [j.out for j in judged]
    for answers, images in ((clean, "clean images"), (attacked, "examples")):
        _answered(answers, run.y, images)
    right = torch.stack([correct(c, run.y) for c in clean])
    won = torch.stack([s.goal.reached(a) for s, a in zip(sets, attacked, strict=True)])
    accepted = torch.stack([a.accepted for a in attacked])
    fooled = [s.goal.reached(Output.of(a.logits)) for s, a in zip(sets, attacked, strict=True)]
    stopped = torch.stack(fooled) & ~accepted
    sizes = torch.stack([run.budget.size(c.examples - run.x) for c in crafted])
    return Verdict(clean, attacked, right, right & ~won, stopped, sizes, sum(j.seconds for j in judged))


def _answered(outs: Iterable[Output], y: Tensor, images: str) -> None:
    """Who gives no answer has not survived anything: the cell fails."""
    lost = torch.stack([unanswered(out, y) for out in outs]).any(dim=0)
    if bool(lost.any()):
        raise NotANumber(
            f"the defended system answered NaN or infinity to {int(lost.sum())} of {len(lost)} {images}"
        )


def _shortest(value: np.float32) -> float:
    """The number of fewest digits that is this one in float32: exact, and 0.3 where 0.3 was meant."""
    return float(str(value))


def _bits(flags: Tensor) -> str:
    return "".join("1" if f else "0" for f in flags.tolist())


def detection_of(run: Run, verdict: Verdict) -> Detection | None:
    """What the detectors say of clean images and of examples; None of a defense without any."""
    clean, attacked = (
        torch.stack([o.scores for o in outs]).cpu().double().numpy()
        for outs in (verdict.clean, verdict.attacked)
    )
    if clean.shape[2] == 0:
        return None
    perturbed = (verdict.sizes > 0).expand(attacked.shape[:2]).cpu().numpy()
    held_out = validation_scores(run).double().numpy()
    return measure(clean, attacked, perturbed, held_out, run.defense.detectors, run.cell.question)


def validation_scores(run: Run) -> Tensor:
    """The detectors' scores of the first validation images, (V, M), under the cell's seed; computed only once.

    They are stored as an artifact, for every cell of the same defense and for the next run.
    """
    cell, defense = run.cell, run.defense
    split = run.workshop.dataset(cell.dataset).validation
    count = min(THRESHOLD_IMAGES, len(split))
    recipe = {
        "system": [str(name) for name in run.system_names()],
        "identity": {
            name: text for name, text in cell.identity.items() if name not in ("attack", "reference")
        },
        "weights": [defense.base_key, *recipe_of(cell.defense, defense)[1:]],
        "images": count,
        "seed": cell.seed,
    }

    def build() -> tuple[dict[str, Tensor], dict[str, float]]:
        pieces = []
        with torch.no_grad(), progress.task("scoring validation images", count) as advance:
            for index in torch.arange(count).split(EVALUATION_BATCH):
                x, seeds = split.pixels(index), sample_seeds(cell.seed, "validation-scores", index)
                out = answer(Defended(defense), x.to(run.x.device), seeds.to(run.x.device))
                pieces.append(out.scores)
                advance(len(index))
        return {"scores": torch.cat(pieces)}, {}

    return run.workshop.store.fetch("validation-scores", recipe, build).tensors["scores"].cpu()
