"""A short look at a defended system: two clean images, one pass or a few, once for all cells that attack it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.models.door import APART, First, first_answer, watched
from robustbench_gan.nouns.evidence import PROBED, Probe
from robustbench_gan.nouns.outcome import Output, distance

MANY = 50  # images: one of two is rarely the extreme of so many, by which all were answered


def probe(
    defense: Defense, x: Tensor, seed: Tensor, judged: Output | None = None, first: First | None = None
) -> Probe:
    """Ask a defense about the first images of x, (N, C, H, W), under their seeds (N,) and others.

    `judged` is what it answered to all of x under these seeds: a pass or two, in other company, tell then that nothing
    is wrong; none is needed where it is a classifier alone that was asked `first` at the door. Torch's global generator
    is left as it was.
    """
    own = seed if defense.randomised else ~seed
    with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        # An answer that is optimised for is another one wherever rounding is, and so is none to compare with.
        if judged is not None and len(x) >= MANY and not defense.unrolls:
            found = first or _asked_next(defense, x, own)
            if found.steady and distance(judged.rows(found.rows), found.out) <= SAME_ANSWER:
                return Probe(differentiates=found.differentiates)
        return _asked_in_full(defense, x[:PROBED], seed[:PROBED], own[:PROBED])


def _asked_next(defense: Defense, x: Tensor, seed: Tensor) -> First:
    """As at the door. Of a classifier alone the door has seen already whether it is steady."""
    rows = torch.tensor(APART, device=x.device)
    out, differentiates = watched(lambda: defense(x[rows], seed[rows]))
    known = None if defense.has_own_code else first_answer(defense.core)
    again = out if known is not None and known.steady else defense(x[rows], seed[rows])
    return First(rows, out, again, differentiates)


def _asked_in_full(defense: Defense, x: Tensor, seed: Tensor, own: Tensor) -> Probe:
    """The passes are of a few images and not in micro-batches, so they are compared with each other alone."""
    before = _generator_states(x)
    first, differentiates = watched(lambda: defense(x, seed))
    alone = _alone(defense, x, own)
    varies = {} if _equal(first, alone) else _why_it_varies(defense, x, seed, own, first, alone, before)
    return Probe(**varies, differentiates=differentiates)


def _alone(defense: Defense, x: Tensor, seed: Tensor) -> Output:
    """Each image among copies of itself, in its own place of a batch of the same size, so that rounding is the same."""
    rows = [torch.full((len(x),), at, device=x.device) for at in range(len(x))]
    outs = [defense(x[row], seed[row]) for row in rows]
    logits, scores = (
        [getattr(out, name)[at] for at, out in enumerate(outs)] for name in ("logits", "scores")
    )
    return Output(torch.stack(logits), torch.stack(scores))


def _equal(one: Output, other: Output) -> bool:
    return torch.equal(one.logits, other.logits) and torch.equal(one.scores, other.scores)


def _why_it_varies(
    defense: Defense, x: Tensor, seed: Tensor, own: Tensor, first: Output, alone: Output, before: list[Tensor]
) -> dict[str, Any]:
    """More passes, for a system that gave two answers where one was due; an honest one is never asked for them."""
    other, again, alone_again = defense(x, own), defense(x, seed), _alone(defense, x, own)
    if _equal(first, other) and _equal(first, again) and _equal(alone, alone_again):
        changed = int((first.labels != alone.labels).sum())
        return {"company_matters": distance(first, alone), "company_changes": changed}
    pairs = [(first, again), (first, defense(x, seed)), (alone, alone_again)]
    bare = [Output.of(defense.core(x)) for _ in range(2)]
    repeats = max(distance(*pair) for pair in pairs)
    # Three times: a state that alternates between calls would pass once or twice for the generator's.
    from_state = max(distance(first, _from_state(before, defense, x, seed)) for _ in range(3))
    return {
        "core_varies": distance(*bare),
        "seeds_vary": 0.0 if defense.randomised else distance(first, other),
        "repeats_vary": repeats,
        "own_randomness": repeats > SAME_ANSWER >= from_state,
        "label_changed": any(bool((one.labels != other.labels).any()) for one, other in pairs),
    }


def _generator_states(x: Tensor) -> list[Tensor]:
    """Of torch's global generators, the processor's first."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]


def _from_state(states: list[Tensor], defense: Defense, x: Tensor, seed: Tensor) -> Output:
    """The answer with the global generators as they were."""
    torch.set_rng_state(states[0])
    if x.is_cuda:
        torch.cuda.set_rng_state(states[1], x.device)
    out: Output = defense(x, seed)
    return out
