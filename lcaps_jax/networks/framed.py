"""Any network behind a frame: it sees each image in the image's own frame, and may search over the angle that is left.

Axes: ``B`` batch, ``A`` angles, ``H x W`` pixels of an image, ``S`` pixels along a side of its picture, ``C`` channels.
"""

import dataclasses
from typing import cast

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax import frames
from lcaps_jax.networks import base
from lcaps_jax.networks.base import NetworkOutput


class Framed(base.Network):
    """A network that sees images in their frames (``lcaps_jax.frames``).

    Its parameters are those of the network inside, under the same names. Images may have any size.

    Attributes:
      network: Network inside, for pictures of ``size`` pixels.
      kind: Kind of the frame, "affine" or "centre".
      size: Pixels along a side of the pictures, S.
      jitter: Pixels by which training pictures are moved at random in their frame.
      search_angles: Angles in degrees by which each image is turned outside of training; that of the largest activity
        is taken. Without angles the image is seen as it is.
    """

    network: base.Network
    kind: str = frames.AFFINE
    size: int = 28
    jitter: int = 0
    search_angles: tuple[float, ...] = ()

    def setup(self):
        """Gives the parameters of the network inside to this one."""
        nn.share_scope(self, self.network)

    def geometry(self, image_size: int) -> base.Geometry | None:
        """Grid of primary capsules on the pictures, whatever the size of the images."""
        del image_size
        return self.network.geometry(self.size)

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
            frame = frames.moved(frame, draw(keys).astype(jnp.float32))
        if keys is None and self.search_angles:
            return self._search(images, frame)
        picture = frames.resample(images, frame, self.size)
        output = cast(NetworkOutput, self.network(picture, labels, keys))
        return dataclasses.replace(output, frame=frame, picture=picture)

    def _search(self, images: jax.Array, frame: frames.Frame) -> NetworkOutput:
        """The output at the angle of the largest activity of any class."""
        degrees = jnp.array(self.search_angles)
        turned = frames.turned(frame, jnp.deg2rad(degrees)[:, None], self.kind, self.size)  # [A, B]
        pictures = jax.vmap(lambda each: frames.resample(images, each, self.size))(turned)
        together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (pictures, turned))
        outputs = cast(NetworkOutput, self.network(together[0]))
        outputs = dataclasses.replace(outputs, picture=together[0], frame=together[1])
        count = len(images)
        best = jnp.argmax(jnp.max(outputs.activity, axis=-1).reshape(-1, count), axis=0)
        chosen = jax.tree.map(lambda x: x[best * count + jnp.arange(count)], outputs)
        return dataclasses.replace(chosen, angle=degrees[best])
