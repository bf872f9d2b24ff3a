from __future__ import annotations

import hashlib
import math

import pytest
import torch
from scipy import stats

from robustbench_gan.nouns import seeds
from robustbench_gan.nouns.seeds import bits, fold, integers, isolated, normal, sample_seeds, signs, uniform

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """The splitmix64 finaliser (Steele et al. 2014) on unbounded integers."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def some(count=8, cell=0, purpose="test"):
    return sample_seeds(cell, purpose, torch.arange(count))


AWKWARD = [0, 1, -1, 2**63 - 1, -(2**63), 0x9E3779B97F4A7C15 - (1 << 64), 12345678901234567]


def test_finaliser_is_splitmix64s():
    assert seeds._mix(torch.tensor(AWKWARD)).tolist() == [signed(mix(v)) for v in AWKWARD]


def test_splitmix64_gives_its_published_first_outputs_for_seed_zero():
    # splitmix64 adds the golden ratio, then finalises (first values of java.util.SplittableRandom(0)).
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [mix(GOLDEN * k) for k in (1, 2, 3)] == published
    assert seeds._mix(torch.arange(1, 4) * signed(GOLDEN)).tolist() == [signed(v) for v in published]


def test_bits_and_sample_seeds_follow_their_definition_on_big_integers():
    start = int.from_bytes(hashlib.sha256(b"7/judge").digest()[:8], "big")
    expected = [signed(mix(start + k * GOLDEN)) for k in (0, 5, 123456)]
    got = sample_seeds(7, "judge", torch.tensor([0, 5, 123456]))
    assert got.dtype == torch.int64 and got.tolist() == expected
    rows = bits(torch.tensor(AWKWARD), (3,))
    assert rows.tolist() == [[signed(mix(mix(v) + k * GOLDEN)) for k in (1, 2, 3)] for v in AWKWARD]
    top = [[(v & MASK) >> 40 for v in row] for row in rows.tolist()]
    assert (uniform(torch.tensor(AWKWARD), (3,)) * 2**24).tolist() == top


@pytest.mark.parametrize("draw", [bits, uniform, normal, signs], ids=lambda f: f.__name__)
def test_a_sample_draws_the_same_alone_in_any_batch_and_in_any_order(draw):
    s = some(33)
    whole = draw(s, (2, 3, 5))
    assert whole.shape == (33, 2, 3, 5)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(s[order], (2, 3, 5)), whole[order])
    for at in (0, 7, 32):
        assert torch.equal(draw(s[at : at + 1], (2, 3, 5))[0], whole[at])


def test_sample_seeds_depend_on_the_index_not_on_its_place():
    index = torch.tensor([900, 3, 41])
    assert torch.equal(sample_seeds(1, "p", index), sample_seeds(1, "p", torch.arange(1000))[index])
    assert torch.equal(sample_seeds(1, "p", index.int()), sample_seeds(1, "p", index))


def test_noise_neither_reads_nor_disturbs_the_global_generator():
    def everything():
        s = some(16)
        return torch.cat(
            [f(s, (9,)).double() for f in (bits, uniform, normal, signs)] + [fold(s, 1)[:, None]], 1
        )

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = everything()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(everything(), first)


def test_uniform_noise_is_uniform():
    u = uniform(some(500), (200,)).flatten()
    assert u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(u)))
    assert u.var().item() == pytest.approx(1 / 12, rel=0.02)
    assert stats.kstest(u.double().numpy(), "uniform").pvalue > 0.01


def test_normal_noise_is_standard_normal():
    z = normal(some(500), (200,)).flatten()
    assert z.dtype == torch.float32 and torch.isfinite(z).all()
    assert z.mean().item() == pytest.approx(0, abs=4 / math.sqrt(len(z)))
    assert z.var().item() == pytest.approx(1, rel=0.02)
    assert (z**4).mean().item() == pytest.approx(3, rel=0.05)
    assert stats.kstest(z.double().numpy(), "norm").pvalue > 0.01


def test_signs_are_fair_and_nothing_else():
    s = signs(some(500), (200,))
    assert s.dtype == torch.float32 and set(s.unique().tolist()) == {-1.0, 1.0}
    assert abs(s.mean().item()) < 4 / math.sqrt(s.numel())


def test_integers_are_in_range_and_uniform():
    drawn = integers(some(6000), 6)
    assert drawn.dtype == torch.int64 and drawn.min() == 0 and drawn.max() == 5
    assert stats.chisquare(torch.bincount(drawn).numpy()).pvalue > 0.01


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (some(400, purpose="attack"), some(400, purpose="judge")),
        (some(400, cell=0), some(400, cell=1)),
        (some(401)[:-1], some(401)[1:]),  # neighbouring samples
        (fold(some(400), 0), fold(some(400), 1)),
        (some(400), fold(some(400), 0)),
        (fold(some(400), "a"), fold(some(400), "b")),
        (fold(some(400), 0, 1), fold(some(400), 1, 0)),
        (torch.arange(400), torch.arange(400) + 1),  # even raw neighbouring integers
        (torch.arange(400), torch.arange(400) << 32),
    ],
    ids=["purposes", "cells", "neighbours", "counters", "parent", "names", "order", "raw", "shifted"],
)
def test_streams_are_independent(left, right):
    assert not torch.equal(left[1:], right[1:])
    bound = 4.5 / math.sqrt(400 * 100)
    for draw in (uniform, normal, signs):
        assert abs(correlation(draw(left, (100,)), draw(right, (100,)))) < bound


def test_neighbouring_values_of_one_sample_are_uncorrelated():
    for draw in (uniform, normal):
        z = draw(some(400), (101,))
        for lag in (1, 2, 7):
            assert abs(correlation(z[:, :-lag], z[:, lag:])) < 4.5 / math.sqrt(400 * 100)


def test_no_two_of_many_seeds_meet():
    every = torch.cat([some(20000, cell, purpose) for cell in (0, 1) for purpose in ("a", "b")])
    folded = torch.cat([fold(every, call, draw) for call in (0, 1) for draw in (0, 1)])
    assert len(torch.cat([every, folded]).unique()) == 5 * len(every)


def test_fold_takes_a_counter_of_each_sample():
    s = some(3)
    by_row = fold(s, torch.tensor([4, 5, 4]))
    assert by_row.tolist() == [fold(s, 4)[0].item(), fold(s, 5)[1].item(), fold(s, 4)[2].item()]
    assert torch.equal(fold(s, "x", 2), fold(fold(s, "x"), 2)) and torch.equal(fold(s), s)


def test_stable_hash_is_that_of_every_process():
    assert seeds.stable_hash("0/attack") == signed(int(hashlib.sha256(b"0/attack").hexdigest()[:16], 16))


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63 - 1, -(2**63)])
def test_isolated_draws_from_its_seed_and_restores_the_global_state(seed):
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with isolated(seed):
            drawn.append(torch.rand(4))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*drawn)
    with isolated(seed ^ 1):
        assert not torch.equal(torch.rand(4), drawn[0])


def test_isolated_restores_the_global_state_after_an_error():
    state = torch.random.get_rng_state()
    with pytest.raises(KeyError), isolated(3):
        torch.rand(5)
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), state)
