"""affNIST (Tieleman 2013): digits under random affine transformations, drawn by its rules.

Axes: ``B`` images, ``N`` images of a set, ``I`` their size. Coordinates are (row, column), about the centres of image
and canvas.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np

from lcaps_jax.data import mnist, tfds
from lcaps_jax.data.augment import Array
from lcaps_jax.data.splits import DataError, Split, TestSet, match_classes

NAME, OFFICIAL = "affnist", "affnist_official"
CANVAS = 40
VARIANTS = 32  # of each digit in the official set
SEED = 0  # The transformations belong to the data set, so the seed is not a setting.
_CHUNK = 2000  # images that are distorted in one call
MAX_ROTATION = 20.0  # degrees
MAX_SHEAR = 0.2
MIN_SCALE, MAX_SCALE = 0.8, 1.2
# Larger values are ink, which must not leave the canvas.
_INK = 0.05


@struct.dataclass
class Transformation:
    """What was done to each image."""

    rotation: jax.Array  # angle in radians, [B]
    shear: jax.Array  # [B]
    scale: jax.Array  # vertical and horizontal, [B, 2]
    shift: jax.Array  # whole pixels down and right, [B, 2] int32


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
      images: Images, ``[B, I, I]`` float.
      transformation: Transformation of each image.
      canvas: Pixels along a side of the result, affNIST's by default.

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
      key: Random key of the draw.
      images: Images, ``[B, I, I]`` float in [0, 1].
      positions: Positions of the images in their set, ``[B]``; see ``draw``.

    Returns:
      Distorted images ``[B, 40, 40]`` in [0, 1], and what was done to them.
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


@dataclasses.dataclass(frozen=True)
class Affnist:
    """affNIST, drawn from digits by its rules; generated part by part, so that any number of variants fits in memory.

    Attributes:
      digits: Digits ``[N, I, I, 1]`` and their labels.
      variants: Variants of each digit; a part is one variant of all digits.
      seed: Seed of the transformations.
    """

    digits: Split
    variants: int = 1
    seed: int = SEED

    def __len__(self) -> int:
        return self.variants * len(self.digits)

    @property
    def labels(self) -> np.ndarray:
        """``[variants*N]`` int32."""
        return np.tile(self.digits.labels, self.variants)

    @property
    def about(self) -> Mapping[str, Any]:
        """Facts about the images, which results on them repeat."""
        return {"images": "generated by affNIST's rules", "variants": self.variants, "seed": self.seed}

    @property
    def nbytes(self) -> int:
        """Bytes of one part, because a single part is in memory at a time."""
        return len(self.digits) * (CANVAS**2 + 4)

    @property
    def channels(self) -> int:
        """Channels of the images, C."""
        return self.digits.channels

    def parts(self) -> Iterator[Split]:
        """The variants one after the other, each of all digits."""
        for variant in range(self.variants):
            yield Split(self._distort(variant, np.arange(len(self.digits)))[0], self.digits.labels)

    def take(self, index: np.ndarray) -> Split:
        """The images at ``index``, and their labels."""
        images = [self._distort(i // len(self.digits), np.array([i % len(self.digits)]))[0][0] for i in index]
        return Split(np.stack(images) if images else np.zeros((0,), np.uint8), self.labels[index])

    def transformations(self) -> Transformation:
        """What was done to each image, in order."""
        drawn = [self._distort(variant, np.arange(len(self.digits)))[1] for variant in range(self.variants)]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *drawn)

    def _distort(self, variant: int, positions: np.ndarray) -> tuple[np.ndarray, Transformation]:
        key = jax.random.fold_in(jax.random.key(self.seed), variant)
        images, drawn = [], []
        for start in range(0, len(positions), _CHUNK):
            chunk = positions[start : start + _CHUNK]
            warped, transformation = distort(key, self.digits.images[chunk, :, :, 0] / np.float32(255), chunk)
            images.append(np.rint(255 * np.asarray(warped)).astype(np.uint8)[..., None])
            drawn.append(jax.device_get(transformation))
        return np.concatenate(images), jax.tree.map(lambda *parts: np.concatenate(parts), *drawn)


def load_test(
    data_dir: str | None, image_size: int | None, affnist_variants: int = 1, class_names: Sequence[str] | None = None
) -> TestSet:
    """The test digits of MNIST, distorted by affNIST's rules, always the same; the arguments are those of ``api``'s.

    Raises:
      DataError: MNIST cannot be loaded, or the network takes images of another size.
    """
    check_size(NAME, image_size)
    digits = tfds.load("mnist", data_dir)
    return Affnist(match_classes(NAME, digits.test, digits.class_names, class_names), affnist_variants)


def check_size(dataset: str, image_size: int | None) -> None:
    """Raises DataError for a network that takes images of another size than affNIST's; None takes any."""
    if image_size not in (None, CANVAS):
        raise DataError(
            f"dataset={dataset}: has images of {CANVAS}x{CANVAS} pixels, and the network takes {image_size}x"
            f"{image_size}: train on {mnist.EXPANDED}, or with a frame."
        )
