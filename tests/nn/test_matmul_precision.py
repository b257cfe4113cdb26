"""The precision that networks ask of a TPU's products, and that a CPU ignores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import nn
import workloads


@pytest.mark.parametrize("model", nn.NETWORKS)
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_every_product_of_a_network_has_the_precision_of_its_setting(model, precision):
    network = workloads.tiny_config(model=model, matmul_precision=precision).network
    images, labels = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32), jnp.arange(2)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)

    def loss(variables, images):
        return jnp.sum(network.loss(network.apply(variables, images, labels), labels, images))

    text = jax.jit(jax.grad(loss)).trace(variables, images).lower(lowering_platforms=("tpu",)).as_text()
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|convolution)", line)]
    asked = [re.search("HIGHEST|HIGH|DEFAULT", line)[0].lower() for line in lines]
    # The derivative of the routing's softmax has a sum in each iteration but the first, which is always exact.
    assert len(asked) >= 10 and sum(each != precision for each in asked) <= (2 if model == "capsnet" else 0)


@pytest.mark.parametrize("model", nn.NETWORKS)
def test_a_cpu_computes_the_same_bits_in_every_precision(model):
    images = workloads.random_split(2).images
    outputs = (workloads.untrained_model(model=model, matmul_precision=each)(images) for each in ("highest", "default"))
    jax.tree.map(np.testing.assert_array_equal, *outputs)
