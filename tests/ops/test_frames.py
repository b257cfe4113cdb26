"""The canonical frame against loops and SciPy, and when the image is moved, rotated, sheared and scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from lcaps_jax.ops import frames
from lcaps_jax.util.errors import ConfigError

_VARIANCES = np.array([34, 18])  # of the picture
# Compiled, which for most shapes takes less time than the operations one by one.
_frame_of, _turned = (jax.jit(f, static_argnames=("kind", "size")) for f in (frames.frame_of, frames.turned))
_resample = jax.jit(frames.resample, static_argnames="size")


def _digits(count=3, size=40):
    """Blurred strokes in the middle of a dark canvas."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, size, size, 1), np.float32)
    for image in images:
        for _ in range(4):
            row, column = rng.integers(12, size - 18, 2)
            image[row : row + rng.integers(3, 8), column : column + rng.integers(3, 8)] = rng.uniform(0.4, 1)
    return ndimage.gaussian_filter(images, (0, 0.7, 0.7, 0))


_IMAGES = _digits()


def _assert_close(frame, centre, matrix, atol=1e-4):
    np.testing.assert_allclose(frame.centre, centre, atol=atol)
    np.testing.assert_allclose(frame.matrix, matrix, atol=0.1 * atol)


def _slow_frame(image):
    """Centre and matrix by sums over pixels, in float64, of an image on black."""
    weight = np.asarray(image, np.float64)[..., 0]
    places = [np.array(place) for place in np.ndindex(*weight.shape)]
    centre = sum(weight[tuple(r)] * r for r in places) / weight.sum()
    covariance = sum(weight[tuple(r)] * np.outer(r - centre, r - centre) for r in places) / weight.sum() + 4 * np.eye(2)
    return centre, np.linalg.cholesky(covariance) / np.sqrt(_VARIANCES)


def _warped(images, matrix):
    """Images under an affine map about the middle, bilinear."""
    inverse, middle = np.linalg.inv(matrix), (np.array(images.shape[1:3]) - 1) / 2
    warped = [ndimage.affine_transform(i[..., 0], inverse, middle - inverse @ middle, order=1) for i in images]
    return np.stack(warped)[..., None]


def test_background():
    images = np.random.default_rng(0).uniform(size=(2, 3, 6, 5, 3)).astype(np.float32)
    border = np.ones((6, 5), bool)
    border[1:-1, 1:-1] = False
    background = np.median(images[:, :, border], axis=2)
    np.testing.assert_array_equal(frames.background_of(images), background)
    difference = images - background[:, :, None, None]
    np.testing.assert_array_equal(frames.subtract_background(images), difference)
    expected = np.broadcast_to(np.abs(difference).mean(axis=-1, keepdims=True), images.shape)
    np.testing.assert_allclose(frames.distance_from_background(images), expected, rtol=1e-6, strict=True)


def test_frame_against_sums_over_pixels():
    frame = _frame_of(_IMAGES)
    assert not frame.empty.any()
    _assert_close(frame, *map(np.stack, zip(*map(_slow_frame, _IMAGES))))
    centred = _frame_of(_IMAGES, frames.CENTRE)
    _assert_close(centred, frame.centre, np.broadcast_to(np.eye(2), (3, 2, 2)))


def test_resampling_any_axes_and_channels_against_scipy():
    images = np.stack([_IMAGES, 1 - 0.5 * _IMAGES]) * np.array([1, 0.5, 0.8], np.float32)
    frame = _frame_of(images)
    assert frame.centre.shape == (2, 3, 2) and frame.matrix.shape == (2, 3, 2, 2) and frame.empty.shape == (2, 3)
    pictures = _resample(images, frame, 28)
    assert pictures.shape == (2, 3, 28, 28, 3)
    for *place, channel in np.ndindex(2, 3, 3):
        image, matrix = images[*place, ..., channel], np.asarray(frame.matrix[*place])
        offset = frame.centre[*place] - matrix @ np.full(2, 13.5)
        expected = ndimage.affine_transform(image, matrix, offset, (28, 28), order=1, cval=image[0, 0])
        np.testing.assert_allclose(pictures[*place, ..., channel], expected, atol=1e-4)


@pytest.mark.parametrize("shift", [(3, -5), (-8, 2), (0, 9)])
def test_the_picture_does_not_change_when_the_image_is_moved(shift):
    frame, moved = _frame_of(_IMAGES), np.roll(_IMAGES, shift, axis=(1, 2))
    other = _frame_of(moved)
    _assert_close(other, frame.centre + np.array(shift), frame.matrix)
    np.testing.assert_allclose(_resample(moved, other, 28), _resample(_IMAGES, frame, 28), atol=2e-5)


