"""The order of an epoch, shifts, and the other random changes of the images."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.data import AugmentConfig, augment

_augment = jax.jit(augment.augment, static_argnums=3)


def test_epoch_order_is_a_new_permutation_each_epoch():
    key = jax.random.key(0)
    first, second = (np.asarray(augment.epoch_order(key, epoch, 100)) for epoch in (0, 1))
    np.testing.assert_array_equal(np.sort([first, second]), [np.arange(100)] * 2)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, augment.epoch_order(key, 0, 100))


def test_shift_moves_whole_pixels_and_the_image_s_own_background_comes_in():
    image = np.full((4, 4, 2), (200, 90), np.uint8)
    image[1:3, 1:3] = [[[1, 5], [2, 6]], [[3, 7], [4, 8]]]
    black = np.zeros_like(image)  # beside it, and it stays black
    moved, still_black = np.asarray(augment.shift(np.stack([image, black]), jnp.array([[1, -2], [1, 1]]), 2))
    assert moved.dtype == np.uint8 and not still_black.any()
    np.testing.assert_array_equal(moved[..., 0], [[200] * 4, [200] * 4, [2, 200, 200, 200], [4, 200, 200, 200]])
    np.testing.assert_array_equal(moved[..., 1], [[90] * 4, [90] * 4, [6, 90, 90, 90], [8, 90, 90, 90]])


def test_shift_once_moves_each_image_always_alike():
    images = np.zeros((300, 9, 9, 1), np.uint8)
    images[:, 4, 4], images[:, 0, 0] = 1, 2
    shifted = augment.shift_once(images, 2)
    places = np.argwhere(shifted[..., 0] == 1)[:, 1:] - 4
    np.testing.assert_array_equal(places, np.random.default_rng(0).integers(-2, 3, (300, 2)))
    # What leaves at one side does not come back at the other.
    np.testing.assert_array_equal((shifted == 2).sum(axis=(1, 2, 3)), (places >= 0).all(axis=1))
    assert (augment.shift_once(images, 2, seed=1) != shifted).any()
    np.testing.assert_array_equal(augment.shift_once(255 - images, 2), 255 - shifted)  # on a light background too


def test_augment_draws_by_position_and_covers_every_shift():
    image = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
    images, positions, config = jnp.broadcast_to(image, (1000, 9, 9, 1)), jnp.arange(1000), AugmentConfig(max_shift=2)
    moved = np.asarray(augment.augment(images, jax.random.key(0), positions, config))
    places = np.argwhere(moved[..., 0])[:, 1:] - 4
    assert {tuple(place) for place in places} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    half = augment.augment(images[500:], jax.random.key(0), positions[500:], config)
    np.testing.assert_array_equal(half, moved[500:])  # whatever else is in the batch
    assert augment.augment(images, jax.random.key(0), positions, AugmentConfig()) is images


def _marked(size=9):
    """An image with a mark up on the left, on a light background, 200 times."""
    image = jnp.full((size, size, 1), 0.75).at[1, 2].set(0.0)
    return jnp.broadcast_to(image, (200, size, size, 1)), jnp.arange(200)


def _marks(images):
    return {tuple(np.unravel_index(np.argmin(image), image.shape[:2])) for image in np.asarray(images)}


@pytest.mark.parametrize(
    "flip, rows, columns", [("horizontal", {1}, {2, 6}), ("vertical", {1, 7}, {2}), ("both", {1, 7}, {2, 6})]
)
def test_flips(flip, rows, columns):
    images, positions = _marked()
    flipped = _augment(images, jax.random.key(0), positions, AugmentConfig(flip=flip))
    assert _marks(flipped) == set(itertools.product(rows, columns))


def test_rotations_and_scales_keep_to_their_limits_and_the_background_comes_in():
    images, positions = _marked(33)
    images = jnp.full_like(images, 0.75).at[:, 6, 16].set(0.0)  # ten pixels above the middle
    turned = _augment(images, jax.random.key(0), positions, AugmentConfig(max_rotation=90.0))
    scaled = _augment(images, jax.random.key(0), positions, AugmentConfig(max_scale=1.5))
    marks = np.array(sorted(_marks(turned))) - 16
    assert np.abs(np.hypot(*marks.T) - 10).max() < 1 and marks[:, 0].max() <= 1
    assert marks[:, 1].min() <= -8 and marks[:, 1].max() >= 8
    rows = np.array(sorted(_marks(scaled)))
    assert set(rows[:, 1]) == {16} and {1, 9} <= set(rows[:, 0]) <= set(range(1, 11))
    for images in (turned, scaled):
        np.testing.assert_allclose(images[:, 0, 0], 0.75, atol=1e-6)


def test_brightness_is_a_factor_and_white_stays_white():
    images, positions = _marked()
    lit = np.asarray(_augment(images, jax.random.key(0), positions, AugmentConfig(max_brightness=0.5)))
    assert lit.max() == 1.0 and 0.375 <= lit[:, 0, 0].min() < 0.45
    np.testing.assert_array_equal(lit[:, 1, 2], 0.0)


def test_each_image_is_distorted_by_its_own_key_and_then_shifted_as_without():
    images, positions = _marked()
    config = AugmentConfig(max_shift=1, flip="horizontal")
    distorted = _augment(images, jax.random.key(0), positions, config)
    turned = _augment(images, jax.random.key(0), positions[::-1], config)
    np.testing.assert_array_equal(turned, distorted[::-1])
    # The mark is moved in the same way, whether it was flipped from column 2 to 6 before or not.
    shifted = _augment(images, jax.random.key(0), positions, AugmentConfig(max_shift=1))
    places = [np.argwhere(np.asarray(batch)[..., 0] == 0)[:, 1:] for batch in (distorted, shifted)]
    flipped = places[0][:, 1] >= 5
    places[0][flipped, 1] -= 4
    np.testing.assert_array_equal(*places)
    assert 20 < flipped.sum() < 180 and len({tuple(place) for place in places[1]}) == 9
