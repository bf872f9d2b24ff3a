"""Defense-GAN's classifiers trained on reconstructions, and its detector."""

from __future__ import annotations

import pytest
import torch
from planted import conv, seeds, separable
from rbg_defenses import _reconstructions
from rbg_defenses._detector import quantile
from rbg_defenses._projection import Projection, descend
from rbg_defenses._reconstructions import Reconstructions
from rbg_defenses.defense_gan import DefenseGAN
from tiny_defense_gan import TINY, fitted

from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.training.store import Store

# ---- classifiers trained on reconstructions

REC = {"rec_iterations": 3, "rec_restarts": 2, "classifier_epochs": 3}


def named(store, kind):
    return [path.name for path in store if path.name.startswith(kind)]


def test_rec_and_both_are_trained_anew_on_one_reconstructed_set(store):
    orig, rec, both = (fitted(store, classifier=c, **REC) for c in ("orig", "rec", "both"))
    assert orig.core is orig.base and "classifier" not in orig.training_keys()
    assert not torch.equal(rec.core[0].weight, rec.base[0].weight)
    assert not torch.equal(rec.core[0].weight, both.core[0].weight)
    assert torch.equal(rec.base[0].weight, conv(3, (1, 28, 28))[0].weight)  # the given one is as it was
    assert not any(p.requires_grad for p in rec.core.parameters()) and not rec.core.training
    assert rec.training_keys()["generator"] == both.training_keys()["generator"]
    assert rec.training_keys()["classifier"] != both.training_keys()["classifier"]
    assert len(named(store, "reconstructions-")) == 1 and len(named(store, "defense-gan-classifier-")) == 2
    for key in both.training_keys().values():
        assert key in store.used


def test_what_rec_learns_from_is_the_projection_of_the_training_images(store):
    data = separable(16, (1, 28, 28), classes=3)
    defense = DefenseGAN(conv(3, (1, 28, 28)), **{**TINY, **REC}, classifier="rec", rec_images=10)
    defense.fit(data, 0, store)
    (key,) = (k for k in store.used if k.startswith("reconstructions"))
    seen = store.used[key].tensors["images"]
    x = data.train.pixels()
    seed = sample_seeds(0, "reconstructions/train", torch.arange(16))
    how = Projection(3, 2, prune=True, bf16=True)
    with torch.no_grad():
        z, _, _ = descend(defense.generator, x, how.start(seed, 4), how)
        made = defense.generator(z)
    assert seen.dtype == torch.uint8 and seen.shape == x.shape
    assert (seen.float() / 255 - made).abs().max() <= 1.5 / 255


def test_test_time_iterations_do_not_rebuild_the_training_set_and_its_size_retrains_the_classifier(store):
    first = fitted(store, classifier="rec", **REC)
    assert (
        fitted(store, classifier="rec", iterations=5, restarts=1, **REC).training_keys()
        == first.training_keys()
    )
    fewer = fitted(store, classifier="rec", rec_images=5, **REC)
    assert len(named(store, "reconstructions-")) == 1  # pieces are whole: a cap takes from them
    assert fewer.training_keys()["classifier"] != first.training_keys()["classifier"]
    deeper = fitted(store, classifier="rec", **{**REC, "rec_iterations": 4})
    assert len(named(store, "reconstructions-")) == 2
    assert deeper.training_keys()["classifier"] != first.training_keys()["classifier"]


def test_interrupted_reconstructions_go_on_with_the_next_piece(store, monkeypatch):
    monkeypatch.setattr(_reconstructions, "PIECE", 4)
    split, done = separable(10, (1, 28, 28)).train, []

    def purify(x, seed):
        if len(done) == 2:
            done.append("killed")
            raise KeyboardInterrupt
        done.append("piece")
        return x

    def run(into):
        return Reconstructions(purify, {"by": "test"}, into, torch.device("cpu")).of(split, "train", 9, 0)

    with pytest.raises(KeyboardInterrupt):
        run(store)
    rebuilt, keys = run(Store(store.root))
    assert done == ["piece", "piece", "killed", "piece"]
    assert len(keys) == 3 and torch.equal(rebuilt.images, split.images[:9])
    assert torch.equal(rebuilt.labels, split.labels[:9])


def test_all_four_clean_accuracies_stand_in_the_record(store):
    data = separable(16, (1, 28, 28), classes=3)
    x, y = data.test.pixels(), data.test.labels
    orig, rec = fitted(store), fitted(store, classifier="rec", **REC)
    assert orig.controls(x, y, seeds(32)) == {}  # the classifier alone and defended are in every record
    found = rec.controls(x, y, seeds(32))

    def right(logits):
        return float((logits.argmax(dim=1) == y).double().mean())

    with torch.no_grad():
        assert found == {
            "classifier_rec": right(rec.core(x)),
            "defended_orig": right(rec.base(rec.purify(x, seeds(32)))),
        }
    assert set(fitted(store, classifier="both", **REC).controls(x, y, seeds(32))) == {
        "classifier_both", "defended_orig"}  # fmt: skip


# ---- the detector


def test_a_quantile_leaves_at_most_its_share_above():
    errors = torch.tensor([0.3, 0.1, 0.5, 0.2, 0.4, 0.6, 0.9, 0.8, 0.7, 1.0])
    for fpr, threshold, above in (
        (0.0, 1.0, 0),
        (0.05, 1.0, 0),
        (0.1, 0.9, 1),
        (0.25, 0.8, 2),
        (0.5, 0.5, 5),
    ):
        assert torch.isclose(quantile(errors, fpr), torch.tensor(threshold))
        assert int((errors > quantile(errors, fpr)).sum()) == above
    assert quantile(torch.zeros(3), 0.9) > 0


def test_the_detector_s_threshold_is_read_off_the_validation_images(store):
    data = separable(16, (1, 28, 28), classes=3)
    quiet, strict = fitted(store), fitted(store, detect_fpr=0.25)
    x = data.validation.pixels()
    seed = sample_seeds(0, "defense-gan/validation", torch.arange(len(x)))
    out = strict(x, seed)
    assert int((~out.accepted).sum()) == 8  # of 32, under the seeds it was fitted on
    assert strict.detectors == ("reconstruction",) and quiet.detectors == ()
    error = (x - strict.purify(x, seed)).square().flatten(1).mean(dim=1)
    assert torch.allclose(out.scores[:, 0], error / strict.threshold - 1, atol=1e-5)
    assert quiet(x, seed).scores.shape == (32, 0) and torch.equal(quiet(x, seed).logits, out.logits)
    # Another rate reads another threshold off the same errors; another projection has errors of its own.
    looser = fitted(store, detect_fpr=0.5)
    assert looser.threshold < strict.threshold and looser.training_keys() == strict.training_keys()
    assert fitted(store, detect_fpr=0.25, iterations=5).training_keys() != strict.training_keys()


def test_what_no_generator_makes_is_rejected(store):
    defense = fitted(store, detect_fpr=0.05)
    far = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1)).round()
    assert not defense(far, seeds(6)).accepted.any()
