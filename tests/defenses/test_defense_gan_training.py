"""The training of Defense-GAN's generator: killed and gone on with, its networks, its penalty."""

from __future__ import annotations

import pytest
import torch
from planted import seeds, separable
from planted_kill import Killed, KillsAt
from rbg_defenses._wgan import Critic, Generator, WganRecipe, train_generator
from tiny_defense_gan import fitted

from robustbench_gan.base import progress
from robustbench_gan.nouns.seeds import normal
from robustbench_gan.training.checkpoint import Checkpoint
from robustbench_gan.training.networks import fresh
from robustbench_gan.training.store import Store

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
