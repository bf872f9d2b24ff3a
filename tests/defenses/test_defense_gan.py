"""Defense-GAN: its projection against a plain loop, its gradient against finite differences, its recipe."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from planted import conv, images, seeds, separable
from planted_kill import Killed, KillsAt
from rbg_defenses import _reconstructions
from rbg_defenses._projection import Projection, Unrolled, descend, squared_error
from rbg_defenses._reconstructions import Reconstructions
from rbg_defenses._wgan import Critic, Generator, WganRecipe, train_generator
from rbg_defenses.defense_gan import DefenseGAN, quantile
from torch import nn

from robustbench_gan.base import machine, progress
from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.defense import Composed, recipe_of
from robustbench_gan.nouns.seeds import normal, sample_seeds
from robustbench_gan.training.checkpoint import Checkpoint
from robustbench_gan.training.loop import fresh
from robustbench_gan.training.store import Store

LATENT, SHAPE, N, RESTARTS = 3, (1, 2, 3), 4, 3


class Smooth(nn.Module):
    """A tiny generator without kinks, so that finite differences mean something."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(5, LATENT, generator=generator))
        self.second = nn.Parameter(torch.randn(6, 5, generator=generator))

    def forward(self, z):
        return torch.sigmoid(torch.tanh(z @ self.first.T) @ self.second.T).reshape(-1, *SHAPE)


def plain(generator, x, start, *, lr, momentum, iterations, decay, after_last):
    """The reference code's loop for one image: every restart by itself, the best of what it returns."""
    best = None
    for z in start:
        velocity, before = torch.zeros_like(z), z
        for step in range(iterations):
            rate = lr * (0.1 if decay and step >= 0.8 * iterations else 1.0)
            leaf = z.clone().requires_grad_()
            error = (generator(leaf[None])[0] - x).square().mean()
            (slope,) = torch.autograd.grad(error, leaf)
            velocity = momentum * velocity + slope
            before, z = z, z - rate * velocity
        code = z if after_last else before  # the reference code returns the image before its last update
        with torch.no_grad():
            error = (generator(code[None])[0] - x).square().mean()
        if best is None or error < best[1]:
            best = (code, error)
    return best


PRESETS = {
    "ref": {"decay": False, "after_last": False},
    "paper": {"decay": True, "after_last": False},
    "clean": {"decay": False, "after_last": True},
}


@pytest.mark.parametrize("iterations", [1, 2, 7, 20])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_projection_is_the_plain_loop(preset, iterations):
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(iterations, RESTARTS, lr=1.5, momentum=0.7, **PRESETS[preset])
    start = how.start(seeds(N), LATENT).double()
    with torch.no_grad():
        z, error, _ = descend(generator, x, start, how)
    for i in range(N):
        code, least = plain(
            generator, x[i], start[i], lr=1.5, momentum=0.7, iterations=iterations, **PRESETS[preset]
        )
        assert torch.allclose(z[i], code, atol=1e-12) and torch.allclose(error[i], least, atol=1e-12)


def test_a_preset_means_what_it_says():
    def projection(preset, **more):
        return DefenseGAN(nn.Identity(), preset=preset, **more).projection

    ref, paper, clean = (projection(p) for p in ("ref", "paper", "clean"))
    assert (ref.iterations, ref.restarts, ref.lr, ref.momentum) == (200, 10, 10.0, 0.7)
    assert [(p.init, p.decay, p.after_last) for p in (ref, paper, clean)] == [
        ("small", False, False), ("small", True, False), ("prior", False, True)]  # fmt: skip
    assert (ref.updates, clean.updates) == (199, 200)
    assert [paper.rate(i) for i in (0, 159, 160, 199)] == [10.0, 10.0, 1.0, 1.0]
    assert (
        projection("ref", init="prior").init == "prior" and projection("clean", init="small").init == "small"
    )


