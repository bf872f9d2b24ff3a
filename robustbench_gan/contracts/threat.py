"""Threat models: what an attacker knows, and the View through which alone it touches a system.

Which gradient is granted, EOT, BPDA, unrolling and counting live here once; no attack knows of them.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.base.batching import pieces
from robustbench_gan.base.errors import DisconnectedGradient, NoBackward, NotANumber, described
from robustbench_gan.base.machine import multiplies_bfloat16
from robustbench_gan.contracts.defense import Defense, Gradient, Surrogate
from robustbench_gan.contracts.image_gradient import gradient
from robustbench_gan.flags.thresholds import SATURATED_CONFIDENCE, TINY_GRADIENT
from robustbench_gan.nouns.budget import per_sample
from robustbench_gan.nouns.outcome import Goal, Loss, Output, unanswered
from robustbench_gan.nouns.seeds import fold

Access = Literal["nothing", "labels", "scores", "gradient"]
ACCESS_ORDER: tuple[Access, ...] = ("nothing", "labels", "scores", "gradient")
GradientChoice = Literal["auto", "full", "bpda", "truncated", "cut"]
StepSign = Literal["plus", "periodic"]
ThreatName = Literal["black-box", "query", "gray-box", "gray-box:copy", "white-box", "seed-known"]


@dataclass(frozen=True)
class ThreatModel:
    """What the attacker has. `access` is to the system the attack is run on, `judged` always the defended one.

    `draws` are the EOT samples a pass averages over, `unroll` the steps of a truncated gradient. For black-box:
    the substitute's protocol (`substitute`), its architecture (`model`), its `rounds`, what the `oracle` that it
    learns from `answers`, and the sign of papernot's augmentation (`step_sign`). `limit` queries an image; 0: no limit.
    """

    name: ThreatName
    access: Access
    gradient: GradientChoice = "full"
    draws: int = 1
    unroll: int = 5
    substitute: str = ""
    model: str = ""
    rounds: int = 0
    oracle: Literal["defended", "undefended"] = "defended"
    answers: Literal["labels", "scores"] = "labels"
    step_sign: StepSign = "plus"
    limit: int = 0

    @property
    def holds_defense(self) -> bool:
        """The attack runs through the defended system itself."""
        return self.name in ("white-box", "seed-known", "query")

    @property
    def copies(self) -> bool:
        """The attack runs through a copy of the defense that the attacker trained, never through the real one."""
        return self.name == "gray-box:copy"

    @property
    def differentiates(self) -> bool:
        """The attack gets gradients through a defense: the real one where `white`, else the attacker's copy."""
        return self.white or self.copies

    @property
    def white(self) -> bool:
        """Weights of classifier and defense are known."""
        return self.name in ("white-box", "seed-known")


def black_box(
    *,
    substitute: Literal["papernot", "static", "dynamic"] = "papernot",
    model: str = "e",
    rounds: int = 6,
    oracle: Literal["defended", "undefended"] = "defended",
    answers: Literal["labels", "scores"] = "labels",
    step_sign: StepSign = "plus",
) -> ThreatModel:
    """Answers by query only: trains a substitute and attacks that (Papernot et al. 2017).

    `papernot`: 150 held-out images with true labels, doubled by Jacobian augmentation between the `rounds`, labels
    only; six rounds make 4,800 points of 4,650 queries. `step_sign=plus` steps with the gradient always, as the code
    behind the Defense-GAN paper does; `periodic` turns the sign after every three augmentations.
    `static`: distillation on the 10,000 validation images, `rounds` passes over them (Xiao et al. 2018). `dynamic`: in
    each of the rounds a trained attack's generator and the substitute take turns, and the oracle is asked again for
    the examples. Scores are softmax probabilities.
    """
    return ThreatModel(
        "black-box",
        "gradient",
        substitute=substitute,
        model=model,
        rounds=rounds,
        oracle=oracle,
        answers=answers,
        step_sign=step_sign,
    )


def query(*, access: Literal["labels", "scores"] = "scores", limit: int = 10000) -> ThreatModel:
    """Labels or scores of the defended system, no gradient, at most `limit` queries an image, counted."""
    return ThreatModel("query", access, limit=limit)


