"""affNIST (Tieleman 2013): digits under random affine transformations, drawn by its rules or from his file.

Axes: ``B`` images, ``N`` images of a set, ``I`` their size. Coordinates are (row, column) about an image's centre.
"""

from collections.abc import Sequence
import dataclasses
import io
import os
import pathlib
import zipfile

from flax import struct
import jax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np
import scipy.io

from lcaps_jax.data import tfds
from lcaps_jax.data.augment import Array
from lcaps_jax.data.splits import DataError, Split, match_classes

NAME, OFFICIAL = "affnist", "affnist_official"
CANVAS = 40
VARIANTS = 32  # of each digit in the official set
_SEED = 0  # The transformations belong to the data set, so the seed is not a setting.
_CHUNK = 2000  # images that are distorted in one call
_INK = 0.05  # Larger values are ink, which must not leave the canvas.
MAX_ROTATION, MAX_SHEAR, MIN_SCALE, MAX_SCALE = 20.0, 0.2, 0.8, 1.2  # the rotation in degrees
OFFICIAL_FILE = "https://www.cs.toronto.edu/~tijmen/affNIST/32x/transformed/test_batches.zip"


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
    """Images ``[B, I, I]`` float under one affine map each, bilinear, black outside, ``[B, canvas, canvas]``.

    ``out(r) = image(M^-1 (r - shift))`` with ``M = diag(scale) [[1, shear], [0, 1]] R(rotation)``.
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

    Images are ``[B, I, I]`` in [0, 1] and become ``[B, 40, 40]``; for ``key`` and ``positions [B]`` see ``draw``.
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
    least, most = (jnp.where(ink.any(axis=(1, 2))[:, None], bound, 0) for bound in (least, most))  # 0 without any ink
    shifts = jax.vmap(shift, (None, 0, 0, 0))(key, positions, least, most)
    transformation = dataclasses.replace(transformation, shift=shifts)
    return warp(images, transformation), transformation


class Affnist(Split):
    """affNIST, drawn from ``digits [N, I, I, 1]`` by its rules: ``[variants*N, 40, 40, 1]``, variant by variant."""

    def __init__(self, digits: Split, variants: int = 1):
        images, drawn = [], []
        for variant in range(variants):
            key = jax.random.fold_in(jax.random.key(_SEED), variant)
            for start in range(0, len(digits), _CHUNK):
                positions = np.arange(start, min(start + _CHUNK, len(digits)))
                warped, done = distort(key, digits.images[positions, :, :, 0] / np.float32(255), positions)
                images.append(np.rint(255 * np.asarray(warped)).astype(np.uint8)[..., None])
                drawn.append(jax.device_get(done))
        about = {"images": "generated by affNIST's rules", "variants": variants, "seed": _SEED}
        super().__init__(np.concatenate(images), np.tile(digits.labels, variants), about)
        self.digits = digits
        self._drawn = jax.tree.map(lambda *parts: np.concatenate(parts), *drawn)

    def transformations(self) -> Transformation:
        """What was done to each image, in order."""
        return self._drawn


def load_test(data_dir: str, affnist_variants: int, class_names: Sequence[str] | None = None) -> Affnist:
    """The test digits of MNIST, distorted by affNIST's rules, always the same; see ``api.load_test``."""
    digits = tfds.load("mnist", data_dir)
    return Affnist(match_classes(NAME, digits.test, digits.class_names, class_names), affnist_variants)


def load_official(data_dir: str, affnist_variants: int, class_names: Sequence[str] | None = None) -> Split:
    """All variants of the official test digits, from ``DATA_DIR/downloads/manual/affnist_official``."""
    del affnist_variants
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    archive = root / "downloads" / "manual" / OFFICIAL / OFFICIAL_FILE.rsplit("/", 1)[1]
    images, labels = [], []
    try:
        with zipfile.ZipFile(archive) as files:
            names = {pathlib.PurePath(name).name: name for name in files.namelist()}
            for number in range(1, VARIANTS + 1):
                batch = scipy.io.loadmat(io.BytesIO(files.read(names[f"{number}.mat"])))["affNISTdata"][0, 0]
                images.append(batch["image"].T.reshape(-1, CANVAS, CANVAS, 1).astype(np.uint8))  # a column each
                labels.append(batch["label_int"].ravel().astype(np.int32))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(f"{archive} cannot be read ({error}): download {OFFICIAL_FILE} to that place.") from None
    about = {"images": "Tieleman's affNIST", "variants": VARIANTS}
    split = Split(np.concatenate(images), np.concatenate(labels), about)
    return match_classes(OFFICIAL, split, tuple("0123456789"), class_names)
