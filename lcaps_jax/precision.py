"""How exactly accelerators multiply float32 matrices.

A TPU multiplies bfloat16 numbers, and a recent GPU those of TensorFloat-32. They make a float32 product of several such
passes, or of one where that is good enough. A CPU multiplies float32 numbers, so nothing here matters to it.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

HIGHEST, HIGH, DEFAULT = MATMUL_PRECISIONS = ("highest", "high", "default")


def matmul_precision() -> lax.Precision | None:
    """Precision of the products and convolutions that are being traced: the highest unless the caller says otherwise.

    The caller does so by JAX's own means, ``with jax.default_matmul_precision("high"):``. None leaves the choice to it.
    """
    said = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return lax.Precision.HIGHEST if said is None else None


@functools.wraps(jnp.einsum)
def einsum(*arguments, **options) -> jax.Array:
    """``jnp.einsum`` in ``matmul_precision()``."""
    return jnp.einsum(*arguments, precision=matmul_precision(), **options)
