"""Precision of float32 products on accelerators.

TPUs multiply in bfloat16 and recent NVIDIA GPUs in TensorFloat-32. They compute a float32 product in several such
passes, or in one where that is exact enough. CPUs multiply float32 numbers and ignore this setting.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp


def matmul_precision() -> lax.Precision | None:
    """Precision of a product: the highest, or None (JAX decides) inside ``jax.default_matmul_precision``."""
    default = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return lax.Precision.HIGHEST if default is None else None


@functools.wraps(jnp.einsum)
def einsum(*arguments, **options) -> jax.Array:
    """``jnp.einsum`` in ``matmul_precision()``."""
    return jnp.einsum(*arguments, precision=matmul_precision(), **options)
