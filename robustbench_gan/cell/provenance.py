"""What a record says beside its outcomes: of substitute, training, queries, copy, controls, weights and machine."""

from __future__ import annotations

import platform
from typing import Final

import torch
from torch import Tensor

from robustbench_gan.base import machine
from robustbench_gan.cell.context import Crafted, Run, substitutes_of
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.systems import Bare, Defended, answer
from robustbench_gan.nouns.budget import Norm, norm_of
from robustbench_gan.nouns.outcome import Output, correct
from robustbench_gan.nouns.spec import UNDEFENDED
from robustbench_gan.nouns.statistics import Spread
from robustbench_gan.training.store import Artifact

DISTORTIONS: Final[tuple[Norm, ...]] = ("l0", "l2", "linf")


def substitute(run: Run, clean: list[Output]) -> dict[str, float | int | str]:
    """What is known of the substitute: its making, its accuracy, and its agreement with the oracle."""
    if run.threat.name != "black-box" or run.info.needs == "nothing":
        return {}
    pairs = substitutes_of(run)
    with torch.no_grad():
        own = torch.stack([answer(Bare(model), run.x, run.seeds("view")).labels for model, _ in pairs])
        undefended = run.threat.oracle == "undefended"
        oracle = answer(Bare(run.defense.base), run.x, run.seeds("view")) if undefended else clean[0]
    infos = [artifact.info for _, artifact in pairs]
    sign = {"step_sign": run.threat.step_sign} if run.threat.substitute == "papernot" else {}
    return {
        "protocol": run.threat.substitute,
        "model": str(run.threat.model),
        "oracle": run.threat.oracle,
        "answers": run.threat.answers,
        **sign,
        "images": len(run.workshop.attackers_images(run.cell.dataset, run.threat)),
        "rounds": infos[0]["rounds"],
        **{key: sum(info[key] for info in infos) for key in ("points", "queries", "rejected")},
        "accuracy": float((own == run.y).double().mean()),
        "agreement": float((own == oracle.labels).double().mean()),
    }


def training(run: Run) -> dict[str, float | int | str]:
    """What a trained attack was trained on; sums over its generators."""
    if not run.fitted:
        return {}
    parts = list(run.fitted.values())
    infos = [part.artifact.info for part in parts]
    return {
        "on": parts[0].ground.name,
        "gradient": parts[0].ground.gradient,
        "generators": len(parts),
        "images": infos[0]["images"],
        **{key: sum(info[key] for info in infos) for key in ("steps", "forward", "backward")},
    }


def queries(run: Run, counts: Counts) -> dict[str, float | int | str]:
    """What a query attacker was told and asked: the limit of an image, and the median and most it used of it."""
    if run.threat.name != "query":
        return {}
    asked = counts.forward.double()
    return {
        "answers": run.threat.access,
        "limit": run.threat.limit,
        "median": float(asked.quantile(0.5)),
        "max": int(asked.max()),
        "total": int(asked.sum()),
    }


def attacked_copy(run: Run, clean: list[Output]) -> dict[str, float | int | str]:
    """Of the copy that was attacked in the defense's place: its seed, clean accuracy and agreement with the defense."""
    if not run.threat.copies:
        return {}
    with torch.no_grad():
        own = answer(Defended(run.held), run.x, run.seeds("view"))
    return {
        "seed": run.workshop.copy_seed,
        "parts": len(run.held.training_keys()),
        "accuracy": float(correct(own, run.y).double().mean()),
        "agreement": float((own.labels == clean[0].labels).double().mean()),
    }


def controls(run: Run, clean: list[Output]) -> dict[str, float]:
    """Clean accuracies on the same images: the classifier alone, the defended system, and its own extras."""
    with torch.no_grad():
        bare = answer(Bare(run.defense.base), run.x, run.seeds("view"))
        extra = run.defense.controls(run.x, run.y, run.seeds("view"))
    defended = torch.stack([correct(c, run.y).double() for c in clean]).mean()
    return {
        "classifier": float(correct(bare, run.y).double().mean()),
        "defended": float(defended),
        **{name: float(value) for name, value in extra.items()},
    }


def attacked(run: Run, crafted: list[Crafted], answers: list[Output]) -> dict[str, float]:
    """Accuracies on the examples, beside `controls` on the same images: the classifier alone, the defended system.

    `answers` are the defended system's, one a judge seed. The classifier is asked about each set of examples once.
    """
    names = (run.cell.dataset, run.cell.classifier, UNDEFENDED)
    alone = [
        run.workshop.judged(names, one.examples, run.cell.first, run.cell.seed, k).out
        for k, one in enumerate(crafted)
    ]
    return {
        name: float(torch.stack([correct(out, run.y).double() for out in outs]).mean())
        for name, outs in (("classifier", alone), ("defended", answers))
    }


def distortion(run: Run, crafted: list[Crafted], won: Tensor) -> dict[str, Spread]:
    """How far the examples are that won, (K, N) bool: l0 counts values. Empty where none did."""
    rows = won if len(crafted) > 1 else won.any(dim=0, keepdim=True)
    moved = torch.cat([(one.examples - run.x)[row] for one, row in zip(crafted, rows, strict=True)])
    if len(moved) == 0:
        return {}
    sizes = {norm: norm_of(moved, norm).double() for norm in DISTORTIONS}
    return {
        norm: Spread(mean=float(size.mean()), median=float(size.quantile(0.5)), max=float(size.max()))
        for norm, size in sizes.items()
    }


def zero_gradients(counts: Counts) -> dict[str, float]:
    """Of the samples whose gradient was asked for, the shares that got nothing but zeros, and zeros at least once."""
    asked = counts.gradients > 0
    if not bool(asked.any()):
        return {}
    zero, given = counts.zero_gradients[asked], counts.gradients[asked]
    return {"always": float((zero == given).double().mean()), "once": float((zero > 0).double().mean())}


def artifacts(run: Run) -> dict[str, Artifact]:
    """Every trained part that stands behind the number."""
    used = {"classifier": run.workshop.classifier(run.cell.dataset, run.cell.classifier)[1]}
    for name, key in run.defense.training_keys().items():
        used[f"defense.{name}"] = run.workshop.store.used[key]
    if run.threat.copies:
        for name, key in run.held.training_keys().items():
            used[f"copy.{name}"] = run.workshop.store.used[key]
    for target, part in run.fitted.items():
        used["attack" if target is None else f"attack.{target}"] = part.artifact
    if run.threat.name == "black-box" and run.threat.substitute != "dynamic" and run.info.needs != "nothing":
        used["substitute"] = run.workshop.substitute(*run.system_names(), run.threat)[1]
    return used


def training_seconds(run: Run) -> float:
    """What training all of them took, whenever that was."""
    return sum(float(artifact.info.get("build_seconds", 0.0)) for artifact in artifacts(run).values())


def hardware(device: torch.device) -> dict[str, str]:
    """The machine as records describe it: device, system, and what `machine.described` says."""
    return {"device": device.type, "system": platform.system(), **machine.described(device)}
