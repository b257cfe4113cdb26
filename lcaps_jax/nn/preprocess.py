"""What happens to the pixels before a network sees them: background, canonical frame, rotation search.

Axes: ``B`` batch, ``A`` angles, ``H x W`` pixels of an image, ``S`` pixels along a side of its picture, ``C`` channels.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax.nn.outputs import Geometry, Network, Output, View
from lcaps_jax.nn.table import NETWORKS
from lcaps_jax.ops import frames
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import part, setting

# Exponent of the power mean over angles: 1 would be the mean, infinity the maximum. Chosen on held-out training digits.
POWER = 8
# The stream of shifts in the frame within an image's key; the network draws its dropout from the key itself.
_SHIFT = 1


@dataclasses.dataclass(frozen=True)
class AffineFrame:
    """Frame of an image's centre, of its size along both axes, and of its shear."""

    kind: ClassVar[str] = frames.AFFINE
    frame_size: int = setting(28, "Pixels along a side of an image in its canonical frame.", minimum=1)


@dataclasses.dataclass(frozen=True)
class CentreFrame(AffineFrame):
    """Frame of an image's centre alone."""

    kind: ClassVar[str] = frames.CENTRE


class Preprocessed(Network):
    """A network behind its preprocessing. Its parameters are those of the network, under the same names.

    With a canonical frame (``ops.frames``), images may have any size.
    """

    network: nn.Module = part(
        NETWORKS, "Network to train: the Ladder Capsule Network, CapsNet, a CNN, or your own as FILE.py:CLASS.",
        flag="model",
    )  # fmt: skip
    background: Callable | None = part(  # function of images [B, H, W, C]
        {"kept": None, "subtracted": frames.subtract_background, "distance": frames.distance_from_background},
        "Background of the images, the median of their border: kept; subtracted, so that it is 0 as MNIST's is; or the "
        "network sees each pixel's distance from it, so that colours do not count.",
    )
    frame: AffineFrame | None = part(
        {"none": None, "centre": CentreFrame, "affine": AffineFrame},
        "Canonical frame that the network sees an image in: its centre; its centre, size along both axes and shear "
        "(affine); or none.",
    )
    max_shift: int = setting(0, "Training images are shifted at random by up to this many pixels.", minimum=0)
    angles: tuple[float, ...] = ()  # degrees by which each image is turned, except in training; see combined
    matmul_precision: str = setting(
        "highest",
        "Precision of float32 products on accelerators: highest (float32), high (TensorFloat-32, three bfloat16 passes "
        "on a TPU), or default (TensorFloat-32, one pass). A CPU always computes in float32.",
        choices=("highest", "high", "default"),
    )

    def setup(self):
        """Gives the parameters of the network to this module."""
        nn.share_scope(self, self.network)

    def seen_size(self, image_size: int) -> int:
        """Pixels along a side of what the network sees."""
        return self.frame.frame_size if self.frame else image_size

    def init_params(self, key: jax.Array, shape: tuple[int, int, int]) -> dict:
        """Initial parameters of the network for images of the shape (I, I, C)."""
        size = self.seen_size(shape[0])
        return self.network.init_params(key, (size, size, shape[-1]))

    def geometry(self, image_size: int) -> Geometry | None:
        """Grid of primary capsules on what the network sees of images of that size."""
        return self.network.geometry(self.seen_size(image_size))

    def with_rotation_search(self, angles: Sequence[float]) -> "Preprocessed":
        """The same network, which turns each image by each of these angles, in degrees, and combines the activities.

        Raises ConfigError where it has no canonical frame, or an angle is not a number from -180 to 180.
        """
        if self.frame is None:
            raise ConfigError(f"search_angles={','.join(map(str, angles))}: needs a network trained with a frame.")
        if bad := [angle for angle in angles if not -180 <= angle <= 180]:
            raise ConfigError(f"search_angles={bad[0]}: must be degrees from -180 to 180.")
        return self.clone(angles=tuple(map(float, angles)))

    def loss(self, output: Output, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]``; a decoder reconstructs the picture in the frame."""
        return self.network.loss(output, labels, images if output.view is None else output.view.picture)

    def __call__(self, images: jax.Array, labels=None, keys=None, train: bool = False) -> Output:
        """The network's output for images ``[B, H, W, C]`` in [0, 1]; see ``Network`` for the other arguments."""
        with jax.default_matmul_precision(self.matmul_precision):
            if self.frame is None:
                return self._see(images, labels, keys, train)
            frame = frames.frame_of(images, self.frame.kind, self.frame.frame_size)
            if train and self.max_shift:
                draw = jax.vmap(lambda key: jax.random.randint(key, (2,), -self.max_shift, self.max_shift + 1))
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, _SHIFT)
                frame = frames.moved(frame, draw(own).astype(jnp.float32))
            if self.angles and not train:
                return self._search(images, frame)
            picture = frames.resample(images, frame, self.frame.frame_size)
            return dataclasses.replace(self._see(picture, labels, keys, train), view=View(frame, picture))

    def _see(self, images, labels=None, keys=None, train=False) -> Output:
        if self.background is not None:
            images = self.background(images)
        return self.network(images, labels, keys, train)

    def _search(self, images: jax.Array, frame: frames.Frame) -> Output:
        """The output at the angle that fits the predicted class best, with the activities over all angles."""
        degrees, size = jnp.array(self.angles), self.frame.frame_size
        turned = frames.turned(frame, jnp.deg2rad(degrees)[:, None], self.frame.kind, size)  # [A, B]
        pictures = jax.vmap(lambda each: frames.resample(images, each, size))(turned)
        pictures, turned = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (pictures, turned))
        outputs = dataclasses.replace(self._see(pictures), view=View(turned, pictures))
        count = images.shape[0]
        activity, best = combined(outputs.activity.reshape(len(degrees), count, -1))
        chosen = jax.tree.map(lambda x: x[best * count + jnp.arange(count)], outputs)
        view = dataclasses.replace(chosen.view, angle=degrees[best])
        return dataclasses.replace(chosen, activity=activity, view=view)


def combined(activity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Activities at each angle, ``[A, B, J]``, to combined ones in [0, 1], ``[B, J]``, and best angles, ``[B]``.

    A class that stands out at one angle is worth more than one that is active beside others. So activities are divided
    by their sum over the classes, and the angles are combined by a power mean, which lies between mean and maximum. The
    best angle, as an index, is that at which the predicted class stands out most.
    """
    total = jnp.sum(activity, axis=-1, keepdims=True)
    share = activity / jnp.where(total == 0, 1.0, total)
    together = jnp.mean(share**POWER, axis=0) ** (1 / POWER)
    predicted = jnp.argmax(together, axis=-1)
    return together, jnp.argmax(share[:, jnp.arange(activity.shape[1]), predicted], axis=0)
