"""One attack on one torch model in one call, without matrix, plan or records."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, get_args

import torch
from torch import Tensor, nn

from robustbench_gan.api.attacked import Attacked, described
from robustbench_gan.base.errors import (
    DisconnectedGradient,
    NoBackward,
    NotANumber,
    NotApplicable,
    UsageError,
    unknown,
)
from robustbench_gan.base.errors import described as described_error
from robustbench_gan.cell.checks import Evidence, Question, red_flags
from robustbench_gan.cell.context import Crafted
from robustbench_gan.cell.craft import keep_better, sized_examples, strength_of
from robustbench_gan.cell.probe import probe
from robustbench_gan.cell.purified import Shown, Watched
from robustbench_gan.contracts.attack import AttackInfo, Fitted, Training, info_of
from robustbench_gan.contracts.defense import Defense, declared_gradients, unfitted
from robustbench_gan.contracts.threat import (
    Bare,
    Counts,
    Defended,
    GradientChoice,
    System,
    View,
    answer,
    white_box,
)
from robustbench_gan.guards.guard import Accused, Attributes, Belonging, Kept, Seal, form, left_alone
from robustbench_gan.guards.surroundings import ordinary
from robustbench_gan.models import door
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget, norm_named, radius
from robustbench_gan.nouns.outcome import Goal, Output, correct, unanswered
from robustbench_gan.nouns.record import Flag
from robustbench_gan.nouns.seeds import fold, isolated, own_generators, sample_seeds
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.loop import freeze, fresh
from robustbench_gan.training.substitute import Queried

Batches = list[tuple[slice | Tensor, int]]
_ALONE = threading.RLock()  # calls of several threads wait: they share the model's hooks and torch's settings
SEVERITIES = ("invalid", "warning", "note")  # the worst first


class RedFlag(UserWarning):
    """A red flag of a call of run_attack."""


class Suspect(RuntimeError):
    """Raised by `strict=True`: a red flag says that the numbers cannot be trusted."""


def run_attack(
    attack: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | float = "linf",
    epsilons: float | str | Sequence[float | str] = math.inf,
    targets: Tensor | None = None,
    gradient: GradientChoice | None = None,
    seed: int = 0,
    batch_size: int = 500,
    fast: bool = False,
    train: tuple[Tensor, Tensor] | None = None,
    strict: bool = False,
) -> Attacked:
    """Attack any torch model: `run_attack("pgd:steps=40", model, x, y, norm="linf", epsilons=["8/255", 0.1])`.

    `attack` is a registered name with its parameters. `model` maps x, (N, C, H, W) float32 in [0, 1], to logits
    (N, K) and must be in evaluation mode; answers that hold logits are unpacked, and it is left as it was. y is
    (N,) int64, the true classes; with `targets` (N,) the goal is to reach those. `norm` is "linf", "l2", 2 and so on,
    `epsilons` one budget or several. A minimal-norm attack is run once and serves every budget.

    A fitted Defense may stand in the model's place, attacked with `gradient`: `full` where nothing is said, or `bpda`,
    `truncated`, or `auto`, which tries all that the defense declares and keeps each sample's strongest example.
    `fast` computes gradients in bfloat16 where the device has it; what is reported is judged in float32 always.
    `train` are images (M, C, H, W) and their classes (M,) for an attack that must be trained, such as `advgan`; it is
    trained through the model at each budget, and its passes are not counted.

    Red flags are those of `rbg evaluate`, but that no attack is called twice (`irreproducible-attack`): they stand in
    the result, and those that are more than a note are warned of; `strict` raises Suspect where one says that the
    numbers cannot be trusted. Global generators are seeded for the attack and put back. Raises UsageError for input
    that is not of this form and for a model that gives no answer (NaN, infinity), NotApplicable where the attack has
    no such norm or goal, AttackFault when the attack returns something that cannot be judged, and Meddled when it
    changes the model or what a process shares, which is undone.
    """
    function, parameters = _resolved(attack)
    info = info_of(function)
    x, y = _check(model, x, y, targets)
    targets = None if targets is None else targets.as_subclass(Tensor).clone()
    given = None if train is None else _check(model, *_pair(train), None, "train's ")
    budgets = [Budget(norm_named(norm), eps) for eps in _radii(epsilons)]
    _whole(seed=seed)
    if _whole(batch_size=batch_size) < 1:
        raise UsageError(f"batch_size={batch_size}: expected a whole number of images, 1 or more.")
    _applicable(attack, info, budgets[0].norm, targets, train is not None)
    try:
        with _ALONE, ordinary(x.device), _inside(model, x, y, targets, given) as system_of:
            systems = [system_of(g) for g in _gradients(gradient, model, info)]
            goal = Goal.untargeted(y) if targets is None else Goal.targeted(targets)
            call = _Call(
                function, parameters, info, systems, goal, x, y, int(seed), int(batch_size), fast, given
            )
            found = _attacked(call, attack, budgets, targets)
    except NotANumber as error:
        raise UsageError(
            f"{error}: that is neither right nor robust; look for overflows and 0 / 0."
        ) from error
    except door.WrongForm as error:
        raise UsageError(str(error)) from error
    except DisconnectedGradient as error:
        raise UsageError(_no_gradient(model)) from error
    except NoBackward as error:
        raise UsageError(
            f"autograd fails on its way back through the model: {error}; mend it, or give an attack that needs no "
            "gradient, such as square."
        ) from error
    _tell(found.flags, strict)
    return found


def _no_gradient(model: nn.Module) -> str:
    """What to do where autograd finds no path from a model's answer to its input."""
    if isinstance(model, Defense):
        return (
            f"{type(model).__name__} detaches what it answers, so that it has no full gradient: give gradient='bpda', "
            "or an attack that needs none, such as square."
        )
    return (
        "the model's logits have no gradient with respect to x: it detaches them, by detach, no_grad, .data, numpy "
        "or quantised weights; take that out, or give an attack that needs no gradient, such as square."
    )


