"""One cell: craft examples under its threat model, check them, judge them, and record all of it.

The judge trusts nobody. It hands out copies, checks what comes back, and recomputes every success on the
defended system with its own seeds, beside an unperturbed control under the same draws.
"""

from __future__ import annotations

import platform
import resource
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import importlib_metadata
import torch
from torch import Tensor, nn

from robustbench_gan import progress, registry
from robustbench_gan.attack import AttackInfo, Fitted, info_of
from robustbench_gan.batching import micro_batch_size
from robustbench_gan.budget import SLACK, Budget
from robustbench_gan.checks import Evidence, Question, flags_of_error, red_flags, undefined_losses
from robustbench_gan.defense import Defense
from robustbench_gan.detection import measure
from robustbench_gan.errors import NotApplicable, UsageError
from robustbench_gan.fitting import Order, Trained, trained
from robustbench_gan.matrix import Planned
from robustbench_gan.outcome import REJECTED, Goal, Output, correct
from robustbench_gan.probe import probe
from robustbench_gan.record import Cell, Detection, Outcomes, Result, Seconds, Status
from robustbench_gan.registry import Spec
from robustbench_gan.seeds import fold, integers, sample_seeds
from robustbench_gan.store import Artifact
from robustbench_gan.threat import Bare, Counts, Defended, QueryLimit, System, ThreatModel, View, answer
from robustbench_gan.workshop import Judged, Workshop, judge_seeds

REPORTED_PACKAGES = ("robustbench-gan", "torch", "numpy")


class AttackFault(RuntimeError):
    """What an attack returned cannot be judged: outside its budget or the box, NaN, or not of the input's form.

    `flag` names the red flag that stands for it, where there is one.
    """

    def __init__(self, message: str, flag: str = "") -> None:
        super().__init__(message)
        self.flag = flag


class NotANumber(RuntimeError):
    """A defended system answered NaN: it has not survived anything."""

    flag = "not-a-number"


@dataclass(frozen=True)
class Settings:
    """What decides how a cell is computed but never what comes out."""

    batch_size: int = 200
    max_cell_minutes: float | None = None


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
    def index(self) -> Tensor:
        """Positions of the judged images in the test split, (N,)."""
        return torch.arange(self.cell.first, self.cell.first + len(self.x), device=self.x.device)

    def seeds(self, purpose: str) -> Tensor:
        """The cell's seeds for one purpose, (N,)."""
        return sample_seeds(self.cell.seed, purpose, self.index)

    def system_names(self) -> tuple[str, str, str]:
        """Data set, classifier and defense, as the workshop asks for them."""
        return self.cell.dataset, self.cell.classifier, self.cell.defense

    def call(self, view: View, x: Tensor, goal: Goal, seed: Tensor) -> Any:
        """The attack itself, a trained one by its generators."""
        if self.fitted:
            attack = Fitted({target: part.attack for target, part in self.fitted.items()})
            return attack(view, x, goal, self.budget, seed)
        return self.function(view, x, goal, self.budget, seed, **self.parameters)


@dataclass(frozen=True)
class Crafted:
    """Examples (N, C, H, W), the goal each aims at, and what making them took."""

    examples: Tensor
    goal: Goal
    counts: Counts


def evaluate_cell(planned: Planned, workshop: Workshop, settings: Settings) -> Result:
    """The result of one cell. An attack or defense that raises makes it `failed`, never robust.

    Raises UsageError (bad input) and lets KeyboardInterrupt through; everything else ends in the record.
    """
    if planned.reason:
        return _without_outcomes(planned, "not applicable", planned.reason)
    run = None
    try:
        run = _prepare(planned, workshop, settings)
        estimate = estimate_seconds(run) if settings.max_cell_minutes is not None else None
        if estimate is not None and estimate > 60 * (settings.max_cell_minutes or 0):
            reason = (
                f"estimated at {estimate / 60:.1f} minutes, above the limit of {settings.max_cell_minutes:g}"
            )
            return _without_outcomes(planned, "not run", reason, estimate_seconds=estimate)
        return _attack_and_judge(run, estimate)
    except NotApplicable as why:
        flags = undefined_losses(_question(run)) if run else []
        return _without_outcomes(planned, "not applicable", str(why), flags=flags)
    except UsageError:
        raise
    except Exception as error:  # whatever a plugin raises: a crash is a failed cell, never a survived attack
        frames = traceback.extract_tb(error.__traceback__)
        trace = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
        reason = f"{type(error).__name__}: {error}"
        return _without_outcomes(planned, "failed", reason, traceback=trace, flags=flags_of_error(error))