def test_initial_codes_come_from_the_seed_and_have_the_stated_spread():
    small, prior = Projection(restarts=50, init="small"), Projection(restarts=50, init="prior")
    seed = seeds(40)
    assert torch.equal(prior.start(seed, 16), normal(seed, (50, 16)))
    assert torch.equal(small.start(seed, 16), prior.start(seed, 16) / 4)
    assert math.isclose(prior.start(seed, 16).std().item(), 1, rel_tol=0.02)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("iterations", [1, 2, 5, 12])
def test_the_gradient_through_every_update_is_the_derivative(preset, iterations):
    generator, x = Smooth().double(), images(2, SHAPE).double()
    how = Projection(iterations, RESTARTS, lr=1.5, momentum=0.7, **PRESETS[preset])
    start = how.start(seeds(2), LATENT).double()
    weights = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value(at):
        z = Unrolled.apply(at, start, generator, how, how.updates)
        return (generator(z) * weights).sum()

    leaf = x.clone().requires_grad_()
    out = value(leaf)
    (grad,) = torch.autograd.grad(out, leaf) if out.requires_grad else (torch.zeros_like(x),)
    numeric = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=torch.float64)
            step[i] = 1e-5
            step = step.reshape(x.shape)
            numeric.view(-1)[i] = (value(x + step) - value(x - step)) / 2e-5
    assert torch.allclose(grad, numeric, rtol=1e-6, atol=1e-9)
    assert (numeric.abs().max() > 1e-4) == (how.updates > 0)


def unrolled_by_autograd(generator, x, start, how):
    """The same gradient with every update's graph kept: what the adjoint spares."""
    leaf = x.clone().requires_grad_()
    n, restarts, latent = start.shape
    target = leaf.repeat_interleave(restarts, dim=0)
    z = start.reshape(n * restarts, latent).clone().requires_grad_()
    velocity = torch.zeros_like(z)
    for iteration in range(how.updates):
        (slope,) = torch.autograd.grad(squared_error(generator, z, target).sum(), z, create_graph=True)
        velocity = how.momentum * velocity + slope
        z = z - how.rate(iteration) * velocity
    errors = squared_error(generator, z, target).view(n, restarts)
    return leaf, z[errors.argmin(dim=1) + torch.arange(n) * restarts]


def test_the_adjoint_is_autograd_through_the_whole_loop():
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(8, RESTARTS, lr=1.5, momentum=0.7)
    start = how.start(seeds(N), LATENT).double()
    leaf, z = unrolled_by_autograd(generator, x, start, how)
    (expected,) = torch.autograd.grad(generator(z).square().sum(), leaf)
    own = x.clone().requires_grad_()
    found = Unrolled.apply(own, start, generator, how, how.updates)
    assert torch.allclose(found, z, atol=1e-12)
    (grad,) = torch.autograd.grad(generator(found).square().sum(), own)
    assert torch.allclose(grad, expected, rtol=1e-8, atol=1e-12)