def _tell(flags: Sequence[Flag], strict: bool) -> None:
    """Warn of each flag in the line that called run_attack. Raises Suspect for an invalid one where that is asked."""
    invalid = [described(flag) for flag in flags if flag.severity == "invalid"]
    if strict and invalid:
        raise Suspect("; ".join(invalid))
    for flag in flags:
        if flag.severity != "note":
            warnings.warn(described(flag), RedFlag, stacklevel=3)


# ---- the attack


@dataclass(frozen=True)
class _Call:
    """One call of run_attack at work: a system for each gradient that is tried, and what is asked of it."""

    function: Any
    parameters: Mapping[str, Any]
    info: AttackInfo
    systems: Sequence[Bare | Defended]
    goal: Goal
    x: Tensor
    y: Tensor
    seed: int
    batch_size: int
    fast: bool
    train: tuple[Tensor, Tensor] | None

    @property
    def defense(self) -> Defense | None:
        """The defense in the model's place."""
        system = self.systems[0]
        return system.defense if isinstance(system, Defended) else None

    def seeds(self, purpose: str, rows: Any = slice(None)) -> Tensor:
        """The call's seeds of some images for one purpose, (N,)."""
        return sample_seeds(self.seed, purpose, torch.arange(len(self.x), device=self.x.device)[rows])

    @cached_property
    def judges_seeds(self) -> Tensor:
        """What the judge draws from, (N,)."""
        return self.seeds("judge")

    def batches(self, n: int) -> Batches:
        """Slices of so many images, which copy nothing."""
        size = self.batch_size
        return [(slice(start, start + size), min(size, n - start)) for start in range(0, n, size)]

    def judge(self, images: Tensor, named: str) -> Output:
        """The system's answers under the judge's seeds. Raises NotANumber where it has none to an image."""
        try:
            with torch.no_grad():
                out = answer(self.systems[0], images, self.judges_seeds, self.batches(len(images)))
        except NotANumber as error:
            raise NotANumber(f"{error} to {named}") from error
        if lost := int(unanswered(out, self.y).sum()):
            raise NotANumber(f"the model answers -infinity for the true class of {lost} {named}")
        return out

    def options(self) -> dict[str, Any]:
        """What the attacker's view grants: all there is, and the judge's own answer where that is not random."""
        still = self.defense is None or not self.defense.randomised
        parts = {} if self.defense is None else self.defense.parts()
        return {"exact": still, "fixed": still, "whole_batches": True, "fast": self.fast, "parts": parts}