def gray_box() -> ThreatModel:
    """The classifier's gradient, but nothing of the purifier in front of it (Meng and Chen 2017)."""
    return ThreatModel("gray-box", "gradient")


def gray_box_copy(*, gradient: GradientChoice = "auto", draws: int = 1, unroll: int = 5) -> ThreatModel:
    """Everything but the defense's own weights: trains a copy from another seed and attacks that (Meng and Chen 2017).

    The copy has the defense's spec and stands in front of the same classifier; gradients, EOT and parts are the
    copy's, as in white-box. Judged is the real defense.
    """
    return ThreatModel("gray-box:copy", "gradient", gradient=gradient, draws=draws, unroll=unroll)


def white_box(*, gradient: GradientChoice = "auto", draws: int = 1, unroll: int = 5) -> ThreatModel:
    """Classifier and defense with all weights; fresh randomness, EOT over `draws`, judged on fresh seeds."""
    return ThreatModel("white-box", "gradient", gradient=gradient, draws=draws, unroll=unroll)


def seed_known(*, gradient: GradientChoice = "auto", unroll: int = 5) -> ThreatModel:
    """White-box that also holds the judge's seed: one example a sample and seed, judged on that seed alone."""
    return ThreatModel("seed-known", "gradient", gradient=gradient, unroll=unroll)


NOTHING_TO_COPY = "nothing in the defense is trained: there is no copy of it to train"

THREATS: Mapping[str, Callable[..., ThreatModel]] = {
    "black-box": black_box,
    "query": query,
    "gray-box": gray_box,
    "gray-box:copy": gray_box_copy,
    "white-box": white_box,
    "seed-known": seed_known,
}


class System(Protocol):
    """What a view looks at: inputs (N, C, H, W) and seeds (N,) in, an Output out."""

    @property
    def defended(self) -> bool:
        """Is the defense in the loop?"""

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """Answer."""


@dataclass(frozen=True)
class Defended:
    """The defended system with one of the gradients a threat model may grant.

    `surrogate` is an attacker's own stand-in for the purifier in the backward pass of BPDA; None is the defender's.
    """

    defense: Defense
    gradient: Gradient = "full"
    unroll: int = 5
    defended: bool = True
    surrogate: Surrogate | None = None

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """The defense's answer. Raises NotANumber as `answered`."""
        out = self.defense.attacked(x, seed, self.gradient, self.unroll, self.surrogate)
        return answered(out, x, "the defended system")


@dataclass(frozen=True)
class Bare:
    """A classifier alone: a gray-box core, a substitute, a model in training."""

    model: nn.Module
    defended: bool = False

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """The classifier's answer; it is not random. Raises NotANumber as `answered`."""
        return answered(Output.of(self.model(x)), x, "the classifier")


def answered(out: Output, x: Tensor, who: str) -> Output:
    """The same answer to images x. Raises NotANumber where there is none for one that is a number itself."""
    lost = unanswered(out)
    if bool(lost.any()):
        lost = lost & torch.isfinite(x.detach()).flatten(1).all(dim=1)
        if bool(lost.any()):
            raise NotANumber(f"{who} answered NaN or infinity")
    return out


