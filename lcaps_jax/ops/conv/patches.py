"""Convolution as one matrix product over image patches: the fastest method for few channels."""

import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.ops.precision import einsum

PATCHES = "patches_conv"  # named scope, visible in a profile


def output_size(size: int, kernel: int, stride: int) -> int:
    """Number of outputs of a VALID convolution along an axis; at most 0 where the kernel does not fit."""
    return (size - kernel) // stride + 1


@jax.named_scope(PATCHES)
def patches_conv(x: jax.Array, kernel: jax.Array, stride: int, layout: str) -> jax.Array:
    """Gathers the ``k*k*C`` values under the kernel, one axis at a time, and multiplies once; keeps the layout."""
    k = kernel.shape[0]
    for axis in map(layout.index, "HW"):
        out = output_size(x.shape[axis], k, stride)
        shifts = [lax.slice_in_dim(x, i, i + (out - 1) * stride + 1, stride, axis) for i in range(k)]
        x = jnp.concatenate(shifts, layout.index("C"))  # the channels end up as (column, row, channel)
    kernel = kernel.swapaxes(0, 1).reshape(-1, kernel.shape[3])
    if layout == "CHWN":  # one product of two matrices: XLA transposes the patches for any other form
        return einsum("co,cp->op", kernel, x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])
    return einsum(f"{layout},CO->{layout.replace('C', 'O')}", x, kernel)
