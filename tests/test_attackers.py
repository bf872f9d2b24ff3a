"""Threat models held to what they say: copies instead of the defense, queries counted, the worst of all gradients."""

from __future__ import annotations

import planted_attackers
import planted_trained
import pytest
from planted_cells import Fixed, grey
from planted_plugins import also_installed, cell, flags, installed, judged, planned, workshop  # noqa: F401 - fixtures

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.question import why_not
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import NOTHING_TO_COPY, gray_box_copy
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.plan import result_path, steps_of
from robustbench_gan.nouns import registry
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import COPY_SEED, Workshop

N = 20
COPY = "gray-box:copy"
PRESS = {"attacks": "presses", "eps": 1.0, "defenses": "secret"}


attackers = also_installed("attackers", planted_attackers.ENTRY_POINTS, planted_trained.ENTRY_POINTS)


@pytest.fixture
def shop(tmp_path):
    planted_attackers.SEEN.clear()
    planted_attackers.EXACT.clear()
    planted_attackers.FITS.clear()
    return workshop(tmp_path)


def bits(flags):
    return "".join("1" if flag else "0" for flag in flags.tolist())


# ---- gray-box:copy


def test_the_copy_is_attacked_and_the_real_defense_is_judged(shop):
    white, copied = cell(shop, **PRESS), cell(shop, **PRESS, threats=COPY)
    names = (white.cell.dataset, white.cell.classifier, white.cell.defense)
    real, copy = shop.defense(*names), shop.copy(*names)
    split = grey().test.take(slice(HOLDOUT, HOLDOUT + N))

    def answered(secret):
        x = split.pixels()
        x.flatten(1)[:, int(secret.at)] = 1
        return Fixed(3)(x)

    # Who holds the weights opens every image: its classes stand on their heads. The copy's secret opens none.
    opened = answered(real.secret).argmin(dim=1) == split.labels
    shut = answered(copy.secret).argmax(dim=1) == split.labels
    assert judged(white).robust == [bits(opened)] and opened.double().mean() < 0.2
    assert judged(copied).robust == [bits(shut)] and shut.double().mean() > 0.8
    assert white.status == copied.status == "ok"
    assert [real, copy] == list(dict.fromkeys(planted_attackers.SEEN)) and real is not copy
    assert int(real.secret.at) != int(copy.secret.at)
    assert real.base is copy.base and real.base_key == copy.base_key  # the classifier is known


def test_what_wins_on_a_copy_is_not_taken_for_won(shop):
    cell(shop, **PRESS, gradient="full")
    cell(shop, **PRESS, gradient="full", threats=COPY)
    assert list(dict.fromkeys(planted_attackers.EXACT)) == [True, False]


@pytest.mark.parametrize(("gradient", "on"), [("auto", "copy"), ("full", "copy"), ("bpda", "copy")])
def test_a_trained_attack_is_trained_through_the_copy(shop, gradient, on):
    asked = {"defenses": "secret", "attacks": "shove", "eps": 0.2, "gradient": gradient}
    copied, white = cell(shop, **asked, threats=COPY), cell(shop, **asked)
    assert copied.trained["on"] == on and white.trained["on"] == "defended"
    assert copied.status == "ok" and copied.attacked_copy["seed"] == COPY_SEED
    parts = [part for part in shop.memory.values() if hasattr(part, "ground")]
    assert (
        len({part.artifact.key for part in parts}) == 2
    )  # one generator for the copy, another for the defense
    names = (copied.cell.dataset, copied.cell.classifier, copied.cell.defense)
    assert [part.ground.system.defense for part in parts] == [shop.copy(*names), shop.defense(*names)]


def test_the_record_says_that_a_copy_was_attacked_and_how_good_it_is(shop):
    result = cell(shop, **PRESS, threats=COPY)
    assert result.attacked_copy == {"seed": COPY_SEED, "parts": 1, "accuracy": 1.0, "agreement": 1.0}
    assert result.weights.keys() == {"classifier", "defense.secret", "copy.secret"}
    assert result.weights["copy.secret"] != result.weights["defense.secret"]
    assert result.gradients == ["full", "bpda"] and result.cell.threat_name == COPY
    assert cell(shop, **PRESS).attacked_copy == {}


def test_the_copy_is_trained_once_from_a_seed_that_no_defender_has(shop, tmp_path):
    cell(shop, **PRESS, threats=COPY)
    cell(shop, **{**PRESS, "attacks": "pgd:steps=2"}, threats=COPY)
    cell(workshop(tmp_path), **PRESS, threats=COPY)  # from the store
    assert planted_attackers.FITS == [0, COPY_SEED]
    for bad in (-1, COPY_SEED):
        with pytest.raises(UsageError, match=f"train_seed {bad}: expected 0 to {COPY_SEED - 1}"):
            Workshop(Store(tmp_path), train_seed=bad)