@pytest.mark.parametrize("shear, scale", [(0.2, (1.0, 1.0)), (-0.2, (1.0, 1.0)), (0.0, (0.8, 1.2)), (0.1, (1.2, 0.9))])
def test_the_frame_follows_shear_and_scale(shear, scale):
    """Up to a rotation, the variance that is added to the covariance, and interpolation."""
    matrix = np.diag(scale) @ [[1, shear], [0, 1]]
    frame, other = _frame_of(_IMAGES), _frame_of(_warped(_IMAGES, matrix))
    np.testing.assert_allclose(other.centre - 19.5, (frame.centre - 19.5) @ matrix.T, atol=0.05)
    between = np.linalg.inv(other.matrix) @ matrix @ np.asarray(frame.matrix)
    singular = np.linalg.svd(between * np.sqrt(_VARIANCES)[None] / np.sqrt(_VARIANCES)[:, None])[1]
    np.testing.assert_allclose(singular, 1, atol=0.12)


@pytest.mark.parametrize("degrees", [-20, 10, 30])
def test_a_frame_turned_back_undoes_a_rotation(degrees):
    picture = _resample(_IMAGES, _frame_of(_IMAGES), 28)
    angle = np.deg2rad(degrees)
    rotated = _warped(_IMAGES, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    frame = _frame_of(rotated)
    same = _resample(rotated, _turned(frame, jnp.full(3, -angle)), 28)
    plain = _resample(rotated, frame, 28)
    assert np.abs(same - picture).mean() < 0.35 * np.abs(plain - picture).mean()
    np.testing.assert_allclose(same, picture, atol=0.25)  # interpolated twice


def test_turning_by_nothing_and_by_several_angles():
    for kind in frames.KINDS:
        frame = _frame_of(_IMAGES, kind)
        np.testing.assert_allclose(_turned(frame, jnp.zeros(3), kind).matrix, frame.matrix, atol=1e-5)
        many = _turned(frame, jnp.linspace(-1, 1, 5)[:, None], kind)
        assert many.matrix.shape == (5, 3, 2, 2) and many.centre.shape == (5, 3, 2)


def test_points_map_to_the_image():
    frame = _frame_of(_IMAGES)
    points = jnp.asarray(np.random.default_rng(0).uniform(0, 28, (3, 7, 2)), jnp.float32)
    there = frames.to_image(frame, points, 28)
    middle = frames.to_image(frame, jnp.full((3, 1, 2), 13.5), 28)
    np.testing.assert_allclose(middle[:, 0], frame.centre, atol=1e-5)
    np.testing.assert_allclose(frames.outline(frame, 28).mean(axis=1), frame.centre, atol=1e-4)
    scale, offset = np.array([2.0, 3.0], np.float32), np.array([0.5, 1.0], np.float32)
    other = frames.to_image(frames.scaled(frame, scale, offset), points, 28)
    np.testing.assert_allclose(other, there * scale + offset, atol=1e-3)


def test_a_moved_frame_moves_the_picture():
    frame = _frame_of(_IMAGES)
    moved = _resample(_IMAGES, frames.moved(frame, jnp.array([2.0, -1.0])), 28)
    rolled = np.roll(_resample(_IMAGES, frame, 28), (2, -1), axis=(1, 2))
    np.testing.assert_allclose(moved[:, 4:-4, 4:-4], rolled[:, 4:-4, 4:-4], atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_empty_image_has_the_identity_in_the_middle(value):
    images = jnp.full((2, 30, 20, 1), value)
    frame = _frame_of(images)
    assert frame.empty.all()
    np.testing.assert_array_equal(frame.centre, [[14.5, 9.5]] * 2)
    np.testing.assert_array_equal(frame.matrix, np.broadcast_to(np.eye(2), (2, 2, 2)))
    np.testing.assert_array_equal(_turned(frame, jnp.ones(2)).matrix, frame.matrix)
    np.testing.assert_allclose(_resample(images, frame, 28), value)


def test_a_light_background_and_noise_barely_change_the_frame():
    frame = _frame_of(_IMAGES)
    _assert_close(_frame_of(1 - _IMAGES), frame.centre, frame.matrix)
    noise = np.random.default_rng(1).uniform(0, 0.1, _IMAGES.shape).astype(np.float32)
    noisy = _frame_of(np.clip(_IMAGES + noise, 0, 1))
    np.testing.assert_allclose(noisy.centre, frame.centre, atol=0.5)
    np.testing.assert_allclose(noisy.matrix, frame.matrix, atol=0.12)


@pytest.mark.parametrize("fill", [0.0, 1.0, None])
def test_gradients_are_finite(fill):
    images = jnp.asarray(_IMAGES) if fill is None else jnp.full((1, 20, 20, 1), fill)

    def total(images):
        frame = _frame_of(images)
        return jnp.sum(_resample(images, frame, 14) ** 2) + jnp.sum(_turned(frame, 0.3).matrix)

    assert np.isfinite(jax.jit(jax.grad(total))(images)).all()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kind=polar"):
        frames.frame_of(jnp.zeros((1, 8, 8, 1)), "polar")
