"""The capsule network with dynamic routing (Sabour, Frosst, Hinton, 2017) as Flax modules.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``J`` classes,
``D``=16 class-capsule dimension.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax import capsules, routing
from lcaps_jax.networks import base
from lcaps_jax.networks.base import CAPSULE_DIM, CAPSULE_TYPES, CONV1_CHANNELS, POSE_DIM, NetworkOutput
from lcaps_jax.precision import matmul_precision

# Weight of the summed squared error of the decoder (Sabour et al. 2017), whatever the size of the image.
RECONSTRUCTION_LOSS_WEIGHT = 5e-4


class DynamicRouting(nn.Module):
    """Routes capsules to class capsules (Sabour et al. 2017).

    Attributes:
      classes: Number of classes, J.
      iterations: Iterations of the routing, r.
      pose_dim: Dimension of a class capsule, D.
      dtype: Type of the transformations; poses and coupling coefficients are float32.
    """

    classes: int
    iterations: int = 3
    pose_dim: int = POSE_DIM
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, primary: jax.Array) -> routing.Routed:
        """Capsules ``[B, n, d]`` to poses ``[B, J, D]`` and coupling coefficients ``[B, n, J]``."""
        count, dim = primary.shape[1:]
        # The initial scale of Sabour's own code.
        kernel = self.param("kernel", nn.initializers.normal(0.1), (self.classes, self.pose_dim, dim * count))
        return routing.route_factored(primary, kernel.astype(self.dtype), self.iterations)


class Decoder(nn.Module):
    """Decodes the pose of one class into an image (Sabour et al. 2017, Figure 2).

    Attributes:
      pixels: Number of values of an image, I*I*C.
      dtype: Type of the computation.
    """

    pixels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pose: jax.Array, chosen: jax.Array) -> jax.Array:
        """Poses ``[B, J, D]`` and the class to draw of each, ``[B]``, to images ``[B, pixels]`` float32 in [0, 1]."""
        masked = pose * jax.nn.one_hot(chosen, pose.shape[1])[..., None]
        dense = functools.partial(
            nn.Dense,
            dtype=self.dtype,
            kernel_init=nn.initializers.glorot_uniform(),
            precision=matmul_precision(),
        )
        x = nn.relu(dense(512, name="dense1")(masked.reshape(pose.shape[0], -1)))
        x = nn.relu(dense(1024, name="dense2")(x))
        return nn.sigmoid(dense(self.pixels, name="dense3")(x).astype(jnp.float32))


class CapsNet(base.Network):
    """The capsule network with dynamic routing (Sabour et al. 2017).

    Attributes:
      classes: Number of classes, J.
      iterations: Iterations of the routing, r.
      decoder: Whether the network reconstructs the image, which regularises the poses.
      conv1_kernel: Kernel size of Conv1.
      primary_kernel: Kernel size of the primary capsules' convolution.
      conv2_kernel: Kernel size of a second convolution between them; 0 for none. See ``base.PrimaryCapsules``.
      channels: Output channels of Conv1.
      types: Types of primary capsules at each position.
      capsule_dim: Dimension of a primary capsule, d.
      pose_dim: Dimension of a class capsule, D.
      convolution: Method of the convolutions; see ``strided_conv``.
      dtype: Type of convolutions, transformations and decoder; capsules, activities and losses are float32.
    """

    settings: ClassVar[Mapping[str, str]] = base.PRIMARY_SETTINGS | {
        "routing_iterations": "iterations",
        "decoder": "decoder",
    }

    classes: int = 10
    iterations: int = 3
    decoder: bool = True
    conv1_kernel: int = 9
    primary_kernel: int = 9
    conv2_kernel: int = 0
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    capsule_dim: int = CAPSULE_DIM
    pose_dim: int = POSE_DIM
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @classmethod
    def small_layers(cls, config: base.Settings, image_size: int) -> dict[str, Any]:
        """Settings of small layers, those of the ladder's small convolutions."""
        del config, image_size
        return dict(base.SMALL_CONVOLUTIONS)

    def geometry(self, image_size: int) -> base.Geometry:
        """Grid of primary capsules on images of that size; raises ValueError where the kernels do not fit."""
        return base.geometry(image_size, self.conv1_kernel, self.primary_kernel, self.types, self.conv2_kernel)

    @nn.compact
    def __call__(
        self, images: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> NetworkOutput:
        """Class capsules of images.

        Args:
          images: Images in [0, 1], ``[B, H, W, C]``.
          labels: Classes to reconstruct, ``[B]``, as in training; None for the predicted ones.
          keys: Not used by this network.

        Returns:
          Activity, pose, primary_activity, coupling and, with a decoder, reconstruction.

        Raises:
          ValueError: Images are too small for the kernels, or the routing has no iteration.
        """
        del keys
        self.geometry(min(images.shape[1:3]))
        t = base.primary_capsules(self, images)
        layer = DynamicRouting(self.classes, self.iterations, self.pose_dim, dtype=self.dtype, name="routing")
        routed = layer(capsules.squash(t))
        activity = capsules.length(routed.pose)
        reconstruction = None
        if self.decoder:
            shown = jnp.argmax(activity, axis=-1) if labels is None else labels
            pixels = math.prod(images.shape[1:])
            reconstruction = Decoder(pixels, dtype=self.dtype, name="decoder")(routed.pose, shown)
        return NetworkOutput(
            activity=activity,
            pose=routed.pose,
            primary_activity=capsules.squashed_length(t),
            coupling=routed.coupling,
            reconstruction=reconstruction,
        )

    def decode(self, params: dict, poses: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Images ``[M, *shape]`` that the decoder draws of poses ``[M, J, D]`` of classes ``[M]``."""
        if not self.decoder:
            return None
        decoder = Decoder(math.prod(shape), parent=None)  # a network of its own, outside of this one
        images = decoder.apply({"params": params["decoder"]}, poses, labels)
        return np.asarray(images).reshape(-1, *shape)

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Margin loss of each example plus 0.0005 times the summed squared error of its reconstruction, ``[B]``."""
        loss = capsules.margin_loss(output.activity, labels)
        if output.reconstruction is None:
            return loss
        difference = output.reconstruction - images.reshape(len(images), -1)
        return loss + RECONSTRUCTION_LOSS_WEIGHT * jnp.sum(jnp.square(difference), axis=-1)
