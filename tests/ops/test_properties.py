"""Properties of the pure functions that hold for any input."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.ops import capsules, frames, routing
import slow

# Compiling a new shape takes longer than the default deadline.
_tries = functools.partial(settings, deadline=None, derandomize=True)
_N, _DIM = 12, 4


def _floats(bound):
    return st.floats(-bound, bound, width=32)


# Compiled once, not for each try.
_squash, _length, _agreement, _frame_of = map(
    jax.jit, (capsules.squash, capsules.squashed_length, capsules.agreement, frames.frame_of)
)
_squash_gradient = jax.jit(jax.grad(lambda t: capsules.squash(t).sum()))
_prune, _route = jax.jit(capsules.prune, static_argnums=2), jax.jit(routing.route, static_argnums=1)


@_tries(max_examples=200)
@given(hnp.arrays(np.float32, (_N, _DIM), elements=_floats(1e6)))
def test_squash_keeps_direction_and_shrinks_into_the_unit_ball(t):
    v = np.asarray(_squash(t), np.float64)
    lengths = np.linalg.norm(v, axis=-1)
    assert (lengths <= 1 + 1e-6).all()
    np.testing.assert_allclose(lengths, _length(t), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(v, [slow.squash(row) for row in t], rtol=1e-4, atol=1e-6)
    assert np.isfinite(_squash_gradient(t)).all()


@_tries(max_examples=200)
@given(hnp.arrays(np.float32, (_N,), elements=st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 0.9])), st.integers(1, _N))
def test_prune_keeps_the_most_active_in_order_ties_included(activity, k):
    vectors = np.arange(_N * _DIM, dtype=np.float32).reshape(_N, _DIM)
    pruned = _prune(vectors, activity, k)
    expected = sorted(sorted(range(_N), key=lambda i: (-activity[i], i))[:k])
    assert list(pruned.index) == expected
    np.testing.assert_array_equal(pruned.capsules, vectors[expected])
    np.testing.assert_array_equal(pruned.code, np.isin(np.arange(_N), expected))


@_tries(max_examples=50)
@given(hnp.arrays(np.float32, (_N, 3, _DIM), elements=_floats(100)), st.integers(1, 4))
def test_routing_divides_each_capsule_among_the_classes(votes, iterations):
    routed = _route(votes[None], iterations)
    np.testing.assert_allclose(routed.coupling.sum(axis=-1), 1, atol=1e-5)
    assert (np.linalg.norm(routed.pose, axis=-1) <= 1 + 1e-5).all()
    order = np.random.default_rng(0).permutation(_N)
    shuffled = _route(votes[None, order], iterations)
    np.testing.assert_allclose(shuffled.coupling, routed.coupling[:, order], atol=2e-3)


@_tries(max_examples=100)
@given(hnp.arrays(np.float32, (3, _N, _DIM), elements=_floats(1)))
def test_agreement_is_one_at_a_perfect_regression_and_falls_with_distance(kept):
    exact, near, far = (np.asarray(_agreement(jnp.asarray(kept)[None] + d, kept[None])) for d in (0.0, 0.1, 0.2))
    np.testing.assert_allclose(exact, 1)
    assert (far < near).all() and (near < 1).all() and (far > 0).all()


@_tries(max_examples=50)
@given(hnp.arrays(np.float32, (12, 12), elements=st.floats(0, 1, width=32)), st.integers(-13, 13), st.integers(-13, 13))
def test_a_frame_moves_with_the_content(content, down, right):
    content[5:7, 3:9] = 1  # something to frame
    image = np.pad(content, 14)[None, ..., None]
    here, there = _frame_of(image), _frame_of(np.roll(image, (down, right), axis=(1, 2)))
    np.testing.assert_allclose(there.centre - here.centre, [[down, right]], atol=1e-3)
    np.testing.assert_allclose(there.matrix, here.matrix, atol=1e-4)
