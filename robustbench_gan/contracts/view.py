"""View: all that an attack may touch of a system.

What is granted, averaged over draws and counted is so here once; no attack knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import pieces
from robustbench_gan.base.machine import multiplies_bfloat16
from robustbench_gan.contracts.counts import Counts, Deadline, QueryLimit, Tally
from robustbench_gan.contracts.differentiated import Differentiated
from robustbench_gan.contracts.systems import Defended, System, answer, mean_of
from robustbench_gan.contracts.threat import ACCESS_ORDER, Access
from robustbench_gan.flags.counting import SATURATED_CONFIDENCE, TINY_GRADIENT
from robustbench_gan.nouns.budget import per_sample
from robustbench_gan.nouns.seeds import fold

if TYPE_CHECKING:
    from robustbench_gan.contracts.gradients import Surrogate
    from robustbench_gan.nouns.outcome import Loss, Output


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
        if not isinstance(self.system, Defended) or self._back.cut:
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
        back = self._back
        draws = [back.of_loss(loss, x, seed, self._chunks(x)) for seed in self._draw_seeds()]
        self._count(backward=True)
        value, grad, out = draws[0]
        if len(draws) > 1:
            value = torch.stack([v for v, _, _ in draws]).mean(dim=0)
            grad = torch.stack([g for _, g, _ in draws]).mean(dim=0)
            out = mean_of([o for _, _, o in draws])
        self._watch(grad, value)
        return value, grad, out

    def jacobian(self, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Output]:
        """Gradients of logits and scores, averaged over the view's draws, and the answer, from one pass forward.

        All of them, (N, K + M, C, H, W), or of each sample's own columns `classes` (N, k), which costs k backward
        passes: (N, k, C, H, W).
        """
        self._need("gradient")
        back = self._back
        draws = [back.of_outputs(x, seed, self._chunks(x), classes) for seed in self._draw_seeds()]
        whole = draws[0][0] if len(draws) == 1 else torch.stack([g for g, _ in draws]).mean(dim=0)
        self._count(backward=True, times=whole.shape[1])
        self._watch(whole)
        return whole, mean_of([o for _, o in draws])

    @property
    def _back(self) -> Differentiated:
        return Differentiated(self.system, self.fast)

    def _output(self, x: Tensor) -> Output:
        with torch.no_grad():
            outs = [answer(self.system, x, seed, self._chunks(x)) for seed in self._draw_seeds()]
        self._count(backward=False)
        return mean_of(outs)

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


def blend(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where mask (N,) is true, of `old` elsewhere."""
    return torch.where(per_sample(mask, old), new, old)
