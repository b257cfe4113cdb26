"""Sizes, orders of axes and kernel parities that the methods share."""

import jax
import jax.numpy as jnp


def output_size(size: int, kernel: int, stride: int) -> int:
    """Number of outputs of a VALID convolution along an axis; at most 0 where the kernel does not fit."""
    return (size - kernel) // stride + 1


def reorder(x: jax.Array, layout: str, wanted: str) -> jax.Array:
    """``x`` with its axes in another order."""
    return x.transpose([layout.index(axis) for axis in wanted])


def kernel_phases(kernel: jax.Array, stride: int) -> jax.Array:
    """A kernel ``[k, k, C, O]`` by pixel parity, ``[taps, taps, s*s*C, O]`` with ``taps = ceil(k/s)``, zero-padded."""
    k, _, channels, outputs = kernel.shape
    taps = -(-k // stride)
    extra = taps * stride - k
    kernel = jnp.pad(kernel, ((0, extra), (0, extra), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, outputs).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(taps, taps, -1, outputs)
