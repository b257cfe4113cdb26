"""Dynamic routing against Algorithm 1 in float64 and Sabour's own code."""

import chex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.ops import routing
from lcaps_jax.util.errors import ConfigError
import reference
import slow

_route = jax.jit(routing.route, static_argnums=1)


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_route(iterations):
    votes = _random(2, 5, 3, 4)
    routed = _route(votes, iterations)
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


def test_against_sabour_s_own():
    data = reference.load("routing_seed0.npz")
    for iterations in (1, 3, 5):
        np.testing.assert_allclose(_route(data["votes"], iterations).pose, data[f"poses_r{iterations}"], atol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(hnp.arrays(np.float32, (12, 3, 4), elements=st.floats(-100, 100, width=32)), st.integers(1, 4))
def test_routing_divides_each_capsule_among_the_classes(votes, iterations):
    routed = _route(votes[None], iterations)
    np.testing.assert_allclose(routed.coupling.sum(axis=-1), 1, atol=1e-5)
    assert (np.linalg.norm(routed.pose, axis=-1) <= 1 + 1e-5).all()
    order = np.random.default_rng(0).permutation(12)
    shuffled = _route(votes[None, order], iterations)
    np.testing.assert_allclose(shuffled.coupling, routed.coupling[:, order], atol=2e-3)


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