def _without_outcomes(planned: Planned, status: Status, reason: str, **more: Any) -> Result:
    cell, control = planned.cell, planned.control
    return Result(
        cell=cell, fingerprint=cell.fingerprint, status=status, reason=reason, control=control, **more
    )


def _prepare(planned: Planned, workshop: Workshop, settings: Settings) -> Run:
    cell = planned.cell
    function, parameters = registry.resolve("attacks", Spec.parse(cell.attack))
    defense = workshop.defense(cell.dataset, cell.classifier, cell.defense)
    held = defense
    if planned.threat.copies:
        held = workshop.copy(cell.dataset, cell.classifier, cell.defense)
    x, y = workshop.images(cell.dataset, cell.first, cell.samples)
    return Run(planned, workshop, settings, function, info_of(function), parameters, defense, held, x, y)


def train_attack(planned: Planned, workshop: Workshop) -> None:
    """Train what the attack of a cell needs, once for all cells that can share it."""
    _fit(_prepare(planned, workshop, Settings()))


def _fit(run: Run) -> None:
    """Train an attack that must be trained: once, or unless it is conditional once a class that a goal aims at."""
    if not run.info.trained:
        return
    targets: list[int | None] = [None]
    if run.cell.goal != "untargeted" and not run.function.conditional:
        targets = sorted(torch.cat([goal.classes for goal in _goals(run)]).unique().tolist())
    for target in targets:
        order = Order(run.system_names(), run.cell.attack, run.threat, target, run.budget)
        run.fitted[target] = trained(run.workshop, order)


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
        return run.defense.gradients
    return (run.threat.gradient,)


def _systems(run: Run) -> list[System]:
    """What the attack is run on, one for each gradient."""
    if run.threat.differentiates and run.info.trained:
        return [Defended(run.held)]
    if run.threat.holds_defense or run.threat.copies:
        return [Defended(run.held, g, run.threat.unroll) for g in gradients_of(run)]  # type: ignore[arg-type]
    if run.threat.name == "gray-box":
        return [Bare(run.defense.core)]
    if run.info.needs == "nothing":
        return [Bare(run.defense.base)]
    return [Bare(_substitutes(run)[0][0])]


def _substitutes(run: Run) -> list[tuple[nn.Module, Artifact]]:
    """The black-box attacker's substitute; under the dynamic protocol one beside each generator."""
    if run.threat.substitute == "dynamic":
        parts = run.fitted.values()
        return [(part.substitute, part.artifact) for part in parts if part.substitute is not None]
    return [run.workshop.substitute(*run.system_names(), run.threat)]


def _goals(run: Run) -> list[Goal]:
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
    logits = logits.scatter(1, run.y[:, None], torch.inf)
    return [Goal.targeted(logits.argmin(dim=1))]


def _attack_and_judge(run: Run, estimate: float | None) -> Result:
    cell = run.cell
    _fit(run)
    crafted, crafting = craft(run)
    verdict = judge(run, crafted)
    counts = reduce(Counts.plus, (c.counts for c in crafted))
    substitute = _substitute_facts(run, verdict.clean)
    controls = _controls(run, verdict.clean)
    flags = red_flags(_evidence(run, _seen(run, counts), verdict, substitute.get("agreement"), controls))
    invalid = [f for f in flags if f.severity == "invalid"]
    return Result(
        cell=cell,
        fingerprint=cell.fingerprint,
        status="suspect" if invalid else "ok",
        reason="; ".join(f.id for f in invalid),
        flags=flags,
        control=run.info.control,
        outcomes=verdict.outcomes(counts),
        detection=_detection(run, verdict),
        controls=controls,
        substitute=substitute,
        trained=_training_facts(run),
        queries=_query_facts(run, counts),
        attacked_copy=_copy_facts(run, verdict.clean),
        gradients=list(gradients_of(run)) if run.threat.differentiates else [],
        estimate_seconds=estimate,
        seconds=Seconds(training=_training_seconds(run), crafting=crafting, judging=verdict.seconds),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        hardware=_hardware(run.x.device),
        versions={name: importlib_metadata.version(name) for name in REPORTED_PACKAGES},
        weights={name: artifact.digest for name, artifact in _artifacts(run).items()},
    )


