"""The frame of an image against loops, and what it must do when the image is moved, sheared and scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import frames
from lcaps_jax.data import affnist


def _digits(count=3, size=40):
    """Blurred strokes in the middle of a dark canvas."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, size, size, 1), np.float32)
    for image in images:
        for _ in range(4):
            row, column = rng.integers(12, size - 18, 2)
            image[row : row + rng.integers(3, 8), column : column + rng.integers(3, 8)] = rng.uniform(0.4, 1)
    blur = np.array([1, 2, 1]) / 4
    for axis in (1, 2):
        images = sum(w * np.roll(images, s, axis) for w, s in zip(blur, (-1, 0, 1)))
    return images


def _slow_frame(image):
    """Centre and matrix by sums over pixels, in float64, of an image on black."""
    weight = np.asarray(image, np.float64)[..., 0]
    places = [np.array(place) for place in np.ndindex(*weight.shape)]
    centre = sum(weight[tuple(r)] * r for r in places) / weight.sum()
    covariance = sum(weight[tuple(r)] * np.outer(r - centre, r - centre) for r in places) / weight.sum() + 4 * np.eye(2)
    # Cholesky's root has rows first; the picture's variances are 34 and 18.
    return centre, np.linalg.cholesky(covariance) / np.sqrt([34, 18])


def test_against_sums_over_pixels():
    images = _digits()
    frame = frames.frame_of(images)
    assert not frame.empty.any()
    for i, image in enumerate(images):
        centre, matrix = _slow_frame(image)
        np.testing.assert_allclose(frame.centre[i], centre, atol=1e-4)
        np.testing.assert_allclose(frame.matrix[i], matrix, atol=1e-5)
    np.testing.assert_allclose(frames.frame_of(images, frames.CENTRE).matrix, np.broadcast_to(np.eye(2), (3, 2, 2)))


def test_any_leading_axes_channels_and_jit():
    images = np.repeat(_digits(6), 3, axis=-1).reshape(2, 3, 40, 40, 3)
    frame = jax.jit(frames.frame_of)(images)
    assert frame.centre.shape == (2, 3, 2) and frame.matrix.shape == (2, 3, 2, 2) and frame.empty.shape == (2, 3)
    pictures = frames.resample(images, frame, 28)
    assert pictures.shape == (2, 3, 28, 28, 3)
    alone = frames.resample(images[1, 2], frames.frame_of(images[1, 2]), 28)
    np.testing.assert_allclose(pictures[1, 2], alone, atol=1e-5)


def test_a_picture_does_not_change_when_the_image_is_moved_by_whole_pixels():
    images = _digits()
    frame = frames.frame_of(images)
    picture = frames.resample(images, frame, 28)
    for shift in ((3, -5), (-8, 2), (0, 9)):
        moved = np.roll(images, shift, axis=(1, 2))
        other = frames.frame_of(moved)
        np.testing.assert_allclose(other.centre, frame.centre + np.array(shift), atol=1e-4)
        np.testing.assert_allclose(other.matrix, frame.matrix, atol=1e-6)
        np.testing.assert_allclose(frames.resample(moved, other, 28), picture, atol=2e-5)


def _warped(images, angle=0.0, shear=0.0, scale=(1.0, 1.0)):
    count = len(images)
    done = affnist.Transformation(
        rotation=jnp.full(count, angle),
        shear=jnp.full(count, shear),
        scale=jnp.broadcast_to(jnp.array(scale), (count, 2)),
        shift=jnp.zeros((count, 2), jnp.int32),
    )
    return affnist.warp(images[..., 0], done, 40)[..., None]


@pytest.mark.parametrize("shear, scale", [(0.2, (1.0, 1.0)), (-0.2, (1.0, 1.0)), (0.0, (0.8, 1.2)), (0.1, (1.2, 0.9))])
def test_a_picture_hardly_changes_when_the_image_is_sheared_and_scaled_and_the_frame_moves_with_it(shear, scale):
    """The blur that is added to the covariance, and interpolation, are what is left."""
    images = _digits()
    frame, other = frames.frame_of(images), frames.frame_of(_warped(images, shear=shear, scale=scale))
    matrix = np.diag(scale) @ [[1, shear], [0, 1]]
    np.testing.assert_allclose(other.centre - 19.5, (frame.centre - 19.5) @ matrix.T, atol=0.05)
    # The map's matrix with a row's shear is no lower-triangular one, so that a rotation of the picture is left.
    between = np.linalg.inv(other.matrix) @ matrix @ np.asarray(frame.matrix)
    singular = np.linalg.svd(between * np.sqrt(np.array([34, 18]))[None] / np.sqrt(np.array([34, 18]))[:, None])[1]
    np.testing.assert_allclose(singular, 1, atol=0.12)


