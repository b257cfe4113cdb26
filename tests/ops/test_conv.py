"""Each method of the convolution and its gradients against a direct one in float64."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.ops.conv import LAYOUTS, METHODS, conv_stack, output_size, strided_conv
from lcaps_jax.util.errors import ConfigError


def _places(i, j, rows, columns, stride):
    """The pixels under the kernel's place ``(i, j)``, for all outputs."""
    return np.s_[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]


def _direct64(x, kernel, stride):
    k = kernel.shape[0]
    rows, columns = (output_size(size, k, stride) for size in x.shape[1:3])
    return sum(x[_places(i, j, rows, columns, stride)] @ kernel[i, j].astype(float) for i, j in np.ndindex(k, k))


def _direct64_gradients(x, kernel, stride, dy):
    dx, dkernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j in np.ndindex(*kernel.shape[:2]):
        places = _places(i, j, *dy.shape[1:3], stride)
        dx[places] += dy @ kernel[i, j].T
        dkernel[i, j] = np.tensordot(x[places], dy, ([0, 1, 2], [0, 1, 2]))
    return dx, dkernel


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _error(ours, reference):
    return np.max(np.abs(np.asarray(ours, np.float64) - reference)) / np.max(np.abs(reference))


# Height, width, channels, kernel, outputs, stride: the paper's geometries with fewer channels (polyphase takes 15x15
# kernels by groups of rows), odd and even sizes, one output, several tiles, not square, stride 1, and few channels.
_SHAPES = [
    (20, 20, 32, 9, 16, 2), (32, 32, 20, 9, 8, 2), (26, 26, 20, 15, 8, 2), (20, 20, 32, 15, 8, 2), (9, 9, 17, 9, 3, 2),
    (10, 10, 17, 9, 3, 2), (13, 17, 16, 4, 5, 2), (17, 13, 16, 1, 5, 2), (19, 18, 16, 3, 2, 1), (31, 14, 16, 5, 4, 1),
    (45, 47, 16, 9, 2, 2), (60, 33, 16, 6, 2, 2), (28, 28, 1, 9, 16, 1), (21, 24, 3, 5, 4, 2),
]  # fmt: skip


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("method", ["spectral", "polyphase"])
@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_forward_and_gradients(shape, method, dtype, tolerance):
    height, width, channels, k, outputs, stride = shape
    rows, columns = output_size(height, k, stride), output_size(width, k, stride)
    shapes = (2, height, width, channels), (k, k, channels, outputs), (2, rows, columns, outputs)
    x, kernel, dy = (jnp.asarray(_random(*shape, seed=seed), dtype) for seed, shape in enumerate(shapes))

    @jax.jit
    def convolve(x, kernel, dy):
        y, pull = jax.vjp(lambda x, w: strided_conv(x, w, stride=stride, method=method), x, kernel)
        return y, *pull(dy)

    x64, kernel64, dy64 = (np.asarray(array.astype(jnp.float32), np.float64) for array in (x, kernel, dy))
    expected = (_direct64(x64, kernel64, stride), *_direct64_gradients(x64, kernel64, stride, dy64))
    for ours, reference in zip(convolve(x, kernel, dy), expected):
        assert ours.dtype == dtype and ours.shape == reference.shape
        assert _error(ours.astype(jnp.float32), reference) < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_forward_and_of_batches(method):
    """The convolution is linear, by columns of its Jacobian, by rows, and under vmap."""
    x, kernel = _random(1, 7, 8, 16), _random(3, 3, 16, 2, seed=1)
    direction = _random(*x.shape, seed=2)
    expected = _direct64(direction, kernel, 2)

    def features(x):
        return strided_conv(x, kernel, stride=2, method=method)

    y, tangent = jax.jit(lambda: jax.jvp(features, (x,), (direction,)))()
    assert _error(y, _direct64(x, kernel, 2)) < 1e-5
    assert _error(tangent, expected) < 1e-5
    assert _error(np.sum(jax.jit(jax.jacrev(features))(x) * direction, axis=(4, 5, 6, 7)), expected) < 1e-5
    assert _error(jax.jit(jax.vmap(features))(np.stack([x, direction]))[1], expected) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 16])