@dataclass
class Counts:
    """What an attack did, per sample of a cell: (N,) int64 each, shared by every view narrowed from one."""

    forward: Tensor
    backward: Tensor
    calls: Tensor
    gradients: Tensor
    zero_gradients: Tensor
    tiny_gradients: Tensor  # zero ones among them
    nan_gradients: Tensor  # infinite ones among them
    flat_losses: Tensor  # gradients of a loss of 0: a softmax that is 1, of whose logits the largest has none

    @classmethod
    def zeros(cls, n: int, device: torch.device | None = None) -> Counts:
        """Nothing done yet to n samples."""
        return cls(*(torch.zeros(n, dtype=torch.int64, device=device) for _ in cls.__dataclass_fields__))

    @classmethod
    def cat(cls, many: list[Counts]) -> Counts:
        """The counts of several groups of samples, in order."""
        return cls(*(torch.cat([getattr(c, name) for c in many]) for name in cls.__dataclass_fields__))

    def add(self, rows: Tensor, other: Counts) -> None:
        """Charge these samples, in place, for what was done to them elsewhere."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] += getattr(other, name)

    def plus(self, other: Counts) -> Counts:
        """The sum of two attacks on the same samples."""
        return Counts(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))


@dataclass
class Tally:
    """How often a view, with all that were narrowed from it, wrote into its counts, and the passes in all."""

    edits: int = 0
    total: int = 0


class QueryLimit(RuntimeError):
    """An attack asked for more queries an image than its threat model grants."""


class OutOfTime(RuntimeError):
    """An attack was at work for longer than its cell may take: it has no answer, neither good nor bad.

    The message says at what. `is_real` tells one that a deadline raised from one that a plugin made up.
    """

    @property
    def is_real(self) -> bool:
        """Was there a deadline, and has it passed?"""
        return self in _LATE


_LATE = weakref.WeakSet[OutOfTime]()


@dataclass
class Deadline:
    """When an attack has to be done, in seconds of the monotonic clock; `passed` where it was stopped there.

    Looked at before each pass; nothing else of a cell depends on time.
    """

    at: float
    passed: bool = False
    what: str = "crafting"

    def check(self) -> None:
        """Raises OutOfTime past the deadline."""
        if time.monotonic() > self.at:
            self.passed = True
            self.insist()

    def insist(self) -> None:
        """Raises OutOfTime where the deadline has passed, whatever became of the first one."""
        if self.passed:
            late = OutOfTime(self.what)
            _LATE.add(late)
            raise late


@dataclass(frozen=True)
class View:
    """All that an attack may touch: answers, gradients where granted, and counting it cannot avoid.

    `seed` is (N,) int64: the attacker's own randomness, fresh at every pass, or the judge's seed itself when
    `fixed`. `fast` computes gradients, and the answers that come with them, in bfloat16 (half the time on processors
    that have it): an attack that keeps an iterate for such an answer confirms it by `output`, which is always
    float32. `exact` says that the judge will see just what this view sees, so that a goal reached here is won
    and further work on that sample is waste; a substitute or a random defense is not exact. `index` says which
    rows of `counts` are this view's samples. `whole_batches` computes in one piece instead of micro-batches:
    training wants speed, and layers that look at a batch want to see it.
    """

    system: System
    seed: Tensor
    counts: Counts
    index: Tensor
    access: Access = "gradient"
    draws: int = 1
    fixed: bool = False
    exact: bool = False
    whole_batches: bool = False
    fast: bool = False
    limit: int = 0
    parts: Mapping[str, nn.Module] = field(default_factory=dict)
    deadline: Deadline | None = None
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def on(cls, system: System, seed: Tensor, **options: Any) -> View:
        """A view of n samples that counts from zero.

        Where the device has no bfloat16 of its own, a `fast` view would be slower for nothing: it is an ordinary one.
        """
        n = len(seed)
        options["fast"] = options.get("fast", False) and multiplies_bfloat16(seed.device)
        return cls(system, seed, Counts.zeros(n, seed.device), torch.arange(n, device=seed.device), **options)

    def rows(self, index: Tensor) -> View:
        """The same view narrowed to some samples, so that finished samples stop costing."""
        return replace(self, seed=self.seed[index], index=self.index[index])

    def put_back(self) -> list[str]:
        """Names the counts where somebody else wrote into them: an attack has done what its view says it did."""
        edits = sum(count._version for count in vars(self.counts).values())
        total = sum(int(count.sum()) for count in (self.counts.forward, self.counts.backward))
        if (edits, total) == (self.tally.edits, self.tally.total):
            return []
        self.tally.edits, self.tally.total = edits, total
        return ["the counts of its passes"]

    def part(self, name: str) -> nn.Module:
        """A named module of the defense. Raises PermissionError where the threat model does not give it."""
        if name not in self.parts:
            raise PermissionError(
                f"this view has no part {name!r}; it has: {', '.join(self.parts) or 'none'}"
            )
        return _CountedPart(self.parts[name], self)

    def through(self, surrogate: Surrogate) -> View:
        """The same view under BPDA with the attacker's own stand-in for the purifier, (x, seed) to x'.

        Raises PermissionError where the view gives no gradient of a defended system, or where that gradient is cut.
        """
        return replace(self, system=replace(self._open(), gradient="bpda", surrogate=surrogate))

    def purified(self, x: Tensor) -> Tensor:
        """What the purifier makes of x, (N, C, H, W), under one draw: what an attacker learns to imitate it from.

        Counts as a forward pass of the defense, and as no call of the system. Raises PermissionError as `through`.
        """
        defense, seed = self._open().defense, self._draw_seeds()[0]
        with torch.no_grad():
            made = [defense.purified(x[rows], seed[rows])[:real] for rows, real in self._chunks(x)]
        self._add(self.counts.forward, 1)
        return torch.cat(made)

    def _open(self) -> Defended:
        """The defended system of an attacker who holds it."""
        self._need("gradient")
        if not isinstance(self.system, Defended) or self._cut:
            raise PermissionError("this view gives no gradient of a defended system")
        return self.system

    def output(self, x: Tensor) -> Output:
        """The system's answer to x (N, C, H, W), averaged over the view's draws."""
        self._need("scores")
        return self._output(x)

    def labels(self, x: Tensor) -> Tensor:
        """The class given, (N,) int64, -1 where rejected: all that a label-only attacker sees."""
        self._need("labels")
        return self._output(x).labels

    def value_and_grad(self, loss: Loss, x: Tensor) -> tuple[Tensor, Tensor, Output]:
        """A per-sample loss (N,), its gradient (N, C, H, W) and the answer, averaged over the draws (EOT).

        `loss` maps an Output of all N samples to (N,) and must treat samples independently. Raises
        DisconnectedGradient when autograd finds no path to the input.
        """
        self._need("gradient")
        draws = [self._one_draw(loss, x, seed) for seed in self._draw_seeds()]
        self._count(backward=True)
        value, grad, out = draws[0]
        if len(draws) > 1:
            value = torch.stack([v for v, _, _ in draws]).mean(dim=0)
            grad = torch.stack([g for _, g, _ in draws]).mean(dim=0)
            out = _mean([o for _, _, o in draws])
        self._watch(grad, value)
        return value, grad, out

    def jacobian(self, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Output]:
        """Gradients of logits and scores, averaged over the view's draws, and the answer, from one pass forward.

        All of them, (N, K + M, C, H, W), or of each sample's own columns `classes` (N, k), which costs k backward
        passes: (N, k, C, H, W).
        """
        self._need("gradient")
        draws = [self._jacobian_draw(x, seed, classes) for seed in self._draw_seeds()]
        whole = draws[0][0] if len(draws) == 1 else torch.stack([g for g, _ in draws]).mean(dim=0)
        self._count(backward=True, times=whole.shape[1])
        self._watch(whole)
        return whole, _mean([o for _, o in draws])

    def _one_draw(self, loss: Loss, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Output]:
        chunks = list(self._chunks(x))
        if chunks[0][1] == len(x) and isinstance(chunks[0][0], slice):  # one piece that needs no padding
            return self._gradient(loss, x, seed)
        values, outs, start = [], [], 0
        grads = torch.empty_like(x)
        for rows, real in chunks:
            value, grad, out = self._gradient(_of_rows(loss, start, real, len(x)), x[rows], seed[rows])
            stop = start + real
            grads[start:stop] = grad[:real]  # at once: the next piece finds its memory warm
            values.append(value)
            outs.append(_rows(out, real))
            start = stop
        return torch.cat(values), grads, _joined(outs)

    def _gradient(self, loss: Loss, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Output]:
        leaf, out = self._traced(x, seed)
        with torch.enable_grad():
            value = loss(out)
        found = value.detach(), out.detach()
        if self._cut:
            return found[0], torch.zeros_like(leaf), found[1]
        return found[0], self._connected(value, leaf, retain=False), found[1]

    def _jacobian_draw(self, x: Tensor, seed: Tensor, classes: Tensor | None) -> tuple[Tensor, Output]:
        pieces, outs = [], []
        for rows, real in self._chunks(x):
            grads, out = self._jacobian(x[rows], seed[rows], None if classes is None else classes[rows])
            pieces.append(grads[:real])
            outs.append(_rows(out, real))
        return torch.cat(pieces), _joined(outs)

    def _jacobian(self, x: Tensor, seed: Tensor, classes: Tensor | None) -> tuple[Tensor, Output]:
        leaf, out = self._traced(x, seed)
        with torch.enable_grad():
            every = torch.cat([out.logits, out.scores], dim=1)
            columns = (every if classes is None else every.gather(1, classes)).sum(dim=0)
        if self._cut:
            return x.new_zeros(len(x), len(columns), *x.shape[1:]), out.detach()
        last = len(columns) - 1
        grads = [self._connected(c, leaf, retain=at < last) for at, c in enumerate(columns)]
        return torch.stack(grads, dim=1), out.detach()

    def _traced(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Output]:
        """A leaf to differentiate by and the answer to it, in bfloat16 inside where the view is `fast`.

        Where the gradient is cut no graph is drawn: through a projection it would cost many times the answer.
        """
        leaf = x.detach().requires_grad_()
        with torch.set_grad_enabled(not self._cut):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.fast):
                out = self.system(leaf, seed)
            return leaf, Output(out.logits.float(), out.scores.float())

    @property
    def _cut(self) -> bool:
        """The positive control: an attack given no gradient."""
        return getattr(self.system, "gradient", None) == "cut"

    @staticmethod
    def _connected(value: Tensor, leaf: Tensor, retain: bool) -> Tensor:
        try:
            grad = gradient(value, leaf, retain=retain)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # a lack of memory, or what says by its type what it is
                raise
            raise NoBackward(described(error)) from error
        if grad is None:
            raise DisconnectedGradient(
                "autograd finds no path from the loss to the input: the classifier or the defense detaches its answer. "
                "Ask for gradient=bpda of a defense, or for an attack that needs no gradient, such as square."
            )
        return grad

    def _output(self, x: Tensor) -> Output:
        with torch.no_grad():
            outs = [answer(self.system, x, seed, self._chunks(x)) for seed in self._draw_seeds()]
        self._count(backward=False)
        return _mean(outs)

    def _chunks(self, x: Tensor) -> Iterable[tuple[slice | Tensor, int]]:
        if self.whole_batches or len(x) == 0:
            return [(slice(0, len(x)), len(x))]
        return pieces(len(x), x.device)

    def _draw_seeds(self) -> list[Tensor]:
        """One seed a sample and draw: new at every call of a sample, whatever the others do. A pass begins here."""
        if self.deadline is not None:
            self.deadline.check()
        if self.fixed:
            return [self.seed] * self.draws
        call = self.counts.calls[self.index]
        return [fold(self.seed, call, draw) for draw in range(self.draws)]

    def _count(self, *, backward: bool, times: int = 1) -> None:
        calls = self.counts.calls  # a sample that stands in several rows was asked in one call
        calls.index_copy_(0, self.index, calls.index_select(0, self.index) + 1)
        self.tally.edits += 1
        self._add(self.counts.forward, self.draws)
        if backward:
            self._add(self.counts.gradients, 1)
            self._add(self.counts.backward, self.draws * times)
        if self.limit and bool((self.counts.forward[self.index] > self.limit).any()):
            raise QueryLimit(f"the attack asked more than its limit of {self.limit} queries an image")

    def _watch(self, grad: Tensor, value: Tensor | None = None) -> None:
        """Count the gradients that tell an attack nothing, and with the losses (N,) those of a flat one."""
        if value is not None and bool((flat := value.abs() < SATURATED_CONFIDENCE).any()):
            self._add(self.counts.flat_losses, flat)
        values = grad.flatten(1)
        length = torch.linalg.vector_norm(values, dim=1)  # a third of the time that the largest value takes
        least = TINY_GRADIENT * values.shape[1] ** 0.5  # where it is longer, one value is not tiny
        if bool(((length > least) & (length < torch.inf)).all()):
            return
        largest = torch.maximum(-values.amin(dim=1), values.amax(dim=1))  # NaN where one value is
        self._add(self.counts.zero_gradients, largest == 0)
        self._add(self.counts.tiny_gradients, largest < TINY_GRADIENT)
        self._add(self.counts.nan_gradients, ~torch.isfinite(largest))

    def _add(self, counter: Tensor, each: Tensor | int) -> None:
        """Charge every row; a sample that stands in several rows (`rows` may repeat one) pays for each."""
        self.tally.edits += 1
        if isinstance(each, int):
            counter.index_add_(0, self.index, torch.ones_like(self.index), alpha=each)
            if counter is self.counts.forward or counter is self.counts.backward:
                self.tally.total += each * len(self.index)
        else:
            counter.index_add_(0, self.index, each.to(counter.dtype))

    def _need(self, access: Access) -> None:
        if ACCESS_ORDER.index(self.access) < ACCESS_ORDER.index(access):
            raise PermissionError(f"this threat model grants {self.access}, the attack asked for {access}")


class _CountedPart(nn.Module):
    """A part of the defense whose passes are charged to the samples of the view.

    What a classifier among them, a part that answers (N, K), tells of the image is watched as the system's gradient is.
    """

    def __init__(self, module: nn.Module, view: View) -> None:
        super().__init__()
        self.module, self.view = module, view

    def forward(self, *args: Tensor) -> Tensor:
        """The part's answer, in micro-batches as any other; what is differentiated counts as a backward pass."""
        each = -(-len(args[0]) // max(len(self.view.seed), 1))
        if self.view.deadline is not None:
            self.view.deadline.check()
        self.view._add(self.view.counts.forward, each)
        chunks = self.view._chunks(args[0])
        given = args[0].view_as(args[0])  # its gradient is what flows back through this part alone
        out = torch.cat([self.module(*(a[rows] for a in (given, *args[1:])))[:real] for rows, real in chunks])
        if out.requires_grad:
            out.register_hook(lambda _: self.view._add(self.view.counts.backward, each))
        if given.requires_grad and out.requires_grad and out.ndim == 2 and each == 1:
            self._watched(given, out)
        return out

    def _watched(self, given: Tensor, out: Tensor) -> None:
        """Count the gradients by `given`, (N, ...), of the samples of whose answer (N, K) something is wanted."""
        wanted: list[Tensor] = []

        def arriving(grad: Tensor) -> None:
            wanted.append(torch.nonzero((grad != 0).any(dim=1))[:, 0])

        def leaving(grad: Tensor) -> None:
            rows = wanted.pop()
            view = self.view.rows(rows)
            view._add(view.counts.gradients, 1)
            view._watch(grad[rows])

        out.register_hook(arriving)
        given.register_hook(leaving)


def answer(
    system: System, x: Tensor, seed: Tensor, chunks: Iterable[tuple[slice | Tensor, int]] | None = None
) -> Output:
    """A system's answer to any number of inputs, computed in padded micro-batches of one shape."""
    chunks = pieces(len(x), x.device) if chunks is None else chunks
    return _joined([_rows(system(x[rows], seed[rows]), real) for rows, real in chunks])


def _joined(outs: Sequence[Output]) -> Output:
    if len(outs) == 1:
        return outs[0]
    return Output(torch.cat([o.logits for o in outs]), torch.cat([o.scores for o in outs]))


def _mean(outs: list[Output]) -> Output:
    if len(outs) == 1:
        return outs[0]
    logits, scores = torch.stack([o.logits for o in outs]), torch.stack([o.scores for o in outs])
    return Output(logits.mean(dim=0), scores.mean(dim=0))


def _rows(out: Output, real: int) -> Output:
    if real == out.logits.shape[0]:
        return out
    return Output(out.logits[:real], out.scores[:real])


def _of_rows(loss: Loss, start: int, real: int, n: int) -> Loss:
    """The loss of all N samples as one of a padded micro-batch, whose samples are those from `start` on.

    A goal knows its own rows; any other loss is given the answers set among zeros for the other samples.
    """
    if isinstance(loss, MethodType) and isinstance(loss.__self__, Goal):
        rows = torch.arange(start, start + real, device=loss.__self__.classes.device)
        goal, of_goal = loss.__self__.rows(rows), loss.__func__
        return lambda out: of_goal(goal, _rows(out, real))

    def of_piece(out: Output) -> Tensor:
        around = (0, 0, start, n - start - real)
        whole = Output(F.pad(out.logits[:real], around), F.pad(out.scores[:real], around))
        return loss(whole)[start : start + real]

    return of_piece


def blend(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where mask (N,) is true, of `old` elsewhere."""
    return torch.where(per_sample(mask, old), new, old)
