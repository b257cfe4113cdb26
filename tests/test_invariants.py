"""Properties of data, evaluation and networks that hold for any input."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax import nn
from lcaps_jax.data import augment, image_io
from lcaps_jax.nn.preprocess import AffineFrame
from lcaps_jax.train.evaluate import wilson_interval

# Compiling a new shape takes longer than the default deadline.
_tries = functools.partial(settings, deadline=None, derandomize=True)
_shift = jax.jit(augment.shift, static_argnums=2)


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
    border = np.pad(np.zeros((3, 3), bool), 1, constant_values=True)
    background = int(np.median(images[0, border]))
    for y, x in np.ndindex(5, 5):
        inside = 0 <= y - down < 5 and 0 <= x - right < 5
        assert moved[y, x, 0] == (images[0, y - down, x - right, 0] if inside else background)


@_tries(max_examples=60)
@given(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30), st.integers(1, 30), st.sampled_from([1, 3]))
def test_fit_size_gives_that_size_and_keeps_what_fits(shape, size, channels):
    images = np.full((2, *shape, channels), 100, np.uint8)
    fitted = image_io.fit_size(images, size)
    assert fitted.shape == (2, size, size, channels) and fitted.dtype == np.uint8
    if max(shape) <= size:
        assert fitted.sum() == images.sum()


@functools.cache
def _framed():
    network = nn.build_network("lcapsnet", filters=8, capsule_types=2, capsule_dim=4, pose_dim=4, k=5)
    framed = nn.Preprocessed(network=network, frame=AffineFrame())
    params = jax.jit(framed.init)(jax.random.key(0), jnp.zeros((1, 40, 40, 1)))
    return jax.jit(functools.partial(framed.apply, params))


@_tries(max_examples=10)
@given(hnp.arrays(np.float32, (12, 12), elements=st.floats(0, 1, width=32)), st.integers(-13, 13), st.integers(-13, 13))
def test_a_framed_network_answers_the_same_wherever_the_content_lies(content, down, right):
    content[5:7, 3:9] = 1  # something to frame
    image = np.pad(content, 14)[None, ..., None]
    here, there = (_framed()(each) for each in (image, np.roll(image, (down, right), axis=(1, 2))))
    np.testing.assert_allclose(there.activity, here.activity, atol=1e-5)
    np.testing.assert_allclose(there.view.frame.centre - here.view.frame.centre, [[down, right]], atol=1e-3)
