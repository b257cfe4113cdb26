"""The mathematics against slow, obvious versions, hand-made numbers, and its own gradients at the nasty points."""

from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcaps_jax import capsules
import slow


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class PureFunctionsTest(chex.TestCase):
    """Each function, compiled and not, mapped over devices and not."""

    @chex.all_variants()
    def test_squash(self):
        t = _random(2, 3, 5, 4)
        u = self.variant(capsules.squash)(t)
        chex.assert_shape(u, (2, 3, 5, 4))
        np.testing.assert_allclose(u, [[[slow.squash(v) for v in row] for row in rows] for rows in t], atol=1e-6)
        np.testing.assert_allclose(jnp.linalg.norm(u, axis=-1), capsules.squashed_length(t), atol=1e-6)

    @chex.all_variants()
    def test_prune_keeps_figure_2(self):
        """The paper's Figure 2: u1, u4 and u6 of six are kept, so the code is 1,0,0,1,0,1."""
        activity = jnp.array([[0.9, 0.1, 0.2, 0.7, 0.3, 0.8]])
        units = _random(1, 6, 4)
        pruned = self.variant(lambda u, a: capsules.prune(u, a, 3))(units, activity)
        np.testing.assert_array_equal(pruned.code, [[1, 0, 0, 1, 0, 1]])
        np.testing.assert_array_equal(pruned.index, [[0, 3, 5]])
        np.testing.assert_array_equal(pruned.capsules, units[:, [0, 3, 5]])

    @chex.all_variants()
    def test_propagate(self):
        u, f, p = _random(2, 3, 4), _random(2, 5, 3, 4, 6, seed=1), _random(2, 5, 3, seed=2)
        s = self.variant(capsules.propagate)(u, f, p)
        chex.assert_shape(s, (2, 5, 6))
        np.testing.assert_allclose(s, [slow.propagate(*example) for example in zip(u, f, p)], atol=1e-5)

    @chex.all_variants()
    def test_regress_and_agreement(self):
        s, f = _random(2, 5, 6), _random(2, 5, 3, 4, 6, seed=1)
        u = capsules.squash(_random(2, 3, 4, seed=2))
        regressed = self.variant(capsules.regress)(s, f)
        chex.assert_shape(regressed, (2, 5, 3, 4))
        np.testing.assert_allclose(regressed, [slow.regress(*example) for example in zip(s, f)], atol=1e-6)
        activity = self.variant(capsules.agreement)(regressed, u[:, None])
        chex.assert_shape(activity, (2, 5))
        np.testing.assert_allclose(activity, [slow.agreement(*example) for example in zip(regressed, u)], atol=1e-6)

    @chex.all_variants()
    def test_balance_loss(self):
        """Of capsules 0, 3 and 5 one is of type 0 and two are of type 1, which is a sixth too many."""
        code, bias = jnp.array([[1.0, 0, 0, 1, 0, 1]]), jnp.array([0.3, -0.2])
        loss, gradient = self.variant(
            jax.value_and_grad(lambda b: jnp.sum(capsules.balance_loss(code, b))),
        )(bias)
        np.testing.assert_array_equal(loss, 0.0)
        np.testing.assert_allclose(gradient, [-1 / 6, 1 / 6], atol=1e-6)


def test_biases_make_groups_equal_that_are_not_equally_active():
    """Of the three groups one is always more active, and one is never kept at first."""
    activity = jax.random.uniform(jax.random.key(0), (50, 30)) + jnp.tile(jnp.array([0.5, 0.0, -0.5]), 10)
    optimizer = optax.adam(0.01)

    def code_of(bias):
        return capsules.prune(activity[..., None], activity + jnp.tile(bias, 10), 6).code

    @jax.jit
    def step(bias, state):
        gradient = jax.grad(lambda bias: jnp.mean(capsules.balance_loss(code_of(bias), bias)))(bias)
        updates, state = optimizer.update(gradient, state)
        return bias + updates, state

    def shares(bias):
        return np.asarray(code_of(bias)).reshape(50, 10, 3).sum((0, 1)) / (50 * 6)

    bias = jnp.zeros(3)
    assert shares(bias)[0] > 0.8 and shares(bias)[2] == 0
    state = optimizer.init(bias)
    for _ in range(300):
        bias, state = step(bias, state)
    np.testing.assert_allclose(shares(bias), 1 / 3, atol=0.05)