@pytest.mark.parametrize(
    ("defense", "reason"),
    [("none", "nothing in the defense is trained"), ("no-parts", "nothing in the defense is trained"),
     ("seedless", "a copy would be the defense itself")],
)  # fmt: skip
def test_where_a_copy_means_nothing_it_is_not_applicable(shop, defense, reason):
    result = cell(shop, defenses=defense, attacks="fgsm", threats=COPY)
    assert result.status == "not applicable" and reason in result.reason


@pytest.mark.parametrize(
    ("hides", "reason"),
    [
        ("all", "names no part, and its fit stored"),
        ("seed", "names the same parts whatever the seed"),
    ],
)
def test_what_a_defense_names_does_not_decide_whether_it_can_be_copied(shop, hides, reason):
    result = cell(shop, defenses=f"evades:hides={hides}", attacks="fgsm", threats=COPY)
    assert result.status == "failed" and reason in result.reason


def test_nor_does_who_asks_it(shop):
    asked = {"attacks": "fgsm", "threats": COPY}
    result = cell(shop, defenses="evades:hides=copy", **asked)
    assert judged(result) == judged(cell(shop, defenses="secret", **asked))


def test_examples_made_on_one_classifier_are_not_those_of_another(shop, tmp_path):
    asked = {"attacks": "fgsm", "threats": "gray-box"}
    cell(shop, defenses="secret", **asked)
    shared, alone = (
        cell(where, defenses="recored", **asked) for where in (shop, workshop(tmp_path / "other"))
    )
    assert judged(shared) == judged(alone) and shared.attacked == alone.attacked


def test_what_can_be_copied_is_known_before_the_run_where_it_can_be():
    info = info_of(registry.load("attacks", "pgd"))
    assert why_not(info, [Defense], gray_box_copy(), "untargeted", "linf") == NOTHING_TO_COPY
    assert why_not(info, [Defense, planted_attackers.Secret], gray_box_copy(), "untargeted", "linf") == ""
    truncated = why_not(
        info, [planted_attackers.Secret], gray_box_copy(gradient="truncated"), "untargeted", "linf"
    )
    assert truncated == "the defense has no iterations to truncate"


def test_an_attack_that_never_calls_its_copy_is_suspect_but_not_for_missing_the_defense(shop):
    found = flags(cell(shop, defenses="secret", attacks="never-calls", threats=COPY))
    assert found["no-backward"] == "invalid" and "defense-not-attacked" not in found


@pytest.mark.parametrize(
    "text", ["gray-box:copy,gradient=bpda,draws=3", "gray-box:copy=true,gradient=bpda,draws=3"]
)
def test_the_short_form_is_written_out_in_records(shop, text):
    (item,) = planned(shop, threats=text, defenses="secret")
    assert str(item.cell.threat) == "gray-box:copy=True,draws=3,gradient=bpda,unroll=5"
    assert item.threat == gray_box_copy(gradient="bpda", draws=3)
    assert planned(shop, threats=str(item.cell.threat), defenses="secret") == [
        item
    ]  # what is written can be read
    assert item.cell.threat.name == "gray-box" and item.cell.threat_name == COPY
    assert "gray-box-copy" in result_path(shop.store.root, item).parts


def test_the_options_of_the_command_line_fill_in_what_a_copy_leaves_open(shop):
    (item,) = planned(shop, threats=COPY, defenses="secret", gradient="bpda", eot=4)
    assert (item.threat.gradient, item.threat.draws) == ("bpda", 4)
    with pytest.raises(UsageError, match="unknown parameter of threat model 'gray-box:copy': 'limit'"):
        planned(shop, threats="gray-box:copy,limit=3")
    with pytest.raises(UsageError, match="unknown parameter of threat model 'gray-box': 'copy'"):
        planned(shop, threats="gray-box:copy=false")


def test_the_copy_is_a_step_of_its_own_and_costs_what_a_defended_pass_costs(shop, tmp_path):
    items = planned(shop, **PRESS, threats=["white-box", COPY])
    assert [step.kind for step in steps_of(items)] == ["classifier", "defense", "cell", "copy", "cell"]
    execute(
        items,
        shop,
        Settings(),
        tmp_path / "out",
        run_cell=evaluate_cell,
        on_step=lambda _: None,
        on_result=lambda *_: None,
    )
    assert planted_attackers.FITS == [0, COPY_SEED]
    few, many = planned(shop, defenses="secret", attacks=["pgd:steps=10", "pgd:steps=100000"], threats=COPY)
    short, long = (
        evaluate_cell(i, shop, Settings(max_cell_minutes=1e-9)).estimate_seconds for i in (few, many)
    )
    assert long > 100 * short


