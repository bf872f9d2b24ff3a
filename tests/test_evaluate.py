"""The judge: a number is what a hand computes, and what is reported beside it."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from judged_cells import N, bits, judged_images
from planted_cells import grey
from planted_plugins import cell, installed, judged, planned, workshop  # noqa: F401

from robustbench_gan.base import machine
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.nouns.seeds import fold, judge_seeds, sample_seeds

# ---- known answers


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "bim:steps=5", "pgd:steps=20,restarts=2"])
def test_robust_accuracy_of_two_linear_classes_is_what_a_hand_computes(shop, attack, norm):
    # The margin of the true class falls by at most eps times the dual norm of the weights' difference.
    x, y, w = judged_images(classes=2)
    signed = ((x - 0.5).flatten(1) @ (w[1] - w[0])) * (2 * y - 1)
    dual = (w[1] - w[0]).abs().sum() if norm == "linf" else (w[1] - w[0]).norm()
    ordered = signed.sort().values  # half the samples fall, and no pixel can leave the box
    eps = float((ordered[N // 2 - 1] + ordered[N // 2]) / 2 / dual)
    assert (signed - eps * dual).abs().min() > 1e-3 and x.min() > eps and x.max() < 1 - eps
    result = cell(shop, datasets="grey:classes=2", attacks=attack, norm=norm, eps=eps)
    expected = signed > eps * dual
    assert expected.sum() == N // 2
    assert judged(result).robust == [bits(expected)]
    assert judged(result).clean == ["1" * N] and result.accuracy("robust").value == expected.double().mean()


def test_targeted_success_is_the_target_and_all_keeps_the_best_of_them(shop):
    x, y, w = judged_images()
    eps, won = 0.1, []
    for offset in (1, 2):
        target = (y + offset) % 3
        logits = (x - 0.5).flatten(1) @ w.T
        slope = (torch.nn.functional.one_hot(target, 3) - logits.softmax(dim=1)) @ w  # of log p_target
        moved = logits + eps * slope.sign() @ w.T  # inside the box: pixels are 0.25 to 0.75
        won.append(moved.argmax(dim=1) == target)
    result = cell(shop, goals="all", attacks="fgsm", eps=eps)
    assert judged(result).robust == [bits(~(won[0] | won[1]))]
    assert (won[0] != won[1]).any()  # else any choice would do
    # One gradient a target; a sample that is won with the first is not tried with the second.
    assert judged(result).backward == [1 if first else 2 for first in won[0].tolist()]


@pytest.mark.parametrize("goal", ["random", "least-likely"])
def test_targets_are_never_the_true_class_and_reproducible(shop, goal):
    first = judged(cell(shop, goals=goal, attacks="fgsm", eps=0.2))
    again = judged(cell(shop, goals=goal, attacks="fgsm", eps=0.2))
    assert first == again
    # With two classes the only other class is the target: targeted and untargeted agree.
    two = {"datasets": "grey:classes=2", "attacks": "fgsm", "eps": 0.1}
    assert (
        judged(cell(shop, goals=goal, **two)).robust == judged(cell(shop, goals="untargeted", **two)).robust
    )


def test_a_seed_known_example_is_judged_on_the_very_seed_it_was_made_for(shop):
    result = cell(shop, defenses="lock", attacks="bit", threats="seed-known", judge_seeds=4, eps=1.0)
    assert judged(result).clean == ["1" * N] * 4
    assert judged(result).robust == ["0" * N] * 4
    assert len(judged(result).size) == 4


def test_a_white_box_example_is_judged_on_seeds_the_attacker_did_not_have(shop):
    result = cell(shop, defenses="lock", attacks="bit", threats="white-box", judge_seeds=4, eps=1.0)
    x, _, _ = judged_images()
    expected = [bits((judge_seeds(0, k, x, HOLDOUT) & 1) == 1) for k in range(4)]  # it always guesses 0
    assert judged(result).robust == expected
    assert len(set(expected)) == 4


def test_the_attackers_draws_and_the_judges_seeds_have_nothing_in_common(shop, monkeypatch):
    seen = {"view": [], "judge": []}
    from planted_defenses import Noisy

    real = Noisy.purify

    def recorded(self, x, seed):
        seen["view" if torch.is_grad_enabled() else "judge"] += seed.tolist()
        return real(self, x, seed)

    monkeypatch.setattr(Noisy, "purify", recorded)
    cell(shop, defenses="noisy", attacks="pgd:steps=2", gradient="full", eot=3, judge_seeds=3)
    assert seen["view"] and seen["judge"]
    index = torch.arange(HOLDOUT, HOLDOUT + N)
    judge = {int(s) for k in range(3) for s in sample_seeds(0, f"judge/{k}", index)}
    assert judge <= set(seen["judge"]) and not judge & set(seen["view"])
    assert len(set(seen["view"])) == N * 3 * 2  # draws of two gradient steps, each new
    assert int(fold(index[:1], 0)) not in judge


def test_every_gradient_of_auto_and_the_choice_between_them_draw_anew(shop, monkeypatch):
    from planted_defenses import Noisy

    seen, real = [], Noisy.purify

    def recorded(self, x, seed):
        seen.extend(seed.tolist())
        return real(self, x, seed)

    monkeypatch.setattr(Noisy, "purify", recorded)
    result = cell(shop, defenses="noisy", attacks="pgd:steps=2", gradient="auto", eot=3, judge_seeds=2)
    # Two gradients of 3 passes by 3 draws, 3 draws to choose on (the same for both), and 2 judge seeds, whose images
    # keep the company of those that follow them, here all that are not held out; the probe draws as the judge does.
    assert result.gradients == ["full", "bpda"]
    assert len(set(seen)) == N * (2 * 3 * 3 + 3) + 2 * (len(grey().test) - HOLDOUT)
    assert judged(result).forward == [2 * 3 * 3 + 2 * 3] * N


def test_eot_charges_every_draw_and_a_deterministic_defense_none(shop):
    random = judged(cell(shop, defenses="noisy", attacks="fgsm", gradient="full", eot=5))
    assert random.backward == random.forward == [5] * N
    still = judged(cell(shop, attacks="fgsm", gradient="full", eot=5))
    assert still.backward == [1] * N


def test_success_needs_a_clean_image_to_start_from(shop):
    # `bent` is untrained: it is wrong on most images, and a wrong image is never robust.
    outcomes = judged(cell(shop, classifiers="bent", attacks="noise"))
    assert "0" in outcomes.clean[0]
    assert all(r == "0" for c, r in zip(outcomes.clean[0], outcomes.robust[0], strict=True) if c == "0")


def test_a_larger_budget_never_helps_the_defender(shop):
    robust = [cell(shop, attacks="fgsm", datasets="grey:classes=2", eps=e).accuracy("robust").value
              for e in (0.0, 0.02, 0.05, 0.1, 0.2)]  # fmt: skip
    assert robust == sorted(robust, reverse=True) and robust[0] == 1.0 and robust[-1] < 0.5


def test_a_cell_does_not_depend_on_the_cells_before_it(shop, tmp_path):
    asked = {"defenses": "noisy", "attacks": "pgd:steps=3,restarts=2", "eot": 2, "judge_seeds": 2}
    alone = cell(workshop(tmp_path / "other"), **asked)
    cell(shop, attacks="noise", seed=9)
    cell(shop, defenses="noisy", attacks="fgsm")
    torch.manual_seed(123)
    torch.rand(5)
    after = cell(shop, **asked)
    assert judged(after) == judged(alone)


def test_another_seed_gives_other_draws(shop):
    one, two = (judged(cell(shop, attacks="noise", norm="l2", eps=1.0, seed=s)) for s in (0, 1))
    assert one.size != two.size


def test_a_result_says_what_it_stood_on(shop):
    result = cell(shop, classifiers="quick", attacks="fgsm", defenses="none")
    assert result.weights.keys() == {"classifier"} and result.hardware["device"] == "cpu"
    # "planted" brought the classifier
    assert result.versions.keys() == {"torch", "numpy", "robustbench-gan", "planted"}
    assert result.gradients == ["full"] and result.controls.keys() == {"classifier", "defended"}
    assert result.seconds.training > 0 and result.seconds.judging > 0


def test_an_estimate_above_the_limit_is_not_run_and_says_so(shop):
    (only,) = planned(shop, attacks="pgd:steps=100")
    result = evaluate_cell(only, shop, Settings(max_cell_minutes=1e-9))
    assert result.status == "not run" and result.outcomes is None
    assert result.reason.startswith("estimated at ") and "above the limit of 1e-09" in result.reason
    assert result.estimate_seconds > 0
    assert evaluate_cell(only, shop, Settings(max_cell_minutes=60)).status == "ok"


def test_black_box_attacks_a_substitute_that_never_saw_the_judged_images(shop):
    asked = {"threats": "black-box:model=quick,rounds=2", "attacks": "fgsm", "eps": 0.3}
    result = cell(shop, **asked)
    assert result.status in ("ok", "suspect") and result.cell.first == HOLDOUT
    assert result.substitute["queries"] == HOLDOUT and result.substitute["points"] == 2 * HOLDOUT
    assert result.weights.keys() == {"classifier", "substitute"}
    assert 0 <= result.substitute["agreement"] <= 1
    control = cell(shop, threats="black-box:model=quick,rounds=2", attacks="noise")
    assert control.substitute == {} and "substitute" not in control.weights


def test_gray_box_knows_the_classifier_and_not_the_purifier(shop):
    gray = cell(shop, defenses="zerogradient", threats="gray-box", attacks="fgsm", eps=0.2)
    bare = cell(shop, attacks="fgsm", eps=0.2)
    assert gray.status == "ok" and judged(gray).robust == judged(bare).robust  # its purifier changes no value


def test_examples_made_on_the_classifier_alone_are_made_once_for_every_purifier(shop):
    first = cell(shop, defenses="noisy", threats="gray-box", attacks="pgd:steps=3")
    second = cell(shop, defenses="detached", threats="gray-box", attacks="pgd:steps=3")
    other = cell(shop, defenses="detached", threats="gray-box", attacks="pgd:steps=4")
    assert first.status == second.status == "ok"
    assert judged(first).size == judged(second).size
    # The very same seconds: the second cell did not craft again.
    assert first.seconds.crafting == second.seconds.crafting != other.seconds.crafting


# ---- what is reported beside the outcomes


def test_distortion_is_of_the_examples_that_won_in_every_norm(shop):
    result = cell(shop, attacks="fgsm", eps=0.2)
    x, _, _ = judged_images()
    outcomes = judged(result)
    won = torch.tensor(
        [c == "1" and r == "0" for c, r in zip(outcomes.clean[0], outcomes.robust[0], strict=True)]
    )
    assert bool(won.any())
    sizes = torch.tensor(outcomes.size[0])[won]
    linf = result.distortion["linf"]
    assert linf.max == pytest.approx(float(sizes.max()), abs=1e-6)
    assert linf.mean == pytest.approx(float(sizes.mean()), abs=1e-6)
    values = x[0].numel()
    assert result.distortion["l2"].max <= 0.2 * values**0.5 + 1e-6
    assert 1 <= result.distortion["l0"].median <= values
    assert set(result.distortion) == {"l0", "l2", "linf"}


def test_an_attack_that_won_nothing_has_no_distortion(shop):
    assert cell(shop, attacks="noise", eps=1e-6).distortion == {}


def test_with_a_seed_known_each_judge_seed_has_examples_of_its_own(shop):
    result = cell(shop, defenses="noisy", attacks="fgsm", threats="seed-known", judge_seeds=2, eps=0.2)
    won = [c == "1" and r == "0" for c, r in zip(
        "".join(judged(result).clean), "".join(judged(result).robust), strict=True
    )]  # fmt: skip
    sizes = [size for size, one in zip(chain(*judged(result).size), won, strict=True) if one]
    assert result.distortion["linf"].mean == pytest.approx(sum(sizes) / len(sizes), abs=1e-6)


def test_the_classifier_alone_is_judged_on_the_same_examples(shop):
    alone, rejected = (cell(shop, defenses=d, attacks="fgsm", eps=0.2) for d in ("none", "rejectall"))
    assert alone.attacked["classifier"] == alone.attacked["defended"] == alone.accuracy("robust").value < 1
    assert rejected.attacked == {"classifier": alone.attacked["classifier"], "defended": 0.0}


@pytest.mark.parametrize(
    ("defense", "attack", "shares"),
    [
        ("none", "fgsm", {"always": 0.0, "once": 0.0}),
        ("zerogradient", "pgd:steps=3", {"always": 1.0, "once": 1.0}),
        ("none", "noise", {}),
    ],
)
def test_the_share_of_zero_gradients_stands_in_every_record_that_asked_for_some(
    shop, defense, attack, shares
):
    assert cell(shop, defenses=defense, attacks=attack, gradient="full").zero_gradients == shares


@pytest.mark.parametrize(("system", "counted"), [("linux", 2048), ("darwin", 2 * 2**20)])
def test_the_most_memory_is_in_mebibytes_whatever_the_system_counts_in(monkeypatch, system, counted):
    monkeypatch.setattr(machine.sys, "platform", system)
    monkeypatch.setattr(machine.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=counted))
    assert machine.peak_memory_mb() == 2
