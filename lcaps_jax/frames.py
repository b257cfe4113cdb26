"""The frame of an image: where its content lies, how large it is along each axis, and how it is sheared.

A frame is read off the image itself, from the centre and the covariance of its *mass*. Resampled in its frame, an image
shows its content in the middle, at one size and without shear, wherever and however it stood. Of the six parameters of
an affine map five so drop out, and the sixth, an angle, can be searched over (``turned``). Shifts by whole pixels drop
out exactly. Scales and shear drop out nearly, because a small variance is added that does not scale with the content,
and because a scaled image is interpolated.

What this supposes: one object on a ground that fills most of the border. The ground may be dark or light, because mass
is the distance from the border's median; several objects share one frame.

Axes: ``...`` any leading axes, ``H x W`` pixels, ``C`` channels, ``S`` pixels along a side of the resampled picture.
Coordinates are (row, column) in pixels.
"""

import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np

from lcaps_jax.errors import ArgumentError, arg

Array = jax.Array | np.ndarray

NONE, CENTRE, AFFINE = KINDS = ("none", "centre", "affine")

# Added to both variances, so that the mass of a thin stroke is not blown up to a square; squared pixels.
_BLUR = 4.0
# The mean variances of MNIST's digits along rows and columns, _BLUR included, in 28x28 pixels: digits keep their size.
_VARIANCES = (34.0, 18.0)
_VARIANCES_SIZE = 28
# Pixels that differ from the ground by fewer than so many of the border's median deviations have no mass.
_NOISE = 3.0
# An image with less mass than this, in full pixels, is empty.
_LEAST_MASS = 1e-2

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


@struct.dataclass
class Frame:
    """The frame of an image. A point ``r`` of the picture, from its middle, is ``matrix r + centre`` in the image.

    Attributes:
      centre: Centre of the content in the image, ``[..., 2]``.
      matrix: Pixels of the image for a pixel of the picture, ``[..., 2, 2]``.
      empty: Whether the image has no content, ``[...]``. Its frame is the identity in the middle of the image.
    """

    centre: jax.Array
    matrix: jax.Array
    empty: jax.Array


def ground_of(images: jax.Array) -> jax.Array:
    """Value of the ground in each channel, ``[..., C]``: the median of the border of ``images [..., H, W, C]``."""
    return jnp.median(_border(images), axis=-2)


def mass_of(images: jax.Array) -> jax.Array:
    """Mass of each pixel, ``[..., H, W]``: its distance from the ground, averaged over the channels.

    Deviations that the border shows too are noise: three of the border's median deviations are taken off.

    Args:
      images: Images ``[..., H, W, C]`` in [0, 1].
    """
    ground = ground_of(images)
    noise = _NOISE * jnp.median(jnp.abs(_border(images) - ground[..., None, :]), axis=-2)
    distance = jnp.abs(images - ground[..., None, None, :]) - noise[..., None, None, :]
    return jnp.mean(jnp.maximum(0, distance), axis=-1)


def _border(images: jax.Array) -> jax.Array:
    """The outermost pixels, ``[..., P, C]``."""
    rows = jnp.concatenate([images[..., 0, :, :], images[..., -1, :, :]], axis=-2)
    columns = jnp.concatenate([images[..., 1:-1, 0, :], images[..., 1:-1, -1, :]], axis=-2)
    return jnp.concatenate([rows, columns], axis=-2)


def frame_of(images: jax.Array, kind: str = AFFINE, size: int = _VARIANCES_SIZE) -> Frame:
    """Reads the frame off images.

    With the centre ``m`` and the covariance ``K`` of the mass, ``matrix`` is the lower-triangular root of ``K``, scaled
    so that MNIST's digits keep their size. Under an affine map ``r -> A r + t`` of the image the frame goes to
    ``A m + t`` and a root of ``A K A^T``, so that the picture changes by a rotation alone. With scales or shear in
    ``A`` this holds nearly: ``K`` contains 4 squared pixels on its diagonal that do not change with ``A``.

    Args:
      images: Images ``[..., H, W, C]`` in [0, 1].
      kind: ``"affine"``, or ``"centre"`` for a frame that is moved alone.
      size: Pixels along a side of the picture to be resampled, S.

    Raises:
      ArgumentError: The kind is unknown.
    """
    if kind not in (CENTRE, AFFINE):
        raise ArgumentError(f"{arg('kind')}={kind}: must be {CENTRE} or {AFFINE}.")
    mass = mass_of(images)
    height, width = mass.shape[-2:]
    total = jnp.sum(mass, axis=(-2, -1))
    empty = total < _LEAST_MASS
    weight = mass / jnp.where(empty, 1.0, total)[..., None, None]
    # From the middle of the image, so that float32 keeps the digits that count.
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.arange(height) - middle[0], jnp.arange(width) - middle[1]
    offset = jnp.stack([_einsum("...ij,i->...", weight, rows), _einsum("...ij,j->...", weight, columns)], axis=-1)
    centre = middle + jnp.where(empty[..., None], 0.0, offset)
    if kind == CENTRE:
        matrix = jnp.broadcast_to(jnp.eye(2), (*centre.shape[:-1], 2, 2))
        return Frame(centre, matrix, empty)
    y, x = rows - offset[..., :1], columns - offset[..., 1:]
    var_y = _einsum("...ij,...i,...i->...", weight, y, y) + _BLUR
    var_x = _einsum("...ij,...j,...j->...", weight, x, x) + _BLUR
    cov = _einsum("...ij,...i,...j->...", weight, y, x)
    covariance = jnp.stack([jnp.stack([var_y, cov], -1), jnp.stack([cov, var_x], -1)], -2)
    return Frame(centre, jnp.where(empty[..., None, None], jnp.eye(2), _root(covariance, size)), empty)


