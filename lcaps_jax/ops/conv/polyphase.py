"""Convolution over pixel parities with stride 1, which keeps cuDNN's own gradients."""

import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.ops.conv.shapes import kernel_phases, output_size
from lcaps_jax.ops.precision import matmul_precision


def polyphase_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution with stride 1 whose channels include the pixel parities, by groups of kernel rows; NHWC.

    XLA for NVIDIA GPUs swaps the operands of a convolution whose kernel has more places than its image. It then fails
    to recognise cuDNN's gradient with respect to the images where the kernel is larger than the output grid, and
    dilates with zeros instead: up to 17 times the multiplications (MNIST, 9x9). Parities halve the size of the kernel,
    and each group of its rows has at most as many places as the output grid, or is a single row, so that XLA keeps
    both of cuDNN's gradients.
    """
    batch, height, width, channels = x.shape
    k = kernel.shape[0]
    rows, columns = output_size(height, k, stride), output_size(width, k, stride)
    kernel = kernel_phases(kernel, stride)
    taps = len(kernel)
    if stride > 1:
        sizes = [(count + taps - 1) * stride for count in (rows, columns)]  # pixels that outputs see, and padding
        x = x[:, : sizes[0], : sizes[1]]
        x = jnp.pad(x, ((0, 0), (0, sizes[0] - x.shape[1]), (0, sizes[1] - x.shape[2]), (0, 0)))
        x = x.reshape(batch, sizes[0] // stride, stride, sizes[1] // stride, stride, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, sizes[0] // stride, sizes[1] // stride, -1)
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
