"""How a network answers to test images that are rotated, sheared, scaled and moved."""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.data import Split, affnist, expanded_mnist
from lcaps_jax.data.augment import Array
from lcaps_jax.runs import Run

ROTATION, SHEAR, SCALE, SHIFT = KINDS = ("rotation (degrees)", "shear", "scale", "shift right (pixels)")
# Amounts of each kind that the curves are drawn at.
AMOUNTS = {
    ROTATION: np.arange(-90.0, 91, 15),
    SHEAR: np.linspace(-0.8, 0.8, 9),
    SCALE: np.linspace(0.5, 1.5, 11),
    SHIFT: np.arange(-8.0, 9, 2),
}
# Amounts that poses are compared at: affNIST's, and the shifts of expanded MNIST. The middle one changes nothing.
MODERATE = {
    ROTATION: np.linspace(-affnist.MAX_ROTATION, affnist.MAX_ROTATION, 9),
    SHEAR: np.linspace(-affnist.MAX_SHEAR, affnist.MAX_SHEAR, 9),
    SCALE: np.linspace(affnist.MIN_SCALE, affnist.MAX_SCALE, 9),
    SHIFT: np.arange(-expanded_mnist.MAX_SHIFT, expanded_mnist.MAX_SHIFT + 1, 2.0),
}


def transformation(kind: str, amounts: np.ndarray) -> affnist.Transformation:
    """One transformation of a kind for each of the amounts ``[B]``, with all else left as it is."""
    by = jnp.asarray(amounts, jnp.float32)
    zeros, both = jnp.zeros_like(by), jnp.stack([by, by], axis=1)
    return affnist.Transformation(
        rotation=jnp.deg2rad(by) if kind == ROTATION else zeros,
        shear=by if kind == SHEAR else zeros,
        scale=both if kind == SCALE else jnp.ones_like(both),
        shift=jnp.stack([zeros, by if kind == SHIFT else zeros], axis=1).astype(jnp.int32),
    )


def transform(images: Array, kind: str, amounts: np.ndarray) -> jax.Array:
    """Images ``[B, I, I, C]`` in [0, 1], each by its amount ``[B]``; black comes in from outside."""
    return warp(images, transformation(kind, amounts))


@jax.jit
def warp(images: Array, done: affnist.Transformation) -> jax.Array:
    """Images ``[B, I, I, C]`` in [0, 1], each by its transformation; black comes in from outside."""
    warped = jax.vmap(lambda channel: affnist.warp(channel, done, images.shape[1]), in_axes=-1, out_axes=-1)(images)
    return jnp.clip(warped, 0, 1)  # because rounding may carry interpolated values out of [0, 1]


def errors(run: Run, split: Split, kinds: Sequence[str] = KINDS) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """The error on images of a set under each kind of transformation.

    Args:
      run: Trained network.
      split: Images of the network's size, and their labels; a few hundred give a curve.
      kinds: Kinds of transformations to try.

    Returns:
      Amounts and errors in percent, by kind.
    """

    def error(kind, amount):
        parts = run.batches(_moved(split, kind, amount))
        predicted = np.concatenate([output.activity.argmax(axis=-1) for output in parts])
        return 100 * float(np.mean(predicted != split.labels))

    return {kind: (AMOUNTS[kind], np.array([error(kind, a) for a in AMOUNTS[kind]])) for kind in kinds}


def poses(run: Run, split: Split) -> Mapping[str, np.ndarray]:
    """Poses of the true class under the moderate transformations.

    Args:
      run: Trained network, which must have poses.
      split: Images of the network's size, and their labels.

    Returns:
      Poses ``[N, M, D]`` at the amounts ``MODERATE[kind] [M]``, by kind.
    """

    def true_pose(kind, amount):
        pose = np.concatenate([output.pose for output in run.batches(_moved(split, kind, amount))])
        return pose[np.arange(len(pose)), split.labels]

    return {kind: np.stack([true_pose(kind, a) for a in amounts], axis=1) for kind, amounts in MODERATE.items()}


def _moved(split: Split, kind: str, amount: float) -> np.ndarray:
    images = split.images.astype(np.float32) / 255
    return np.asarray(transform(images, kind, np.full(len(images), amount)))


@dataclasses.dataclass(frozen=True)
class PoseChange:
    """How poses answer to a transformation: not at all (invariant), or in step with it (equivariant).

    Attributes:
      turned: Mean angle in degrees between the pose of an image as it is and its pose at the two extremes.
      straight: Share, 0 to 1, of the poses' variance over the amounts that a straight line for each image explains.
      shared: Share that the mean of the lines of the other images of the class explains. It is large where one
        direction of the pose stands for the transformation, and below 0 where a constant pose explains more.
    """

    turned: float
    straight: float
    shared: float


def pose_change(amounts: np.ndarray, poses: np.ndarray, labels: np.ndarray) -> PoseChange:
    """How poses ``[N, M, D]`` of images of classes ``[N]`` change over amounts ``[M]``, the middle one neutral.

    Each class needs at least two images. Both shares are NaN where poses do not change.
    """
    extremes, neutral = poses[:, [0, -1]], poses[:, len(amounts) // 2, None]
    lengths = np.linalg.norm(extremes, axis=-1) * np.linalg.norm(neutral, axis=-1)
    cosine = np.sum(extremes * neutral, axis=-1) / np.maximum(lengths, 1e-12)
    changes = poses - poses.mean(axis=1, keepdims=True)
    by = (amounts - amounts.mean())[:, None]
    slopes = np.sum(changes * by, axis=1) / np.sum(by**2)  # [N, D], least squares
    alike = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    others = alike @ slopes / alike.sum(axis=1, keepdims=True)

    variance = np.sum(changes**2)

    def explained(slopes):
        return 1 - np.sum((changes - by * slopes[:, None]) ** 2) / variance if variance > 0 else np.nan

    turned = np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).mean()
    return PoseChange(float(turned), float(explained(slopes)), float(explained(others)))