def _attacked(call: _Call, attack: str, budgets: Sequence[Budget], targets: Tensor | None) -> Attacked:
    """Craft, judge and look for red flags, at every budget."""
    x, minimal = call.x, call.info.minimal
    clean = _judged_clean(call)
    right = correct(clean, call.y)
    unbounded = Budget(budgets[0].norm, math.inf)
    with _left_alone(call), own_generators(call.seed) as drew:
        runs = [_crafted(call, budget) for budget in ([unbounded] if minimal else budgets)]
    answers = [call.judge(made.examples, "examples") for made, _ in runs]
    sizes = [
        unbounded.exact_size(made.examples - x) if made.sizes is None else made.sizes for made, _ in runs
    ]
    repeated = len(budgets) if minimal else 1
    runs, answers, sizes = runs * repeated, answers * repeated, sizes * repeated
    inside = torch.stack([b.allows(size) for b, size in zip(budgets, sizes, strict=True)])
    success = torch.stack([call.goal.reached(out) for out in answers]) & inside
    flags = _flags(call, budgets, clean, right, runs, answers, torch.stack(sizes), success, tuple(drew))
    examples = [made.examples for made, _ in runs]
    return Attacked(
        unbounded.norm, tuple(b.eps for b in budgets), examples[0][None] if len(runs) == 1 else torch.stack(examples),
        success,
        torch.stack(sizes).float(), right, torch.stack([made.counts.forward for made, _ in runs]),
        torch.stack([made.counts.backward for made, _ in runs]), attack, call.y, targets, flags,
    )  # fmt: skip


def _left_alone(call: _Call) -> AbstractContextManager[None]:
    """While the attack runs: the model and all else stay as they are. Raises Meddled where they do not."""
    system = call.systems[0]
    model = Seal(system.defense if isinstance(system, Defended) else system.model, "the model")

    def ask() -> None:
        x, seeds = call.x[:2].clone(), call.judges_seeds[:2]
        with torch.no_grad():
            system(x, seeds)
        system(x.requires_grad_(), seeds)

    own: list[Belonging] = [
        model,
        Attributes([model]),
    ]  # what a model changes in itself while it answers is no attack's doing
    return left_alone(
        "the attack", Kept({"the goal": call.goal.classes}), state=own, suspects=[Accused("the model", ask)]
    )


def _judged_clean(call: _Call) -> Output:
    """The answers to the unperturbed images. Raises UsageError where the model cannot be asked about so many."""
    try:
        return call.judge(call.x, "clean images")
    except (NotANumber, door.WrongForm):
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise UsageError(
            f"the model fails on {len(call.x)} clean images: {described_error(error)}"
        ) from error


def _crafted(call: _Call, budget: Budget) -> tuple[Crafted, Counts]:
    """Each sample's strongest example over the gradients tried, and what was done to get it, trainings included."""
    best, trained, strongest = None, Counts.zeros(len(call.x), call.x.device), None
    for at, system in enumerate(call.systems):
        options = call.options()
        everything = torch.arange(len(call.x), device=call.x.device)
        rows = everything if strongest is None or not options["exact"] else everything[~(strongest > 0)]
        if len(rows) == 0:
            break
        new, training = _craft(call, system, budget, rows, options, at)
        trained = trained.plus(training)
        if len(call.systems) == 1:
            return new, new.counts.plus(trained)
        seeds = call.seeds("view", rows)
        strength, passes = strength_of(system, new, seeds, options)
        new.counts.add(torch.arange(len(rows), device=rows.device), passes)
        if best is None or strongest is None:
            best, strongest = new, strength
            continue
        best.counts.add(rows, new.counts)
        best = keep_better(best, new, rows, ~(strength <= strongest[rows]))
        strongest[rows] = torch.maximum(strength, strongest[rows])
    assert best is not None
    return best, best.counts.plus(trained)


def _craft(
    call: _Call, system: System, budget: Budget, rows: Tensor, options: Mapping[str, Any], at: int
) -> tuple[Crafted, Counts]:
    """The attack on some samples through one gradient, in batches, and the counts of its training."""
    function, parameters, training = call.function, call.parameters, Counts.zeros(len(call.x), call.x.device)
    if call.train is not None:
        function, training = _fitted(call, system, budget)
        parameters = {}
    view_seeds = call.seeds("view", rows)
    if at and not options["fixed"]:
        view_seeds = fold(view_seeds, at)
    own, made, sizes, counts = call.seeds("attack", rows), [], [], []
    whole = len(rows) == len(call.x)  # then slices serve, which copy nothing
    images, goal = (call.x, call.goal) if whole else (call.x[rows], call.goal.rows(rows))
    for batch, _ in call.batches(len(rows)):
        view = View.on(system, view_seeds[batch], **options)
        given = images[batch].clone()
        found = function(view, given, goal.rows(batch), budget, own[batch], **parameters)  # type: ignore[arg-type]
        examples, size = sized_examples(found, images[batch], given, budget)
        made.append(examples)
        sizes.append(size)
        counts.append(view.counts)
    whole_set = made[0] if len(made) == 1 else torch.cat(made)
    return Crafted(whole_set, goal, Counts.cat(counts), sizes=torch.cat(sizes)), training


