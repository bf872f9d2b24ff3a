"""Flags across cells: each raised by a planted contradiction, none by an honest run, and rarely by chance."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from planted_standing import DYNAMIC, N, carried, noise, raised, record, square, unbounded

from robustbench_gan.flags.across import Findings, across, doubts, invalid_flags
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.record import Result

WHITE, SEED = "white-box:gradient=auto", "seed-known:gradient=auto"
# (flag, severity, accused, witness): the accused leaves more standing than the witness
PLANTED = {
    "iterative-weaker-than-single-step": ("invalid", record(60), record(40, attack="fgsm")),
    "white-box-weaker-than-black-box": ("invalid", record(90), carried(60)),
    "seed-does-not-help": ("warning", record(60, threat=SEED), record(40)),
    "scores-beat-gradients": ("warning", record(60), square(40, threat="query:access=scores")),
    "accuracy-rises-with-eps": ("invalid", record(60, eps=0.3), record(40, eps=0.2)),
    "noise-beats-gradients": ("invalid", record(60), noise(40)),
    "targeted-beats-untargeted": ("warning", record(60), record(40, goal="all")),
}
HONEST = {
    "iterative-weaker-than-single-step": (record(40), record(60, attack="fgsm")),
    "white-box-weaker-than-black-box": (record(60), carried(90)),
    "seed-does-not-help": (record(40, threat=SEED), record(60)),
    "scores-beat-gradients": (record(40), square(60, threat="query:access=scores")),
    "accuracy-rises-with-eps": (record(40, eps=0.3), record(60, eps=0.2)),
    "noise-beats-gradients": (record(40), noise(60)),
    "targeted-beats-untargeted": (record(40), record(60, goal="all")),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_contradiction_is_raised_against_the_weaker_attack(name: str) -> None:
    severity, accused, witness = PLANTED[name]
    assert raised(accused, witness) == {name: (severity, [accused])} == raised(witness, accused)


@pytest.mark.parametrize("name", HONEST)
def test_the_same_cells_in_their_right_order_raise_nothing(name: str) -> None:
    assert across(HONEST[name]).comparisons > 0
    assert raised(*HONEST[name]) == {}


@pytest.mark.parametrize("name", PLANTED)
def test_a_difference_that_chance_or_rounding_explains_raises_nothing(name: str) -> None:
    _, accused, witness = PLANTED[name]
    level = record("1" * 42 + "0" * 58, **asked(accused))  # 42 against 40: nested, p = 0.25
    assert raised(level, witness) == {}
    apart = record("0" * 56 + "1" * 44, **asked(accused))  # 44 against 40 or 60, hardly any image in common
    assert raised(apart, witness) == {}


def asked(result: Result) -> dict[str, Any]:
    """What to give `record` for the same cell with other outcomes."""
    given = result.cell.model_dump(exclude={"samples", "judge_seeds", "identity"})
    outcomes = result.outcomes
    assert outcomes is not None
    return {**given, "backward": outcomes.backward[0], "forward": outcomes.forward[0]}


@pytest.mark.parametrize(
    "change",
    [
        {"defense": "ape-gan"}, {"dataset": "fashion-mnist"}, {"classifier": "b"}, {"seed": 1},
        {"identity": {"train_seed": "1"}}, {"first": 150 + N},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", PLANTED)
def test_cells_of_other_systems_or_images_are_not_compared(name: str, change: dict[str, Any]) -> None:
    _, accused, witness = PLANTED[name]
    other = record(witness.outcomes.robust, **{**asked(witness), **change}, more={"control": witness.control})
    found = across([accused, other])
    assert found.comparisons == 0 and not {f.flag.id for f in found.found} - {"no-adaptive-attack"}


@pytest.mark.parametrize(
    "name", [n for n in PLANTED if n not in ("accuracy-rises-with-eps", "seed-does-not-help")]
)
def test_other_radii_are_not_compared(name: str) -> None:
    _, accused, witness = PLANTED[name]
    other = record(
        witness.outcomes.robust, **{**asked(witness), "eps": 0.2}, more={"control": witness.control}
    )
    assert raised(accused, other) == {}


def test_only_a_number_that_counts_is_a_witness_but_a_suspect_one_can_be_accused() -> None:
    assert raised(record(90), carried(60, status="suspect")) == {}
    cut = record(98, attack="fgsm", threat="white-box:gradient=cut", status="suspect")
    found = raised(cut, carried(60, attack="fgsm"))
    assert found["white-box-weaker-than-black-box"] == ("invalid", [cut])


def test_bpda_and_a_single_step_are_compared_only_along_the_same_gradients() -> None:
    bpda = record(60, attack="bpda:steps=40", more={"gradients": ["bpda"]})
    assert raised(bpda, record(40, attack="fgsm", more={"gradients": ["bpda", "full"]})) == {}
    assert raised(bpda, record(40, attack="fgsm", more={"gradients": ["bpda"]}))


def test_a_single_step_may_overshoot_in_a_larger_ball() -> None:
    found = raised(record(60, attack="fgsm"), record(40, attack="fgsm", eps=0.1))
    assert found["accuracy-rises-with-eps"][0] == "warning"


def test_cells_are_compared_on_the_images_they_share() -> None:
    everything = carried("0" * 150 + "1" * 50 + "0" * 50, first=0)  # images 150 to 249 are the last 100
    (one,) = across([record(90), everything]).found
    assert one.flag.evidence["images"] == N and one.flag.evidence["against"] == 0.5


def test_minimal_attacks_are_compared_at_the_radii_they_were_asked_for() -> None:
    sizes = [0.1] * 40 + [0.5] * 60
    minimal = {"attack": "fmn", "eps": math.inf, "size": sizes, "more": {"budgets": [0.3]}}
    found = raised(record(0, **minimal), record(0, threat="black-box:model=b", **{**minimal, "size": 0.1}))
    assert found["white-box-weaker-than-black-box"][0] == "invalid"


def test_only_the_strongest_gradient_attack_answers_for_scores() -> None:
    weak, strong = record(90, attack="fgsm"), record(60)
    assert raised(weak, strong, square(70)) == {}
    assert raised(weak, strong, square(40))["scores-beat-gradients"][1] == [strong]


def test_several_judge_seeds_are_compared_by_their_mean() -> None:
    half = ["1" * N, "0" * N]
    full = ["1" * N, "1" * N]
    assert raised(record(full), carried(half)) != {}  # type: ignore[arg-type]
    assert raised(record(half), carried(full)) == {}  # type: ignore[arg-type]


# ---- one record alone


def test_an_attack_without_a_bound_reaches_every_image() -> None:
    assert raised(unbounded(0)) == {}
    assert raised(unbounded(2)) == {}  # of 100, as 1 % would have it
    assert raised(unbounded(10)) == {"unbounded-attack-fails": ("warning", [unbounded(10)])}
    for other in ({"threat": "black-box:model=b"}, {"goal": "all"}, {"backward": 0}):
        assert "unbounded-attack-fails" not in raised(unbounded(10, **other))


def test_distortion_above_the_distance_between_digits_is_implausible() -> None:
    far, near = [9.5] * 51 + [1.0] * 49, [9.5] * 49 + [1.0] * 51
    assert raised(unbounded(0, size=far)) == {"implausible-distortion": ("invalid", [unbounded(0, size=far)])}
    assert raised(unbounded(0, size=near)) == {}
    assert raised(unbounded(0, size=far, dataset="cifar10")) == {}
    assert raised(unbounded(0, size=far, norm="linf")) == {}


def test_a_defense_wants_an_attacker_who_knows_it() -> None:
    (found,) = across([carried(60)]).found
    assert found.flag.id == "no-adaptive-attack" and found.flag.evidence == {"threats": "black-box"}
    assert raised(carried(60), record(40)) == {}
    assert raised(carried(60, defense="none")) == {}  # there is nothing to know
    assert "no-adaptive-attack" in raised(carried(60), record(98, status="suspect"))
    assert "no-adaptive-attack" in raised(carried(60), square(40))
    assert raised(noise(40)) == {}  # no claim stands on a control


def test_a_defense_that_optimises_wants_bpda_beside_another_gradient() -> None:
    def seen(*gradients: str) -> set[str]:
        return set(raised(record(40, more={"gradients": list(gradients), "flags": [DYNAMIC]})))

    assert seen("full") == seen("bpda") == {"no-adaptive-attack"}
    assert seen("full", "bpda") == set()


# ---- the whole


def test_the_order_of_records_changes_nothing() -> None:
    cells = [record(60), record(40, attack="fgsm"), carried(30), noise(20), square(10), unbounded(30)]
    wanted = across(cells)
    assert len(wanted.found) >= 4
    for order in itertools.islice(itertools.permutations(cells), 0, 720, 97):
        assert across(order) == wanted


def test_of_several_witnesses_the_clearest_speaks() -> None:
    cells = [record(60), record(40, attack="fgsm"), record(20, attack="rand-fgsm")]
    (one,) = across(cells).found
    assert one.flag.evidence["against"] == 0.2 and one.flag.evidence["comparisons"] == 2


def test_an_attack_of_another_kind_of_steps_breaks_nothing() -> None:
    assert raised(record(60, attack="x:steps=many"), noise(40))["noise-beats-gradients"][0] == "invalid"


def test_an_empty_run_has_nothing_to_say() -> None:
    assert across([]) == Findings(0, ())


def test_invalid_flags_of_cells_and_across_them_are_told_together() -> None:
    own = Flag(id="zero-gradient", severity="invalid", message="m")
    cells = [record(90), carried(60), record(98, status="suspect", attack="x", more={"flags": [own]})]
    found = across(cells)
    assert invalid_flags(cells, found) == ["white-box-weaker-than-black-box", "zero-gradient"]
    assert {k: [d.id for d in v] for k, v in doubts(found).items()} == {
        cells[0].fingerprint: ["white-box-weaker-than-black-box"]
    }
    assert doubts(found)[cells[0].fingerprint][0].against == 0.6
