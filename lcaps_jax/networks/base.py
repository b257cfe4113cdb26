"""What the networks share: their output, their grid of capsules, and the convolutions at their beginning.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``K`` kept
capsules, ``J`` classes, ``D``=16 class-capsule dimension.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, ClassVar, Protocol, Self, cast

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.convolution import conv_stack, output_size
from lcaps_jax.errors import ArgumentError, arg
from lcaps_jax.frames import Frame, ground_of
from lcaps_jax.precision import HIGHEST

CAPSULE_DIM = 8
POSE_DIM = 16
CONV1_CHANNELS = 256
CAPSULE_TYPES = 32
PAPER, SMALL = LAYERS = ("paper", "small")
KEPT, REMOVED, DISTANCE = GROUNDS = ("kept", "removed", "distance")
# Settings of small convolutions, with half a million weights of capsules in place of five million.
SMALL_CONVOLUTIONS = {"channels": 64, "capsule_types": 16, "capsule_dim": 4}
_PRIMARY_STRIDE = 2


@struct.dataclass
class NetworkOutput:
    """Output of a network for a batch of images. A field that the network does not compute is None.

    Attributes:
      activity: Activity of each class, ``[B, J]``; the prediction is its argmax.
      pose: Class capsules, ``[B, J, D]``.
      primary_activity: Activities of the primary capsules, ``[B, n]``.
      error: Regression error of each class, ``[B, J]``, as in ``ladder.LadderOutput``.
      index: Indices of the kept capsules in ascending order, ``[B, K]`` int32.
      code: Code vector, ``[B, n]``.
      kept: Kept capsules, ``[B, K, d]``.
      regressed: Regressed capsules of each class, ``[B, J, K, d]``.
      coupling: Coupling coefficients of the last routing iteration, ``[B, n, J]``.
      reconstruction: Image that the decoder draws, ``[B, I*I*C]`` in [0, 1].
      logits: Logits of a convolutional network, ``[B, J]``.
      frame: Frame in which each image was seen, where the network frames them.
      picture: Image as it shows in its frame, ``[B, S, S, C]``.
      angle: Angle in degrees that a search has chosen, ``[B]``.
      balance: Part of the loss that moves the biases of a selection, ``[B]``, as in ``capsules.balance_loss``.
    """

    activity: jax.Array
    pose: jax.Array | None = None
    primary_activity: jax.Array | None = None
    error: jax.Array | None = None
    index: jax.Array | None = None
    code: jax.Array | None = None
    kept: jax.Array | None = None
    regressed: jax.Array | None = None
    coupling: jax.Array | None = None
    reconstruction: jax.Array | None = None
    logits: jax.Array | None = None
    frame: Frame | None = None
    picture: jax.Array | None = None
    angle: jax.Array | None = None
    balance: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
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


def geometry(
    image_size: int, conv1_kernel: int, primary_kernel: int, capsule_types: int = CAPSULE_TYPES, conv2_kernel: int = 0
) -> Geometry:
    """Grid and number of primary capsules, computed from the VALID convolutions; see ``PrimaryCapsules``.

    Raises:
      ValueError: The image is too small for the kernels; the message names the sizes that would do.
    """
    kernels, strides = _layers(conv1_kernel, conv2_kernel, primary_kernel)
    grid = functools.reduce(lambda size, layer: output_size(size, *layer), zip(kernels, strides), image_size)
    field = functools.reduce(lambda n, layer: (n - 1) * layer[1] + layer[0], list(zip(kernels, strides))[::-1], 1)
    if grid < 1:
        sizes = " and ".join(f"{kernel}x{kernel}" for kernel in kernels)
        smaller = "be smaller" if conv2_kernel else f"add up to at most {image_size + 1}"
        raise ArgumentError(
            f"An image of {image_size}x{image_size} pixels is too small for kernels of {sizes}: {arg('image_size')} "
            f"must be at least {field}, or the kernels' sizes must {smaller}."
        )
    return Geometry(grid, grid * grid * capsule_types, math.prod(strides), field)


def _layers(conv1_kernel: int, conv2_kernel: int, primary_kernel: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides of the kernels; the second convolution, where there is one, has the stride of the last."""
    if conv2_kernel:
        return (conv1_kernel, conv2_kernel, primary_kernel), (1, _PRIMARY_STRIDE, 1)
    return (conv1_kernel, primary_kernel), (1, _PRIMARY_STRIDE)


