"""The order of an epoch and random shifts, inside jit and drawn from keys, so that a resumed run draws the same.

Axes: ``B`` images of a batch, ``N`` images of a set, ``I`` their size, ``C`` channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


@jax.jit(static_argnums=2)
def epoch_order(key: jax.Array, epoch: int, count: int) -> jax.Array:
    """Order of the images in an epoch, a permutation ``[count]`` int32 that depends on key and epoch alone."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def shift(image: Array, offset: jax.Array, max_shift: int) -> jax.Array:
    """Moves an image ``[I, I, C]`` down and right by ``offset [2]``, at most ``max_shift`` pixels; black comes in."""
    padded = jnp.pad(image, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    start = max_shift - offset
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def keys_of(key: jax.Array, positions: Array) -> jax.Array:
    """Random keys ``[B]``, one for each of the positions ``[B]`` in a global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def augment(images: Array, key: jax.Array, positions: Array, max_shift: int) -> Array:
    """Shifts training images at random.

    Args:
      images: Images, ``[B, I, I, C]``.
      key: Random key of the step.
      positions: Places of the images in the global batch, ``[B]``; each image draws by its own, so that one device and
        many see the same images.
      max_shift: Pixels by which an image is shifted at most, along each axis.

    Returns:
      ``[B, I, I, C]``.
    """
    if not max_shift:
        return images
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), -max_shift, max_shift + 1))
    offsets = draw(keys_of(key, positions))
    return jax.vmap(shift, (0, 0, None))(images, offsets, max_shift)


def to_unit_range(images: Array) -> jax.Array:
    """Images as float32 in [0, 1]; bytes are divided by 255, and float32 images stay as they are."""
    images = jnp.asarray(images)
    return images if images.dtype == jnp.float32 else images.astype(jnp.float32) / 255


def place(images: np.ndarray, max_shift: int, seed: int = 0) -> np.ndarray:
    """Shifts each image ``[N, I, I, C]`` once, by up to ``max_shift`` pixels each way; test sets use seed 0."""
    shifts = np.random.default_rng(seed).integers(-max_shift, max_shift + 1, (len(images), 2))
    size = images.shape[1]
    padded = np.pad(images, ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    corners = max_shift - shifts
    return np.stack([image[y : y + size, x : x + size] for image, (y, x) in zip(padded, corners)])