def _question(run: Run) -> Question:
    """What red flags can know of a cell before it runs."""
    cell, classes = run.cell, len(run.workshop.dataset(run.cell.dataset).classes)
    return Question(
        run.info, run.parameters, run.threat, cell.norm, cell.eps, cell.goal != "untargeted", classes
    )


def _evidence(
    run: Run, counts: Counts, verdict: Verdict, agreement: Any, controls: Mapping[str, float]
) -> Evidence:
    """What red flags look at. Every cell that attacks the same system on the same images shares one probe of it."""
    cell, names, defense = run.cell, run.system_names(), run.defense
    looked = run.workshop.once(
        ("probe", names, cell.first, cell.seed), lambda: probe(defense, run.x, run.seeds("probe"))
    )
    return Evidence(
        _question(run), gradients_of(run), counts, verdict.sizes, verdict.clean, verdict.right, verdict.robust,
        verdict.stopped, defense.randomised, defense.purifies, defense.unrolls, controls, looked,
        None if agreement is None else float(agreement),
    )  # fmt: skip


def craft(run: Run) -> tuple[list[Crafted], float]:
    """The attack's examples and the seconds they took: one set judged under every seed, or one a judge seed.

    Examples made on a classifier alone are made once for all the defenses in front of it. Raises AttackFault
    when the attack returns something that cannot be judged.
    """

    def make() -> tuple[list[Crafted], float]:
        started = time.perf_counter()
        if run.threat.name == "seed-known":
            seeds = [
                judge_seeds(run.cell.seed, k, run.x, run.cell.first) for k in range(run.cell.judge_seeds)
            ]
            sets = [_craft_once(run, seed, fixed=True) for seed in seeds]
        else:
            sets = [_craft_once(run, run.seeds("view"), fixed=False)]
        return sets, time.perf_counter() - started

    if run.threat.holds_defense or run.threat.copies or run.info.needs == "nothing":
        return make()
    asked = run.cell.model_dump(
        include={"dataset", "attack", "goal", "norm", "eps", "first", "samples", "seed"}
    )
    return run.workshop.once(("crafted", _attacked_alone(run), *sorted(asked.items())), make)


def _attacked_alone(run: Run) -> tuple[str, ...]:
    """The keys of the classifier that a gray-box or black-box attack is run on."""
    if run.info.trained:
        return tuple(part.artifact.key for part in run.fitted.values())
    if run.threat.name == "black-box":
        return (run.workshop.substitute(*run.system_names(), run.threat)[1].key,)
    keys = run.defense.training_keys().values() if run.defense.core is not run.defense.base else ()
    return (run.defense.base_key, *sorted(keys))


def _craft_once(run: Run, view_seeds: Tensor, fixed: bool) -> Crafted:
    """Every gradient and goal tried in turn; per sample the example that the attacker finds strongest.

    Where the view is exact, a sample that is won is not tried again.
    """
    tries = [(system, goal) for system in _systems(run) for goal in _goals(run)]
    best = Crafted(run.x.clone(), replace(tries[0][1]), Counts.zeros(len(run.x), run.x.device))
    strongest = torch.full((len(run.x),), -torch.inf, device=run.x.device)
    name = f"{run.function.__name__} on {Spec.parse(run.cell.defense.split('+')[0]).name}"
    with progress.task(f"crafting: {name}, {run.threat.name}", len(tries) * len(run.x)) as advance:
        for at, (system, goal) in enumerate(tries):
            options = _view_options(run, system, fixed, len(tries))
            won = strongest > 0 if options["exact"] else torch.zeros_like(strongest, dtype=torch.bool)
            rows = torch.nonzero(~won)[:, 0]
            advance(int(won.sum()))
            if len(rows) == 0:
                continue
            seeds = view_seeds if fixed else fold(view_seeds, at)
            new = _attack(run, system, goal, seeds, options, rows, advance)
            best.counts.add(rows, new.counts)
            strength = torch.full((len(rows),), torch.inf, device=rows.device)
            if len(tries) > 1:
                strength, passes = _strength(system, new, view_seeds[rows], options)
                best.counts.add(rows, passes)
            best = _keep(
                best, new, rows, ~(strength <= strongest[rows])
            )  # NaN is kept: the judge must see it
            strongest[rows] = torch.maximum(strength, strongest[rows])
    return best


