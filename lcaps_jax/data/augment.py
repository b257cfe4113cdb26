"""The order of an epoch and random changes of the images, drawn from keys, so that a resumed run draws the same.

Axes: ``B`` images of a batch, ``N`` images of a set, ``I`` their size, ``C`` channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.ops import frames
from lcaps_jax.util.settings import setting

Array = jax.Array | np.ndarray

NO_FLIP, HORIZONTAL, VERTICAL, BOTH = FLIPS = ("none", "horizontal", "vertical", "both")
_DISTORTION = 1  # the stream of distortions within an image's key, from which shifts are drawn directly


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training images."""

    max_shift: int = setting(0, "Training images are shifted at random by up to this many pixels each way.", minimum=0)
    flip: str = setting(
        NO_FLIP, "Training images are mirrored at random: left-right (horizontal), vertical, or both.", choices=FLIPS
    )
    max_rotation: float = setting(
        0.0, "Training images are turned at random by up to this many degrees each way.", minimum=0.0, maximum=180.0
    )
    max_scale: float = setting(
        1.0, "Training images are scaled at random by up to this factor, up or down.", minimum=1.0, maximum=4.0
    )
    max_brightness: float = setting(
        0.0, "Training images are brightened at random by a factor of 1 plus or minus this.", minimum=0.0, maximum=1.0
    )

    @property
    def moves(self) -> bool:
        """Whether images are mirrored, turned or scaled."""
        return (self.flip, self.max_rotation, self.max_scale) != (NO_FLIP, 0.0, 1.0)


@jax.jit(static_argnums=2)
def epoch_order(key: jax.Array, epoch: int, count: int) -> jax.Array:
    """Order of the images in an epoch, a permutation ``[count]`` int32 that depends on key and epoch alone."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def shift(images: Array, offsets: Array, max_shift: int) -> jax.Array:
    """Moves images ``[B, I, I, C]`` down and right by ``offsets [B, 2]``, at most ``max_shift`` pixels.

    What comes in has the colour of the image's background, the median of its border: black for MNIST's digits.
    """
    images = jnp.asarray(images)
    count, height, width, channels = images.shape
    # Medians take longer than the shift itself, so black borders, as digits have, do without.
    background = jax.lax.cond(
        jnp.any(images[:, (0, -1)]) | jnp.any(images[:, :, (0, -1)]),
        lambda: frames.background_of(images).astype(images.dtype),
        lambda: jnp.zeros((count, channels), images.dtype),
    )
    shape = (count, height + 2 * max_shift, width + 2 * max_shift, channels)
    padded = jnp.broadcast_to(background[:, None, None], shape)
    padded = padded.at[:, max_shift : max_shift + height, max_shift : max_shift + width].set(images)
    cut = jax.vmap(lambda image, start: jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:]))
    return cut(padded, max_shift - offsets)


def shift_once(images: np.ndarray, max_shift: int, seed: int = 0) -> np.ndarray:
    """Shifts each image ``[N, I, I, C]`` by up to ``max_shift`` pixels each way, always alike; test sets use seed 0."""
    offsets = np.random.default_rng(seed).integers(-max_shift, max_shift + 1, (len(images), 2))
    return np.asarray(shift(images, offsets, max_shift))


def keys_of(key: jax.Array, positions: Array) -> jax.Array:
    """Random keys ``[B]``, one for each of the positions ``[B]`` in a global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def augment(images: Array, key: jax.Array, positions: Array, config: AugmentConfig) -> Array:
    """Distorts training images ``[B, I, I, C]`` at random, which makes them float32 in [0, 1], and then shifts them.

    Each image draws by the step's key and its own of the ``positions [B]`` in the global batch, so that one device and
    many see the same images. Shifts do not depend on the other changes, which draw from streams of their own.
    """
    if config.moves or config.max_brightness:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys_of(key, positions), _DISTORTION)
        images = _distort(to_unit_range(images), own, config)
    if not config.max_shift:
        return images
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), -config.max_shift, config.max_shift + 1))
    return shift(images, draw(keys_of(key, positions)), config.max_shift)


def _distort(images: jax.Array, keys: jax.Array, config: AugmentConfig) -> jax.Array:
    """Flips, turns and scales images ``[B, I, I, C]`` in [0, 1] about their middle, and changes their brightness."""

    def draw(key):
        flip, turn, scale, light = jax.random.split(key, 4)
        wanted = jnp.array([config.flip in (VERTICAL, BOTH), config.flip in (HORIZONTAL, BOTH)])
        signs = jnp.where(wanted & jax.random.bernoulli(flip, shape=(2,)), -1.0, 1.0)
        angle = jnp.deg2rad(config.max_rotation) * jax.random.uniform(turn, minval=-1.0)
        factor = config.max_scale ** jax.random.uniform(scale, minval=-1.0)
        brightness = 1 + config.max_brightness * jax.random.uniform(light, minval=-1.0)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.array([[cos, -sin], [sin, cos]]) * signs / factor, brightness

    matrix, brightness = jax.vmap(draw)(keys)
    if config.moves:
        size = images.shape[1]
        middle = jnp.full((len(images), 2), (size - 1) / 2)
        images = frames.resample(images, frames.Frame(middle, matrix, jnp.zeros(len(images), bool)), size)
    return jnp.clip(images * brightness[:, None, None, None], 0.0, 1.0)


def to_unit_range(images: Array) -> jax.Array:
    """Images as float32 in [0, 1]; bytes are divided by 255, and float32 images stay as they are."""
    images = jnp.asarray(images)
    return images if images.dtype == jnp.float32 else images.astype(jnp.float32) / 255
