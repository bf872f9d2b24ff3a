"""JSMA's choice of a pair against its algorithm written out, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from planted import conv, images
from rbg_attacks import _saliency
from rbg_attacks._saliency import best_product, best_sum
from torch import nn
from torch.overrides import TorchFunctionMode
from walked_jsma import Recorder, run

from robustbench_gan.nouns.outcome import Goal


def pairs_of(gain, fall, domain):
    """The admissible pair of largest product, by looking at every one; None where there is none."""
    best, found = 0.0, None
    for p in range(len(gain)):
        for q in range(p + 1, len(gain)):
            up, down = float(gain[p] + gain[q]), float(fall[p] + fall[q])
            if domain[p] and domain[q] and up > 0 and down > 0 and up * down > best:
                best, found = up * down, {p, q}
    return found


def salient(model, x, target, theta, space):
    """The pair that Papernot's map puts first at one image, from the full Jacobian in float64."""
    model, x = model.double(), x.double()

    def answer(v):
        logits = model(v[None])[0]
        return logits.softmax(dim=0) if space == "probs" else logits

    jacobian = torch.autograd.functional.jacobian(answer, x).flatten(1)
    model.float()
    alpha, sign = jacobian[target], math.copysign(1, theta)
    beta = jacobian.sum(dim=0) - alpha
    domain = (x < 1 if theta > 0 else x > 0).flatten()
    return pairs_of(sign * alpha, -sign * beta, domain)


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("space", ["probs", "logits"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 3, 3)])
def test_every_step_changes_the_pair_that_the_map_puts_first(shape, space, theta):
    for seed in range(4):
        model, x = conv(5, shape, seed), images(1, shape, seed)
        x[0, 0, 0] = x[0, 0, 0].round()  # some values at the edge, out of the domain
        target = model(x).argmin(dim=1)
        recorder = Recorder(model)
        run(recorder, x, Goal.targeted(target), theta=theta, space=space)
        assert len(recorder.seen) > 1
        changed = set()
        for before, after in zip(recorder.seen, recorder.seen[1:], strict=False):
            before, after = before[0], after[0]
            moved = set(torch.nonzero((before != after).flatten())[:, 0].tolist())
            free = before.clone().flatten()
            free[list(changed)] = 1.0 if theta > 0 else 0.0  # once changed, for good out of the domain
            if changed:  # the map is that of the image itself, the domain that of what is left
                expected = _pair_left(model, before, target[0], theta, space, changed)
            else:
                expected = salient(model, before, target[0], theta, space)
            assert moved == expected
            assert torch.equal(after, torch.where(before != after, (before + theta).clamp(0, 1), before))
            assert not moved & changed
            changed |= moved


def _pair_left(model, x, target, theta, space, changed):
    """As `salient`, without the features that were changed before."""
    held = torch.zeros(x.numel(), dtype=torch.bool)
    held[list(changed)] = True

    class Shifted(
        nn.Module
    ):  # held features look as if at the edge, while the model sees them where they are
        def forward(self, v):
            return model((v.flatten(1) + offset.to(v.dtype)).view(1, *x.shape))

    edge = 1.0 if theta > 0 else 0.0
    offset = torch.where(held, x.flatten() - edge, 0)
    shown = torch.where(held, edge, x.flatten()).view_as(x)
    model.double()
    found = salient(Shifted(), shown, target, theta, space)
    model.float()
    return found


@pytest.mark.parametrize("kind", ["opposed", "together", "independent", "ties", "one line", "small domain"])
def test_the_best_product_is_that_of_all_pairs(kind):
    generator = torch.Generator().manual_seed(3)
    gain, fall = (torch.randn(40, 30, generator=generator) for _ in range(2))
    domain = torch.rand(40, 30, generator=generator) < (0.1 if kind == "small domain" else 0.8)
    if kind == "opposed":
        fall = fall * 0.1 - gain
    if kind == "together":
        fall = fall * 0.1 + gain
    if kind == "ties":
        gain, fall = gain.round(), fall.round()
    if kind == "one line":
        gain, fall, domain = (
            torch.linspace(0, 1, 30).repeat(40, 1),
            torch.linspace(1, 0, 30).repeat(40, 1),
            domain | True,
        )
    pair, found = best_product(gain, fall, domain)
    expected = [pairs_of(*row) for row in zip(gain, fall, domain, strict=True)]
    assert found.tolist() == [e is not None for e in expected]
    for row in torch.nonzero(found)[:, 0].tolist():
        p, q = pair[row].tolist()
        assert p != q and domain[row, p] and domain[row, q]
        value = [
            float((gain[row, a] + gain[row, b]) * (fall[row, a] + fall[row, b]))
            for a, b in ((p, q), expected[row])
        ]
        assert value[0] == value[1]
    assert found.any()


def test_the_best_sum_is_that_of_all_pairs_when_beta_is_minus_alpha():
    generator = torch.Generator().manual_seed(4)
    gain, domain = torch.randn(60, 12, generator=generator) - 1, torch.rand(60, 12, generator=generator) < 0.5
    pair, found = best_sum(gain, domain)
    expected = [pairs_of(g, g, d) for g, d in zip(gain, domain, strict=True)]
    assert 0 < found.sum() < 60
    assert [set(p) if f else None for p, f in zip(pair.tolist(), found.tolist(), strict=True)] == expected


class Largest(TorchFunctionMode):
    """The most bytes that any one tensor made inside has."""

    bytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return out


@pytest.mark.parametrize("rows", [1, 3])
def test_the_pair_search_is_bounded_in_memory_where_no_feature_can_be_left_out(rows, monkeypatch):
    n = 1000
    monkeypatch.setattr(_saliency, "ELEMENTS", 1 << 17)
    gain = torch.linspace(-1, 2, n).repeat(rows, 1)
    with Largest() as largest:
        pair, found = best_product(gain, 1 - gain, gain > -2)  # every pair is on the front
    assert largest.bytes <= 4 * (1 << 17)
    assert found.all()
    total = gain.gather(1, pair).sum(dim=1)
    assert torch.allclose(total * (2 - total), torch.ones(rows), atol=1e-5)  # largest where both sums are 1


def test_pairs_do_not_depend_on_which_rows_stand_beside():
    gain, fall = (images(9, (1, 1, 20), seed).flatten(1).mul(4).round() - 1 for seed in (1, 2))
    domain = torch.ones(9, 20, dtype=torch.bool)
    together = best_product(gain, fall, domain)[0]
    for i in range(9):
        assert torch.equal(best_product(gain[i : i + 1], fall[i : i + 1], domain[:1])[0][0], together[i])
