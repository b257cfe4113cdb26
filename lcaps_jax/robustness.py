"""What a network makes of its test images as they are rotated, sheared, scaled and moved."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax import affnist, data
from lcaps_jax.runs import Run

ROTATION, SHEAR, SCALE, SHIFT = KINDS = ("rotation (degrees)", "shear", "scale", "shift right (pixels)")
# Amounts of each that the curves are drawn at.
_AMOUNTS = {
    ROTATION: np.arange(-90.0, 91, 15),
    SHEAR: np.linspace(-0.8, 0.8, 9),
    SCALE: np.linspace(0.5, 1.5, 11),
    SHIFT: np.arange(-8.0, 9, 2),
}


def transformation(kind: str, amounts: np.ndarray) -> affnist.Transformation:
    """One transformation for each of the amounts ``[B]`` of a kind, all else left as it is."""
    by = jnp.asarray(amounts, jnp.float32)
    zeros, both = jnp.zeros_like(by), jnp.stack([by, by], axis=1)
    return affnist.Transformation(
        rotation=jnp.deg2rad(by) if kind == ROTATION else zeros,
        shear=by if kind == SHEAR else zeros,
        scale=both if kind == SCALE else jnp.ones_like(both),
        shift=jnp.stack([zeros, by if kind == SHIFT else zeros], axis=1).astype(jnp.int32),
    )


def transform(images: data.Array, kind: str, amounts: np.ndarray) -> jax.Array:
    """Images ``[B, I, I, C]`` float, each by its amount ``[B]``; black comes in from outside."""
    done = transformation(kind, amounts)
    warp = jax.vmap(lambda channel: affnist.warp(channel, done, images.shape[1]), in_axes=-1, out_axes=-1)
    return warp(jnp.asarray(images))


def errors(run: Run, split: data.Split) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """The error on images of a set under each kind of transformation.

    Args:
      run: of ``load_run``.
      split: images of the network's size, and their labels; a few hundred give a curve.

    Returns:
      By kind, amounts and errors in percent.
    """
    images = split.images.astype(np.float32) / 255

    @jax.jit
    def share_wrong(params, images, labels):
        predicted = jnp.argmax(run.model.apply({"params": params}, images).activity, axis=-1)
        return jnp.mean(predicted != labels)

    params = jax.device_put(run.params)

    def error(kind, amount):
        moved = transform(images, kind, np.full(len(images), amount))
        return 100 * float(share_wrong(params, moved, split.labels))

    return {kind: (amounts, np.array([error(kind, a) for a in amounts])) for kind, amounts in _AMOUNTS.items()}
