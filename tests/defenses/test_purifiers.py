"""jpeg, bit-depth and median: known answers, the gradients they have and have not, and the sizes they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from planted import Linear, Shift, conv, images, seeds, separable
from rbg_defenses.bit_depth import BitDepth
from rbg_defenses.jpeg import JPEG
from rbg_defenses.median import Median, mirrored
from scipy.ndimage import median_filter

from robustbench_gan.base.errors import DisconnectedGradient, UsageError
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec, as_params

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 9, 14), (3, 17, 5)]
KINDS = [JPEG, BitDepth, Median]


def purified(defense, x):
    return defense.purify(x, seeds(len(x)))


def linear(shape):
    return Linear(3, shape)


def gradient_of(defense, x, gradient):
    view = View.on(Defended(defense, gradient), seeds(len(x)), fixed=True)
    y = torch.zeros(len(x), dtype=torch.int64)
    return view.value_and_grad(Goal.untargeted(y).loss, x)[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_range_stay_and_every_image_is_cleaned_alone(kind, shape):
    x, defense = images(6, shape), kind(linear(shape))
    whole = purified(defense, x)
    assert whole.shape == x.shape and whole.dtype == torch.float32 and 0 <= whole.min() <= whole.max() <= 1
    assert torch.equal(torch.cat([purified(defense, x[i : i + 1]) for i in range(6)]), whole)
    assert torch.equal(purified(defense, x.flip(0)).flip(0), whole)
    assert torch.equal(defense.purify(x, seeds(6, cell=3)), whole)
    assert purified(defense, x[:0]).shape == (0, *shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.0, 1.0, 0.2])
def test_a_flat_image_is_left_alone(kind, level):
    x = torch.full((2, 1, 16, 16), level)  # 0.2 is 51 of 255 and 3 of 15: on the grid of both
    assert torch.allclose(purified(kind(linear((1, 16, 16))), x), x, atol=1e-7)


@pytest.mark.parametrize("kind", [JPEG, BitDepth])
def test_full_is_refused_and_not_answered_with_zeros(kind):
    x, defense = images(3, (1, 8, 8)), kind(conv(3, (1, 8, 8)).requires_grad_(False))
    assert defense.gradients == ("bpda",)
    with pytest.raises(DisconnectedGradient):
        gradient_of(defense, x, "full")


@pytest.mark.parametrize("kind", KINDS)
def test_bpda_is_the_classifier_s_gradient_at_the_cleaned_image(kind):
    x, core = images(3, (1, 8, 8)), conv(3, (1, 8, 8)).requires_grad_(False)
    cleaned = purified(kind(core), x).requires_grad_()
    loss = Goal.untargeted(torch.zeros(3, dtype=torch.int64))
    (expected,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(core(cleaned), loss.classes, reduction="sum"), cleaned
    )
    assert torch.allclose(gradient_of(kind(core), x, "bpda"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_composes_with_what_stands_behind_it(kind):
    shape, x = (1, 8, 8), images(4, (1, 8, 8)) / 2
    core = conv(3, shape).requires_grad_(False)
    both = Composed([kind(core), Shift(core)])
    both.fit(separable(shape=shape), 0, None)
    assert torch.equal(both(x, seeds(4)).logits, core(purified(kind(core), x) + 0.25))
    assert both.gradients == tuple(g for g in kind(core).gradients if g in ("full", "bpda"))


# bit-depth


@pytest.mark.parametrize("bits", range(1, 9))
def test_as_many_levels_as_the_bits_say_and_each_value_on_the_nearest(bits):
    x = torch.linspace(0, 1, 1024).reshape(1, 1, 32, 32)
    made = purified(BitDepth(linear((1, 32, 32)), bits=bits), x)
    assert len(made.unique()) == 2**bits
    assert (made - x).abs().max() <= 0.5 / (2**bits - 1) + 1e-6


def test_known_levels():
    x = torch.tensor([0.0, 0.1, 0.2, 0.49, 0.51, 0.83, 0.84, 1.0]).reshape(1, 1, 2, 4)
    two_bits = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]) / 3
    assert torch.equal(purified(BitDepth(linear((1, 2, 4)), bits=2), x).flatten(), two_bits)
    assert purified(BitDepth(linear((1, 2, 4)), bits=1), x).flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_eight_bits_are_those_that_images_are_stored_with():
    x = separable().test.pixels()
    assert torch.allclose(purified(BitDepth(linear((1, 4, 4)), bits=8), x), x, atol=1e-7)


def test_a_perturbation_below_half_a_level_is_undone():
    x = torch.randint(0, 16, (4, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 15
    defense = BitDepth(linear((1, 8, 8)), bits=4)
    for eps, undone in ((0.45 / 15, True), (0.55 / 15, False)):
        moved = (x + eps * torch.where(x < 0.5, 1.0, -1.0)).clamp(0, 1)
        assert torch.equal(purified(defense, moved), purified(defense, x)) == undone


# jpeg


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 17, 5)])
@pytest.mark.parametrize("quality", [10, 75])
def test_it_is_the_round_trip_through_a_file(shape, quality, tmp_path):
    x = images(2, shape)
    made = purified(JPEG(linear(shape), quality=quality), x)
    for image, result in zip(x, made, strict=True):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().squeeze()
        Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=quality)
        read = torch.from_numpy(np.array(Image.open(tmp_path / "x.jpg"))).reshape(*shape[1:], shape[0])
        assert torch.equal(result, read.permute(2, 0, 1) / 255)


def test_less_quality_removes_more():
    x, made = images(4, (1, 32, 32)), []
    for quality in (95, 75, 40, 5):
        made.append((purified(JPEG(linear((1, 32, 32)), quality=quality), x) - x).square().mean().item())
    assert made == sorted(made) and made[0] < made[-1] / 10


def test_it_smooths_a_checkerboard_more_than_a_ramp():
    ramp = torch.linspace(0.2, 0.8, 16).repeat(16, 1)
    board = 0.5 + 0.05 * (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).mul(2).sub(1)
    defense = JPEG(linear((1, 16, 16)), quality=20)
    kept = [purified(defense, x[None, None])[0, 0].std() / x.std() for x in (ramp, board)]
    assert kept[0] > 0.9 and kept[1] < 0.5


@pytest.mark.parametrize("shape", [(2, 8, 8), (4, 8, 8)])
def test_jpeg_refuses_what_no_file_can_hold(shape, store):
    with pytest.raises(UsageError, match=f"1 or 3 channels.*not {shape[0]} channels of 8x8"):
        JPEG(linear(shape)).fit(separable(shape=shape), 0, store)


# median


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_it_is_scipy_s_median(shape, size):
    x = images(2, shape)
    made = purified(Median(linear(shape), size=size), x)
    for image, result in zip(x.flatten(0, 1), made.flatten(0, 1), strict=True):
        assert np.array_equal(result.numpy(), median_filter(image.numpy(), size=size, mode="reflect"))


def test_the_border_is_mirrored_with_its_own_pixels():
    assert mirrored(4, 3).tolist() == [0, 0, 1, 2, 3, 3]
    assert mirrored(4, 4).tolist() == [1, 0, 0, 1, 2, 3, 3]
    assert mirrored(3, 7 - 2).tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert mirrored(3, 3).tolist() == [0, 0, 1, 2, 2]


def test_single_pixels_vanish_and_edges_stay():
    x = torch.zeros(1, 1, 9, 9)
    x[..., 5:] = 1
    speckled = x.clone()
    speckled[0, 0, [1, 4, 7], [2, 7, 1]] = torch.tensor([1.0, 0.0, 1.0])
    defense = Median(linear((1, 9, 9)))
    assert torch.equal(purified(defense, x), x) and torch.equal(purified(defense, speckled), x)


def test_its_gradient_is_that_of_finite_differences():
    x = images(2, (1, 6, 6)).double().requires_grad_()  # no two values alike: no kink within the step
    defense = Median(linear((1, 6, 6)))
    assert torch.autograd.gradcheck(lambda x: defense.purify(x, seeds(2)), (x,), eps=1e-7, atol=1e-6)


def test_each_value_sends_its_gradient_to_the_pixel_it_came_from():
    x = images(1, (1, 7, 7)).requires_grad_()
    weight = images(1, (1, 7, 7), seed=4)
    made = purified(Median(linear((1, 7, 7))), x)
    made.mul(weight).sum().backward()
    expected = torch.zeros(49)
    expected.index_add_(0, (made.flatten()[:, None] == x.flatten()).float().argmax(dim=1), weight.flatten())
    assert torch.allclose(x.grad.flatten(), expected, atol=1e-6)


def test_a_flat_area_passes_its_gradient_straight_through():
    x, weight = torch.zeros(1, 1, 7, 7, requires_grad=True), images(1, (1, 7, 7))
    purified(Median(linear((1, 7, 7))), x).mul(weight).sum().backward()
    assert torch.equal(x.grad[..., 1:-1, 1:-1], weight[..., 1:-1, 1:-1])


def test_a_window_wider_than_the_image_is_refused(store):
    Median(linear((1, 5, 9)), size=5).fit(separable(shape=(1, 5, 9)), 0, store)
    with pytest.raises(UsageError, match="wider than images of 5x9: give at most 5"):
        Median(linear((1, 5, 9)), size=6).fit(separable(shape=(1, 5, 9)), 0, store)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("jpeg", {"quality": 0}), ("jpeg", {"quality": 96}), ("bit-depth", {"bits": 0}), ("bit-depth", {"bits": 9}),
     ("median", {"size": 1}), ("median", {"size": -3})],
)  # fmt: skip
def test_impossible_values_are_refused_with_their_name_and_what_would_do(name, bad):
    kind, given = registry.resolve("defenses", Spec(name, as_params(bad)))
    with pytest.raises(UsageError, match=rf"{name}:\w+={next(iter(bad.values()))} .*give "):
        kind(linear((1, 4, 4)), **given)
