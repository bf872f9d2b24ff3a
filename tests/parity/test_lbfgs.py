"""L-BFGS against scipy's L-BFGS-B under the same objective, search for the constant and tolerance."""

from __future__ import annotations

import math

import pytest
import torch
from harness import quality_of
from scipy_lbfgs import HISTORY, INITIAL_CONST, SEARCH_STEPS, STEPS, TOLERANCE, scipy_lbfgs

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.nouns.budget import norm_of
from robustbench_gan.nouns.outcome import Goal

pytestmark = pytest.mark.parity
SPEC = (
    f"lbfgs:steps={STEPS},search_steps={SEARCH_STEPS},initial_const={INITIAL_CONST},"
    f"history={HISTORY},tolerance={TOLERANCE}"
)


@pytest.fixture
def one_thread():
    """Scipy asks for one image at a time, on which several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("network", "kind"),
    [
        pytest.param("mnist_cnn", "untargeted", marks=pytest.mark.nightly),
        ("mnist_cnn", "targeted"),
        ("colour_cnn", "untargeted"),
        ("colour_cnn", "targeted"),
    ],
)
def test_as_strong_as_scipy_s(network, kind, request):
    trained = request.getfixturevalue(network)
    x, y = trained.take(40)
    classes = (y + 1) % 10 if kind == "targeted" else y
    targets = classes if kind == "targeted" else None
    made = run_attack(SPEC, trained.model, x, y, norm="l2", epsilons=[math.inf], targets=targets).examples[0]
    other = scipy_lbfgs(trained.model, x, Goal(kind, classes))
    quality = quality_of(trained.model, x, classes, "l2", targeted=kind == "targeted")
    (success, _), (their_success, _) = quality(made), quality(other)
    assert success >= their_success - 0.02 and their_success > 0.9
    ours, theirs = norm_of(made - x, "l2"), norm_of(other - x, "l2")
    # Of so few images the median of the ratios is steadier than the ratio of the medians.
    assert (ours / theirs).median() <= 1.01
    assert ours.mean() <= theirs.mean() * 1.03
    assert torch.isfinite(ours).all()