class Settings(Protocol):
    """The settings that every network reads; ``config.Config`` has these and those of single networks."""

    @property
    def model(self) -> str:
        """Name of the network in the table."""

    @property
    def channels(self) -> int:
        """Channels of the first convolution."""

    @property
    def convolution(self) -> str:
        """Method of the convolutions."""

    @property
    def precision(self) -> str:
        """Type of the arithmetic, such as ``"float32"``."""

    @property
    def matmul_precision(self) -> str:
        """Precision of float32 products on accelerators."""

    @property
    def ground(self) -> str | None:
        """Whether the network sees images with their ground, of ``GROUNDS``; None where the data set decides."""

    @property
    def frame(self) -> str:
        """Kind of the frame that images are seen in, or ``"none"``."""

    @property
    def frame_size(self) -> int:
        """Pixels along a side of an image in its frame."""

    @property
    def max_shift(self) -> int | None:
        """Pixels by which training images are shifted at most; None where the data set decides."""


class Network(nn.Module):
    """What the rest of the package asks of a network: a Flax module with a loss, a geometry and settings.

    Called with images ``[B, I, I, C]`` in [0, 1], and in training with labels ``[B]`` and a random key for each image,
    a network returns a ``NetworkOutput``. Its module has the fields ``classes``, ``channels``, ``convolution`` and
    ``dtype``.

    Attributes:
      settings: Fields of the module by the settings of ``config.Config`` that fill them, without the settings that
        every network reads.
      matmul_precision: Precision in which accelerators multiply float32 in a call, of ``precision.MATMUL_PRECISIONS``.
      ground: Whether the ground of an image, which is the median of its border, is "kept" or "removed" first, or the
        network sees the "distance" of each pixel from it, averaged over the channels, in every channel. A ground that
        is not kept becomes 0, as that of MNIST's digits is.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    matmul_precision: str = dataclasses.field(default=HIGHEST, kw_only=True)
    ground: str = dataclasses.field(default=KEPT, kw_only=True)

    def __init_subclass__(cls, **options):
        """Has a network use its ``matmul_precision`` and its ``ground``, so that no network need think of them."""
        if "__call__" in vars(cls):
            cls.__call__ = _as_set(cls.__call__)  # type: ignore[method-assign]
        super().__init_subclass__(**options)

    @classmethod
    def from_config(cls, config: Settings, classes: int) -> Self:
        """The network of a run's settings, for ``classes`` classes.

        Raises:
          ArgumentError: The settings contradict each other.
        """
        fields = {field: getattr(config, setting) for setting, field in cls.settings.items()}
        module = cast(Any, cls)  # whose fields are those of the network
        return module(
            classes=classes,
            channels=config.channels,
            convolution=config.convolution,
            dtype=jnp.dtype(config.precision),
            matmul_precision=config.matmul_precision,
            ground=config.ground or KEPT,
            **fields,
        )

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]``, of integer labels ``[B]`` and images ``[B, I, I, C]``."""
        raise NotImplementedError

    def decode(self, params: dict, poses: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Images in [0, 1] that the network draws of poses; None where it has no decoder.

        Args:
          params: Parameters of the network.
          poses: Class capsules, ``[M, J, D]``.
          labels: Class to draw of each, ``[M]``.
          shape: Shape of an image, as (S, S, C).

        Returns:
          ``[M, *shape]``.
        """
        del params, poses, labels, shape
        return None

    @classmethod
    def small_layers(cls, config: Settings, image_size: int) -> dict[str, Any]:
        """Settings of the network's small layers by name, which a small set of one's own images gets.

        Args:
          config: Settings of a run, from which the sizes of the kernels are taken.
          image_size: Pixels along a side of what the network sees.

        Raises:
          ArgumentError: The network does not fit such images.
        """
        del config, image_size
        return {}

    @property
    def search_angles(self) -> tuple[float, ...]:
        """Angles in degrees that the network searches over; only a network with a frame has any."""
        return ()

    def searching(self, angles: Sequence[float]) -> Self:
        """The same network, which turns each image by each of some angles and weighs its classes over all of them.

        Raises:
          ArgumentError: The network has no frame to turn.
        """
        del angles
        raise ArgumentError(f"{arg('search_angles')}: the network was trained without a {arg('frame')} to turn.")

    def geometry(self, image_size: int) -> Geometry | None:
        """Grid of primary capsules on images of that size; None where the network has no capsules.

        Raises:
          ArgumentError: The network does not fit such images.
        """
        del image_size
        return None


def _as_set(call: Callable) -> Callable:
    @functools.wraps(call)
    def wrapped(self, images, *arguments, **options):
        with jax.default_matmul_precision(self.matmul_precision):
            if self.ground != KEPT:
                images = images - ground_of(images)[..., None, None, :]
            if self.ground == DISTANCE:
                images = jnp.broadcast_to(jnp.mean(jnp.abs(images), axis=-1, keepdims=True), images.shape)
            return call(self, images, *arguments, **options)

    return wrapped


# The settings that PrimaryCapsules read.
PRIMARY_SETTINGS = {
    "conv1_kernel": "conv1_kernel",
    "conv2_kernel": "conv2_kernel",
    "primary_kernel": "primary_kernel",
    "capsule_types": "types",
    "capsule_dim": "capsule_dim",
    "pose_dim": "pose_dim",
}


class ConvolutionParameters(nn.Module):
    """Kernel and bias of a convolution; ``conv_stack`` computes with them.

    Attributes:
      channels: Number of output channels.
      kernel_size: Size of the kernel along each side.
      dtype: Type of the computation; parameters are float32.
    """

    channels: int
    kernel_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, in_channels: int) -> tuple[jax.Array, jax.Array]:
        """Glorot-uniform kernel ``[k, k, in_channels, channels]`` and zero bias ``[channels]``, cast to ``dtype``."""
        shape = (self.kernel_size, self.kernel_size, in_channels, self.channels)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class PrimaryCapsules(nn.Module):
    """Turns images into inputs ``t`` of the primary capsules: Conv1, ReLU, a stride-2 convolution (section 5.1).

    With a second convolution between them that one has the stride of 2, a ReLU follows it, and the last has stride 1.

    Attributes:
      conv1_kernel: Kernel size of Conv1.
      primary_kernel: Kernel size of the last convolution.
      conv2_kernel: Kernel size of a second convolution; 0 for none, as in the paper.
      channels: Output channels of Conv1 and of the second convolution.
      types: Types of capsules at each position.
      dim: Dimension of a capsule, d.
      rectify: Whether a ReLU follows, as in the released graph.
      method: Method of the convolutions; see ``strided_conv``.
      dtype: Type of the convolutions.
    """

    conv1_kernel: int = 9
    primary_kernel: int = 9
    conv2_kernel: int = 0
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    dim: int = CAPSULE_DIM
    rectify: bool = False
    method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``[B, I, I, C]`` images to ``[B, n, d]`` float32."""
        names = ("conv1", "conv2", "primary") if self.conv2_kernel else ("conv1", "primary")
        sizes, strides = _layers(self.conv1_kernel, self.conv2_kernel, self.primary_kernel)
        outputs = (self.channels,) * (len(names) - 1) + (self.types * self.dim,)
        inputs = (images.shape[-1], *outputs[:-1])
        kernels, biases = zip(
            *(
                ConvolutionParameters(channels, size, self.dtype, name=name)(in_channels)
                for name, size, in_channels, channels in zip(names, sizes, inputs, outputs)
            )
        )
        t = conv_stack(images.astype(self.dtype), kernels, biases, strides=strides, method=self.method)
        if self.rectify:
            t = nn.relu(t)
        return t.reshape(images.shape[0], -1, self.dim).astype(jnp.float32)


def primary_capsules(network: Any, images: jax.Array, *, rectify: bool = False) -> jax.Array:
    """Inputs ``t [B, n, d]`` of a network's primary capsules; its fields are those that ``PRIMARY_SETTINGS`` fill."""
    layer = PrimaryCapsules(
        network.conv1_kernel,
        network.primary_kernel,
        conv2_kernel=network.conv2_kernel,
        channels=network.channels,
        types=network.types,
        dim=network.capsule_dim,
        rectify=rectify,
        method=network.convolution,
        dtype=network.dtype,
        name="primary_capsules",
    )
    return layer(images)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ArgumentError(f"{arg(name)} must be one of {', '.join(choices)}, got {value!r}.")
