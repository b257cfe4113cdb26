"""Convolutions and primary capsules, which the capsule networks share.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension.
"""

from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax.nn.outputs import Geometry
from lcaps_jax.ops.conv import METHODS, conv_stack, output_size
from lcaps_jax.ops.precision import matmul_precision
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import setting

# Settings of the small preset: half a million weights in the primary capsules in place of five million.
SMALL = {"filters": 64, "capsule_types": 16, "capsule_dim": 4}

# Fields that several layers share.
CONVOLUTION = functools.partial(
    setting, "auto", "Method of the convolutions: spectral (fast on CPUs), polyphase (fast on NVIDIA GPUs), direct "
    "(XLA's own), or auto, which depends on the platform.", choices=METHODS,
)  # fmt: skip
DTYPE = functools.partial(
    setting, "float32", "Type of convolutions and class networks; capsules, activities and losses are float32.",
    choices=("float32", "bfloat16"),
)  # fmt: skip
FILTERS = functools.partial(setting, 256, "Filters of the first convolution.", minimum=1)
POSE_DIM = functools.partial(setting, 16, "Dimension of a class capsule.", minimum=1)
CAPSULE_TYPES = functools.partial(setting, 32, "Types of primary capsules at each position.", minimum=1)


class _Weights(nn.Module):
    """Glorot-uniform kernel and zero bias of one convolution."""

    shape: tuple[int, int, int, int]
    dtype: str

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        return kernel.astype(self.dtype), bias.astype(self.dtype)


def conv_layers(
    x: jax.Array, layers: Sequence[tuple[str, int, int, int]], *, dtype: str, method: str, padding: int = 0
) -> jax.Array:
    """Convolutions with ReLUs between them, in one call so that they agree on a memory layout.

    Call it in a compact method: the float32 parameters ``NAME/kernel`` and ``NAME/bias`` are the calling module's.

    Args:
      x: Images, ``[B, H, W, C]``; the result is ``[B, H', W', filters]`` of the type ``dtype``.
      layers: Name, kernel size, number of filters and stride of each layer.
      dtype: Type of the computation.
      method: Method of the convolutions; see ``ops.conv.strided_conv``.
      padding: Zeros added on each side before each layer.
    """
    names, sizes, filters, strides = zip(*layers)
    shapes = zip(sizes, sizes, (x.shape[-1], *filters), filters)
    kernels, biases = zip(*(_Weights(shape, dtype, name=name)() for name, shape in zip(names, shapes)))
    return conv_stack(x.astype(dtype), kernels, biases, strides=strides, padding=padding, method=method)


def dense(x: jax.Array, width: int, dtype: str, name: str) -> jax.Array:
    """A dense layer of the calling module, ``[B, n]`` to ``[B, width]``; call it in a compact method."""
    kernel_init = nn.initializers.glorot_uniform()
    layer = nn.Dense(width, dtype=jnp.dtype(dtype), kernel_init=kernel_init, precision=matmul_precision(), name=name)
    return layer(x)


class PrimaryCapsules(nn.Module):
    """Turns images into inputs ``t`` of the primary capsules: Conv1, ReLU, a stride-2 convolution (section 5.1).

    With a second convolution in between, that one has stride 2 and is followed by a ReLU, and the last has stride 1.
    """

    conv1_kernel: int = setting(9, "Kernel size of the first convolution.", minimum=1)
    primary_kernel: int = setting(9, "Kernel size of the primary capsules' convolution.", minimum=1)
    conv2_kernel: int = setting(
        0, "Kernel size of a second convolution, with stride 2, between those two; 0 for none, as in the paper.",
        minimum=0,
    )  # fmt: skip
    filters: int = FILTERS()
    capsule_types: int = CAPSULE_TYPES()
    capsule_dim: int = setting(8, "Dimension of a primary capsule.", minimum=1)
    rectify: bool = setting(False, "Apply a ReLU before the squash, as the authors' released graph does.")
    convolution: str = CONVOLUTION()
    dtype: str = DTYPE()

    def _layers(self) -> list[tuple[str, int, int, int]]:
        """Name, kernel size, number of filters and stride of each convolution."""
        between = [("conv2", self.conv2_kernel, self.filters, 2)] if self.conv2_kernel else []
        last = ("primary", self.primary_kernel, self.capsule_types * self.capsule_dim, 1 if between else 2)
        return [("conv1", self.conv1_kernel, self.filters, 1), *between, last]

    def geometry(self, image_size: int) -> Geometry:
        """Grid of primary capsules on images of that size; raises ConfigError where the kernels do not fit."""
        grid, field, stride = image_size, 1, 1
        for _, size, _, step in self._layers():
            grid, field, stride = output_size(grid, size, step), field + (size - 1) * stride, stride * step
        if grid < 1:
            kernels = " and ".join(f"{size}x{size}" for _, size, _, _ in self._layers())
            smaller = "be smaller" if self.conv2_kernel else f"add up to at most {image_size + 1}"
            raise ConfigError(
                f"image_size={image_size}: must be at least {field} for kernels of {kernels}, or the kernel sizes "
                f"must {smaller}."
            )
        return Geometry(grid, grid * grid * self.capsule_types, stride, field)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``[B, I, I, C]`` images to ``[B, n, d]`` float32; raises ConfigError for images that are too small."""
        self.geometry(min(images.shape[1:3]))
        t = conv_layers(images, self._layers(), dtype=self.dtype, method=self.convolution)
        if self.rectify:
            t = nn.relu(t)
        return t.reshape(images.shape[0], -1, self.capsule_dim).astype(jnp.float32)