def test_truncated_is_full_when_it_covers_all_updates_and_less_when_not():
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(6, RESTARTS, lr=1.5, momentum=0.7)
    start = how.start(seeds(N), LATENT).double()

    def gradient(steps):
        leaf = x.clone().requires_grad_()
        z = Unrolled.apply(leaf, start, generator, how, steps)
        (grad,) = torch.autograd.grad(generator(z).square().sum(), leaf)
        return z, grad

    (z, full), (_, more), (same, one) = gradient(how.updates), gradient(how.updates + 10), gradient(1)
    assert torch.equal(full, more) and torch.equal(z, same) and not torch.allclose(full, one)
    # One step is -rate * d2E/dz dx by hand: the last update alone sees the image.
    _, _, path = descend(generator, x, start, how, keep=1)
    leaf, before = x.clone().requires_grad_(), path[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(squared_error(generator, before, leaf).sum(), before, create_graph=True)
    code = z.detach().requires_grad_()
    (towards,) = torch.autograd.grad(generator(code).square().sum(), code)
    (by_hand,) = torch.autograd.grad((-1.5 * slope * towards).sum(), leaf)
    assert torch.allclose(one, by_hand, rtol=1e-9)


def test_the_kept_path_is_the_winner_s_codes():
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(6, RESTARTS, lr=1.5)
    start = how.start(seeds(N), LATENT).double()
    z, _, path = descend(generator, x, start, how, keep=how.updates)
    assert path.shape == (5, N, LATENT)
    assert all(any(torch.equal(path[0, i], start[i, r]) for r in range(RESTARTS)) for i in range(N))
    shorter, _, _ = descend(generator, x, start, Projection(5, RESTARTS, lr=1.5))
    assert z.shape == shorter.shape and descend(generator, x, start, how)[2].shape == (0, N, LATENT)


def test_more_restarts_and_iterations_come_no_farther_from_the_image():
    generator, x = Smooth().double(), images(20, SHAPE).double()

    def error(iterations, restarts):
        how = Projection(iterations, restarts, lr=0.5, momentum=0.5, after_last=True)
        return descend(
            generator, x, Projection(restarts=8).start(seeds(20), LATENT).double()[:, :restarts], how
        )[1]

    assert (error(10, 8) <= error(10, 2) + 1e-12).all()
    assert error(50, 4).mean() < error(5, 4).mean() < error(1, 4).mean()


# ---- the defense


TINY = {"width": 2, "latent": 4, "gan_steps": 2, "gan_batch": 4, "iterations": 3, "restarts": 2}


def fitted(store, **more):
    defense = DefenseGAN(conv(3, (1, 28, 28)), **{**TINY, **more})
    defense.fit(separable(16, (1, 28, 28), classes=3), 0, store)
    return defense


def test_what_is_chosen_at_test_time_does_not_retrain_the_generator(store):
    first = fitted(store)
    for change in (
        {"iterations": 9},
        {"restarts": 5},
        {"lr": 1.0},
        {"momentum": 0.1},
        {"preset": "clean"},
        {"init": "prior"},
        {"prune": True},
        {"precision": "bf16"},
    ):
        assert fitted(store, **change).training_keys() == first.training_keys(), change
    assert len(list(store)) == 1


@pytest.mark.parametrize(
    "change",
    [{"width": 3}, {"latent": 5}, {"gan_steps": 3}, {"gan_batch": 5}, {"gan_lr": 1e-3}, {"critic_steps": 1},
     {"gp": "column"}, {"ema": 0.5}, {"gan_decay": True}],
)  # fmt: skip
def test_what_trains_the_generator_is_in_its_recipe(store, change):
    assert fitted(store, **change).training_keys() != fitted(store).training_keys()


@pytest.mark.parametrize("here", [True, False])
def test_what_became_of_bfloat16_is_said_and_part_of_what_is_trained_against_it(store, monkeypatch, here):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: here)
    plain, asked = fitted(store), fitted(store, precision="bf16")
    assert plain.precision() == {} and asked.precision() == ({} if here else {"bf16": "float32"})
    both = Composed([DefenseGAN(conv(3, (1, 28, 28)), **TINY), asked])
    assert both.precision() == ({} if here else {"1.bf16": "float32"})
    became = [] if here else [{"bf16": "float32"}]
    assert recipe_of("text", asked) == ["text", [("generator", asked.keys["generator"])], *became]
    x, seed = separable(2, (1, 28, 28), classes=3).test.pixels(), seeds(2)
    if not here:  # and what it said is what it does
        assert torch.equal(asked.purify(x[:2], seed), plain.purify(x[:2], seed))


def test_purify_is_the_projection_with_and_without_a_gradient(store):
    defense, x = fitted(store), images(3, (1, 28, 28))
    with torch.no_grad():
        z, _, _ = descend(defense.generator, x, defense.projection.start(seeds(3), 4), defense.projection)
        value = defense.purify(x, seeds(3))
    assert torch.equal(value, defense.generator(z))
    leaf = x.clone().requires_grad_()
    assert torch.allclose(defense.purify(leaf, seeds(3)), value, atol=1e-6)
    assert torch.allclose(defense.truncated(leaf, seeds(3), 1), value, atol=1e-6)
    assert (
        list(defense.parts()) == ["generator", "classifier"] and defense.parts()["classifier"] is defense.core
    )


