"""What the nearest image is worth against black-box FGSM: the nearest training image, and what Defense-GAN finds.

A defense that does no more than give back the nearest image of its kind would end about where the training images do.
What Defense-GAN finds is given for both of its initial codes: how often the classifier is right on it, how far it is
from what was asked for, and how long its code is (the generator's prior, N(0, I), has codes of length sqrt(k)). The
substitute is that of `rbg evaluate` and `rbg sweep`, trained where the store does not have it:

    rbg reproduce nearest-image "defense-gan:width=64,iterations=100,init=prior,prune=true"
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import click
import torch
from rbg_defenses._projection import descend
from rbg_defenses.defense_gan import DefenseGAN
from torch import Tensor
from torch.nn import functional as F

from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.statistics import interval
from robustbench_gan.training.device import pick_device
from robustbench_gan.training.orders import Names
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

BATCH = 100
INITS: tuple[Literal["small", "prior"], ...] = ("small", "prior")
HEADER = "| images | nearest among | right [95%] | mean squared error | length of the code |\n|---|---|---|---|---|"


class Asked(NamedTuple):
    """Data set, classifier and defense, and what the attacker has."""

    names: Names
    threat: ThreatModel


@click.command()
@click.argument("defense")
@click.option("--reference", help="The defense that the substitute learns from; DEFENSE by default.")
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--classifier", default="f", show_default=True)
@click.option("--threat", default="black-box:model=e,rounds=6", show_default=True)
@click.option("--samples", default=300, show_default=True, help="Test images, behind the attacker's 150.")
@click.option("--eps", default=0.3, show_default=True, help="Radius of FGSM.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu or cuda.")
def main(
    defense: str, reference: str | None, dataset: str, classifier: str, threat: str, samples: int, eps: float,
    device: str,
) -> None:  # fmt: skip
    """What the nearest image is worth against black-box FGSM: of the training images, and what Defense-GAN finds."""
    workshop = Workshop(Store(), pick_device(device))
    named, attacker = (
        planned(workshop, dataset, classifier, text, threat) for text in (defense, reference or defense)
    )
    system = workshop.defense(*named.names)
    if not isinstance(system, DefenseGAN):
        raise click.UsageError(f"{defense!r} has no projection: expected defense-gan with its parameters.")
    substitute, _ = workshop.substitute(*attacker.names, attacker.threat)
    x, y = workshop.images(dataset, HOLDOUT, samples)
    attacked = fgsm(substitute, x, y, eps)
    click.echo(HEADER)
    for kind, images in (("clean", x), ("attacked", attacked)):
        say(kind, "none: the image itself", system.base(images).argmax(dim=1) == y)
        found, labels = nearest(images, workshop.dataset(dataset).train)
        say(kind, "training images, their labels", labels == y, error(images, found))
        for init in INITS:
            image, z = projected(system, images, init)
            right = system.core(image).argmax(dim=1) == y
            say(kind, f"the generator's, init={init}", right, error(images, image), z.norm(dim=1))


def planned(workshop: Workshop, dataset: str, classifier: str, defense: str, threat: str) -> Asked:
    """Names and threat model with every parameter written out, as `rbg evaluate` would ask for them."""
    asked = {"datasets": [dataset], "classifiers": [classifier], "defenses": [defense], "threats": [threat]}
    (cell,) = lay_out(Matrix.model_validate(asked), workshop)
    return Asked((cell.cell.dataset, cell.cell.classifier, cell.cell.defense), cell.threat)


def fgsm(model: torch.nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Images one signed step of the substitute's gradient away."""
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    return (x + eps * slope.sign()).clamp(0, 1)


def nearest(x: Tensor, train: Any) -> tuple[Tensor, Tensor]:
    """The training image nearest each image in l2, (N, C, H, W), and its label, (N,)."""
    known = train.pixels(torch.arange(len(train))).to(x.device).flatten(1)
    at = torch.cat([torch.cdist(rows, known).argmin(dim=1) for rows in x.flatten(1).split(BATCH)])
    return known[at].reshape(x.shape), train.labels.to(x.device)[at]


@torch.no_grad()
def projected(system: DefenseGAN, x: Tensor, init: Literal["small", "prior"]) -> tuple[Tensor, Tensor]:
    """What the projection finds from these initial codes, (N, C, H, W), and its codes, (N, k)."""
    how = replace(system.projection, init=init)
    seed = sample_seeds(0, "nearest-image", torch.arange(len(x), device=x.device))
    codes = []
    for rows in torch.arange(len(x), device=x.device).split(BATCH):
        codes.append(descend(system.generator, x[rows], how.start(seed[rows], system.recipe.latent), how)[0])
    z = torch.cat(codes)
    return system.generator(z), z


def error(x: Tensor, found: Tensor) -> Tensor:
    """The mean over pixels of the squared difference, (N,)."""
    return (x - found).square().flatten(1).mean(dim=1)


def say(
    kind: str, among: str, right: Tensor, distance: Tensor | None = None, length: Tensor | None = None
) -> None:
    """Print a row."""
    far = "" if distance is None else f"{distance.mean():.4f}"
    long = "" if length is None else f"{length.mean():.1f}"
    click.echo(f"| {kind} | {among} | {interval(right.double().tolist(), kind)} | {far} | {long} |")
