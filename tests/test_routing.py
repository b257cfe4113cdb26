"""Dynamic routing against Algorithm 1 written out, Sabour's own, and its own gradients."""

from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import routing
import reference
import slow


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class RoutingTest(chex.TestCase):
    """Dynamic routing against Algorithm 1 written out, and the form without votes against it."""

    @chex.all_variants()
    def test_route(self):
        votes = _random(2, 5, 3, 4)
        for iterations in (1, 2, 4):
            routed = self.variant(lambda v, r=iterations: routing.route(v, r))(votes)
            chex.assert_shape(routed.pose, (2, 3, 4))
            for i in range(2):
                pose, coupling = slow.route(votes[i], iterations)
                np.testing.assert_allclose(routed.pose[i], pose, atol=1e-6)
                np.testing.assert_allclose(routed.coupling[i], coupling, atol=1e-6)

    @parameterized.parameters(1, 2, 3)
    def test_factored_form_and_its_gradients(self, iterations):
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

        chex.assert_trees_all_close(factored(u, kernel), plain(u, kernel), atol=1e-6)
        gradients = [jax.jit(jax.grad(total, (1, 2)), static_argnums=0)(form, u, kernel) for form in (factored, plain)]
        chex.assert_trees_all_close(*gradients, atol=1e-5, rtol=1e-5)
        jax.test_util.check_grads(
            lambda u: jnp.sum(weight * factored(u, kernel).pose), (u,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2
        )


def test_routing_against_sabour_s_own():
    data = reference.load("routing_seed0.npz")
    for iterations in (1, 3, 5):
        pose = routing.route(data["votes"], iterations).pose
        np.testing.assert_allclose(pose, data[f"poses_r{iterations}"], atol=1e-6)


def test_routing_of_an_example_does_not_depend_on_the_batch():
    u, kernel = _random(3, 6, 4), _random(3, 5, 24, seed=1)
    together, alone = routing.route_factored(u, kernel, 3), routing.route_factored(u[:1], kernel, 3)
    np.testing.assert_allclose(together.pose[:1], alone.pose, atol=1e-6)


def test_routing_refuses_no_iteration():
    with pytest.raises(ValueError, match="at least 1 iteration, got 0"):
        routing.route(jnp.zeros((2, 3, 4)), 0)
    with pytest.raises(ValueError, match="at least 1 iteration, got 0"):
        routing.route_factored(jnp.zeros((1, 2, 3)), jnp.zeros((2, 4, 6)), 0)


def test_the_platform_is_chosen_when_the_program_is_lowered():
    """A CPU takes the classes one by one, in a loop; other platforms all at once."""
    traced = jax.jit(lambda u, w: routing.route_factored(u, w, 2)).trace(jnp.zeros((2, 6, 4)), jnp.zeros((3, 5, 24)))
    loops = {p: "stablehlo.while" in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    assert loops == {"cpu": True, "cuda": False, "tpu": False}
