"""How exactly accelerators multiply: what the program of each network asks of a TPU, and that a CPU does not mind."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import precision
from lcaps_jax import capsules, networks
from lcaps_jax.precision import MATMUL_PRECISIONS
import workloads


def _asked(function, *arguments):
    """Precisions of the products and convolutions of a function's program for a TPU."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|convolution)", line)]
    return [re.search("HIGHEST|HIGH|DEFAULT", line)[0].lower() for line in lines]


@pytest.mark.parametrize("model", networks.NETWORKS)
@pytest.mark.parametrize("matmul_precision", MATMUL_PRECISIONS)
def test_every_product_of_a_network_is_in_the_precision_of_its_setting(model, matmul_precision):
    network = networks.from_config(workloads.tiny_config(model=model, matmul_precision=matmul_precision), 10)
    images, labels = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32), jnp.arange(2)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)

    def loss(variables, images):
        return jnp.sum(network.loss(network.apply(variables, images, labels), labels, images))

    asked = _asked(jax.grad(loss), variables, images)
    # The derivative of the routing's softmax has a sum in each iteration but the first, which is always exact.
    exact = 2 if model == "capsnet" else 0
    assert len(asked) >= 10
    assert sum(precision != matmul_precision for precision in asked) <= exact


def test_layers_multiply_as_exactly_as_they_can_unless_the_caller_says_otherwise():
    arguments = (jnp.zeros((2, 5, 4)), jnp.zeros((2, 3, 5, 4, 6)), jnp.zeros((2, 3, 5)))
    assert set(_asked(capsules.propagate, *arguments)) == {"highest"}
    with jax.default_matmul_precision("high"):
        assert set(_asked(capsules.propagate, *arguments)) == {"high"}


@pytest.mark.parametrize("model", networks.NETWORKS)
def test_a_cpu_computes_the_same_bits_in_every_precision(model):
    images = workloads.random_split(2).images
    exact, fast = (
        workloads.untrained_run(model=model, matmul_precision=precision)(images) for precision in ("highest", "default")
    )
    jax.tree.map(np.testing.assert_array_equal, exact, fast)


def test_products_in_passes_are_sums_of_products_of_bfloat16_numbers():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 40)).astype(np.float32), rng.normal(size=(40, 6)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)

    def split(x):
        first = jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32)
        return first, (x - first).astype(jnp.bfloat16).astype(jnp.float32)

    (a1, a2), (b1, b2) = split(a), split(b)
    by_hand = {1: a1 @ b1, 3: a1 @ b2 + a2 @ b1 + a1 @ b1}
    errors = {}
    for passes in precision.PASSES:
        found = precision.in_passes(lambda a, b: jax.nn.relu(jax.jit(jnp.dot)(a, b)), passes)(a, b)
        if passes in by_hand:
            np.testing.assert_allclose(found, np.maximum(by_hand[passes], 0), atol=1e-6)
        errors[passes] = np.max(np.abs(found - np.maximum(exact, 0)))
    assert errors[1] > 1e-2 > 1e-4 > errors[3] > errors[6] and errors[6] < 1e-5


def test_a_product_in_a_loop_is_not_passed_over():
    with pytest.raises(NotImplementedError, match="scan"):
        precision.in_passes(lambda x: jax.lax.scan(lambda y, _: (y @ y, None), x, None, 2)[0], 1)(jnp.eye(2))
