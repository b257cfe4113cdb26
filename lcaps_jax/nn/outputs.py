"""What a network returns, and what the rest of the package asks of one.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``K`` kept
capsules, ``J`` classes, ``D``=16 class-capsule dimension, ``S`` pixels along a side of a picture in its frame.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from lcaps_jax.ops.frames import Frame
from lcaps_jax.util.errors import ConfigError


@struct.dataclass
class View:
    """How a network saw each image."""

    frame: Frame  # canonical frame of each image
    picture: jax.Array  # [B, S, S, C] each image in its frame
    angle: jax.Array | None = None  # [B] degrees that a rotation search chose


@struct.dataclass(kw_only=True)
class Output:
    """What every network returns."""

    activity: jax.Array  # [B, J] of each class; the prediction is its argmax
    pose: jax.Array | None = None  # [B, J, D] class capsules; None without capsules
    view: View | None = None  # how each image was seen; None without a canonical frame


@struct.dataclass(kw_only=True)
class LadderCapsNetOutput(Output):
    """Output of the ladder network."""

    primary_activity: jax.Array  # [B, n] of the primary capsules
    kept_index: jax.Array  # [B, K] int32, in ascending order
    kept_capsules: jax.Array  # [B, K, d]
    code: jax.Array  # [B, n]
    distance: jax.Array | None = None  # [B, J] of the kept capsules from their regression; None without regression
    regressed: jax.Array | None = None  # [B, J, K, d] capsules regressed by each class; None without regression


@struct.dataclass(kw_only=True)
class CapsNetOutput(Output):
    """Output of CapsNet."""

    primary_activity: jax.Array  # [B, n] of the primary capsules
    coupling: jax.Array  # [B, n, J] coefficients of the last routing iteration
    reconstruction: jax.Array | None = None  # [B, I*I*C] in [0, 1], drawn by the decoder; None without one


@struct.dataclass(kw_only=True)
class ConvNetOutput(Output):
    """Output of the convolutional baseline."""

    logits: jax.Array  # [B, J]


@struct.dataclass
class Geometry:
    """Sizes that follow from the image and the kernels.

    Capsule ``i`` sits at row ``i // (grid*types)``, column ``i // types % grid``, and is of type ``i % types``.
    """

    grid: int  # positions of primary capsules along each side
    capsules: int  # number n of primary capsules
    stride: int  # pixels between neighbouring positions
    receptive_field: int  # pixels along a side of what one capsule sees

    @property
    def types(self) -> int:
        """Types of capsules at each position."""
        return self.capsules // self.grid**2


class Network(nn.Module):
    """Base of the networks: a Flax module with a loss.

    ``__call__(images, labels=None, keys=None, train=False)`` takes images ``[B, I, I, C]`` in [0, 1] and returns an
    ``Output``. Training also passes the labels ``[B]`` and a random key for each image, ``[B]``.

    Fields that are declared with ``util.settings`` are settings of the command line. A field ``classes`` receives the
    number of classes. Take the batch size from ``images.shape[0]``: an exported network leaves it open.
    """

    def loss(self, output: Any, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]``, for integer labels ``[B]`` and the images ``[B, I, I, C]`` it was shown."""
        raise TypeError(f"{type(self).__name__} defines no loss.")

    def init_params(self, key: jax.Array, shape: tuple[int, int, int]) -> dict:
        """Initial parameters for images of the shape (I, I, C)."""
        return self.init(key, jnp.zeros((1, *shape)))["params"]

    def geometry(self, image_size: int) -> Geometry | None:
        """Grid of primary capsules; None without capsules. Raises ConfigError for images that do not fit."""
        del image_size
        return None

    @classmethod
    def preset(cls, name: str, image_size: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a preset, by name: ``paper`` has none, ``small`` is for a few thousand images.

        They may depend on the size of what the network sees and on the settings that the user has given. Raises
        ConfigError where there is no such preset, or the network does not fit such images.
        """
        del image_size, given
        if name in ("paper", "small"):
            return {}
        raise ConfigError(f"preset={name}: {cls.__name__} has the presets paper and small.")
