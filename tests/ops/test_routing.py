"""Dynamic routing against Algorithm 1 in float64, Sabour's own code, and finite differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.ops import routing
from lcaps_jax.util.errors import ConfigError
import reference
import slow


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_route(transform, iterations):
    votes = _random(2, 5, 3, 4)
    routed = transform(lambda v: routing.route(v, iterations))(votes)
    pose, coupling = zip(*(slow.route(example, iterations) for example in votes))
    np.testing.assert_allclose(routed.pose, pose, atol=1e-6)
    np.testing.assert_allclose(routed.coupling, coupling, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_factored_form_and_its_gradients(iterations):
    batch, n, dim, classes, pose_dim = 2, 6, 4, 3, 5
    u, kernel = _random(batch, n, dim), _random(classes, pose_dim, dim * n, seed=1)
    weight, per_coupling = _random(batch, classes, pose_dim, seed=2), _random(batch, n, classes, seed=3)

    def factored(u, kernel):
        return routing.route_factored(u, kernel, iterations)

    def plain(u, kernel):
        transform = kernel.reshape(classes, pose_dim, dim, n)
        return routing.route(jnp.einsum("bid,jedi->bije", u, transform, precision="highest"), iterations)

    def total(form, u, kernel):
        routed = form(u, kernel)
        return jnp.sum(weight * routed.pose) + jnp.sum(per_coupling * routed.coupling)

    chex.assert_trees_all_close(jax.jit(factored)(u, kernel), jax.jit(plain)(u, kernel), atol=1e-6)
    gradients = [jax.jit(jax.grad(total, (1, 2)), static_argnums=0)(form, u, kernel) for form in (factored, plain)]
    chex.assert_trees_all_close(*gradients, atol=1e-5, rtol=1e-5)
    pose_sum = jax.jit(lambda u: jnp.sum(weight * factored(u, kernel).pose))
    jax.test_util.check_grads(pose_sum, (u,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_against_sabour_s_own():
    data = reference.load("routing_seed0.npz")
    for iterations in (1, 3, 5):
        pose = routing.route(data["votes"], iterations).pose
        np.testing.assert_allclose(pose, data[f"poses_r{iterations}"], atol=1e-6)


def test_an_example_does_not_depend_on_the_batch():
    u, kernel = _random(3, 6, 4), _random(3, 5, 24, seed=1)
    together, alone = routing.route_factored(u, kernel, 3), routing.route_factored(u[:1], kernel, 3)
    np.testing.assert_allclose(together.pose[:1], alone.pose, atol=1e-6)


def test_no_iteration_is_refused():
    with pytest.raises(ConfigError, match="iterations=0"):
        routing.route(jnp.zeros((2, 3, 4)), 0)
    with pytest.raises(ConfigError, match="iterations=0"):
        routing.route_factored(jnp.zeros((1, 2, 3)), jnp.zeros((2, 4, 6)), 0)


def test_the_platform_is_chosen_when_the_program_is_lowered():
    """A CPU takes the classes one by one, in a loop; other platforms all at once."""
    traced = jax.jit(lambda u, w: routing.route_factored(u, w, 2)).trace(jnp.zeros((2, 6, 4)), jnp.zeros((3, 5, 24)))
    loops = {p: "stablehlo.while" in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    assert loops == {"cpu": True, "cuda": False, "tpu": False}
