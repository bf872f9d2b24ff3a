"""Red flags of a cell: each raised by its own evidence, at its threshold, and by nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from robustbench_gan.base.errors import DisconnectedGradient, NotANumber
from robustbench_gan.cell.craft import AttackFault
from robustbench_gan.cell.evidence import Seen, evidence_of
from robustbench_gan.contracts.attacks import AttackInfo
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import black_box, gray_box, query, seed_known, white_box
from robustbench_gan.flags import CATALOGUE, derive
from robustbench_gan.flags.derive import Judged, parameter_flags
from robustbench_gan.flags.question import Question
from robustbench_gan.flags.refusals import flags_of_error, undefined_losses
from robustbench_gan.flags.thresholds import AGREEMENT, ZERO_GRADIENT_SHARE
from robustbench_gan.nouns.evidence import Probe, Shown
from robustbench_gan.nouns.outcome import Output

N, CLASSES = 100, 10
LOGITS = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0))
OF_QUESTION = ("parameters", "threat", "norm", "eps", "targeted")


def info(needs="gradient", minimal=False, trained=False):
    return AttackInfo(("linf",), needs, lambda p: 1, minimal, True, None, False, "planted", trained)


def counts(**changed):
    """An attack that took one gradient, neither zero nor tiny nor NaN, of every sample."""
    one, zero = torch.ones(N, dtype=torch.int64), torch.zeros(N, dtype=torch.int64)
    whole = dict.fromkeys(("forward", "backward", "calls", "gradients"), one)
    whole |= dict.fromkeys(("zero_gradients", "tiny_gradients", "nan_gradients", "flat_losses"), zero)
    return Counts(**{**whole, **changed})


def question(**changed):
    whole = {
        "parameters": {}, "threat": white_box(), "norm": "linf", "eps": 0.3, "targeted": False, **changed,
    }  # fmt: skip
    threat = whole.pop("threat")
    return Question(**whole, threat=threat.name, draws=threat.draws)


def evidence(*, logits=LOGITS, scores=None, **changed):
    """Nothing suspicious: all of eps used, every sample right, one judge seed of a defense that is not random.

    The question, the evidence and what else the record says.
    """
    asked = {name: changed.pop(name) for name in OF_QUESTION if name in changed}
    bits = torch.ones(1, N, dtype=torch.bool)
    whole = {
        "info": info(), "classes": CLASSES, "counts": counts(), "right": bits, "robust": bits, "stopped": ~bits,
        "probe": Probe(), "shown": Shown(), "drew": (), "repeats": True,
        "answers": [Output(logits, logits.new_zeros(N, 0) if scores is None else scores)],
    }  # fmt: skip
    told = {"sizes": torch.full((1, N), 0.3), "gradients": ("full",), "agreement": None}
    told["controls"] = {"classifier": 0.99, "defended": 0.98}
    defense = Defense(torch.nn.Identity())
    for name in ("randomised", "purifies", "unrolls"):
        setattr(defense, name, changed.pop(name, False))
    told |= {name: changed.pop(name) for name in told if name in changed}
    seen = Seen(**{**whole, "defense": defense, **changed})
    arrays = [part.numpy() for part in (seen.right, seen.robust, told.pop("sizes"))]
    return question(**asked), evidence_of(seen), Judged(*arrays, **told)


def red_flags(given):
    return derive.red_flags(*given)


def raised(**changed):
    return {flag.id: flag.severity for flag in red_flags(evidence(**changed))}


def parameters_flagged(**changed):
    return parameter_flags(*evidence(**changed)[:2])


def some(count):
    """Ones for the first `count` samples."""
    return (torch.arange(N) < count).to(torch.int64)


def rows(*values):
    """(K, N) bool, one value a judge seed."""
    return torch.tensor(values)[:, None].expand(-1, N).clone()


def test_an_honest_attack_raises_nothing():
    assert raised() == {}


# ---- gradients


@pytest.mark.parametrize(
    ("zero", "severity"), [(0, None), (1, "note"), (5, "note"), (6, "invalid"), (N, "invalid")]
)
def test_zero_gradients_are_invalid_above_their_share(zero, severity):
    assert ZERO_GRADIENT_SHARE == 0.05
    flag = red_flags(evidence(counts=counts(zero_gradients=some(zero))))
    assert [(f.id, f.severity) for f in flag] == ([("zero-gradient", severity)] if severity else [])
    if flag:
        assert flag[0].evidence == {"samples": zero, "of": N}


def test_a_sample_with_one_gradient_that_is_not_zero_moved():
    two = torch.full((N,), 2)
    assert raised(counts=counts(gradients=two, zero_gradients=torch.ones(N, dtype=torch.int64))) == {}
    assert "zero-gradient" in raised(counts=counts(gradients=two, zero_gradients=two))


def test_samples_that_were_wrong_anyway_are_no_evidence():
    right = (torch.arange(N) >= 50)[None]
    assert raised(right=right, counts=counts(zero_gradients=some(50))) == {}
    assert raised(right=right, counts=counts(zero_gradients=some(53)))["zero-gradient"] == "invalid"
    nobody = torch.zeros(1, N, dtype=torch.bool)
    assert raised(right=nobody, robust=nobody, counts=Counts.zeros(N), sizes=torch.zeros(1, N)) == {}


def test_right_under_one_judge_seed_is_attackable():
    right, declared = rows(False, True), {"randomised": True, "threat": seed_known()}
    found = raised(right=right, sizes=torch.zeros(1, N), **declared)
    assert found == {"no-perturbation": "invalid", "single-seed": "note"}


def test_a_sample_that_fell_without_a_gradient_is_no_sign_of_masking():
    ones = torch.ones(N, dtype=torch.int64)
    fallen = torch.zeros(1, N, dtype=torch.bool)
    assert raised(counts=counts(zero_gradients=ones)) == {"zero-gradient": "invalid"}
    assert raised(counts=counts(zero_gradients=ones), robust=fallen) == {}


def test_a_white_box_attack_must_call_the_system_and_ask_for_gradients():
    none = torch.zeros(N, dtype=torch.int64)
    assert raised(counts=Counts.zeros(N)) == {"defense-not-attacked": "invalid"}
    assert raised(counts=counts(backward=none, gradients=none)) == {"no-backward": "invalid"}
    assert raised(counts=Counts.zeros(N), threat=gray_box()) == {"no-backward": "invalid"}


def test_passes_through_a_part_alone_are_no_call_of_the_system():
    none = torch.zeros(N, dtype=torch.int64)
    parts = counts(calls=none, backward=none, gradients=none)
    assert raised(counts=parts) == {"defense-not-attacked": "invalid"}


@pytest.mark.parametrize("needs", ["nothing", "labels", "scores"])
def test_attacks_without_gradients_owe_none(needs):
    assert raised(info=info(needs), counts=Counts.zeros(N)) == {}


def test_a_cut_gradient_is_always_suspect():
    assert raised(gradients=("cut",))["cut-gradient"] == "invalid"
    nobody = torch.zeros(1, N, dtype=torch.bool)
    assert raised(gradients=("full", "cut"), right=nobody, robust=nobody) == {"cut-gradient": "invalid"}


@pytest.mark.parametrize(("broken", "severity"), [(0, None), (1, "warning"), (5, "warning"), (6, "invalid")])
def test_gradients_that_are_no_numbers(broken, severity):
    found = raised(counts=counts(nan_gradients=some(broken)))
    assert found == ({"not-a-number": severity} if severity else {})


def test_an_attack_that_is_trained_on_next_to_no_gradients_has_learnt_nothing():
    trained = info(trained=True)
    each = torch.full((N,), 200)
    for zeros, found in ((190, {"zero-gradient": "invalid"}), (189, {})):
        told = counts(gradients=each, zero_gradients=torch.full((N,), zeros))
        assert raised(info=trained, counts=told) == found
        assert raised(counts=told) == {}  # an attack that is not trained moved each sample by the others


def test_a_loss_is_saturated_where_the_answer_is_sure_and_the_gradient_has_vanished():
    sure = torch.zeros(N, CLASSES)
    sure[:, 3] = 40.0
    tiny = counts(tiny_gradients=some(6))
    assert raised(logits=sure, counts=tiny) == {"saturated-loss": "warning"}
    assert raised(logits=sure, counts=counts(tiny_gradients=some(5))) == {}
    assert raised(logits=sure) == {}  # sure, but with a gradient
    assert raised(counts=tiny) == {}  # vanished, but not from being sure
    assert raised(logits=sure, counts=tiny, robust=torch.zeros(1, N, dtype=torch.bool)) == {}
    half = counts(flat_losses=some(6))  # of the gradient is left
    assert raised(logits=sure, counts=half) == {"saturated-loss": "note"}
    assert raised(logits=sure, counts=counts(flat_losses=some(5))) == {}
    assert raised(counts=counts(flat_losses=some(6))) == {}
    sure[:, 3] = 15.0  # within 3e-6 of 1 only
    assert raised(logits=sure, counts=tiny) == {}


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({}, "invalid"), ({"threat": gray_box()}, "invalid"), ({"threat": black_box()}, "warning"),
        ({"info": info("scores"), "threat": query()}, "warning"),
    ],
)  # fmt: skip
def test_probabilities_are_no_logits(changed, severity):
    assert raised(logits=LOGITS.softmax(dim=1), **changed) == {"probabilities-as-logits": severity}
    for honest in (LOGITS.log_softmax(dim=1), LOGITS.sigmoid(), LOGITS.softmax(dim=1) + 1e-4):
        assert raised(logits=honest, **changed) == {}


# ---- sizes


@pytest.mark.parametrize(
    ("share", "found"), [(0.0, "invalid"), (0.001, "warning"), (0.49, "warning"), (0.51, None), (1.0, None)]
)
def test_a_linf_attack_that_hardly_moves_is_pointed_at(share, found):
    sizes = torch.full((1, N), 0.3 * share)
    assert raised(sizes=sizes) == ({"no-perturbation": found} if found else {})


def test_small_perturbations_are_the_aim_of_minimal_attacks_and_nothing_odd_in_l2():
    small = torch.full((1, N), 0.01)
    assert raised(sizes=small, info=info(minimal=True), eps=math.inf) == {}
    assert raised(sizes=small, norm="l2") == {}
    assert raised(sizes=torch.zeros(1, N), info=info(minimal=True), eps=math.inf) == {
        "no-perturbation": "invalid"
    }


def test_a_ball_of_radius_zero_allows_no_move():
    assert raised(sizes=torch.zeros(1, N), eps=0.0) == {}


# ---- randomness


def test_answers_that_change_with_the_seed_must_be_declared():
    right = rows(True, True, True)
    right[1, 3] = False
    assert raised(right=right) == {"undeclared-randomness": "invalid"}
    assert raised(right=right, randomised=True, threat=gray_box()) == {}
    assert red_flags(evidence(right=right))[0].evidence["samples"] == 1
    assert raised(probe=Probe(seeds_vary=2e-4)) == {"undeclared-randomness": "invalid"}
    assert raised(probe=Probe(seeds_vary=0.5e-4)) == {}


def test_answers_that_change_under_one_seed():
    assert raised(probe=Probe(repeats_vary=0.1)) == {"stateful-defense": "warning"}
    assert raised(probe=Probe(repeats_vary=0.1, label_changed=True)) == {"stateful-defense": "invalid"}
    assert raised(probe=Probe(repeats_vary=1e-5)) == {}
    own = Probe(repeats_vary=0.1, own_randomness=True)
    assert raised(probe=own) == {"undeclared-randomness": "invalid"}
    assert raised(probe=own, randomised=True, right=rows(1, 1, 1) > 0, threat=gray_box()) == {
        "undeclared-randomness": "invalid"
    }


def test_dropout_that_is_always_on_explains_what_else_changes():
    noisy = Probe(core_varies=0.1, repeats_vary=0.1, seeds_vary=0.1)
    assert raised(probe=noisy) == {"always-on-dropout": "invalid"}


@pytest.mark.parametrize(("seeds", "severity"), [(1, "warning"), (2, "note"), (3, None)])
def test_a_randomised_defense_wants_several_judge_seeds(seeds, severity):
    right = torch.ones(seeds, N, dtype=torch.bool)
    found = raised(right=right, randomised=True, threat=gray_box())
    assert found == ({"single-seed": severity} if severity else {})
    assert raised(right=right) == {}  # one answer is all there is


def test_a_randomised_defense_wants_eot():
    several = {"randomised": True, "right": rows(True, True, True)}
    assert raised(**several) == {"no-eot": "warning"}
    assert raised(**several, threat=white_box(draws=20)) == {}
    assert raised(**several, threat=seed_known()) == {}
    assert raised(**several, info=info("scores")) == {}


# ---- purifiers and detectors


def test_what_the_probe_sees_of_a_purifier():
    assert raised(probe=Probe(differentiates=True)) == {"inference-time-optimisation": "note"}
    assert raised(unrolls=True) == {"inference-time-optimisation": "note"}
    assert raised(purifies=True) == {}
    assert raised(purifies=True, shown=Shown(outside=0.02)) == {"range-mismatch": "warning"}
    assert raised(purifies=True, shown=Shown(outside=0.005)) == {}


def test_a_purifier_that_destroys_clean_images():
    far, worse = Shown(distance=0.2), {"classifier": 0.99, "defended": 0.5}
    assert raised(purifies=True, shown=far, controls=worse) == {"misconfigured-purifier": "warning"}
    assert raised(purifies=True, shown=far) == {}  # far, yet right
    assert raised(purifies=True, shown=Shown(distance=0.02), controls=worse) == {}
    assert raised(purifies=False, shown=far, controls=worse) == {}


def test_a_purifier_that_leaves_nothing_of_the_image():
    assert raised(purifies=True, shown=Shown(spread=0.0005, likeness=0.0)) == {"image-discarded": "invalid"}
    assert raised(purifies=True, shown=Shown(spread=0.002, likeness=0.9)) == {}
    assert raised(purifies=True, shown=Shown(likeness=-0.05)) == {"image-discarded": "warning"}
    assert raised(purifies=True, shown=Shown(likeness=-0.5)) == {}
    assert raised(purifies=False, shown=Shown(spread=0.0)) == {}


def test_an_attack_that_its_seeds_do_not_govern():
    assert raised(repeats=False) == {"irreproducible-attack": "warning"}
    assert raised(drew=("numpy", "torch")) == {"global-generator": "warning"}
    varies = Probe(repeats_vary=0.1, own_randomness=True)
    assert raised(repeats=False, drew=("torch",), probe=varies) == {"undeclared-randomness": "invalid"}


def test_purified_images_are_not_classified_better():
    better = {"classifier": 0.80, "defended": 0.89}  # two standard errors of 100 images are 0.08
    assert raised(purifies=True, controls=better) == {"reconstructions-beat-originals": "warning"}
    assert raised(purifies=True, controls={"classifier": 0.80, "defended": 0.87}) == {}
    assert raised(purifies=False, controls=better) == {}


@pytest.mark.parametrize(("share", "found"), [(0.10, False), (0.11, True), (1.0, True)])
def test_detectors_that_reject_clean_images(share, found):
    scores = torch.where(torch.arange(N) < share * N, 1.0, -1.0)[:, None]
    assert raised(scores=scores) == ({"rejects-clean-images": "warning"} if found else {})


def test_an_attack_that_forgets_the_detector():
    quiet, stopped = -torch.ones(N, 1), (torch.arange(N) < 51)[None]
    assert raised(scores=quiet, stopped=stopped) == {"detector-not-attacked": "warning"}
    assert raised(scores=quiet, stopped=stopped, threat=gray_box()) == {}  # it does not know of any
    assert raised(scores=quiet, stopped=stopped, info=info("nothing")) == {}
    assert raised(scores=quiet, stopped=(torch.arange(N) < 50)[None]) == {}


@pytest.mark.parametrize(
    ("agreement", "found"), [(0.79, True), (AGREEMENT, False), (1.0, False), (None, False)]
)
def test_a_substitute_that_disagrees_is_weak(agreement, found):
    assert raised(agreement=agreement) == ({"weak-substitute": "warning"} if found else {})


# ---- strength and parameters


def test_nothing_stands_where_every_image_can_be_grey():
    half, full = {"eps": 0.5, "sizes": torch.full((1, N), 0.5)}, {"steps": 40}
    assert raised(**half, parameters=full) == {"robust-at-half": "invalid"}
    assert raised(**half) == {"robust-at-half": "warning"}  # a single step may overshoot
    by_chance = (torch.arange(N) < 16)[None]  # 0.1 + the larger of 0.05 and two standard errors, 0.06
    assert raised(**half, parameters=full, robust=by_chance) == {}
    assert "robust-at-half" in raised(**half, parameters=full, robust=(torch.arange(N) < 17)[None])
    for elsewhere in (
        {"threat": gray_box()}, {"norm": "l2"}, {"targeted": True}, {"info": info("scores")},
        {"info": info(trained=True)}, {"eps": 0.49},
    ):  # fmt: skip
        assert raised(**{**half, "parameters": full, **elsewhere}) == {}


@pytest.mark.parametrize(
    ("parameters", "faults"),
    [
        ({"steps": 20, "step": 0.0}, None),
        ({"steps": 19, "step": 0.0}, {"steps"}),
        ({"steps": 40, "step": 0.31}, {"steps", "step", "eps"}),
        ({"steps": 40, "step": 0.3}, None),
        ({"steps": 40, "step": 0.007}, {"steps", "step", "eps"}),
        ({"steps": 30, "step": 0.01}, None),  # just reaches eps
        ({"steps": 40, "restarts": 5, "random_start": False}, {"restarts", "random_start"}),
        ({"steps": 40, "restarts": 5, "random_start": True}, None),
        ({"lr": 10.0}, {"lr"}),
        ({"lr": 0.01}, None),
        ({}, None),
    ],
)
def test_weak_hyper_parameters(parameters, faults):
    found = parameters_flagged(parameters=parameters)
    assert [f.id for f in found] == (["weak-hyper-parameters"] if faults else [])
    if faults:
        assert set(found[0].evidence) == faults and found[0].severity == "warning"


def test_hyper_parameters_of_other_attacks_mean_something_else():
    few = {"steps": 5, "step": 0.001}
    assert parameters_flagged(parameters=few, info=info("scores")) == []
    assert parameters_flagged(parameters=few, info=info(trained=True)) == []
    assert parameters_flagged(parameters=few, info=info(minimal=True), eps=math.inf) == []
    assert parameters_flagged(parameters={"steps": 10}, norm="l2") == []


@pytest.mark.parametrize(
    ("loss", "targeted", "needed"),
    [("dlr", False, 3), ("dlr", True, 4), ("dlr-targeted", False, 4), ("ce", True, 2)],
)
def test_dlr_needs_classes(loss, targeted, needed):
    for classes in range(2, 6):
        found = undefined_losses(question(parameters={"loss": loss}, targeted=targeted), classes)
        assert [(f.id, f.severity) for f in found] == (
            [("dlr-undefined", "note")] if classes < needed else []
        )


# ---- failures, and the catalogue


def test_failures_have_names():
    named = [DisconnectedGradient("x"), AttackFault("x", "budget-violation"), NotANumber("x")]
    found = [flags_of_error(error) for error in named]
    assert [[f.id for f in flags] for flags in found] == [
        ["disconnected-gradient"], ["budget-violation"], ["not-a-number"],
    ]  # fmt: skip
    stranger = RuntimeError("x")
    stranger.flag = "cut-gradient"  # type: ignore[attr-defined]
    assert [flags_of_error(e) for e in (AttackFault("x"), RuntimeError("x"), stranger)] == [[], [], []]


def test_a_flag_says_what_was_seen():
    (flag,) = red_flags(evidence(gradients=("cut",)))
    assert flag.message == CATALOGUE["cut-gradient"].summary