def test_a_rotation_is_found_again_by_the_frame_that_is_turned_back():
    images = _digits()
    picture = frames.resample(images, frames.frame_of(images), 28)
    for degrees in (-20, 10, 30):
        angle = np.deg2rad(degrees)
        rotated = _warped(images, angle=angle)
        back = frames.turned(frames.frame_of(rotated), jnp.full(3, -angle))
        same = frames.resample(rotated, back, 28)
        plain = frames.resample(rotated, frames.frame_of(rotated), 28)
        assert np.abs(same - picture).mean() < 0.35 * np.abs(plain - picture).mean()
        np.testing.assert_allclose(same, picture, atol=0.25)  # interpolation, twice


def test_turning_by_nothing_changes_nothing_and_there_and_back_is_the_frame():
    frame = frames.frame_of(_digits())
    for kind in (frames.CENTRE, frames.AFFINE):
        frame = frames.frame_of(_digits(), kind)
        np.testing.assert_allclose(frames.turned(frame, jnp.zeros(3), kind).matrix, frame.matrix, atol=1e-5)
    many = frames.turned(frame, jnp.linspace(-1, 1, 5)[:, None])
    assert many.matrix.shape == (5, 3, 2, 2) and many.centre.shape == (5, 3, 2)


def test_points_go_to_the_image_and_back():
    frame = frames.frame_of(_digits())
    points = jnp.asarray(np.random.default_rng(0).uniform(0, 28, (3, 7, 2)), jnp.float32)
    np.testing.assert_allclose(frames.to_picture(frame, frames.to_image(frame, points, 28), 28), points, atol=1e-3)
    middle = frames.to_image(frame, jnp.full((3, 1, 2), 13.5), 28)
    np.testing.assert_allclose(middle[:, 0], frame.centre, atol=1e-5)
    assert frames.outline(frame, 28).shape == (3, 4, 2)
    moved = frames.moved(frame, jnp.broadcast_to(jnp.array([2.0, -1.0]), (3, 2)))
    images = _digits()
    np.testing.assert_allclose(
        frames.resample(images, moved, 28)[:, 4:-4, 4:-4],
        np.roll(frames.resample(images, frame, 28), (2, -1), axis=(1, 2))[:, 4:-4, 4:-4],
        atol=1e-4,
    )


def test_an_empty_image_has_the_identity_in_the_middle_and_says_so():
    for value in (0.0, 0.5, 1.0):
        frame = frames.frame_of(jnp.full((2, 30, 20, 1), value))
        assert frame.empty.all()
        np.testing.assert_array_equal(frame.centre, [[14.5, 9.5]] * 2)
        np.testing.assert_array_equal(frame.matrix, np.broadcast_to(np.eye(2), (2, 2, 2)))
        np.testing.assert_array_equal(frames.turned(frame, jnp.ones(2)).matrix, frame.matrix)
        np.testing.assert_allclose(frames.resample(jnp.full((2, 30, 20, 1), value), frame, 28), value)


def test_a_light_ground_is_as_good_as_a_dark_one():
    images = _digits()
    dark, light = frames.frame_of(images), frames.frame_of(1 - images)
    np.testing.assert_allclose(light.centre, dark.centre, atol=1e-4)
    np.testing.assert_allclose(light.matrix, dark.matrix, atol=1e-5)
    np.testing.assert_allclose(
        1 - frames.resample(1 - images, light, 28), frames.resample(images, dark, 28), atol=1e-5
    )  # the ground comes in from outside, not black


def test_noise_on_the_ground_moves_the_frame_little():
    images = _digits()
    noise = np.random.default_rng(1).uniform(0, 0.1, images.shape).astype(np.float32)
    clean, noisy = frames.frame_of(images), frames.frame_of(np.clip(images + noise, 0, 1))
    np.testing.assert_allclose(noisy.centre, clean.centre, atol=0.5)
    np.testing.assert_allclose(noisy.matrix, clean.matrix, atol=0.12)


def test_two_objects_share_a_frame():
    image = np.zeros((1, 40, 40, 1), np.float32)
    image[0, 5:10, 5:10] = image[0, 30:35, 25:30] = 1
    np.testing.assert_allclose(frames.frame_of(image).centre, [[19.5, 17.0]], atol=1e-4)


@pytest.mark.parametrize("fill", [0.0, 1.0, None])
def test_gradients_are_finite(fill):
    images = jnp.asarray(_digits()) if fill is None else jnp.full((1, 20, 20, 1), fill)

    def total(images):
        frame = frames.frame_of(images)
        return jnp.sum(frames.resample(images, frame, 14) ** 2) + jnp.sum(frames.turned(frame, 0.3).matrix)

    assert np.isfinite(jax.grad(total)(images)).all()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind=polar: must be centre or affine"):
        frames.frame_of(jnp.zeros((1, 8, 8, 1)), "polar")
