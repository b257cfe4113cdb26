"""What must hold of the pure functions for any input, tried on inputs that hypothesis makes up."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import capsules, routing
from lcaps_jax.data import augment, resize
from lcaps_jax.training import wilson_interval
import slow
import workloads

# Compiling a new shape takes longer than the default deadline.
_tries = functools.partial(settings, deadline=None, derandomize=True)
_N, _DIM = 12, 4
_FINITE = st.floats(-1e6, 1e6, width=32)
# Compiled once, not for each try.
_squash, _length, _prune = (
    jax.jit(capsules.squash),
    jax.jit(capsules.squashed_length),
    jax.jit(capsules.prune, static_argnums=2),
)
_squash_gradient = jax.jit(jax.grad(lambda t: capsules.squash(t).sum()))
_route, _agreement = jax.jit(routing.route, static_argnums=1), jax.jit(capsules.agreement)
_shift = jax.jit(augment.shift, static_argnums=2)
_VECTORS = hnp.arrays(np.float32, (_N, _DIM), elements=_FINITE)


@_tries(max_examples=200)
@given(_VECTORS)
def test_squash_keeps_direction_and_shrinks_into_the_unit_ball(t):
    v = np.asarray(_squash(t), np.float64)
    lengths = np.linalg.norm(v, axis=-1)
    assert (lengths <= 1 + 1e-6).all()
    np.testing.assert_allclose(lengths, _length(t), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(v, [slow.squash(row) for row in t], rtol=1e-4, atol=1e-6)
    gradient = _squash_gradient(t)
    assert np.isfinite(gradient).all()


@_tries(max_examples=200)
@given(hnp.arrays(np.float32, (_N,), elements=st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 0.9])), st.integers(1, _N))
def test_prune_keeps_the_most_active_in_order_ties_included(activity, k):
    vectors = np.arange(_N * _DIM, dtype=np.float32).reshape(_N, _DIM)
    pruned = _prune(vectors, activity, k)
    expected = sorted(sorted(range(_N), key=lambda i: (-activity[i], i))[:k])
    assert list(pruned.index) == expected
    np.testing.assert_array_equal(pruned.capsules, vectors[expected])
    np.testing.assert_array_equal(np.flatnonzero(pruned.code), expected)
    assert set(np.unique(pruned.code)) <= {0, 1}


@_tries(max_examples=50)
@given(hnp.arrays(np.float32, (_N, 3, _DIM), elements=st.floats(-100, 100, width=32)), st.integers(1, 4))
def test_routing_divides_each_capsule_among_the_classes(votes, iterations):
    routed = _route(votes[None], iterations)
    np.testing.assert_allclose(routed.coupling.sum(axis=-1), 1, atol=1e-5)
    assert (np.linalg.norm(routed.pose, axis=-1) <= 1 + 1e-5).all()
    order = np.random.default_rng(0).permutation(_N)
    shuffled = _route(votes[None, order], iterations)
    np.testing.assert_allclose(shuffled.coupling, routed.coupling[:, order], atol=2e-3)


@_tries(max_examples=100)
@given(hnp.arrays(np.float32, (3, _N, _DIM), elements=st.floats(-1, 1, width=32)))
def test_agreement_is_one_at_a_perfect_regression_and_falls_with_distance(kept):
    one = _agreement(jnp.asarray(kept)[None], kept[None])
    np.testing.assert_allclose(one, 1)
    near, far = (_agreement(jnp.asarray(kept)[None] + d, kept[None]) for d in (0.1, 0.2))
    assert (np.asarray(far) < near).all() and (np.asarray(near) < 1).all() and (np.asarray(far) > 0).all()


@_tries(max_examples=100)
@given(st.integers(1, 10**6), st.data())
def test_wilson_interval_holds_the_rate(count, draw):
    errors = draw.draw(st.integers(0, count))
    low, high = wilson_interval(errors, count)
    assert 0 <= low <= 100 * errors / count + 1e-9 and 100 * errors / count - 1e-9 <= high <= 100


@_tries(max_examples=100)
@given(hnp.arrays(np.uint8, (1, 5, 5, 1)), st.integers(-2, 2), st.integers(-2, 2))
def test_shift_moves_every_pixel_that_stays(images, down, right):
    (moved,) = np.asarray(_shift(images, jnp.array([[down, right]]), 2))
    is_border = np.pad(np.zeros((3, 3), bool), 1, constant_values=True)
    ground = int(np.median(images[0, is_border]))
    for y in range(5):
        for x in range(5):
            inside = 0 <= y - down < 5 and 0 <= x - right < 5
            assert moved[y, x, 0] == (images[0, y - down, x - right, 0] if inside else ground)


@_tries(max_examples=60)
@given(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30), st.integers(1, 30), st.sampled_from([1, 3]))
def test_fit_size_gives_that_size_and_keeps_what_fits(shape, size, channels):
    images = np.full((2, *shape, channels), 100, np.uint8)
    fitted = resize.fit_size(images, size)
    assert fitted.shape == (2, size, size, channels) and fitted.dtype == np.uint8
    if max(shape) <= size:
        assert fitted.sum() == images.sum()


@functools.cache
def _framed(model):
    return workloads.untrained_run(model=model, frame="affine")


@pytest.mark.parametrize("model", ["lcapsnet", "cnn"])
@_tries(max_examples=10)
@given(hnp.arrays(np.float32, (12, 12), elements=st.floats(0, 1, width=32)), st.integers(-13, 13), st.integers(-13, 13))
def test_a_network_with_a_frame_answers_the_same_wherever_the_content_lies(model, content, down, right):
    content[5:7, 3:9] = 1  # so that there is something to frame
    image = np.pad(content, 14)[None, ..., None]
    here, there = (_framed(model)(each) for each in (image, np.roll(image, (down, right), axis=(1, 2))))
    np.testing.assert_allclose(there.activity, here.activity, atol=1e-5)
    np.testing.assert_allclose(there.frame.centre - here.frame.centre, [[down, right]], atol=1e-3)
