"""The capsule network with dynamic routing (Sabour, Frosst, Hinton, 2017) as Flax modules.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``J`` classes,
``D``=16 class-capsule dimension.
"""

from collections.abc import Mapping
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax.nn import layers
from lcaps_jax.nn.layers import PrimaryCapsules
from lcaps_jax.nn.outputs import CapsNetOutput, Geometry, Network
from lcaps_jax.ops import capsules, routing
from lcaps_jax.util.settings import part, setting

# Weight of the summed squared error of the decoder (Sabour et al. 2017), whatever the size of the image.
RECONSTRUCTION_LOSS_WEIGHT = 5e-4


class DynamicRouting(nn.Module):
    """Routes primary capsules to class capsules (Sabour et al. 2017).

    The transformations are computed in ``dtype``; poses and coupling coefficients are float32.
    """

    classes: int = 10
    routing_iterations: int = setting(3, "Iterations of CapsNet's routing, r.", minimum=1)
    pose_dim: int = layers.POSE_DIM()
    dtype: str = layers.DTYPE()

    @nn.compact
    def __call__(self, primary: jax.Array) -> routing.Routed:
        """Capsules ``[B, n, d]`` to poses ``[B, J, D]`` and coupling coefficients ``[B, n, J]``."""
        count, dim = primary.shape[1:]
        # The initial scale of Sabour's own code.
        kernel = self.param("kernel", nn.initializers.normal(0.1), (self.classes, self.pose_dim, dim * count))
        return routing.route_factored(primary, kernel.astype(self.dtype), self.routing_iterations)


class Decoder(nn.Module):
    """Decodes the pose of one class into an image of so many pixels, I*I*C (Sabour et al. 2017, Figure 2)."""

    pixels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, pose: jax.Array, chosen: jax.Array) -> jax.Array:
        """Poses ``[B, J, D]`` and the class to draw of each, ``[B]``, to images ``[B, pixels]`` float32 in [0, 1]."""
        masked = pose * jax.nn.one_hot(chosen, pose.shape[1])[..., None]
        x = nn.relu(layers.dense(masked.reshape(pose.shape[0], -1), 512, self.dtype, "dense1"))
        x = nn.relu(layers.dense(x, 1024, self.dtype, "dense2"))
        return nn.sigmoid(layers.dense(x, self.pixels, self.dtype, "dense3").astype(jnp.float32))


class CapsNet(Network):
    """The capsule network with dynamic routing (Sabour et al. 2017); its decoder regularises the poses."""

    primary: nn.Module = part(PrimaryCapsules)  # images [B, I, I, C] to inputs of the primary capsules, [B, n, d]
    routing: nn.Module = part(DynamicRouting)  # capsules [B, n, d] to ops.routing.Routed
    decoder: bool = setting(True, "CapsNet also reconstructs its images.")
    dtype: str = layers.DTYPE()

    @classmethod
    def preset(cls, name: str, image_size: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a preset; see ``Network``."""
        return dict(layers.SMALL) if name == "small" else super().preset(name, image_size, given)

    def geometry(self, image_size: int) -> Geometry | None:
        """Grid of primary capsules on images of that size; raises ConfigError where the kernels do not fit."""
        return self.primary.geometry(image_size) if hasattr(self.primary, "geometry") else None

    @nn.compact
    def __call__(self, images: jax.Array, labels=None, keys=None, train: bool = False) -> CapsNetOutput:
        """Class capsules of images ``[B, H, W, C]`` in [0, 1], and reconstructions by the labels or predictions."""
        del keys, train
        t = self.primary.clone(parent=self, name="primary_capsules")(images)
        routed = self.routing(capsules.squash(t))
        activity = capsules.length(routed.pose)
        reconstruction = None
        if self.decoder:
            shown = jnp.argmax(activity, axis=-1) if labels is None else labels
            decode = Decoder(math.prod(images.shape[1:]), self.dtype, name="decoder")
            reconstruction = decode(routed.pose, shown)
        return CapsNetOutput(
            activity=activity,
            pose=routed.pose,
            primary_activity=capsules.squashed_length(t),
            coupling=routed.coupling,
            reconstruction=reconstruction,
        )

    def loss(self, output: CapsNetOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Margin loss of each example plus 0.0005 times the summed squared error of its reconstruction, ``[B]``."""
        loss = capsules.margin_loss(output.activity, labels)
        if output.reconstruction is None:
            return loss
        difference = output.reconstruction - images.reshape(len(images), -1)
        return loss + RECONSTRUCTION_LOSS_WEIGHT * jnp.sum(jnp.square(difference), axis=-1)