def _keep(best: Crafted, new: Crafted, rows: Tensor, better: Tensor) -> Crafted:
    """Put the better ones of new examples, made for `rows`, in the place of the old."""
    taken = rows[better]
    examples, classes = best.examples.clone(), best.goal.classes.clone()
    examples[taken] = new.examples[better]
    classes[taken] = new.goal.classes[better]
    return Crafted(examples, replace(best.goal, classes=classes), best.counts)


def _view_options(run: Run, system: System, fixed: bool, tries: int) -> dict[str, Any]:
    """What a view of this system grants; a system that is not random needs no draws, and is exact.

    A copy of the defense is never exact. Several tries share a limit of queries, the one that chooses between their
    examples included. Raises NotApplicable where the limit is too small for that.
    """
    threat, still = run.threat, fixed or not (system.defended and run.defense.randomised)
    limit = threat.limit if tries == 1 else threat.limit // tries - 1
    if threat.limit and limit < 1:
        raise NotApplicable(
            f"{threat.limit} queries an image are too few for {tries} tries and a choice among them"
        )
    return {
        "access": threat.access,
        "draws": 1 if still else threat.draws,
        "fixed": still,
        "exact": still and system.defended and not threat.copies,
        "limit": limit if threat.limit else 0,
        "parts": run.held.parts() if threat.differentiates else {},
    }


def _attack(
    run: Run,
    system: System,
    goal: Goal,
    seeds: Tensor,
    options: Mapping[str, Any],
    rows: Tensor,
    advance: progress.Advance,
) -> Crafted:
    """Run the attack on some samples, in groups of `batch_size`, and check what it returns."""
    examples, counts = [], []
    attack_seeds = run.seeds("attack")
    for group in rows.split(run.settings.batch_size):
        view = View.on(system, seeds[group], **options)
        given = run.x[group].clone()
        made = run.call(view, given, goal.rows(group), attack_seeds[group].clone())
        check_examples(made, run.x[group], given, run.budget)
        _check_queries(view)
        examples.append(made.detach().clone())
        counts.append(view.counts)
        advance(len(group))
    return Crafted(torch.cat(examples), goal.rows(rows), Counts.cat(counts))


def _check_queries(view: View) -> None:
    """An attack that caught the error of its limit and went on has still asked too much. Raises QueryLimit."""
    most = int(view.counts.forward.max()) if len(view.counts.forward) else 0
    if view.limit and most > view.limit:
        raise QueryLimit(f"the attack asked {most} queries an image, its limit is {view.limit}")


def check_examples(made: Any, x: Tensor, given: Tensor, budget: Budget) -> None:
    """Raise AttackFault unless `made` is (N, C, H, W) float32 in the box and the budget around x.

    `given` is the copy of x that the attack was handed: it must come back unchanged.
    """
    if not torch.equal(given, x):
        raise AttackFault("the attack edited its input in place")
    if not isinstance(made, Tensor) or made.shape != x.shape or made.dtype != x.dtype:
        found = f"{tuple(made.shape)} {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        other = isinstance(made, Tensor) and made.shape == x.shape
        raise AttackFault(
            f"the attack returned {found}, expected {tuple(x.shape)} {x.dtype}",
            flag="budget-violation" if other else "",
        )
    if not bool(torch.isfinite(made).all()):
        bad = _count(~torch.isfinite(made))
        raise AttackFault(f"{bad} examples hold NaN or infinite values", flag="not-a-number")
    outside = (made < -SLACK) | (made > 1 + SLACK)
    if bool(outside.any()):
        raise AttackFault(f"{_count(outside)} examples leave the box [0, 1]", flag="budget-violation")
    over = ~budget.contains(made.detach() - x)
    if bool(over.any()):
        size = float(budget.size(made.detach() - x).max())
        raise AttackFault(
            f"{int(over.sum())} examples leave the {budget.norm} ball: {size:g} > {budget.eps:g}",
            flag="budget-violation",
        )