class FactoredTest(parameterized.TestCase):
    """The forms that the network uses against the plain ones."""

    @parameterized.parameters((2, 3, 4, 5, 6, 7), (1, 1, 1, 1, 1, 1), (3, 2, 8, 10, 16, 4))
    def test_equal_the_plain_forms(self, batch, k, dim, classes, pose_dim, width):
        u, p = _random(batch, k, dim), jax.nn.sigmoid(_random(classes, batch, k, seed=1))
        hidden = jax.nn.relu(_random(classes, batch, width, seed=2))
        kernel, bias = _random(classes, k * dim, width, pose_dim, seed=3), _random(classes, k * dim, pose_dim, seed=4)
        transform = jnp.einsum("jbh,jrhe->bjre", hidden, kernel, precision="highest") + bias
        transform = transform.reshape(batch, classes, k, dim, pose_dim)
        s = capsules.propagate_factored(u, hidden, kernel, bias, p)
        chex.assert_trees_all_close(
            s.swapaxes(0, 1), capsules.propagate(u, transform, p.swapaxes(0, 1)), atol=2e-4, rtol=1e-5
        )

        kernel, bias = kernel.transpose(0, 2, 3, 1), bias.transpose(0, 2, 1)
        s = 0.1 * s
        regressed = capsules.regress_factored(s, hidden, kernel, bias, dim)
        chex.assert_trees_all_close(regressed.swapaxes(0, 1), capsules.regress(s.swapaxes(0, 1), transform), atol=1e-5)


def test_own_operators_equal_the_plain_forms():
    batch, n, k, dim, classes, pose_dim = 3, 8, 5, 4, 6, 7
    pruned = capsules.prune(_random(batch, n, dim), jax.nn.sigmoid(_random(batch, n, seed=1)), k)
    kernel = _random(classes, n * dim, pose_dim, seed=2)
    transform = kernel.reshape(classes, n, dim, pose_dim)[:, pruned.index].swapaxes(0, 1)  # [B, J, K, d, D]
    s = capsules.propagate_own(pruned, kernel)
    plain = capsules.propagate(pruned.capsules, transform, jnp.ones((batch, classes, k)))
    chex.assert_trees_all_close(s.swapaxes(0, 1), plain, atol=1e-4)
    s = 0.1 * s
    regressed = capsules.regress_own(s, pruned.index, kernel, dim)
    chex.assert_trees_all_close(regressed.swapaxes(0, 1), capsules.regress(s.swapaxes(0, 1), transform), atol=1e-5)


def test_prune_by_groups_keeps_as_many_of_each():
    activity, units = jnp.abs(_random(2, 3, 24)), _random(2, 3, 24, 5)
    pruned = capsules.prune(units, activity, 8, groups=4)
    for place in np.ndindex(2, 3):
        best = [np.argsort(-np.asarray(activity[place][g::4]), kind="stable")[:2] * 4 + g for g in range(4)]
        index = np.sort(np.concatenate(best))
        np.testing.assert_array_equal(pruned.index[place], index)
        np.testing.assert_array_equal(pruned.capsules[place], units[place][index])
        np.testing.assert_array_equal(np.flatnonzero(pruned.code[place]), index)
    with pytest.raises(ValueError, match="k=6 capsules.*multiple of 4"):
        capsules.prune(units, activity, 6, groups=4)


def test_prune_ties_go_to_the_lower_index_and_order_is_of_index():
    activity = jnp.array([0.5, 0.9, 0.5, 0.9, 0.5])
    np.testing.assert_array_equal(capsules.prune(jnp.zeros((5, 2)), activity, 3).index, [0, 1, 3])
    np.testing.assert_array_equal(capsules.prune(jnp.zeros((5, 2)), jnp.zeros(5), 2).index, [0, 1])


def test_prune_any_batch_axes_against_argsort():
    activity, units = jnp.abs(_random(2, 3, 4, 20)), _random(2, 3, 4, 20, 5)
    pruned = capsules.prune(units, activity, 7)
    for place in np.ndindex(2, 3, 4):
        index = np.sort(np.argsort(-np.asarray(activity[place]), kind="stable")[:7])
        np.testing.assert_array_equal(pruned.index[place], index)
        np.testing.assert_array_equal(pruned.capsules[place], units[place][index])
        np.testing.assert_array_equal(np.flatnonzero(pruned.code[place]), index)