def _fitted(call: _Call, system: System, budget: Budget) -> tuple[Fitted, Counts]:
    """A trained attack, fitted through `system` for every class that the goal aims at, and what that took."""
    assert call.train is not None
    images, labels = call.train
    seen: list[Counts] = []

    def view(seeds: Tensor) -> View:
        made = View.on(system, seeds, whole_batches=True)
        seen.append(made.counts)
        return made

    with torch.no_grad():
        classes = system(images[:1], sample_seeds(call.seed, "classes", labels[:1])).logits.shape[1]
    training = Training(Queried(images, labels), view)
    single = call.function.conditional or call.goal.kind == "untargeted"
    generators = {}
    for target in [None] if single else call.goal.classes.unique().tolist():
        module = fresh(lambda: call.function(tuple(images.shape[1:]), classes, **call.parameters), call.seed)
        module.to(images.device).fit(training, target, budget, call.seed)  # type: ignore[operator]
        generators[target] = freeze(module)
    total = Counts.zeros(len(call.x), call.x.device)
    for name, value in vars(total).items():
        value += sum(int(getattr(counts, name).sum()) for counts in seen)
    return Fitted(generators), total  # type: ignore[arg-type]


# ---- red flags


def _flags(
    call: _Call,
    budgets: Sequence[Budget],
    clean: Output,
    right: Tensor,
    runs: Sequence[tuple[Crafted, Counts]],
    answers: Sequence[Output],
    sizes: Tensor,
    success: Tensor,
    drew: tuple[str, ...],
) -> tuple[Flag, ...]:
    """The flags of `rbg evaluate` for a white-box attack at each budget; each once, as it is worst."""
    system = call.systems[0]
    asked, first = (
        (system.defense, None)
        if isinstance(system, Defended)
        else (Defense(system.model), door.first_answer(system.model))
    )
    looked = probe(asked, call.x, call.judges_seeds, clean, first)
    defended = float(right.double().mean())
    alone, shown = _looked_behind(call, asked) if asked.purifies else (defended, Shown())
    controls = {"classifier": alone, "defended": defended}
    gradients = tuple(s.gradient if isinstance(s, Defended) else "full" for s in call.systems)
    threat = white_box(gradient="full" if len(gradients) == 1 else "auto")
    worst: dict[str, Flag] = {}
    for at, budget in enumerate(budgets):
        eps = math.inf if call.info.minimal else budget.eps
        question = Question(
            call.info,
            call.parameters,
            threat,
            budget.norm,
            eps,
            call.goal.kind != "untargeted",
            clean.logits.shape[1],
        )
        fooled = call.goal.reached(Output.of(answers[at].logits)) & ~answers[at].accepted
        seen = Evidence(
            question, gradients, runs[at][1], sizes[at][None], [clean], right[None], (right & ~success[at])[None],
            fooled[None], asked.randomised, asked.purifies, asked.unrolls, controls, looked,
            shown=shown, drew=drew,
        )  # fmt: skip
        for flag in red_flags(seen):
            known = worst.get(flag.id)
            if known is None or SEVERITIES.index(flag.severity) < SEVERITIES.index(known.severity):
                at_eps = {} if len(budgets) == 1 else {"eps": budget.eps}
                worst[flag.id] = flag.model_copy(update={"evidence": {**flag.evidence, **at_eps}})
    return tuple(worst.values())


def _looked_behind(call: _Call, defense: Defense) -> tuple[float, Shown]:
    """The accuracy of the classifier behind a purifier, and what it is shown there."""
    watched, batches = Watched(defense, len(call.x)), call.batches(len(call.x))
    with torch.no_grad():
        answer(watched, call.x, call.judges_seeds, batches)
        bare = answer(Bare(defense.base), call.x, call.judges_seeds, batches)
    return float(correct(bare, call.y).double().mean()), watched.facts()


# ---- the model


