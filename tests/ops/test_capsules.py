"""The equations against float64 loops, numbers computed by hand, and their gradients at critical points."""

import chex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.ops import capsules
from lcaps_jax.util.errors import ConfigError
import slow

# Compiled once, not for each try.
_squash, _lengths = jax.jit(capsules.squash), jax.jit(lambda t: (capsules.length(t), capsules.squashed_length(t)))
_squash_gradient = jax.jit(jax.grad(lambda t: capsules.squash(t).sum()))
_prune = jax.jit(capsules.prune, static_argnums=2)


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(hnp.arrays(np.float32, (12, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_squash_keeps_direction_and_shrinks_into_the_unit_ball(t):
    v = np.asarray(_squash(t), np.float64)
    length, activity = _lengths(t)
    assert (np.linalg.norm(v, axis=-1) <= 1 + 1e-6).all()
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), activity, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(t, axis=-1), length, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(v, [slow.squash(row) for row in t], rtol=1e-4, atol=1e-6)
    assert np.isfinite(_squash_gradient(t)).all()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(hnp.arrays(np.float32, (12,), elements=st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 0.9])), st.integers(1, 12))
def test_prune_keeps_the_most_active_in_order_ties_included(activity, k):
    vectors = np.arange(48, dtype=np.float32).reshape(12, 4)
    pruned = _prune(vectors, activity, k)
    expected = sorted(sorted(range(12), key=lambda i: (-activity[i], i))[:k])
    assert list(pruned.index) == expected
    np.testing.assert_array_equal(pruned.capsules, vectors[expected])
    np.testing.assert_array_equal(pruned.code, np.isin(np.arange(12), expected))


def test_ladder_equations():
    u, f, p = _random(2, 3, 4), _random(2, 5, 3, 4, 6, seed=1), _random(2, 5, 3, seed=2)
    s = capsules.propagate(u, f, p)
    np.testing.assert_allclose(s, [slow.propagate(*example) for example in zip(u, f, p)], atol=1e-5)
    regressed = capsules.regress(s, f)
    np.testing.assert_allclose(regressed, [slow.regress(*example) for example in zip(s, f)], atol=1e-6)
    u = capsules.squash(u)
    activity = capsules.agreement(regressed, u[:, None])
    np.testing.assert_allclose(activity, [slow.agreement(*example) for example in zip(regressed, u)], atol=1e-6)


@pytest.mark.parametrize(
    "batch, k, dim, classes, pose_dim, width", [(2, 3, 4, 5, 6, 7), (1, 1, 1, 1, 1, 1), (3, 2, 8, 10, 16, 4)]
)
def test_factored_forms_equal_the_plain_ones(batch, k, dim, classes, pose_dim, width):
    u, p = _random(batch, k, dim), jax.nn.sigmoid(_random(classes, batch, k, seed=1))
    hidden = jax.nn.relu(_random(classes, batch, width, seed=2))
    kernel, bias = _random(classes, k * dim, width, pose_dim, seed=3), _random(classes, k * dim, pose_dim, seed=4)
    transform = jnp.einsum("jbh,jrhe->bjre", hidden, kernel, precision="highest") + bias
    transform = transform.reshape(batch, classes, k, dim, pose_dim)
    s = capsules.propagate_factored(u, hidden, kernel, bias, p).swapaxes(0, 1)
    chex.assert_trees_all_close(s, capsules.propagate(u, transform, p.swapaxes(0, 1)), atol=2e-4, rtol=1e-5)
    s = 0.1 * s
    kernel, bias = kernel.transpose(0, 2, 3, 1), bias.transpose(0, 2, 1)
    regressed = capsules.regress_factored(s.swapaxes(0, 1), hidden, kernel, bias, dim)
    chex.assert_trees_all_close(regressed.swapaxes(0, 1), capsules.regress(s, transform), atol=1e-5)


def test_forms_per_capsule_equal_the_plain_ones():
    batch, n, k, dim, classes, pose_dim = 3, 8, 5, 4, 6, 7
    pruned = capsules.prune(_random(batch, n, dim), jax.nn.sigmoid(_random(batch, n, seed=1)), k)
    kernel = _random(classes, n * dim, pose_dim, seed=2)
    transform = kernel.reshape(classes, n, dim, pose_dim)[:, pruned.index].swapaxes(0, 1)  # [B, J, K, d, D]
    s = capsules.propagate_per_capsule(pruned, kernel).swapaxes(0, 1)
    expected = capsules.propagate(pruned.capsules, transform, jnp.ones((batch, classes, k)))
    chex.assert_trees_all_close(s, expected, atol=1e-4)
    s = 0.1 * s
    regressed = capsules.regress_per_capsule(s.swapaxes(0, 1), pruned.index, kernel, dim)
    chex.assert_trees_all_close(regressed.swapaxes(0, 1), capsules.regress(s, transform), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 4])
