"""What a run records of a defense that rejects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_cells import Fixed, grey
from planted_plugins import also_installed, cell, installed, judged  # noqa: F401

from robustbench_gan.cell import judge
from robustbench_gan.cli.show_record import print_result
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.leaderboard import rows
from robustbench_gan.results.stored import read_result, write_text
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

N = 20
DETECTORS = ("Bright", "BothWays", "Unsure")

detectors = also_installed(
    "detectors",
    "\n".join([
        "[robustbench_gan.defenses]", *(f"{name.lower()} = planted_detectors:{name}" for name in DETECTORS)
    ]),
)  # fmt: skip


def judged_brightness():
    split = grey().test.take(slice(HOLDOUT, HOLDOUT + N))
    return split.pixels().flatten(1).mean(dim=1)


def between(values):
    """A threshold that half of the values lie above."""
    ordered = values.sort().values
    return float((ordered[N // 2 - 1] + ordered[N // 2]) / 2)


def test_rejected_clean_images_count_as_errors(shop):
    bright = judged_brightness()
    threshold = between(bright)
    result = cell(shop, defenses=f"bright:threshold={threshold!r}", attacks="noise", eps=0.0)
    accepted = "".join("1" if b <= threshold else "0" for b in bright.tolist())
    assert accepted.count("0") == N // 2
    assert judged(result).clean == judged(result).robust == judged(result).accepted == [accepted]
    assert result.controls == {"classifier": 1.0, "defended": 0.5}  # the classifier alone is always right
    assert result.detection.together.clean_rejected.value == 0.5
    assert result.accuracy("clean").value + result.detection.together.clean_rejected.value == 1


def test_a_run_records_what_a_hand_computes(shop):
    """The attack lifts every pixel by eps, so that every score is eps higher."""
    bright, eps = judged_brightness().double().numpy(), 0.02
    threshold = between(torch.tensor(bright))
    result = cell(shop, defenses=f"bright:threshold={threshold!r}", attacks="never-calls", eps=eps)
    (found,) = result.detection.detectors
    assert found.name == "brightness"
    assert found.auc.value == pytest.approx(np.mean(bright[None] + eps > bright[:, None]), abs=1e-9)
    assert (
        found.attack_rejected.value == np.mean(bright + eps > threshold) > found.clean_rejected.value == 0.5
    )
    validation = grey().validation
    held_out = np.sort(validation.pixels().flatten(1).mean(dim=1).double().numpy())
    highest = held_out[-1 - len(validation) // 20]  # so many may be rejected at 5%
    assert result.detection.validation == len(validation) >= 20
    assert found.tpr[2].value == np.mean(bright + eps > highest)
    assert found.fpr[2].value == np.mean(bright > highest)
    rejected = 1 - np.mean([b == "1" for b in judged(result).accepted[0]])
    assert result.detection.together.attack_rejected.value == rejected


def test_validation_scores_are_computed_once_a_defense_and_kept(shop, monkeypatch):
    """Another attack, and the same store tomorrow, ask for nothing again; another threshold is another defense."""
    asked, real = [], judge.answer
    monkeypatch.setattr(
        judge, "answer", lambda system, x, seeds: asked.append(len(x)) or real(system, x, seeds)
    )
    one = cell(shop, defenses="bright", attacks="noise").detection
    again = cell(shop, defenses="bright", attacks="fgsm").detection
    tomorrow = Workshop(Store(shop.store.root, zoo=None))
    assert cell(tomorrow, defenses="bright", attacks="noise").detection == one
    assert asked == [one.validation] and again.validation == one.validation
    cell(shop, defenses="bright:threshold=0.6", attacks="noise")
    assert len(asked) == 2


def test_an_attack_that_moved_nothing_has_no_positives(shop):
    found = cell(shop, defenses="bright", attacks="same").detection
    assert found.positive == 0 and found.together.auc is None


def test_a_defense_without_detectors_has_no_detection(shop):
    assert cell(shop).detection is None
    assert cell(shop, defenses="bright", attacks="crashes").detection is None
    (row,) = rows([cell(shop)])
    assert not [key for key in row if "auc" in key or "tpr" in key]


def test_a_composition_names_the_detectors_of_its_stages(shop):
    both = cell(shop, defenses="bright+zerogradient+bright:threshold=0.6", attacks="noise").detection
    assert [d.name for d in both.detectors] == ["0.brightness", "2.brightness"]
    assert both.together.clean_rejected == both.detectors[0].clean_rejected  # the stricter of the two
    unnamed = cell(shop, defenses="bright+bothways", attacks="noise").detection
    assert [d.name for d in unnamed.detectors] == ["detector 0", "detector 1", "detector 2"]


def test_the_seeds_of_a_random_detector_are_averaged(shop):
    result = cell(shop, defenses="unsure", attacks="pgd:steps=2", judge_seeds=4)
    rejected = result.detection.together.attack_rejected
    accepted = judged(result).array("accepted")
    assert rejected.value == pytest.approx(1 - accepted.mean()) and rejected.n == N
    assert len(set(judged(result).accepted)) > 1


def test_a_larger_perturbation_is_easier_to_see(shop):
    """Lifting every pixel: the AUC rises with eps, and with it every rate."""
    found = [
        cell(shop, defenses="bright", attacks="never-calls", eps=e).detection.together
        for e in (0.001, 0.02, 0.2)
    ]
    areas = [f.auc.value for f in found]
    assert areas == sorted(areas) and areas[0] == pytest.approx(0.5, abs=0.1) and areas[2] == 1
    assert [f.tpr[2].value for f in found] == sorted(f.tpr[2].value for f in found)


def test_a_record_with_detection_comes_back_and_is_shown(shop, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")
    result = cell(shop, defenses="bothways", attacks="fgsm")
    path = tmp_path / "result.json"
    path.write_text(write_text(result))
    assert read_result(path) == result
    print_result(result)
    shown = capsys.readouterr().out
    assert "Detection: 20 clean images, 20 perturbed examples" in shown and "TPR at FPR 0.1%" in shown
    for name in ("detector 0", "detector 1", "together"):
        (line,) = [text for text in shown.splitlines() if name in text]
        assert "–" in line  # 0.1% cannot be seen in 20 images
    assert str(result.detection.together.auc) in shown
    print_result(cell(shop))
    assert "Detection" not in capsys.readouterr().out


def test_the_known_model_is_right_on_every_judged_image():
    """What the numbers above stand on."""
    split = grey().test.take(slice(HOLDOUT, HOLDOUT + N))
    assert torch.equal(Fixed(3)(split.pixels()).argmax(dim=1), split.labels)