@pytest.mark.parametrize(
    "bad", [{"iterations": 0}, {"restarts": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"width": 0}, {"latent": 0}]
)
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError, match="defense-gan needs"):
        DefenseGAN(nn.Identity(), **bad)


@pytest.mark.parametrize(
    "bad",
    [{"rec_images": 0}, {"rec_iterations": 0}, {"rec_restarts": 0}, {"classifier_epochs": 0}, {"detect_fpr": 1.0},
     {"detect_fpr": -0.1}],
)  # fmt: skip
def test_an_impossible_classifier_or_detector_is_refused(bad):
    with pytest.raises(UsageError, match="rec_images, rec_iterations"):
        DefenseGAN(nn.Identity(), **bad)


@pytest.mark.parametrize(
    "bad",
    [{"gan_steps": 0}, {"critic_steps": 0}, {"gan_batch": 0}, {"gan_lr": 0.0}, {"ema": 1.0}, {"ema": -0.1}],
    ids=str,
)
def test_an_impossible_training_is_refused(bad):
    with pytest.raises(UsageError, match="a GAN needs"):
        DefenseGAN(nn.Identity(), **bad)


def test_images_of_another_side_are_refused(tmp_path):
    defense = DefenseGAN(conv(2), **TINY)
    with pytest.raises(UsageError, match="resize the data"):
        defense.fit(separable(), 0, Store(tmp_path))


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


# ---- a killed training


