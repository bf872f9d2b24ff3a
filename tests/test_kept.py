"""Adversarial examples beside a record: the same ones that were judged, whoever asks, and never silently others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from planted_plugins import installed, planned, workshop  # noqa: F401
from safetensors.torch import load_file, save_file

from robustbench_gan import read_examples
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.executors import evaluate_apart
from robustbench_gan.engine.plan import result_path
from robustbench_gan.results.kept import beside, examples_of
from robustbench_gan.results.stored import read_result


def run(items, shop, out, *, keep=True, run_cell=evaluate_cell):
    """Execute cells; what was computed, and the results."""
    fresh = []

    def on_result(item, result, stored):
        fresh.extend([] if stored else [item.cell.fingerprint])

    settings = Settings(keep=out if keep else None)
    results = execute(
        items, shop, settings, out, on_step=lambda step: None, on_result=on_result, run_cell=run_cell
    )
    return fresh, results


@pytest.mark.parametrize(
    "asked", [{"threats": "white-box"}, {"threats": "seed-known", "defenses": "noisy", "judge_seeds": 2}]
)
def test_success_recomputed_from_the_file_is_that_of_the_record(tmp_path, installed, asked):  # noqa: F811
    """In plain torch: the known linear model of the data set, whose answers need nothing of the project."""
    from planted_cells import Fixed, grey

    shop, out = workshop(tmp_path), tmp_path / "out"
    (item,) = planned(shop, attacks="pgd:steps=3", **asked)
    _, (result,) = run([item], shop, out)
    record = result_path(out, item)
    tensors = load_file(beside(record))
    read = read_examples(beside(record))
    assert read.examples.equal(tensors["examples"]) and read.labels.equal(tensors["labels"]) and not read.more
    assert read.facts["norm"] == "linf" and json.loads(read.facts["epsilons"]) == [repr(item.cell.eps)]
    judged = slice(item.cell.first, item.cell.first + item.cell.samples)
    x, y = grey().test.pixels()[judged], grey().test.labels[judged]
    assert torch.equal(tensors["labels"], y) and tensors["examples"].dtype == torch.float32
    assert len(tensors["examples"]) == (2 if "seed" in asked["threats"] else 1)
    assert tensors["examples"].min() >= 0 and tensors["examples"].max() <= 1
    for examples, sizes in zip(tensors["examples"], result.outcomes.size, strict=True):
        delta = (examples - x).flatten(1).abs().amax(dim=1)
        assert delta.tolist() == pytest.approx(sizes, abs=1e-7) and delta.max() <= item.cell.eps + 1e-6
    if asked["threats"] == "white-box":
        model = Fixed(3)
        clean, held = (model(images).argmax(dim=1) == y for images in (x, tensors["examples"][0]))
        bits = "".join("1" if c and h else "0" for c, h in zip(clean, held, strict=True))
        assert bits == result.outcomes.robust[0] and "0" in bits and "1" in bits


def test_the_digest_is_in_the_record_and_another_file_is_found_out(tmp_path, installed):  # noqa: F811
    shop, out = workshop(tmp_path), tmp_path / "out"
    (item,) = planned(shop, attacks="fgsm")
    run([item], shop, out)
    record = result_path(out, item)
    result = read_result(record)
    path = beside(record)
    assert json.loads(record.read_text())["adversarial"] == {
        "file": path.name,
        "digest": result.adversarial.digest,
    }
    examples, labels = examples_of(record, result)
    changed = examples.clone()
    changed[0, 0, 0, 0, 0] += 1e-6
    save_file({"examples": changed, "labels": labels}, path)
    with pytest.raises(UsageError, match="holds other examples"):
        examples_of(record, result)
    path.write_bytes(b"\x00" * 30)
    with pytest.raises(UsageError, match="cannot read"):
        examples_of(record, result)
    path.unlink()
    with pytest.raises(
        UsageError, match=r"gone: .*there is no such file\. Run its command again with --keep-adv"
    ):
        examples_of(record, result)


def test_a_finished_cell_is_made_again_where_its_examples_are_asked_for_and_missing(tmp_path, installed):  # noqa: F811
    shop, out = workshop(tmp_path), tmp_path / "out"
    items = planned(shop, attacks=["fgsm", "noise"])
    plain = run(items, shop, out, keep=False)[1]
    assert not list(out.rglob("*.safetensors"))
    fresh, results = run(items, shop, out)
    assert len(fresh) == 2 and [r.outcomes for r in results] == [r.outcomes for r in plain]
    assert run(items, shop, out)[0] == [] and run(items, shop, out, keep=False)[0] == []
    beside(result_path(out, items[1])).unlink()
    assert run(items, shop, out)[0] == [items[1].cell.fingerprint]
    assert not (out / "replaced").exists()  # it is the same answer


def test_examples_of_an_earlier_answer_go_where_its_record_goes(tmp_path, installed):  # noqa: F811
    shop, out = workshop(tmp_path), tmp_path / "out"
    (item,) = planned(shop, attacks="fgsm")
    run([item], shop, out)
    before = beside(result_path(out, item)).read_bytes()
    identity = {**item.cell.identity, "attack": "another"}
    newer = type(item)(item.cell.model_copy(update={"identity": identity}), item.threat)
    run([newer], shop, out, keep=False)
    kept = out / "replaced" / result_path(out, item).relative_to(out)
    assert beside(kept).read_bytes() == before and not beside(result_path(out, item)).exists()
    assert len(examples_of(kept, read_result(kept))[1]) == item.cell.samples
    run([newer], shop, out)
    run([item], shop, out)
    assert beside(result_path(out, item)).exists()
    examples_of(result_path(out, item), read_result(result_path(out, item)))


@pytest.mark.slow
def test_a_cell_in_a_process_of_its_own_keeps_the_same_file(tmp_path, installed):  # noqa: F811
    shop = workshop(tmp_path)
    (item,) = planned(shop, attacks="pgd:steps=2")

    def apart(planned, workshop, settings):
        return evaluate_apart(planned, workshop, settings, seconds=120)

    run([item], shop, tmp_path / "here")
    run([item], shop, tmp_path / "apart", run_cell=apart)
    one, other = (beside(result_path(tmp_path / name, item)) for name in ("here", "apart"))
    assert all(
        torch.equal(a, b) for a, b in zip(load_file(one).values(), load_file(other).values(), strict=True)
    )
    assert read_result(result_path(tmp_path / "apart", item)).adversarial == (
        read_result(result_path(tmp_path / "here", item)).adversarial
    )
    assert isinstance(one, Path)
