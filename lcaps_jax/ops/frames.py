"""Image canonicalisation: the canonical frame of an image, and the image resampled in it.

The frame is computed from the centre and the covariance of the image's *mass*, the distance of its pixels from the
background. The resampled *picture* shows the content in the middle, at a standard size and without shear, which removes
five of the six parameters of an affine map. The sixth, an angle, can be searched over (``turned``). Shifts by whole
pixels are removed exactly; scale and shear nearly, because a small variance is added that does not scale with the
content, and because resampling interpolates.

Assumptions: one object on a background, dark or light, that fills most of the border. Several objects share one frame.

Axes: ``...`` any leading axes, ``H x W`` pixels, ``C`` channels, ``S`` pixels along a side of the picture. Coordinates
are (row, column) in pixels.
"""

import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np

from lcaps_jax.util.errors import ConfigError

Array = jax.Array | np.ndarray

AFFINE, CENTRE = KINDS = ("affine", "centre")

# Added to both variances, in squared pixels, so that a thin stroke is not stretched to a square.
_BLUR = 4.0
# Mean variances of MNIST's digits along rows and columns, _BLUR included, in 28x28 pixels: digits keep their size.
_VARIANCES = (34.0, 18.0)
_VARIANCES_SIZE = 28
_NOISE = 3.0  # pixels within this many median deviations of the border from the background have no mass
_LEAST_MASS = 1e-2  # an image with less, in full pixels, is empty

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


@struct.dataclass
class Frame:
    """Canonical frame: the point ``r`` of the picture, from its middle, lies at ``matrix r + centre`` in the image.

    Attributes:
      centre: Centre of the content in the image, ``[..., 2]``.
      matrix: Image pixels per pixel of the picture, ``[..., 2, 2]``.
      empty: Whether the image has no content, ``[...]``. Its frame is the identity in the middle of the image.
    """

    centre: jax.Array
    matrix: jax.Array
    empty: jax.Array


def background_of(images: jax.Array) -> jax.Array:
    """Background of ``images [..., H, W, C]``: the median of their border in each channel, ``[..., C]``."""
    return jnp.median(_border(images), axis=-2)


def subtract_background(images: jax.Array) -> jax.Array:
    """``images [..., H, W, C]`` minus their background, which is 0 in the result."""
    return images - background_of(images)[..., None, None, :]


def distance_from_background(images: jax.Array) -> jax.Array:
    """Mean over the channels of the absolute distance from the background, repeated in each: ``[..., H, W, C]``."""
    distance = jnp.mean(jnp.abs(subtract_background(images)), axis=-1, keepdims=True)
    return jnp.broadcast_to(distance, images.shape)


def _mass_of(images: jax.Array) -> jax.Array:
    """Mean over the channels of the distance from the background, less the noise of the border: ``[..., H, W]``."""
    background = background_of(images)
    noise = _NOISE * jnp.median(jnp.abs(_border(images) - background[..., None, :]), axis=-2)
    distance = jnp.abs(images - background[..., None, None, :]) - noise[..., None, None, :]
    return jnp.mean(jnp.maximum(0, distance), axis=-1)


def _border(images: jax.Array) -> jax.Array:
    """The outermost pixels, ``[..., P, C]``."""
    rows = jnp.concatenate([images[..., 0, :, :], images[..., -1, :, :]], axis=-2)
    columns = jnp.concatenate([images[..., 1:-1, 0, :], images[..., 1:-1, -1, :]], axis=-2)
    return jnp.concatenate([rows, columns], axis=-2)


