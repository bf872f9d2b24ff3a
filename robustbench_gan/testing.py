"""For the tests of a plugin: the real engine on drawn images, in seconds, whether the plugin is installed or not.

`check_attack(my_attack)` and `check_defense(MyDefense, sigma=0.1)` raise AssertionError with one line on what is wrong,
and whatever the engine raises where a plugin breaks its rules: AttackFault, Meddled, ValueError.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.api.attacked import Attacked
from robustbench_gan.api.run_attack import RedFlag, run_attack
from robustbench_gan.base.errors import NotApplicable
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.data.dataset import Dataset, Split, TrainingData
from robustbench_gan.guards.belongings import Kept
from robustbench_gan.guards.guard import left_alone
from robustbench_gan.guards.seal import Seal
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Output
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.store import Store

__all__ = ["check_attack", "check_defense", "tiny_classifier", "tiny_data"]
SHAPE = (1, 12, 12)
PARTS = {"train": 96, "validation": 48, "test": 24}
WIDE = {"linf": 0.5, "l2": 6.0, "l1": 72.0, "l0": 144.0}  # radii inside which every image of SHAPE can be won


def tiny_data(shape: tuple[int, int, int] = SHAPE, classes: int = 3) -> Dataset:
    """Noisy grey images, (C, H, W), whose brightness is their class: 96 to train on, 48 to validate, 24 to test."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % classes
        noise = torch.randint(0, 20, (count, *shape), generator=generator)
        return Split((labels * (230 // (classes - 1))).view(-1, 1, 1, 1).add(noise).to(torch.uint8), labels)

    return Dataset("tiny", tuple(map(str, range(classes))), **{name: split(n) for name, n in PARTS.items()})


def tiny_classifier(data: Dataset) -> nn.Module:
    """A linear classifier that is right on all of `tiny_data`: the class of the nearest brightness."""
    classes = len(data.classes)
    linear = nn.Linear(data.test.images[0].numel(), classes)
    levels = torch.linspace(0, 230 // (classes - 1) * (classes - 1), classes).add(10) / 255
    with torch.no_grad():
        linear.weight.copy_((20 * levels / linear.in_features)[:, None].expand_as(linear.weight))
        linear.bias.copy_(-10 * levels.square())
    return freeze(nn.Sequential(nn.Flatten(), linear))


def check_attack(attack: str | Callable[..., Any], data: Dataset | None = None) -> Mapping[str, Attacked]:
    """Run an attack in each of its norms, untargeted and, where it says so, targeted; what it did, by norm and goal.

    `attack` is what stands under `@attack`, with its defaults, or a registered name with parameters. It must return
    examples inside the box and the budget, the same from the same seed and in whatever batches, win an image in some
    norm unless it is a control, raise no red flag that makes a number invalid, and leave everything else alone.
    """
    target = registry.load("attacks", Spec.of(attack).name) if isinstance(attack, str) else attack
    info, name = info_of(target), attack if isinstance(attack, str) else target.__name__
    _check_parameters(target, name)
    data = data or tiny_data()
    model = tiny_classifier(data)
    train = (data.train.pixels(), data.train.labels) if info.trained else None
    found = {}
    for norm in info.norms:
        for goal in ("untargeted", "targeted") if info.targeted else ("untargeted",):
            where = f"{norm} {goal}"
            targets = (data.test.labels + 1) % len(data.classes) if goal == "targeted" else None
            asked = {"norm": norm, "epsilons": WIDE[norm], "targets": targets, "train": train}
            try:
                one = _attacked(attack, model, data, **asked)
            except NotApplicable:
                continue
            again = _attacked(attack, model, data, batch_size=7, **asked)
            _hold(
                torch.equal(one.success, again.success) and torch.allclose(one.size, again.size, atol=1e-3),
                f"{name}, {where}: a second run in batches of 7 finds something else. Draw what is random from `seed` "
                "alone (robustbench_gan.seeds), and treat samples independently.",
            )
            _hold(not _faults(one), f"{name}, {where}: {_faults(one)}")
            found[where] = one
    _hold(found, f"{name}: in none of its norms is it applicable to {len(data.classes)} classes.")
    won = any(bool(one.success.any()) for one in found.values())
    _hold(
        won or info.control or info.needs == "nothing",
        f"{name} wins no image in any norm, at radii where each can be won.",
    )
    return found


def check_defense(kind: type[Defense], data: Dataset | None = None, **parameters: Any) -> Attacked:
    """Fit a defense twice from one store and attack it by PGD through all gradients that it declares.

    It must have a use for such images (give another `data` where it has not), train nothing a second time, store what
    it says it has trained, answer the same when it is fitted again, raise no red flag that makes a number invalid, and
    leave everything else alone.
    """
    data = data or tiny_data()
    _check_parameters(kind, kind.__name__)
    x = data.test.pixels()
    with TemporaryDirectory() as root:
        store = Store(Path(root), zoo=None)
        defense = _fitted(kind, data, store, parameters)
        stored = list(store)
        again = _fitted(kind, data, store, parameters)
        _hold(
            stored == list(store), f"{kind.__name__} is trained anew each time: its recipe changes by itself."
        )
        missing = [name for name, key in defense.training_keys().items() if store.stored(key) is None]
        _hold(
            not missing, f"{kind.__name__}.training_keys() names what was not stored: {', '.join(missing)}."
        )
    _hold(
        _same(_answer(defense, x), _answer(again, x)),
        f"{kind.__name__} answers differently when it is fitted again: train in `build` alone, from `seed`.",
    )
    found = _attacked("pgd:steps=10", defense, data, norm="linf", epsilons=WIDE["linf"], gradient="auto")
    _hold(not _faults(found), f"{kind.__name__}: {_faults(found)}")
    return found


def _attacked(attack: str | Callable[..., Any], model: nn.Module, data: Dataset, **asked: Any) -> Attacked:
    """The call, whose red flags stand in what it found: what these settings are too small for is nobody's fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RedFlag)
        return run_attack(attack, model, data.test.pixels(), data.test.labels, **asked)


def _fitted(kind: type[Defense], data: Dataset, store: Store, parameters: Mapping[str, Any]) -> Defense:
    """The defense around the tiny classifier, fitted as the engine does it."""
    base = tiny_classifier(data)
    defense = kind(base, **parameters)
    defense.base_key = "tiny"
    why = defense.why_not(data.shape, len(data.classes))
    _hold(not why, f"{kind.__name__} has no use for images of shape {data.shape}: {why}. Give other `data`.")
    images = Kept({f"the {part} images": getattr(data, part).images for part in PARTS})
    with left_alone(f"{kind.__name__}, when it was fitted,", Seal(base, "the classifier"), images):
        defense.fit(TrainingData(data), 0, store)
    freeze(defense)
    return defense


def _answer(defense: Defense, x: Tensor) -> Output:
    with torch.no_grad():
        return answer(Defended(defense), x, sample_seeds(0, "judge", torch.arange(len(x))))


def _same(one: Output, other: Output) -> bool:
    return torch.equal(one.logits, other.logits) and torch.equal(one.scores, other.scores)


def _check_parameters(target: Any, name: str) -> None:
    """Every parameter of a plugin needs a default, whose type is the parameter's."""
    bare: Iterable[str] = [p.name for p in registry.parameters(target).values() if p.required]
    _hold(not bare, f"{name}: {', '.join(bare)} has no default, so that no spec can leave it out.")


def _faults(found: Attacked) -> str:
    """The flags that a plugin should not raise whatever it is asked."""
    wrong = [flag for flag in found.flags if flag.severity == "invalid" or flag.id == "global-generator"]
    return "; ".join(f"{flag.id}: {flag.message}" for flag in wrong)


def _hold(condition: Any, said: str) -> None:
    """Raise AssertionError where something does not hold; also where Python leaves `assert` out."""
    if not condition:
        raise AssertionError(said)
