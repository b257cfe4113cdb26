"""Any network behind a frame: it sees each image in the image's own frame, and may search over the angle that is left.

Axes: ``B`` batch, ``A`` angles, ``H x W`` pixels of an image, ``S`` pixels along a side of its picture, ``C`` channels.
"""

from collections.abc import Sequence
import dataclasses
from typing import Self, cast

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax import frames
from lcaps_jax.errors import ArgumentError, arg
from lcaps_jax.networks import base
from lcaps_jax.networks.base import NetworkOutput

# Power of the mean over angles: 1 would be the plain mean, infinity the maximum. Chosen on held-out training digits.
POWER = 8

# The stream of the jitter within an image's key; the network inside draws its dropout from the key itself.
_JITTER = 1


class Framed(base.Network):
    """A network that sees images in their frames (``lcaps_jax.frames``).

    Its parameters are those of the network inside, under the same names. Images may have any size.

    Attributes:
      network: Network inside, for pictures of ``size`` pixels.
      kind: Kind of the frame, "affine" or "centre".
      size: Pixels along a side of the pictures, S.
      jitter: Pixels by which training pictures are moved at random in their frame.
      angles: Angles in degrees by which each image is turned outside of training; see ``combined``. Without angles
        the image is seen as it is.
    """

    network: base.Network  # type: ignore[misc]  # mypy takes the base's keyword for a field before it
    kind: str = frames.AFFINE
    size: int = 28
    jitter: int = 0
    angles: tuple[float, ...] = ()

    def setup(self):
        """Gives the parameters of the network inside to this one."""
        nn.share_scope(self, self.network)

    def geometry(self, image_size: int) -> base.Geometry | None:
        """Grid of primary capsules on the pictures, whatever the size of the images."""
        del image_size
        return self.network.geometry(self.size)

    def decode(self, params: dict, poses: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Pictures that the network inside draws of poses; None where it has no decoder."""
        return self.network.decode(params, poses, labels, shape)

    @property
    def search_angles(self) -> tuple[float, ...]:
        """Angles in degrees that the network searches over."""
        return self.angles

    def searching(self, angles: Sequence[float]) -> Self:
        """The same network, which turns each image by each of some angles and weighs its classes over all of them.

        Raises:
          ArgumentError: An angle is no number from -180 to 180.
        """
        if bad := [angle for angle in angles if not -180 <= angle <= 180]:
            raise ArgumentError(f"{arg('search_angles')}={bad[0]}: must be numbers of degrees from -180 to 180.")
        return self.clone(angles=tuple(map(float, angles)))

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]``; what is reconstructed is the picture."""
        del images
        return self.network.loss(output, labels, output.picture)

    def __call__(
        self, images: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> NetworkOutput:
        """Class capsules of images, with ``frame``, ``picture`` and, after a search, ``angle``.

        Args:
          images: Images in [0, 1], ``[B, H, W, C]``.
          labels: Labels that training gives, ``[B]``.
          keys: Random keys that training gives, ``[B]``.
        """
        frame = frames.frame_of(images, self.kind, self.size)
        if keys is not None and self.jitter:
            draw = jax.vmap(lambda key: jax.random.randint(key, (2,), -self.jitter, self.jitter + 1))
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, _JITTER)
            frame = frames.moved(frame, draw(own).astype(jnp.float32))
        if keys is None and self.angles:
            return self._search(images, frame)
        picture = frames.resample(images, frame, self.size)
        output = cast(NetworkOutput, self.network(picture, labels, keys))
        return dataclasses.replace(output, frame=frame, picture=picture)

    def _search(self, images: jax.Array, frame: frames.Frame) -> NetworkOutput:
        """The output at the angle that fits the predicted class best, with the activities over all angles."""
        degrees = jnp.array(self.angles)
        turned = frames.turned(frame, jnp.deg2rad(degrees)[:, None], self.kind, self.size)  # [A, B]
        pictures = jax.vmap(lambda each: frames.resample(images, each, self.size))(turned)
        together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (pictures, turned))
        outputs = cast(NetworkOutput, self.network(together[0]))
        outputs = dataclasses.replace(outputs, picture=together[0], frame=together[1])
        count = images.shape[0]
        activity, best = combined(outputs.activity.reshape(len(degrees), count, -1))
        chosen = jax.tree.map(lambda x: x[best * count + jnp.arange(count)], outputs)
        return dataclasses.replace(chosen, activity=activity, angle=degrees[best])


def combined(activity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Activities of an image over all angles that it is turned by.

    A class that stands out at one angle is worth more than one that is active beside others. So activities are divided
    by their sum over the classes, which for a CNN's probabilities is 1 already, and the angles are combined by a power
    mean, which lies between their mean and their maximum.

    Args:
      activity: Activities at each angle, ``[A, B, J]``.

    Returns:
      Combined activities ``[B, J]``, in [0, 1]; and the angle at which the predicted class stands out most, ``[B]``.
    """
    total = jnp.sum(activity, axis=-1, keepdims=True)
    share = activity / jnp.where(total == 0, 1.0, total)
    together = jnp.mean(share**POWER, axis=0) ** (1 / POWER)
    predicted = jnp.argmax(together, axis=-1)
    return together, jnp.argmax(share[:, jnp.arange(activity.shape[1]), predicted], axis=0)