def _count(bad: Tensor) -> int:
    return int(bad.flatten(1).any(dim=1).sum())


def _strength(
    system: System, crafted: Crafted, seeds: Tensor, options: Mapping[str, Any]
) -> tuple[Tensor, Counts]:
    """The attacker's own measure of its examples, (N,): the margin under draws that the judge never uses.

    An attacker who sees labels alone has 1 where the goal is reached and -1 elsewhere. Its passes are charged to the
    attack, but are no call that the attack made: red flags look at those.
    """
    seeds = seeds if options["fixed"] else fold(seeds, "choose")
    view, goal = View.on(system, seeds, **options), crafted.goal
    if view.access == "labels":
        labels = view.labels(crafted.examples)
        same = labels == goal.classes
        margin = torch.where(same if goal.kind == "targeted" else ~same & (labels != REJECTED), 1.0, -1.0)
    else:
        margin = goal.margin(view.output(crafted.examples))
    return margin, replace(view.counts, calls=torch.zeros_like(view.counts.calls))


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
            size=[[round(v, 6) for v in row] for row in self.sizes.tolist()],
            forward=counts.forward.tolist(),
            backward=counts.backward.tolist(),
        )


def judge(run: Run, crafted: list[Crafted]) -> Verdict:
    """Recompute everything on the defended system under the judge's seeds, beside an unperturbed control.

    Raises NotANumber when the defended system answers NaN.
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
    _finite(attacked + clean)
    right = torch.stack([correct(c, run.y) for c in clean])
    won = torch.stack([s.goal.reached(a) for s, a in zip(sets, attacked, strict=True)])
    accepted = torch.stack([a.accepted for a in attacked])
    fooled = [s.goal.reached(Output.of(a.logits)) for s, a in zip(sets, attacked, strict=True)]
    stopped = torch.stack(fooled) & ~accepted
    sizes = torch.stack([run.budget.size(c.examples - run.x) for c in crafted])
    return Verdict(clean, attacked, right, right & ~won, stopped, sizes, sum(j.seconds for j in judged))


def _finite(outs: Iterable[Output]) -> None:
    """A defense that answers NaN has not survived anything: the cell fails."""
    for out in outs:
        if bool(torch.isnan(out.logits).any()) or bool(torch.isnan(out.scores).any()):
            raise NotANumber("the defended system answered NaN")


def _bits(flags: Tensor) -> str:
    return "".join("1" if f else "0" for f in flags.tolist())


def _detection(run: Run, verdict: Verdict) -> Detection | None:
    """What the detectors say of clean images and of examples; None of a defense without any."""
    clean, attacked = (
        torch.stack([o.scores for o in outs]).cpu().double().numpy()
        for outs in (verdict.clean, verdict.attacked)
    )
    perturbed = (verdict.sizes > 0).expand(attacked.shape[:2]).cpu().numpy()
    return measure(clean, attacked, perturbed, run.defense.detectors, run.cell.fingerprint)


def _substitute_facts(run: Run, clean: list[Output]) -> dict[str, float | int | str]:
    """What is known of the substitute: its making, its accuracy, and its agreement with the oracle."""
    if run.threat.name != "black-box" or run.info.needs == "nothing":
        return {}
    pairs = _substitutes(run)
    with torch.no_grad():
        own = torch.stack([answer(Bare(model), run.x, run.seeds("view")).labels for model, _ in pairs])
        undefended = run.threat.oracle == "undefended"
        oracle = answer(Bare(run.defense.base), run.x, run.seeds("view")) if undefended else clean[0]
    infos = [artifact.info for _, artifact in pairs]
    sign = {"step_sign": run.threat.step_sign} if run.threat.substitute == "papernot" else {}
    return {
        "protocol": run.threat.substitute,
        "model": run.threat.model,
        "oracle": run.threat.oracle,
        "answers": run.threat.answers,
        **sign,
        "images": len(run.workshop.attackers_images(run.cell.dataset, run.threat)),
        "rounds": infos[0]["rounds"],
        **{key: sum(info[key] for info in infos) for key in ("points", "queries", "rejected")},
        "accuracy": float((own == run.y).double().mean()),
        "agreement": float((own == oracle.labels).double().mean()),
    }


def _training_facts(run: Run) -> dict[str, float | int | str]:
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


def _query_facts(run: Run, counts: Counts) -> dict[str, float | int | str]:
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


def _copy_facts(run: Run, clean: list[Output]) -> dict[str, float | int | str]:
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


def _seen(run: Run, counts: Counts) -> Counts:
    """What red flags look at: what was done to each sample, and to get a trained attack, to all of its images."""
    if not run.fitted:
        return counts
    infos = [part.artifact.info for part in run.fitted.values()]
    # Weights stored before a counter was added to the view lack it, and only what was counted can be held against them.
    totals = {name: sum(info.get(name, 0) for info in infos) for name in vars(counts)}
    return Counts(**{name: value + totals[name] for name, value in vars(counts).items()})


def _controls(run: Run, clean: list[Output]) -> dict[str, float]:
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


def _artifacts(run: Run) -> dict[str, Artifact]:
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


def _training_seconds(run: Run) -> float:
    return sum(float(artifact.info.get("build_seconds", 0.0)) for artifact in _artifacts(run).values())


def _hardware(device: torch.device) -> dict[str, str]:
    described = {
        "device": device.type,
        "threads": str(torch.get_num_threads()),
        "machine": platform.machine(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def estimate_seconds(run: Run) -> float:
    """An upper estimate of a cell's crafting and judging, from timing one micro-batch of each kind of pass."""
    size = micro_batch_size(run.x.device)
    chunks = -(-len(run.x) // size)
    judging = _timed(run, "forward") * chunks * run.cell.judge_seeds
    sets = run.cell.judge_seeds if run.threat.name == "seed-known" else 1
    draws = run.threat.draws if run.defense.randomised and sets == 1 else 1
    classes, features = len(run.workshop.dataset(run.cell.dataset).classes), run.x[0].numel()
    passes, alone = (
        count * len(_goals(run)) for count in run.info.cost(run.parameters, run.cell.norm, classes, features)
    )
    if not (run.threat.holds_defense or run.threat.copies):
        return judging  # passes through a classifier alone are cheap beside one defended answer
    gradients = gradients_of(run)
    each = sum(_timed(run, g if run.info.needs == "gradient" else "forward") for g in gradients)
    choosing = _timed(run, "forward") * len(gradients) * draws if len(gradients) > 1 else 0.0
    on_parts = alone * _timed_part(run) if alone and run.defense.parts() else 0.0
    return judging + chunks * sets * (passes * draws * each + choosing + on_parts)


def _timed_part(run: Run) -> float:
    """Seconds of one micro-batch through a part: those of a defended answer, shared among the batches it sent there."""

    def measure() -> float:
        x, rows = run.x[: micro_batch_size(run.x.device)], [0]

        def count(_: nn.Module, given: tuple[Tensor, ...], __: object) -> None:
            rows[0] += len(given[0])

        hooks = [part.register_forward_hook(count) for part in run.defense.parts().values()]
        started = time.perf_counter()
        try:
            View.on(Defended(run.defense), run.seeds("view")[: len(x)]).output(x)
        finally:
            for hook in hooks:
                hook.remove()
        return (time.perf_counter() - started) * micro_batch_size(x.device) / max(rows[0], 1)

    return run.workshop.once(("timing", "part", *run.system_names()), measure)


def _timed(run: Run, kind: str) -> float:
    """Seconds of one micro-batch: an answer (`forward`) or a value and gradient of the kind named."""

    def measure() -> float:
        x, y = (
            run.x[: micro_batch_size(run.x.device)],
            run.y[: micro_batch_size(run.x.device)],
        )
        gradient: Any = "full" if kind == "forward" else kind
        view = View.on(Defended(run.defense, gradient, run.threat.unroll), run.seeds("view")[: len(x)])
        started = time.perf_counter()
        if kind == "forward":
            view.output(x)
        else:
            view.value_and_grad(Goal.untargeted(y).loss, x)
        return time.perf_counter() - started

    return run.workshop.once(("timing", kind, *run.system_names()), measure)
