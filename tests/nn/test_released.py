"""The released TensorFlow graph's own outputs, gradients and training steps, reproduced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.nn import build_network
from lcaps_jax.ops import capsules
import reference


@pytest.fixture(scope="module", params=[pytest.param(50, marks=pytest.mark.slow), 70], ids="K={}".format)
def released(request):
    """Golden data, parameters, loss function and the network's output for one K."""
    stored = reference.load(f"released_K{request.param}_seed0.npz")
    params = reference.params_from_released(reference.released_variables(stored))
    model = build_network(k=request.param, preset="released")
    images = jnp.asarray(stored["images"][..., None] / np.float32(255))
    labels = jnp.asarray(stored["labels"], jnp.int32)

    def loss(params):
        output = model.apply(params, images)
        return jnp.mean(model.loss(output, labels)), output

    return stored, params, jax.jit(jax.value_and_grad(loss, has_aux=True)), model.code_loss_weight


def test_forward_pass_gradients_and_adam_steps(released):
    stored, params, loss_and_grad, code_loss_weight = released
    labels = jnp.asarray(stored["labels"], jnp.int32)
    (loss, output), gradients = loss_and_grad(params)
    np.testing.assert_array_equal(output.kept_index, stored["index"])
    np.testing.assert_allclose(output.distance, stored["recon_err"], atol=1e-5)
    np.testing.assert_allclose(output.primary_activity, stored["activity"], atol=1e-5)
    np.testing.assert_array_equal(jnp.argmax(output.activity, 1), np.argmin(stored["recon_err"], 1))

    np.testing.assert_allclose(loss, stored["total_loss"], rtol=1e-5)
    code_loss = jnp.mean(capsules.released_code_loss(output.code, output.primary_activity))
    np.testing.assert_allclose(code_loss, stored["reg_loss"], rtol=1e-5)
    true_distance = output.distance[jnp.arange(len(labels)), labels]
    np.testing.assert_allclose(jnp.mean(true_distance**2), stored["err_true"], rtol=1e-5)
    others = loss - code_loss_weight * code_loss - jnp.mean(true_distance**2)
    np.testing.assert_allclose(others, stored["err_others"], rtol=1e-5)

    names = [str(name) for name in stored["var_names"]]
    norms = _by_released_name(gradients, lambda x: np.linalg.norm(np.asarray(x, np.float64)))
    assert sorted(norms) == sorted(names)
    np.testing.assert_allclose([norms[name] for name in names], stored["grad_norm"], rtol=1e-5)

    losses = [loss]
    for stepped in _tensorflow_adam(params, loss_and_grad, steps=3):
        losses.append(loss_and_grad(stepped)[0][0])
    np.testing.assert_allclose(losses, stored["loss_after_steps"], rtol=1e-4)


def _by_released_name(tree, function):
    """``function`` of each of the released graph's variables, from a tree like our parameters."""
    found = {}
    for ours, theirs in (("conv1", "Conv1_layer"), ("primary", "PrimaryCaps_layer")):
        for part, name in (("kernel", "weights"), ("bias", "biases")):
            found[f"{theirs}/Conv/{name}"] = function(tree["params"]["primary_capsules"][ours][part])
    ladder = tree["params"]["ladder"]
    layers = {"propagation": "l{}", "regression": "l{}_inv", "contribution": "c{}"}
    for j in range(10):
        for network, layer in layers.items():
            for i in range(1, 5):
                for part, name in (("kernel", "weight"), ("bias", "bias")):
                    last = i == 4 and network != "contribution"
                    value = ladder[f"{network}_{part}"] if last else ladder[network][f"{part}{i}"]
                    found[f"Ladder/Weight_construction{j}/{layer.format(i)}/{name}"] = function(value[j])
    return found


def _tensorflow_adam(params, loss_and_grad, steps, rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """TensorFlow 1's Adam, whose epsilon stands beside the uncorrected root: the parameters after each step."""

    @jax.jit
    def step(params, m, v, gradients, t):
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, gradients)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, gradients)
        size = rate * jnp.sqrt(1 - beta2**t) / (1 - beta1**t)
        return jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) + epsilon), params, m, v), m, v

    m = v = jax.tree.map(np.zeros_like, params)
    for t in range(1, steps + 1):
        params, m, v = step(params, m, v, loss_and_grad(params)[1], t)
        yield params


def test_a_missing_variable_is_named():
    with pytest.raises(ValueError, match="Weight_construction0/l1/weight.* is missing"):
        reference.params_from_released({"Conv1_layer/Conv/biases": np.zeros(256)})