def frame_of(images: jax.Array, kind: str = AFFINE, size: int = _VARIANCES_SIZE) -> Frame:
    """Canonical frame of images ``[..., H, W, C]`` in [0, 1], for pictures of ``size x size`` pixels.

    With the centre ``m`` and the covariance ``K`` of the mass, ``matrix`` is the lower-triangular root of ``K``, scaled
    so that MNIST's digits keep their size. An affine map ``r -> A r + t`` of the image takes the frame to ``A m + t``
    and a root of ``A K A^T``, so that the picture is only rotated. If ``A`` scales or shears, this holds approximately:
    the diagonal of ``K`` contains 4 squared pixels that do not change with ``A``. A frame of the kind ``"centre"`` only
    moves: its matrix is the identity.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind}: must be one of {', '.join(KINDS)}.")
    mass = _mass_of(images)
    height, width = mass.shape[-2:]
    total = jnp.sum(mass, axis=(-2, -1))
    empty = total < _LEAST_MASS
    weight = mass / jnp.where(empty, 1.0, total)[..., None, None]
    # Coordinates from the middle of the image lose less precision in float32.
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.arange(height) - middle[0], jnp.arange(width) - middle[1]
    offset = jnp.stack([_einsum("...ij,i->...", weight, rows), _einsum("...ij,j->...", weight, columns)], axis=-1)
    centre = middle + jnp.where(empty[..., None], 0.0, offset)
    if kind == CENTRE:
        return Frame(centre, jnp.broadcast_to(jnp.eye(2), (*centre.shape[:-1], 2, 2)), empty)
    y, x = rows - offset[..., :1], columns - offset[..., 1:]
    var_y = _einsum("...ij,...i,...i->...", weight, y, y) + _BLUR
    var_x = _einsum("...ij,...j,...j->...", weight, x, x) + _BLUR
    cov = _einsum("...ij,...i,...j->...", weight, y, x)
    covariance = _matrix(var_y, cov, cov, var_x)
    return Frame(centre, jnp.where(empty[..., None, None], jnp.eye(2), _root(covariance, size)), empty)


def _matrix(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    return jnp.stack([jnp.stack([a, b], -1), jnp.stack([c, d], -1)], -2)


def _variances(size: int) -> jax.Array:
    return jnp.array(_VARIANCES) * (size / _VARIANCES_SIZE) ** 2


def _root(covariance: jax.Array, size: int) -> jax.Array:
    """The lower-triangular ``M`` with ``M V M^T = covariance`` for the picture's variances ``V``."""
    usual_y, usual_x = _variances(size)
    var_y, cov, var_x = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    a = jnp.sqrt(var_y / usual_y)
    b = a * cov / var_y
    c = jnp.sqrt((var_x - cov * cov / var_y) / usual_x)
    return _matrix(a, jnp.zeros_like(a), b, c)


def turned(frame: Frame, angle: jax.Array, kind: str = AFFINE, size: int = _VARIANCES_SIZE) -> Frame:
    """The frame whose picture is that of the image rotated about its centre, without resampling the image twice.

    The angles are in radians, of any shape that broadcasts with the frames ``[...]``.
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = _matrix(cos, -sin, sin, cos)
    if kind == CENTRE:
        rotated = jnp.broadcast_to(jnp.eye(2), frame.matrix.shape)
    else:
        covariance = _einsum("...ij,j,...kj->...ik", frame.matrix, _variances(size), frame.matrix)
        rotated = _root(_einsum("...ij,...jk,...lk->...il", rotation, covariance, rotation), size)
    matrix = _einsum("...ji,...jk->...ik", rotation, rotated)
    empty = jnp.broadcast_to(frame.empty, matrix.shape[:-2])
    centre = jnp.broadcast_to(frame.centre, (*matrix.shape[:-2], 2))
    return Frame(centre, jnp.where(empty[..., None, None], jnp.eye(2), matrix), empty)


def moved(frame: Frame, offset: jax.Array) -> Frame:
    """The frame whose picture is moved by ``offset [..., 2]`` of its pixels, down and right."""
    centre = frame.centre - _einsum("...ij,...j->...i", frame.matrix, offset)
    return Frame(centre, frame.matrix, frame.empty)


def scaled(frame: Frame, scale: Array, offset: Array) -> Frame:
    """The frame in another image whose point ``scale r + offset`` is the point ``r`` of this one; both ``[..., 2]``."""
    scale, offset = jnp.asarray(scale, jnp.float32), jnp.asarray(offset, jnp.float32)
    return Frame(scale * frame.centre + offset, scale[..., None] * frame.matrix, frame.empty)


def to_image(frame: Frame, points: Array, size: int) -> jax.Array:
    """Maps points ``[..., P, 2]`` of the picture, ``size`` pixels a side, to points of the image."""
    return _einsum("...ij,...pj->...pi", frame.matrix, points - (size - 1) / 2) + frame.centre[..., None, :]


def outline(frame: Frame, size: int) -> jax.Array:
    """Corners of the picture in the image, ``[..., 4, 2]``, in order around their parallelogram."""
    low, high = -0.5, size - 0.5
    return to_image(frame, jnp.array([[low, low], [low, high], [high, high], [high, low]]), size)


def resample(images: jax.Array, frame: Frame, size: int) -> jax.Array:
    """Pictures ``[..., S, S, C]`` of ``images [..., H, W, C]`` in their frames, bilinear, on their background."""
    leading, (height, width, channels) = images.shape[:-3], images.shape[-3:]
    grid = jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"), axis=-1).reshape(-1, 2)
    source = to_image(frame, grid.astype(jnp.float32), size).reshape(-1, size * size, 2)
    background = background_of(images)[..., None, None, :]

    def one(image, places):
        channel = functools.partial(ndimage.map_coordinates, coordinates=list(places.T), order=1, mode="constant")
        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    pictures = jax.vmap(one)((images - background).reshape(-1, height, width, channels), source)
    return pictures.reshape(*leading, size, size, channels) + background
