from __future__ import annotations

import pytest
import torch
from planted import images
from torch import nn

from robustbench_gan.models.convolutional import small_cnn
from robustbench_gan.models.defense_gan_2018 import a
from robustbench_gan.models.resnet import Normalise
from robustbench_gan.models.schedule import Schedule, schedule_of, trained
from robustbench_gan.nouns import registry
from robustbench_gan.training.networks import fresh

NAMES = registry.names("models")
SMALL = {"resnet18": {"width": 4}}


def built(name, shape=(1, 28, 28), classes=10, **options):
    factory = registry.load("models", name)
    return fresh(lambda: factory(shape, classes, **{**SMALL.get(name, {}), **options}), 0)


def weights(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", NAMES)
def test_every_model_maps_images_to_logits(name, shape):
    model = built(name, shape, 7).eval()
    with torch.no_grad():
        logits = model(images(2, shape))
    assert logits.shape == (2, 7) and logits.dtype == torch.float32 and torch.isfinite(logits).all()
    assert not torch.allclose(logits.sum(dim=1), torch.ones(2), atol=1e-3)  # no softmax at the end


FLAT = {"a": 9216, "b": 128, "c": 9216, "f": 128}
BY_HAND = {  # Table 5 of the Defense-GAN paper, on 28x28 grey images and 10 classes
    "a": (64 * 25 + 64) + (64 * 64 * 25 + 64) + (9216 * 128 + 128) + (128 * 10 + 10),
    "b": (64 * 64 + 64) + (128 * 64 * 36 + 128) + (128 * 128 * 25 + 128) + (128 * 10 + 10),
    "c": (128 * 9 + 128) + (64 * 128 * 25 + 64) + (9216 * 128 + 128) + (128 * 10 + 10),
    "d": (784 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10),
    "e": (784 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10),
    "f": (64 * 64 + 64) + (128 * 64 * 36 + 128) + (128 * 128 * 25 + 128) + (128 * 10 + 10),
    "lenet": 61706,  # the usual count of LeNet-5
    "small-cnn": 166406,  # as in Wong and Kolter 2018
}


@pytest.mark.parametrize("name", BY_HAND)
def test_parameters_are_as_many_as_counted_by_hand(name):
    assert weights(built(name)) == BY_HAND[name]


def test_resnet18_has_the_usual_count():
    assert weights(registry.load("models", "resnet18")((3, 32, 32), 10)) == 11_173_962


@pytest.mark.parametrize("name", FLAT)
def test_the_first_dense_layer_sees_the_papers_number_of_features(name):
    dense = next(m for m in built(name).modules() if isinstance(m, nn.Linear))
    assert dense.in_features == FLAT[name]


def rates(model):
    return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]


@pytest.mark.parametrize(
    ("name", "drop"), [("a", [0.25, 0.5]), ("b", [0.2, 0.5]), ("c", [0.25, 0.5]), ("d", [0.5, 0.5])]
)
def test_dropout_is_the_papers_number_as_a_drop_or_a_keep_rate(name, drop):
    assert rates(built(name)) == drop
    assert rates(built(name, dropout="drop")) == drop
    assert rates(built(name, dropout="keep")) == [pytest.approx(1 - p) for p in drop]


@pytest.mark.parametrize("name", ["e", "f", "lenet", "small-cnn", "resnet18"])
def test_the_others_drop_nothing(name):
    assert rates(built(name)) == []


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_dropout_acts_in_training_alone(name):
    drop, keep, x = built(name), built(name, dropout="keep"), images(4, (1, 28, 28))
    assert all(m.training for m in drop.modules())  # every layer of a new model, its features too
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        assert not torch.equal(drop(x), drop(x))
        drop.eval(), keep.eval()
        assert torch.equal(drop(x), drop(x)) and torch.equal(drop(x), keep(x))


def test_model_b_drops_pixels_first():
    assert isinstance(next(m for m in built("b").modules() if not isinstance(m, nn.Sequential)), nn.Dropout)


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_come_from_the_seed_alone(name):
    factory = registry.load("models", name)

    def state(seed):
        return fresh(lambda: factory((1, 28, 28), 10, **SMALL.get(name, {})), seed).state_dict()

    one, same, other = state(1), state(1), state(2)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_normalisation_is_a_layer_without_weights():
    layer = Normalise((0.5, 0.25), (0.25, 0.5))
    x = torch.tensor([0.5, 0.75]).reshape(1, 2, 1, 1)
    assert layer(x).flatten().tolist() == [0.0, 1.0]
    assert weights(layer) == 0 and set(layer.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize("name", NAMES)
def test_every_model_states_a_sensible_schedule(name):
    schedule = schedule_of(registry.load("models", name))
    assert schedule.epochs > 0 and schedule.batch_size > 0 and 0 < schedule.lr < 1


def test_a_schedule_is_the_papers_unless_another_is_stated():
    assert schedule_of(object()) == Schedule(10, 50, 1e-3)
    assert schedule_of(trained(Schedule(epochs=3))(lambda shape, classes: nn.Flatten())).epochs == 3
    with pytest.raises(TypeError, match="is no Schedule"):
        schedule_of(type("Factory", (), {"schedule": 5}))


def test_models_are_the_registered_ones():
    assert registry.load("models", "a") is a and registry.load("models", "small-cnn") is small_cnn