def test_layouts_only_reorder_axes(method, channels):
    x, kernel = _random(2, 20, 19, channels), _random(9, 9, channels, 4, seed=1)
    expected = strided_conv(x, kernel, stride=2, method=method)
    for before, after in itertools.product(LAYOUTS, LAYOUTS):
        ordered = x.transpose(["NHWC".index(axis) for axis in before])
        y = strided_conv(ordered, kernel, stride=2, method=method, layouts=(before, after))
        np.testing.assert_allclose(y.transpose([after.index(axis) for axis in "NHWC"]), expected, atol=1e-4)


def test_the_platform_is_chosen_when_the_program_is_lowered():
    """A CPU's program has products only, a TPU's XLA's convolutions, an NVIDIA GPU's those without dilation."""
    x, kernel = jnp.zeros((2, 20, 20, 16)), jnp.zeros((9, 9, 16, 4))

    def loss(x, kernel):
        stacked = conv_stack(x, [kernel, jnp.ones((3, 3, 4, 4))], [jnp.zeros(4)] * 2, strides=(2, 1))
        return jnp.sum(stacked**2)

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel)
    programs = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    convolutions = {platform: program.count("stablehlo.convolution") for platform, program in programs.items()}
    assert convolutions["cpu"] == 0 and convolutions["cuda"] >= 5 and convolutions["tpu"] >= 5
    dilated = {platform: re.findall(r"(?:stride|dilate) = \[2, 2\]", program) for platform, program in programs.items()}
    assert dilated["tpu"] and not dilated["cuda"]


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_is_convolutions_with_biases_and_relu_between(method):
    x = _random(2, 12, 11, 3)
    kernels, biases = [_random(3, 3, 3, 16), _random(5, 5, 16, 4)], [_random(16, seed=1), _random(4, seed=2)]
    y = conv_stack(x, kernels, biases, strides=(1, 2), padding=2, method=method)
    pad = ((0, 0), (2, 2), (2, 2), (0, 0))
    hidden = np.maximum(_direct64(np.pad(x, pad), kernels[0], 1) + biases[0], 0)
    expected = _direct64(np.pad(hidden, pad), kernels[1], 2) + biases[1]
    assert y.shape == expected.shape and _error(y, expected) < 1e-5


def test_image_gradient_is_not_computed_unless_asked():
    """The image gradient of the first convolution would be another convolution."""
    images, kernel = jnp.zeros((2, 28, 28, 1)), jnp.zeros((9, 9, 1, 4))

    def products(argnums):
        gradient = jax.grad(lambda x, w: jnp.sum(strided_conv(x, w, method="spectral") ** 2), argnums)
        return jax.jit(gradient).lower(images, kernel).compile().as_text().count(" dot(")

    assert products(1) < products((0, 1))


@pytest.mark.parametrize(
    "x_shape, kernel_shape, options, error, named",
    [
        ((1, 8, 8, 1), (9, 9, 1, 2), {}, ValueError, "8x8"),
        ((20, 20, 1), (9, 9, 1, 2), {}, ValueError, r"\(20, 20, 1\)"),
        ((1, 20, 20, 2), (9, 9, 1, 2), {}, ValueError, r"\(1, 20, 20, 2\)"),
        ((1, 20, 20, 1), (9, 8, 1, 2), {}, ValueError, r"\(9, 8, 1, 2\)"),
        ((1, 20, 20, 1), (9, 9, 1, 2), {"stride": 3}, ValueError, "stride=3"),
        ((1, 20, 20, 1), (9, 9, 1, 2), {"method": "fft"}, ConfigError, "method=fft"),
        ((1, 20, 20, 1), (9, 9, 1, 2), {"layouts": ("NHWC", "NCHW")}, ValueError, "NCHW"),
    ],
)
def test_refusals(x_shape, kernel_shape, options, error, named):
    with pytest.raises(error, match=named):
        strided_conv(jnp.zeros(x_shape), jnp.zeros(kernel_shape), **options)
