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
import numpy as np

from lcaps_jax.ops.frames import Frame
from lcaps_jax.util.errors import ConfigError


@struct.dataclass
class View:
    """How a network saw each image.

    Attributes:
      frame: Canonical frame of each image.
      picture: Image in its frame, ``[B, S, S, C]``.
      angle: Angle in degrees that a rotation search chose, ``[B]``; None without a search.
    """

    frame: Frame
    picture: jax.Array
    angle: jax.Array | None = None


@struct.dataclass(kw_only=True)
class Output:
    """What every network returns.

    Attributes:
      activity: Activity of each class, ``[B, J]``; the prediction is its argmax.
      pose: Class capsules, ``[B, J, D]``; None without capsules.
      view: How each image was seen; None without a canonical frame.
    """

    activity: jax.Array
    pose: jax.Array | None = None
    view: View | None = None


@struct.dataclass(kw_only=True)
class LadderCapsNetOutput(Output):
    """Output of the ladder network.

    Attributes:
      primary_activity: Activities of the primary capsules, ``[B, n]``.
      kept_index: Indices of the kept capsules in ascending order, ``[B, K]`` int32.
      kept_capsules: Kept capsules, ``[B, K, d]``.
      code: Code vector, ``[B, n]``.
      distance: Distance of the kept capsules from their regression by each class, ``[B, J]``; None without regression.
      regressed: Regressed capsules of each class, ``[B, J, K, d]``; None without regression.
    """

    primary_activity: jax.Array
    kept_index: jax.Array
    kept_capsules: jax.Array
    code: jax.Array
    distance: jax.Array | None = None
    regressed: jax.Array | None = None


@struct.dataclass(kw_only=True)
class CapsNetOutput(Output):
    """Output of CapsNet.

    Attributes:
      primary_activity: Activities of the primary capsules, ``[B, n]``.
      coupling: Coupling coefficients of the last routing iteration, ``[B, n, J]``.
      reconstruction: Image drawn by the decoder, ``[B, I*I*C]`` in [0, 1]; None without a decoder.
    """

    primary_activity: jax.Array
    coupling: jax.Array
    reconstruction: jax.Array | None = None


@struct.dataclass(kw_only=True)
class ConvNetOutput(Output):
    """Output of the convolutional baseline: also the logits of the classes, ``[B, J]``."""

    logits: jax.Array


@struct.dataclass
class Geometry:
    """Sizes that follow from the image and the kernels.

    Attributes:
      grid: Positions of primary capsules along each side.
      capsules: Number n of primary capsules. Capsule ``i`` sits at row ``i // (grid*types)``, column
        ``i // types % grid``, and is of type ``i % types``.
      stride: Pixels between neighbouring positions.
      receptive_field: Pixels along a side of what one capsule sees.
    """

    grid: int
    capsules: int
    stride: int
    receptive_field: int

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
        """Grid of primary capsules on images of that size; None for a network without capsules.

        Raises:
          ConfigError: The network does not fit such images.
        """
        del image_size
        return None

    def decode(self, params: dict, poses: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Images ``[M, *shape]`` in [0, 1] that the decoder draws of poses ``[M, J, D]`` of the classes ``[M]``.

        None for a network without a decoder.
        """
        del params, poses, labels, shape
        return None

    @classmethod
    def preset(cls, name: str, image_size: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a preset, by name: ``paper`` has none, ``small`` is for a few thousand images.

        They may depend on the size of what the network sees and on the settings that the user has given.

        Raises:
          ConfigError: The network has no such preset, or does not fit such images.
        """
        del image_size, given
        if name in ("paper", "small"):
            return {}
        raise ConfigError(f"preset={name}: {cls.__name__} has the presets paper and small.")
