"""The red flags and the result of `run_attack`."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from called_models import (  # noqa: F401 - fixtures
    N,
    flags_of,
    labels,
    planted_for_calls,
    saturated,
    setting_of_calls,
    steep,
    two_classes,
)
from planted import Noise, images
from safetensors import safe_open
from torch import nn

from robustbench_gan import read_examples, run_attack
from robustbench_gan.api.run_attack import RedFlag, Suspect
from robustbench_gan.base.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::robustbench_gan.api.run_attack.RedFlag")


# ---- red flags


def test_gradients_that_are_all_zero_are_flagged_and_warned_of_once():
    model, x, y = saturated(images(N))
    with pytest.warns(RedFlag) as caught:
        found = run_attack("deepfool", model, x, y, norm="l2", epsilons=[1.0, 5.0])
    assert found.robust_accuracy[1].value == 1 and found.suspect
    raised = flags_of(found)
    assert (
        raised["zero-gradient"] == raised["no-perturbation"] == raised["probabilities-as-logits"] == "invalid"
    )
    said = [str(w.message) for w in caught]
    assert len(said) == len(set(said)) == len([f for f in found.flags if f.severity != "note"])
    assert all("\n" not in line for line in said) and caught[0].filename == __file__
    with pytest.raises(Suspect, match="zero-gradient"):
        run_attack("deepfool", model, x, y, norm="l2", epsilons=5.0, strict=True)


def test_honest_calls_raise_no_flag_and_warn_of_nothing(setting):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run_attack("pgd:steps=20", *setting, epsilons=[0.1, 0.2], strict=True)
    assert found.flags == () and not found.suspect


def test_an_attack_that_does_nothing_is_flagged(planted):
    model, x, y = two_classes()
    still, shy = (run_attack(name, model, x, y, epsilons=0.1) for name in ("stands", "shy"))
    assert flags_of(still) == {"no-perturbation": "invalid", "no-backward": "invalid"}
    assert flags_of(shy) == {"no-backward": "invalid"}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_flags_are_those_of_evaluate(norm):
    """Batch-coupled, noisy and detached systems, each by its own flag."""
    model, x = steep(), images(N)
    y, budget = labels(model, x), {"norm": norm, "epsilons": 0.1}

    class Coupled(nn.Module):
        def forward(self, x):
            return model(x - x.mean(dim=0, keepdim=True) + 0.5)

    class Drops(nn.Module):
        def forward(self, x):
            return model(nn.functional.dropout(x, 0.2, training=True))

    assert (
        flags_of(run_attack("pgd:steps=20", Coupled().eval(), x, y, **budget))["batch-dependent"] == "invalid"
    )
    assert (
        flags_of(run_attack("pgd:steps=20", Drops().eval(), x, y, **budget))["always-on-dropout"] == "invalid"
    )
    noisy = Noise(model, sigma=0.1).eval()
    raised = flags_of(run_attack("pgd:steps=20", noisy, x, y, **budget))
    assert raised["single-seed"] == raised["no-eot"] == "warning"


# ---- the result


def test_the_median_size_is_of_images_that_had_to_be_attacked(planted):
    model, x, y = two_classes()
    wrong = y.clone()
    wrong[:15] = 1 - wrong[:15]  # nothing need be changed for these
    found = run_attack("closest", model, x, wrong, norm="l2", epsilons=9.0)
    assert found.median_size == pytest.approx(float(np.median(found.size[0][15:])))
    assert math.isnan(run_attack("closest", model, x, 1 - y, norm="l2", epsilons=9.0).median_size)


def test_it_prints_in_a_few_lines_of_numbers():
    model, x, y = saturated(images(N))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run_attack("deepfool", model, x, y, norm="l2", epsilons=["1/4", 2])
    lines = str(found).splitlines()
    assert (
        lines[0]
        == f"deepfool in l2, untargeted, on {N} images, {N} of them right unperturbed: SUSPECT, see the flags"
    )
    assert lines[1].startswith("  eps 0.25: robust accuracy 1.000 [0.912, 1.000] (n = 40), goal reached 0")
    assert len(lines) == 4 + len(found.flags) and any("invalid: zero-gradient" in line for line in lines)
    assert "tensor" not in str(found) and repr(found) == str(found)


def test_what_is_saved_comes_back(setting, tmp_path):
    found = run_attack("pgd:steps=20", *setting, epsilons=["8/255", 0.2], targets=(setting[2] + 1) % 3)
    found.save(tmp_path / "new" / "found.safetensors")
    with safe_open(tmp_path / "new" / "found.safetensors", "pt") as file:
        back, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for name in ("examples", "success", "size", "right", "forward", "backward", "labels", "targets"):
        assert torch.equal(back.pop(name), getattr(found, name))
    assert not back
    read = read_examples(tmp_path / "new" / "found.safetensors")
    assert read.examples.equal(found.examples) and read.labels.equal(found.labels)
    assert read.more["success"].equal(found.success) and read.facts["norm"] == "linf"
    assert facts["attack"] == "pgd:steps=20" and facts["norm"] == "linf"
    assert [float(eps) for eps in json.loads(facts["epsilons"])] == [8 / 255, 0.2]
    assert [r["value"] for r in json.loads(facts["robust_accuracy"])] == [
        r.value for r in found.robust_accuracy
    ]
    assert json.loads(facts["suspect"]) is found.suspect and json.loads(facts["versions"])["torch"]
    with pytest.raises(UsageError, match="is a directory"):
        found.save(tmp_path)