# ---- queries


ASK = {"attacks": "asks:times=3", "threats": "query:access=labels,limit=10", "eps": 0.0}


def test_queries_are_counted_and_stated(shop):
    result = cell(shop, **{**ASK, "attacks": "asks:times=3,more=4"})
    assert result.status != "failed" and judged(result).forward == [7] + [3] * (N - 1)
    assert result.queries == {
        "answers": "labels", "limit": 10, "median": 3.0, "max": 7, "total": 7 + 3 * (N - 1),
    }  # fmt: skip
    assert cell(shop, attacks="asks", eps=0.0).queries == {}


@pytest.mark.parametrize("attack", ["asks:times=11", "goes-on:times=11", "asks:times=8,more=3"])
def test_one_query_too_many_fails_even_where_the_attack_goes_on(shop, attack):
    result = cell(shop, **{**ASK, "attacks": attack})
    assert result.status == "failed" and result.reason.startswith("QueryLimit")
    assert cell(shop, **{**ASK, "attacks": "goes-on:times=10"}).status != "failed"


@pytest.mark.parametrize("access", ["labels", "scores"])
def test_the_goals_share_one_limit_with_the_choice_among_them(shop, access):
    # Three classes make two wrong ones: two tries of at most (limit / 2 - 1) queries and one to choose.
    asked = {**ASK, "goals": "all", "threats": f"query:access={access},limit=8"}
    fits = cell(shop, **asked)
    assert fits.status != "failed" and fits.queries["max"] == 8
    assert cell(shop, **{**asked, "attacks": "asks:times=4"}).status == "failed"
    none_left = cell(shop, **{**asked, "threats": f"query:access={access},limit=3"})
    assert none_left.status == "not applicable" and "too few for 2 tries" in none_left.reason


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_nothing_is_an_error_and_not_no_limit(shop, limit):
    with pytest.raises(UsageError, match=f"limit={limit}: expected 1 or more queries"):
        planned(shop, threats=f"query:limit={limit}")


@pytest.mark.parametrize(
    ("access", "attack"), [("labels", "hopskipjump:queries=60"), ("scores", "square:queries=60")]
)
def test_a_real_attack_by_query_stays_within_its_limit(shop, access, attack):
    result = cell(shop, attacks=attack, threats=f"query:access={access},limit=40", eps=0.3, defenses="noisy")
    assert result.status in ("ok", "suspect") and 0 < result.queries["max"] <= 40
    assert result.queries["answers"] == access


# ---- white-box: auto


def test_auto_is_the_worst_of_all_gradients_for_each_sample(shop):
    asked = {"defenses": "halves", "attacks": "fgsm", "eps": 0.2}
    full, bpda, auto = (cell(shop, **asked, gradient=g) for g in ("full", "bpda", "auto"))
    first = grey().test.take(slice(HOLDOUT, HOLDOUT + N)).images[:, 0, 0, 0] % 2 == 1
    right = judged(cell(shop, attacks="fgsm", eps=0.2)).robust[
        0
    ]  # what the true gradient leaves of each image
    wrong = {"full": "".join(b for b, odd in zip(judged(full).robust[0], first, strict=True) if not odd)}
    wrong["bpda"] = "".join(b for b, odd in zip(judged(bpda).robust[0], first, strict=True) if odd)
    assert set(wrong["full"]) == set(wrong["bpda"]) == {"1"}  # against the gradient no image falls
    assert judged(auto).robust[0] == right and "0" in right
    worst = "".join(min(pair) for pair in zip(judged(full).robust[0], judged(bpda).robust[0], strict=True))
    assert judged(auto).robust[0] == worst
    assert auto.accuracy("robust").value < min(full.accuracy("robust").value, bpda.accuracy("robust").value)
    assert auto.gradients == ["full", "bpda", "truncated"]
    # What is moved against the gradient, or not at all, never takes the place of what won before it.
    assert judged(auto).size[0] == pytest.approx([0.2] * len(judged(auto).size[0]), abs=1e-6)


def test_copies_raise_what_the_workshop_raises(shop):
    with pytest.raises(NotApplicable, match="nothing in the defense is trained"):
        shop.copy("grey", "fixed", "none")