@contextmanager
def _inside(
    model: nn.Module, x: Tensor, y: Tensor, targets: Tensor | None, train: tuple[Tensor, Tensor] | None
) -> Iterator[Callable[[str], Bare | Defended]]:
    """The model, or the classifiers within a defense, inside the door; all are left as they were.

    Yields what makes the attacked system of a gradient. Raises UsageError for a model that cannot be attacked and for
    labels that it has no classes for.
    """
    stages = [part for part in model.modules() if isinstance(part, Defense)]
    if names := dict.fromkeys(name for part in stages for name in unfitted(part)):
        raise UsageError(
            f"{', '.join(names)} is not fitted: call fit(data, seed, store) first, or take the defense from "
            "Workshop().defense(dataset, classifier, spec); if you set its parts by hand, set fitted = True."
        )
    held = [(stage, name, getattr(stage, name)) for stage in stages for name in ("base", "core")]
    guests = list({id(module): module for _, _, module in held}.values()) if stages else [model]
    with door.visiting(guests, x, 2, "any task") as inside:
        admitted = {id(guest): made for guest, made in zip(guests, inside, strict=True)}
        try:
            for stage, name, module in held:
                setattr(stage, name, admitted[id(module)])
            classes = _asked_once(model, x) if isinstance(model, Defense) else door.classes_of(inside[0])
            _check_classes(classes, y, targets, None if train is None else train[1])
            yield (
                lambda gradient: (
                    Defended(model, gradient) if isinstance(model, Defense) else Bare(inside[0])  # type: ignore[arg-type]
                )
            )
        finally:
            for stage, name, module in held:
                setattr(stage, name, module)


def _asked_once(defense: Defense, x: Tensor) -> int:
    """How many classes a defense answers with. Raises UsageError where it fails on two clean images."""
    x = x[: door.LOOKED_AT].clone()
    try:
        with torch.no_grad(), isolated(0):
            out = defense(x, sample_seeds(0, "first", torch.arange(len(x), device=x.device)))
        return int(out.logits.shape[1])
    except Exception as error:  # a stranger's code may raise anything
        raise UsageError(
            f"the defense {type(defense).__name__} fails on {len(x)} clean images: {described_error(error)}"
        ) from error


def _check_classes(classes: int, y: Tensor, targets: Tensor | None, trained: Tensor | None) -> None:
    """Raises UsageError for labels or targets without a class, and for targets that are the label."""
    for name, values in (("y", y), ("targets", targets), ("train's y", trained)):
        if values is None:
            continue
        out = values[(values < 0) | (values >= classes)]
        if len(out):
            raise UsageError(
                f"{name} holds {int(out[0])}, and {len(out)} of {len(values)} are outside of 0 to {classes - 1}, the "
                f"{classes} classes that the model answers with: leave them out, or give the model a logit a class."
            )
    if targets is not None and (same := int((targets == y).sum())):
        raise UsageError(
            f"{same} of {len(y)} targets are the true class, which nothing must be changed to reach: leave those "
            "images out, or aim at another class, such as (y + 1) % classes."
        )


# ---- what a user gives


def _gradients(gradient: Any, model: nn.Module, info: AttackInfo) -> tuple[str, ...]:
    """The gradients to be tried. Raises UsageError for an unknown one, and for a choice that there is not."""
    known = get_args(GradientChoice)
    if gradient is not None and gradient not in known:
        raise unknown("gradient", str(gradient), [name for name in known if name != "cut"])
    if not isinstance(model, Defense):
        if gradient is not None:
            raise UsageError(
                f"gradient={gradient!r} chooses among the gradients of a defense, and the model is a bare "
                f"{type(model).__name__}: leave it out."
            )
        return ("full",)
    if info.needs != "gradient" or info.trained:
        return ("full",) if gradient in (None, "auto") else (gradient,)
    if info.gradient and gradient in (None, "auto"):
        return (info.gradient,)
    return declared_gradients(model) if gradient == "auto" else (gradient or "full",)


