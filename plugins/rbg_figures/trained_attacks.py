"""Print the table of docs/trained_attacks.md: success of AdvGAN and AI-GAN towards every class, with Wilson intervals.

`rbg reproduce trained-attacks --classifier small-cnn advgan ai-gan` trains what the store does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
import torch
from torch import Tensor

from robustbench_gan.contracts.attacks import Fitted
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.threat import white_box
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, correct
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Spec, as_params
from robustbench_gan.nouns.statistics import Interval, interval
from robustbench_gan.training.orders import Order, names_of
from robustbench_gan.training.workshop import Workshop

FIRST = 150  # the test images before it are a black-box attacker's


def success(
    workshop: Workshop,
    attack: str,
    classifier: str,
    samples: int,
    eps: float,
    targets: Iterable[int] = range(10),
) -> dict[int | None, Interval]:
    """By target class, and under None untargeted: the share of images classified right that the attack wins.

    Of a targeted goal only images of other classes count.
    """
    kind, params = registry.resolve("attacks", Spec.of(attack))
    spec = Spec(Spec.of(attack).name, as_params(params))
    names = names_of("mnist", classifier, "none")
    model, _ = workshop.classifier("mnist", classifier)
    x, y = workshop.images("mnist", FIRST, samples)
    index, budget = torch.arange(len(x)), Budget("linf", eps)

    def won(goal: Goal, target: int | None) -> Tensor:
        view = View.on(Bare(model), sample_seeds(0, "view", index))
        key = None if kind.conditional else target
        part = workshop.trained_attack(Order(names, spec, white_box(), key, budget))
        return goal.reached(view.output(Fitted({key: part.attack})(view, x, goal, budget, view.seed)))

    right = correct(View.on(Bare(model), index).output(x), y)
    found: dict[int | None, Interval] = {
        None: interval(won(Goal.untargeted(y), None)[right].double().numpy(), attack)
    }
    for target in targets:
        counted = right & (y != target)
        reached = won(Goal.targeted(torch.full_like(y, target)), target)
        found[target] = interval(reached[counted].double().numpy(), attack)
    return found


def table(found: dict[str, dict[int | None, Interval]]) -> str:
    """Markdown: a row a goal, a column an attack; the last row is over pairs of image and target."""
    lines = [
        "| goal | n | " + " | ".join(found) + " |",
        "|---|---|" + "---|" * len(found),
    ]
    columns = list(found.values())
    for target in columns[0]:
        name = "untargeted" if target is None else f"to {target}"
        cells = [str(column[target]) for column in columns]
        lines.append(f"| {name} | {columns[0][target].n} | " + " | ".join(cells) + " |")
    if len(columns[0]) > 1:
        means = [_pooled([column[t] for t in column if t is not None]) for column in columns]
        lines.append(f"| all targets | {means[0].n} | " + " | ".join(map(str, means)) + " |")
    return "\n".join(lines)


def _pooled(parts: list[Interval]) -> Interval:
    """The share of all pairs of image and target."""
    n, wins = sum(i.n for i in parts), sum(round(i.value * i.n) for i in parts)
    return interval([1.0] * wins + [0.0] * (n - wins), "")


@click.command()
@click.argument("attacks", nargs=-1, required=True)
@click.option("--classifier", default="small-cnn", show_default=True)
@click.option("--samples", default=1000, show_default=True, help="Test images, behind the attacker's 150.")
@click.option("--eps", default=0.3, show_default=True, help="Radius in linf.")
@click.option("--target", "targets", multiple=True, type=int, help="These target classes alone. Repeatable.")
def main(
    attacks: tuple[str, ...], classifier: str, samples: int, eps: float, targets: tuple[int, ...]
) -> None:
    """Success of trained ATTACKS, such as advgan and ai-gan, towards every class of MNIST, with Wilson intervals."""
    workshop = Workshop()
    found = {
        attack: success(workshop, attack, classifier, samples, eps, targets or range(10))
        for attack in attacks
    }
    click.echo(table(found))
