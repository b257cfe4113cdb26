"""Convolution over pixel parities with stride 1, which keeps cuDNN's own gradients."""

import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.ops.conv.patches import output_size
from lcaps_jax.ops.precision import matmul_precision


def kernel_phases(kernel: jax.Array, stride: int) -> jax.Array:
    """A kernel ``[k, k, C, O]`` by pixel parity, ``[taps, taps, s*s*C, O]`` with ``taps = ceil(k/s)``, zero-padded."""
    k, _, channels, outputs = kernel.shape
    taps = -(-k // stride)
    extra = taps * stride - k
    kernel = jnp.pad(kernel, ((0, extra), (0, extra), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, outputs).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(taps, taps, -1, outputs)


def pixel_phases(x: jax.Array, rows: int, columns: int, stride: int) -> jax.Array:
    """Pixels of ``x [A, H, W, Z]`` by parity, ``[A, rows, s, columns, s, Z]``, cropped or zero-padded to that size."""
    height, width = rows * stride, columns * stride
    x = x[:, :height, :width]
    x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
    return x.reshape(x.shape[0], rows, stride, columns, stride, x.shape[3])


def polyphase_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution with stride 1 whose channels include the pixel parities, by groups of kernel rows; NHWC.

    XLA for NVIDIA GPUs swaps the operands of a convolution whose kernel has more places than its image. It then fails
    to recognise cuDNN's gradient with respect to the images where the kernel is larger than the output grid, and
    dilates with zeros instead: up to 17 times the multiplications (MNIST, 9x9). Parities halve the size of the kernel,
    and each group of its rows has at most as many places as the output grid, or is a single row, so that XLA keeps
    both of cuDNN's gradients.
    """
    rows, columns = (output_size(size, len(kernel), stride) for size in x.shape[1:3])
    kernel = kernel_phases(kernel, stride)
    taps = len(kernel)
    if stride > 1:
        n_y, n_x = rows + taps - 1, columns + taps - 1  # places that outputs see
        x = pixel_phases(x, n_y, n_x, stride).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], n_y, n_x, -1)
    group = max(1, rows * columns // taps)
    y = None
    for first in range(0, taps, group):
        part = kernel[first : first + group]
        seen = x[:, first : first + rows + len(part) - 1, : columns + taps - 1]
        product = lax.conv_general_dilated(
            seen, part, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=matmul_precision()
        )
        product = product.astype(jnp.promote_types(x.dtype, jnp.float32))  # groups are added in float32
        y = product if y is None else y + product
    return y.astype(x.dtype)