def _variances(size: int) -> jax.Array:
    return jnp.array(_VARIANCES) * (size / _VARIANCES_SIZE) ** 2


def _root(covariance: jax.Array, size: int) -> jax.Array:
    """The lower-triangular ``M`` with ``M V M^T = covariance`` for the picture's variances ``V``, rows first."""
    usual_y, usual_x = _variances(size)
    var_y, cov, var_x = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    a = jnp.sqrt(var_y / usual_y)
    b = a * cov / var_y
    c = jnp.sqrt((var_x - cov * cov / var_y) / usual_x)
    return jnp.stack([jnp.stack([a, jnp.zeros_like(a)], -1), jnp.stack([b, c], -1)], -2)


def turned(frame: Frame, angle: jax.Array, kind: str = AFFINE, size: int = _VARIANCES_SIZE) -> Frame:
    """The frame in which an image shows that was turned about its centre by an angle and framed anew.

    The image itself is not turned, so that it is resampled once.

    Args:
      frame: Frame of the image as it is.
      angle: Angle in radians, ``[...]`` or a shape that broadcasts to it.
      kind: Kind that the frame was read as.
      size: Pixels along a side of the picture, S.
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    if kind == CENTRE:
        anew = jnp.broadcast_to(jnp.eye(2), frame.matrix.shape)
    else:
        covariance = _einsum("...ij,j,...kj->...ik", frame.matrix, _variances(size), frame.matrix)
        anew = _root(_einsum("...ij,...jk,...lk->...il", rotation, covariance, rotation), size)
    matrix = _einsum("...ji,...jk->...ik", rotation, anew)
    empty = jnp.broadcast_to(frame.empty, matrix.shape[:-2])
    centre = jnp.broadcast_to(frame.centre, (*matrix.shape[:-2], 2))
    return Frame(centre, jnp.where(empty[..., None, None], jnp.eye(2), matrix), empty)


def moved(frame: Frame, offset: jax.Array) -> Frame:
    """The frame whose picture is moved down and right by ``offset [..., 2]`` pixels of the picture."""
    centre = frame.centre - _einsum("...ij,...j->...i", frame.matrix, offset)
    return Frame(centre, frame.matrix, frame.empty)


def scaled(frame: Frame, scale: Array, offset: Array) -> Frame:
    """The frame in an image with other pixels, in which a point ``r`` is ``scale r + offset``.

    Args:
      frame: Frame of the image.
      scale: Pixels of the other image for a pixel of this one, down and right, ``[..., 2]``.
      offset: Point of the other image in the middle of this one's first pixel, ``[..., 2]``.
    """
    scale, offset = jnp.asarray(scale, jnp.float32), jnp.asarray(offset, jnp.float32)
    return Frame(scale * frame.centre + offset, scale[..., None] * frame.matrix, frame.empty)


def to_image(frame: Frame, points: Array, size: int) -> jax.Array:
    """Points ``[..., P, 2]`` of the picture, of ``size`` pixels, as points of the image."""
    from_middle = points - (size - 1) / 2
    return _einsum("...ij,...pj->...pi", frame.matrix, from_middle) + frame.centre[..., None, :]


def to_picture(frame: Frame, points: Array, size: int) -> jax.Array:
    """Points ``[..., P, 2]`` of the image as points of the picture: the inverse of ``to_image``."""
    inverse = jnp.linalg.inv(frame.matrix)
    return _einsum("...ij,...pj->...pi", inverse, points - frame.centre[..., None, :]) + (size - 1) / 2


def outline(frame: Frame, size: int) -> jax.Array:
    """Corners of the picture in the image, ``[..., 4, 2]``, around the parallelogram that it shows."""
    low, high = -0.5, size - 0.5
    return to_image(frame, jnp.array([[low, low], [low, high], [high, high], [high, low]]), size)


def resample(images: jax.Array, frame: Frame, size: int) -> jax.Array:
    """Images as they show in their frames, bilinear; the ground comes in from outside.

    Args:
      images: Images ``[..., H, W, C]``.
      frame: Frame of each image.
      size: Pixels along a side of the picture, S.

    Returns:
      Pictures ``[..., S, S, C]``.
    """
    leading, (height, width, channels) = images.shape[:-3], images.shape[-3:]
    grid = jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"), axis=-1).reshape(-1, 2)
    source = to_image(frame, grid.astype(jnp.float32), size).reshape(-1, size * size, 2)
    ground = ground_of(images)[..., None, None, :]

    def one(image, places):
        channel = functools.partial(ndimage.map_coordinates, coordinates=list(places.T), order=1, mode="constant")
        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    pictures = jax.vmap(one)((images - ground).reshape(-1, height, width, channels), source)
    return pictures.reshape(*leading, size, size, channels) + ground