@pytest.mark.parametrize("killed_at", [2, 5, 6])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, killed_at, ema):
    data = separable(16, (1, 28, 28), classes=3).train
    recipe = WganRecipe(4, 4, 7, 2, 6, 1e-3, ema=ema, decay=True)

    def train(checkpoint, kill=None):
        display = KillsAt(kill)
        network = fresh(lambda: Generator((1, 28, 28), 4, 4), 0)
        with progress.reporting_to(display):
            info = train_generator(network, (1, 28, 28), data, recipe, 0, checkpoint)
        return network.state_dict(), info, display.done

    whole, _, _ = train(None)
    checkpoint = Checkpoint(tmp_path / "unfinished" / "a.safetensors", every=3)
    with pytest.raises(Killed):
        train(checkpoint, killed_at)
    # What the kill interrupts is the display of a step: its own state is not written yet.
    saved = 3 * ((killed_at - 1) // 3)
    assert checkpoint.path.exists() == (saved > 0)
    resumed, info, done = train(checkpoint)
    assert done == [saved] + [1] * (7 - saved) and info["steps"] == 7
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_broken_checkpoint_costs_time_and_nothing_else(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.load() is None
    checkpoint.path.write_bytes(b"half a fi")
    assert checkpoint.load() is None
    checkpoint.save({"a": torch.ones(2)}, {"steps": 3.0})
    tensors, facts = checkpoint.load()
    assert torch.equal(tensors["a"], torch.ones(2)) and facts == {"steps": 3.0}
    checkpoint.clear()
    checkpoint.clear()
    assert not checkpoint.path.exists()


def test_a_fit_goes_on_from_its_checkpoint_and_leaves_none_behind(store, monkeypatch):
    whole = fitted(store, gan_steps=5)
    monkeypatch.setattr(Checkpoint, "every", 2)
    other = Store(store.root.parent / "other")
    with pytest.raises(Killed), progress.reporting_to(KillsAt(4)):
        fitted(other, gan_steps=5)
    assert len(list((other.root / "unfinished").iterdir())) == 1 and not list(other)
    resumed = fitted(other, gan_steps=5)
    assert not list((other.root / "unfinished").iterdir())
    assert resumed.training_keys() == whole.training_keys()
    key = whole.training_keys()["generator"]
    assert other.used[key].digest == store.used[key].digest


# ---- the networks


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_generator_makes_images_and_the_critic_scores_them(shape):
    generator, critic = Generator(shape, 2, 4), Critic(shape, 2)
    made = generator(normal(seeds(3), (4,)))
    assert made.shape == (3, *shape) and made.min() >= 0 and made.max() <= 1
    assert critic(made).shape == (3,)


@pytest.mark.parametrize(
    ("asked", "init"), [({}, "small"), ({"preset": "clean"}, "prior"), ({"init": "prior"}, "prior")]
)
def test_training_images_are_rebuilt_from_codes_like_those_at_test_time(asked, init):
    defense = DefenseGAN(nn.Identity(), **asked)
    assert defense.projection.init == defense.for_training.init == init


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_critics_slope_and_what_a_penalty_on_it_pulls_are_autograds(shape):
    torch.manual_seed(0)
    critic, x = Critic(shape, 3).double(), torch.rand(4, *shape, dtype=torch.double, requires_grad=True)
    (by_autograd,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    weights = [w for name, w in critic.named_parameters() if name.endswith("weight")]
    pulls = []
    for slope in (by_autograd, critic.slope(x.detach())):
        assert torch.allclose(slope, by_autograd, rtol=1e-9, atol=1e-12)
        pulls.append(torch.autograd.grad((slope.flatten(1).norm(dim=1) - 1).square().mean(), weights))
    for exact, ours in zip(*pulls, strict=True):
        assert exact.abs().max() > 0 and torch.allclose(ours, exact, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_training_brings_the_generator_towards_the_data():
    # Two kinds of images, dark and bright: the mean of what is made must approach the mean of what is there.
    data = separable(64, (1, 28, 28))
    mean = data.train.pixels().mean()

    def distance(steps):
        generator = Generator((1, 28, 28), 4, 4)
        recipe = WganRecipe(4, 4, steps, 2, 16, 2e-3)
        train_generator(generator, (1, 28, 28), data.train, recipe, seed=0)
        made = generator(normal(seeds(100), (4,)))
        return abs(made.mean() - mean).item(), made.flatten(1).mean(dim=1).std().item()

    assert distance(60)[0] < 0.15 < 1


@pytest.mark.parametrize("keep", [2, 9])
def test_pruning_keeps_the_better_restarts_and_their_path(keep):
    """Against a loop over images and restarts that keeps 60, 30 and 20% after a tenth, a quarter and a half."""
    torch.manual_seed(3)
    generator = nn.Sequential(
        nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Unflatten(1, (1, 2, 2))
    ).double()
    generator.requires_grad_(False)
    x, start = torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.randn(5, 4, 3, dtype=torch.float64)
    how = Projection(iterations=10, restarts=4, lr=0.5, prune=True)
    assert how.cuts == {1: 3, 2: 2, 5: 1}
    found, errors, path = descend(generator, x, start, how, keep=keep)
    for i in range(5):
        runs = []  # one restart alone, to its end: codes before each update, and the error at each
        for r in range(4):
            _, _, codes = descend(
                generator, x[i : i + 1], start[i : i + 1, r : r + 1], replace(how, prune=False), 9
            )
            end, final, _ = descend(
                generator, x[i : i + 1], start[i : i + 1, r : r + 1], replace(how, prune=False)
            )
            at = [float(squared_error(generator, c, x[i : i + 1])) for c in codes]
            runs.append((codes[:, 0], at, end[0], float(final)))
        left = sorted(range(4), key=lambda r: runs[r][1][0])[:3]
        left = sorted(left, key=lambda r: runs[r][1][1])[:2]
        left = sorted(left, key=lambda r: runs[r][1][4])[:1]
        codes, _, end, final = runs[left[0]]
        assert torch.allclose(found[i], end) and abs(float(errors[i]) - final) < 1e-12
        assert torch.allclose(path[:, i], codes[-keep:])