def _resolved(attack: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(attack, str):
        raise UsageError(
            f"the attack is a {type(attack).__name__}; expected a registered name, as 'pgd:steps=40'."
        )
    return registry.resolve("attacks", Spec.parse(attack))


def _applicable(attack: str, info: AttackInfo, norm: str, targets: Tensor | None, trained: bool) -> None:
    if info.trained != trained:
        raise UsageError(
            f"{attack} must first be trained: give train=(images, labels), not those it is judged on."
            if info.trained
            else f"{attack} is not trained: leave train out."
        )
    if norm not in info.norms:
        raise NotApplicable(f"{attack} is defined in {', '.join(info.norms)}, not in {norm}")
    if targets is not None and not info.targeted:
        raise NotApplicable(f"{attack} has no targeted form")


def _radii(epsilons: Any) -> list[float]:
    """The budgets of one number, text or several."""
    single = (
        isinstance(epsilons, str | bytes)
        or not hasattr(epsilons, "__iter__")
        or getattr(epsilons, "ndim", 1) == 0
    )
    found = [radius(epsilons)] if single else [radius(eps) for eps in epsilons]
    if not found:
        raise UsageError("epsilons=[]: give at least one budget, such as 8/255.")
    return found


def _whole(**given: Any) -> int:
    """The whole number in the one argument given, by name."""
    ((name, value),) = given.items()
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is no whole number.")
    return int(value)


def _check(model: Any, x: Any, y: Any, targets: Any, whose: str = "") -> tuple[Tensor, Tensor]:
    """The images and labels as plain tensors. Raises UsageError for what cannot be attacked."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is a {type(model).__name__}; expected a torch.nn.Module.")
    if torch.is_inference_mode_enabled():
        raise UsageError("inside torch.inference_mode there are no gradients: call run_attack outside of it.")
    if door.in_training_mode(model):
        raise UsageError(f"the model is in training mode{_which(model)}: call model.eval() first.")
    if not isinstance(x, Tensor) or x.ndim != 4 or x.dtype != torch.float32 or x.numel() == 0:
        raise UsageError(f"{whose}x is {_form(x)}; expected (N, C, H, W) float32 with N >= 1{_as_images(x)}.")
    x = x.detach().as_subclass(Tensor)
    if x.is_meta:
        raise UsageError(f"{whose}x lies on the meta device, without values: load it first.")
    low, high = float(x.amin()), float(x.amax())
    if not (low >= 0 and high <= 1):  # nor is NaN
        cure = "pixels must be in [0, 1], normalisation a layer of the model."
        if low > -1e-3 and high < 1.001:
            cure = "pixels must be in [0, 1]; for so little write x.clamp(0, 1)."
        raise UsageError(f"{whose}x spans [{low:.9g}, {high:.9g}]; {cure}")
    for name, classes in (("y", y), ("targets", targets)):
        if name == "targets" and classes is None:
            continue
        if not isinstance(classes, Tensor) or classes.shape != (len(x),) or classes.dtype != torch.int64:
            raise UsageError(
                f"{whose}{name} is {_form(classes)}; expected ({len(x)},) int64{_as_classes(name, classes, len(x))}."
            )
        if classes.device != x.device:
            raise UsageError(f"{whose}{name} lies on {classes.device} and x on {x.device}: move one of them.")
    return x.clone(), y.as_subclass(Tensor).clone()  # they stay the caller's, whatever edits them


def _which(model: nn.Module) -> str:
    """The part in training mode, where it is not the whole."""
    parts = [(name, part) for name, part in model.named_modules() if name and part.training]
    return (
        "" if model.training or not parts else f" in its part {parts[0][0]}, a {type(parts[0][1]).__name__}"
    )


def _as_images(given: Any) -> str:
    """How images of another form become images, where they can."""
    if not isinstance(given, Tensor) or given.numel() == 0:
        return ""
    if given.dtype == torch.uint8:
        return ": write x.float() / 255"
    if given.is_floating_point() and given.dtype != torch.float32:
        return ": write x.float()"
    return ": write x[None] for one image" if given.ndim == 3 and len(given) in (1, 3) else ""


def _as_classes(name: str, given: Any, n: int) -> str:
    """How labels of another form become classes, where they can."""
    if isinstance(given, list | tuple) or type(given).__module__ == "numpy":
        return f": write torch.as_tensor({name}).long()"
    if isinstance(given, int):
        return f": write torch.full(({n},), {given})"
    if not isinstance(given, Tensor):
        return ""
    if given.shape == (n,):
        return f": write {name}.long()"
    if given.ndim == 2 and len(given) == n:
        return (
            f": write {name}[:, 0].long()"
            if given.shape[1] == 1
            else f": of one row an image {name}.argmax(1)"
        )
    return ""


def _pair(train: Any) -> tuple[Any, Any]:
    if not isinstance(train, tuple | list) or len(train) != 2:
        raise UsageError(f"train is {_form(train)}; expected (images, labels).")
    return train[0], train[1]


def _form(value: Any) -> str:
    hint = ", not a torch tensor: torch.from_numpy makes one" if type(value).__module__ == "numpy" else ""
    return form(value) + hint
