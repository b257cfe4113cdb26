"""The precision that a program asks of a TPU's products."""

import re

import jax
import jax.numpy as jnp
import pytest

from lcaps_jax.ops import capsules, conv, routing


@pytest.mark.parametrize("precision", [None, "highest", "high", "default"])
def test_products_have_the_highest_precision_unless_the_caller_chooses(precision):
    def products(u, f, p, w, x, k):
        return capsules.propagate(u, f, p), routing.route_factored(u, w, 2), conv.strided_conv(x, k, stride=2)

    shapes = (2, 5, 4), (2, 3, 5, 4, 6), (2, 3, 5), (3, 6, 20), (2, 9, 9, 4), (3, 3, 4, 2)
    with jax.default_matmul_precision(precision):
        traced = jax.jit(products).trace(*map(jnp.zeros, shapes))
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|convolution)", line)]
    asked = {re.search("HIGHEST|HIGH|DEFAULT", line)[0].lower() for line in lines}
    assert len(lines) >= 5 and asked == {precision or "highest"}