def test_prune_by_groups_and_batch_axes_against_argsort(groups):
    activity, units = jnp.abs(_random(2, 3, 24)), _random(2, 3, 24, 5)
    pruned = capsules.prune(units, activity, 8, groups)
    for place in np.ndindex(2, 3):
        order = [np.argsort(-np.asarray(activity[place][g::groups]), kind="stable") for g in range(groups)]
        index = np.sort(np.concatenate([best[: 8 // groups] * groups + g for g, best in enumerate(order)]))
        np.testing.assert_array_equal(pruned.index[place], index)
        np.testing.assert_array_equal(pruned.capsules[place], units[place][index])
        np.testing.assert_array_equal(np.flatnonzero(pruned.code[place]), index)


def test_prune_passes_gradients_to_kept_capsules_only():
    """The paper's Figure 2: u1, u4 and u6 of six are kept."""
    units, activity = _random(6, 3), jnp.array([0.9, 0.1, 0.2, 0.7, 0.3, 0.8])

    def total(units, activity):
        pruned = capsules.prune(units, activity, 3)
        return jnp.sum(pruned.capsules) + jnp.sum(pruned.code)

    to_units, to_activity = jax.grad(total, argnums=(0, 1))(units, activity)
    np.testing.assert_array_equal(to_units, np.repeat([[1], [0], [0], [1], [0], [1]], 3, axis=1))
    np.testing.assert_array_equal(to_activity, np.zeros(6))


@pytest.mark.parametrize("k, groups", [(0, 1), (-1, 1), (7, 1), (3, 2)])
def test_prune_refuses_k(k, groups):
    with pytest.raises(ConfigError, match=f"^k={k}:"):
        capsules.prune(jnp.zeros((6, 2)), jnp.zeros(6), k, groups)


def test_gradients_at_exact_zero():
    zero = jnp.zeros((3, 4))
    np.testing.assert_array_equal(jax.jacobian(capsules.squash)(zero), np.zeros((3, 4, 3, 4)))  # squash(t) ~ t|t|
    np.testing.assert_array_equal(jax.grad(lambda t: capsules.squashed_length(t).sum())(zero), zero)
    u = capsules.squash(_random(3, 4))
    for squared in (True, False):  # an exact regression
        np.testing.assert_array_equal(jax.grad(capsules.regression_distance)(u, u, squared=squared), zero)
    np.testing.assert_array_equal(capsules.direction(zero), zero)
    np.testing.assert_array_equal(jax.grad(lambda s: capsules.direction(s).sum())(zero), zero)
    np.testing.assert_allclose(jax.grad(lambda s: capsules.direction(s, 1e-3).sum())(zero), zero + 1e3)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e15, 1e18])
def test_squash_of_extreme_vectors_is_finite(scale):
    value, pull = jax.vjp(capsules.squash, jnp.full((1, 8), scale, jnp.float32))
    assert np.isfinite(value).all() and np.isfinite(pull(jnp.ones_like(value))[0]).all()
    assert (jnp.linalg.norm(value, axis=-1) <= 1 + 1e-6).all()


def test_losses_by_hand():
    activity, labels = jnp.array([[0.95, 0.05, 0.3], [0.4, 0.2, 0.9]]), jnp.array([0, 1])
    margin = [0.5 * 0.2**2, 0.7**2 + 0.5 * (0.3**2 + 0.8**2)]
    np.testing.assert_allclose(capsules.margin_loss(activity, labels), margin, atol=1e-6)
    code, primary = jnp.array([1.0, 0.0]), jnp.array([0.7, 0.2])
    np.testing.assert_allclose(capsules.code_loss(code, primary), 0.3**2 + 0.2**2, atol=1e-6)
    np.testing.assert_allclose(capsules.released_code_loss(code, primary), 0.25, atol=1e-6)
    released = capsules.released_loss(jnp.array([0.1, 0.9, 0.5]), jnp.array(0))
    np.testing.assert_allclose(released, 0.1**2 + 0.3**2, atol=1e-6)


def test_agreement_at_the_paper_s_good_fit():
    """Gamma was chosen so that a mean squared distance of 0.01 gives 0.95 (section 3.3)."""
    u = jnp.zeros((3, 4))
    np.testing.assert_allclose(capsules.agreement(u.at[:, 0].set(0.1), u), 0.95, atol=5e-4)
    assert capsules.agreement(u, u) == 1


@pytest.mark.parametrize("loss", [capsules.margin_loss, capsules.released_loss])
@pytest.mark.parametrize("labels", [np.zeros((2, 1), int), np.zeros(3, int), np.zeros(2), np.zeros((2, 3), int)])
def test_labels_of_another_shape_or_type_are_refused(loss, labels):
    """Labels ``[B, 1]`` would broadcast to ``[B, B]``."""
    with pytest.raises(ValueError, match="labels"):
        loss(jnp.zeros((2, 3)), labels)