def test_prune_passes_gradient_to_kept_capsules_alone():
    units, activity = _random(6, 3), jnp.array([0.9, 0.1, 0.2, 0.7, 0.3, 0.8])

    def total(units, activity):
        pruned = capsules.prune(units, activity, 3)
        return jnp.sum(pruned.capsules) + jnp.sum(pruned.code)

    to_units, to_activity = jax.grad(total, argnums=(0, 1))(units, activity)
    np.testing.assert_array_equal(to_units, np.repeat([[1], [0], [0], [1], [0], [1]], 3, axis=1))
    np.testing.assert_array_equal(to_activity, np.zeros(6))


@pytest.mark.parametrize("k", [0, -1, 7])
def test_prune_refuses_k_with_both_numbers(k):
    with pytest.raises(ValueError, match=rf"k={k} of n=6 .*between 1 and 6"):
        capsules.prune(jnp.zeros((6, 2)), jnp.zeros(6), k)


def test_gradients_at_exact_zero_are_finite_and_right():
    zero = jnp.zeros((3, 4))
    np.testing.assert_array_equal(jax.jacobian(capsules.squash)(zero), np.zeros((3, 4, 3, 4)))  # squash(t) ~ t|t|
    np.testing.assert_array_equal(jax.grad(lambda t: capsules.squashed_length(t).sum())(zero), zero)
    u = capsules.squash(_random(3, 4))
    for squared in (True, False):  # a regression that is exact
        np.testing.assert_array_equal(jax.grad(capsules.regression_error)(u, u, squared=squared), zero)
    np.testing.assert_array_equal(jax.grad(lambda s: capsules.direction(s).sum())(zero), zero)
    assert np.isfinite(jax.grad(lambda s: capsules.direction(s, 1e-8).sum())(zero)).all()
    np.testing.assert_array_equal(capsules.direction(zero), zero)


def test_squash_gradient_matches_differences():
    jax.test_util.check_grads(capsules.squash, (_random(3, 4),), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e15, 1e18])
def test_squash_of_extreme_vectors_is_finite(scale):
    value, pull = jax.vjp(capsules.squash, jnp.full((1, 8), scale, jnp.float32))
    assert np.isfinite(value).all() and np.isfinite(pull(jnp.ones_like(value))[0]).all()
    assert (jnp.linalg.norm(value, axis=-1) <= 1 + 1e-6).all()


def test_losses_by_hand():
    activity, labels = jnp.array([[0.95, 0.05, 0.3], [0.4, 0.2, 0.9]]), jnp.array([0, 1])
    np.testing.assert_allclose(
        capsules.margin_loss(activity, labels), [0.5 * 0.2**2, 0.7**2 + 0.5 * (0.3**2 + 0.8**2)], atol=1e-6
    )
    np.testing.assert_allclose(
        capsules.code_loss(jnp.array([1.0, 0.0]), jnp.array([0.7, 0.2])), 0.3**2 + 0.2**2, atol=1e-6
    )
    error = jnp.array([0.1, 0.9, 0.5])
    np.testing.assert_allclose(capsules.released_loss(error, jnp.array(0)), 0.1**2 + 0.3**2, atol=1e-6)
    np.testing.assert_allclose(
        capsules.released_code_loss(jnp.array([1.0, 0.0]), jnp.array([0.7, 0.2])), 0.25, atol=1e-6
    )


def test_agreement_at_the_paper_s_good_fit():
    """gamma was chosen so that a mean squared distance of 0.01 gives 0.95 (section 3.3)."""
    u = jnp.zeros((3, 4))
    np.testing.assert_allclose(capsules.agreement(u.at[:, 0].set(0.1), u), 0.95, atol=5e-4)
    assert capsules.agreement(u, u) == 1


@pytest.mark.parametrize("loss", [capsules.margin_loss, capsules.released_loss])
@pytest.mark.parametrize("labels", [np.zeros((2, 1), int), np.zeros(3, int), np.zeros(2), np.zeros((2, 3), int)])
def test_labels_of_another_shape_or_type_are_refused(loss, labels):
    """Labels ``[B, 1]`` would broadcast to ``[B, B]``."""
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(2,\) .* of shape \(2, 3\); got "):
        loss(jnp.zeros((2, 3)), labels)
