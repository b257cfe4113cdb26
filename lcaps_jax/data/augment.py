"""The order of an epoch and random changes of the images, inside jit and drawn from keys.

A resumed run so draws what an uninterrupted one does.

Axes: ``B`` images of a batch, ``N`` images of a set, ``I`` their size, ``C`` channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax import frames

Array = jax.Array | np.ndarray

NO_FLIP, HORIZONTAL, VERTICAL, BOTH = FLIPS = ("none", "horizontal", "vertical", "both")
# The stream of distortions within an image's key, from which shifts are drawn directly.
_DISTORTION = 1


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Random changes of training images other than shifts.

    Attributes:
      flip: Sides that are exchanged, each half of the times; one of ``FLIPS``.
      max_rotation: Degrees by which an image is turned at most, each way.
      max_scale: Factor by which an image is scaled at most, up or down.
      max_brightness: Largest difference from 1 of the factor of its brightness.
    """

    flip: str = NO_FLIP
    max_rotation: float = 0.0
    max_scale: float = 1.0
    max_brightness: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return (self.flip, self.max_rotation, self.max_scale) != (NO_FLIP, 0.0, 1.0)


UNDISTORTED = Distortion()


@jax.jit(static_argnums=2)
def epoch_order(key: jax.Array, epoch: int, count: int) -> jax.Array:
    """Order of the images in an epoch, a permutation ``[count]`` int32 that depends on key and epoch alone."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def shift(images: Array, offsets: jax.Array, max_shift: int) -> jax.Array:
    """Moves images ``[B, I, I, C]`` down and right by ``offsets [B, 2]``, at most ``max_shift`` pixels.

    What comes in has the colour of the image's ground, which is the median of its border: black for MNIST's digits.
    """
    images = jnp.asarray(images)
    count, height, width, channels = images.shape
    # Medians take longer than the shift itself, so black borders, as digits have, do without.
    ground = jax.lax.cond(
        jnp.any(images[:, (0, -1)]) | jnp.any(images[:, :, (0, -1)]),
        lambda: frames.ground_of(images).astype(images.dtype),
        lambda: jnp.zeros((count, channels), images.dtype),
    )
    padded = jnp.broadcast_to(ground[:, None, None], (count, height + 2 * max_shift, width + 2 * max_shift, channels))
    padded = padded.at[:, max_shift : max_shift + height, max_shift : max_shift + width].set(images)
    cut = jax.vmap(lambda image, start: jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:]))
    return cut(padded, max_shift - offsets)


def keys_of(key: jax.Array, positions: Array) -> jax.Array:
    """Random keys ``[B]``, one for each of the positions ``[B]`` in a global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def augment(
    images: Array, key: jax.Array, positions: Array, max_shift: int, distortion: Distortion = UNDISTORTED
) -> Array:
    """Distorts training images at random, and then shifts them.

    Args:
      images: Images, ``[B, I, I, C]``; bytes where they are distorted.
      key: Random key of the step.
      positions: Places of the images in the global batch, ``[B]``; each image draws by its own, so that one device and
        many see the same images.
      max_shift: Pixels by which an image is shifted at most, along each axis.
      distortion: Other changes; they draw from streams of their own, so that the shifts do not depend on them.

    Returns:
      ``[B, I, I, C]``; float32 in [0, 1] where they are distorted.
    """
    if distortion != UNDISTORTED:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys_of(key, positions), _DISTORTION)
        images = distort(to_unit_range(images), own, distortion)
    if not max_shift:
        return images
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), -max_shift, max_shift + 1))
    offsets = draw(keys_of(key, positions))
    return shift(images, offsets, max_shift)


def distort(images: jax.Array, keys: jax.Array, distortion: Distortion) -> jax.Array:
    """Flips, turns and scales images about their middle, bilinear, and changes their brightness.

    What comes in from outside has the colour of the image's own border.

    Args:
      images: Images in [0, 1], ``[B, I, I, C]``.
      keys: Random key of each image, ``[B]``.
      distortion: What may change.

    Returns:
      ``[B, I, I, C]`` in [0, 1].
    """

    def draw(key):
        flip, turn, scale, light = jax.random.split(key, 4)
        wanted = jnp.array([distortion.flip in (VERTICAL, BOTH), distortion.flip in (HORIZONTAL, BOTH)])
        signs = jnp.where(wanted & jax.random.bernoulli(flip, shape=(2,)), -1.0, 1.0)
        angle = jnp.deg2rad(distortion.max_rotation) * jax.random.uniform(turn, minval=-1.0)
        factor = distortion.max_scale ** jax.random.uniform(scale, minval=-1.0)
        brightness = 1 + distortion.max_brightness * jax.random.uniform(light, minval=-1.0)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.array([[cos, -sin], [sin, cos]]) * signs / factor, brightness

    matrix, brightness = jax.vmap(draw)(keys)
    if distortion.moves:
        size = images.shape[1]
        middle = jnp.full((len(images), 2), (size - 1) / 2)
        images = frames.resample(images, frames.Frame(middle, matrix, jnp.zeros(len(images), bool)), size)
    return jnp.clip(images * brightness[:, None, None, None], 0.0, 1.0)


def to_unit_range(images: Array) -> jax.Array:
    """Images as float32 in [0, 1]; bytes are divided by 255, and float32 images stay as they are."""
    images = jnp.asarray(images)
    return images if images.dtype == jnp.float32 else images.astype(jnp.float32) / 255


def place(images: np.ndarray, max_shift: int, seed: int = 0) -> np.ndarray:
    """Shifts each image ``[N, I, I, C]`` once, by up to ``max_shift`` pixels each way, as ``shift`` does.

    Test sets use seed 0.
    """
    shifts = np.random.default_rng(seed).integers(-max_shift, max_shift + 1, (len(images), 2))
    count, size, _, channels = images.shape
    padded = np.empty((count, size + 2 * max_shift, size + 2 * max_shift, channels), images.dtype)
    padded[:] = np.asarray(frames.ground_of(jnp.asarray(images))).astype(images.dtype)[:, None, None]
    padded[:, max_shift : max_shift + size, max_shift : max_shift + size] = images
    corners = max_shift - shifts
    return np.stack([image[y : y + size, x : x + size] for image, (y, x) in zip(padded, corners)])
