"""affNIST (Tieleman 2013): digits under random affine transformations, drawn anew by its rules.

Axes: ``B`` images, ``I`` their size. Coordinates are (row, column), about the centres of image and canvas.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np

Array = jax.Array | np.ndarray
CANVAS = 40
VARIANTS = 32  # of each digit in the official set
MAX_ROTATION = 20.0  # degrees
MAX_SHEAR = 0.2
MIN_SCALE, MAX_SCALE = 0.8, 1.2
# Fainter values are not ink, which must not leave the canvas.
_INK = 0.05


@struct.dataclass
class Transformation:
    """What was done to each image.

    Attributes:
      rotation: ``[B]`` radians.
      shear: ``[B]``.
      scale: ``[B, 2]`` vertical and horizontal.
      shift: ``[B, 2]`` int32, whole pixels down and right.
    """

    rotation: jax.Array
    shear: jax.Array
    scale: jax.Array
    shift: jax.Array


def draw(key: jax.Array, positions: jax.Array) -> Transformation:
    """Rotation, shear and scale of the images at ``positions [B]``, uniform within affNIST's bounds; no shift.

    An image's draw depends on the key and its position alone, not on the other images.
    """

    def one(position):
        rotation, shear, scale = jax.random.split(jax.random.fold_in(key, position), 3)
        most = jnp.deg2rad(MAX_ROTATION)
        return Transformation(
            rotation=jax.random.uniform(rotation, minval=-most, maxval=most),
            shear=jax.random.uniform(shear, minval=-MAX_SHEAR, maxval=MAX_SHEAR),
            scale=jax.random.uniform(scale, (2,), minval=MIN_SCALE, maxval=MAX_SCALE),
            shift=jnp.zeros(2, jnp.int32),
        )

    return jax.vmap(one)(positions)


def warp(images: Array, transformation: Transformation, canvas: int = CANVAS) -> jax.Array:
    """Images under one composed affine map each, bilinear, black outside.

    ``out(r) = image(M^-1 (r - shift))`` with ``M = diag(scale) [[1, shear], [0, 1]] R(rotation)``.

    Args:
      images: ``[B, I, I]`` float.
      transformation: of each.
      canvas: size of the result, affNIST's by default.

    Returns:
      ``[B, canvas, canvas]``.
    """
    middle = (images.shape[1] - 1) / 2
    places = jnp.stack(jnp.meshgrid(jnp.arange(canvas), jnp.arange(canvas), indexing="ij")) - (canvas - 1) / 2

    def one(image, t):
        row, column = (places - t.shift[:, None, None]) / t.scale[:, None, None]
        row = row - t.shear * column
        cos, sin = jnp.cos(t.rotation), jnp.sin(t.rotation)
        source = [cos * row + sin * column + middle, cos * column - sin * row + middle]
        return ndimage.map_coordinates(image, source, order=1, mode="constant")

    return jax.vmap(one)(images, transformation)


@jax.jit
def distort(key: jax.Array, images: jax.Array, positions: jax.Array) -> tuple[jax.Array, Transformation]:
    """Images by affNIST's rules: rotated, sheared and scaled at random, then moved anywhere that holds all their ink.

    Args:
      key: of the draw.
      images: ``[B, I, I]`` float in [0, 1].
      positions: ``[B]`` of the images in their set; see ``draw``.

    Returns:
      ``[B, 40, 40]`` in [0, 1], and what was done.
    """
    transformation = draw(key, positions)
    ink = warp(images, transformation) > _INK

    def bounds(covered):
        """Least and largest shift that keep the covered rows or columns ``[B, 40]`` on the canvas."""
        first, last = jnp.argmax(covered, axis=1), CANVAS - 1 - jnp.argmax(covered[:, ::-1], axis=1)
        return -first, CANVAS - 1 - last

    def shift(key, position, least, most):
        # The fourth stream of the position, beside those of draw.
        return jax.random.randint(jax.random.fold_in(jax.random.fold_in(key, position), 3), (2,), least, most + 1)

    least, most = (jnp.stack(pair, axis=1) for pair in zip(bounds(ink.any(axis=2)), bounds(ink.any(axis=1))))
    # An empty image would have no bounds of its own.
    least, most = (jnp.where(ink.any(axis=(1, 2))[:, None], bound, 0) for bound in (least, most))
    shifts = jax.vmap(shift, (None, 0, 0, 0))(key, positions, least, most)
    transformation = dataclasses.replace(transformation, shift=shifts)
    return warp(images, transformation), transformation
