"""The methods of the convolution and both its gradients against a direct one in float64."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.convolution import LAYOUTS, METHODS, conv_stack, output_size, strided_conv


def _direct64(x, kernel, stride):
    """Sum over the kernel's places, in float64; differentiable by hand below."""
    k = kernel.shape[0]
    rows, columns = (output_size(size, k, stride) for size in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i, j in np.ndindex(k, k):
        y += x[:, i : i + rows * stride : stride, j : j + columns * stride : stride][:, :rows, :columns] @ kernel[i, j]
    return y


def _direct64_gradients(x, kernel, stride, dy):
    k = kernel.shape[0]
    rows, columns = dy.shape[1:3]
    dx, dkernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j in np.ndindex(k, k):
        places = np.s_[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        dx[places] += dy @ kernel[i, j].T
        dkernel[i, j] = np.tensordot(x[places], dy, ([0, 1, 2], [0, 1, 2]))
    return dx, dkernel


def _error(ours, reference):
    return np.max(np.abs(np.asarray(ours, np.float64) - reference)) / np.max(np.abs(reference))


# height, width, channels, kernel, outputs, stride: the four geometries of the paper with fewer channels, odd and even
# sizes, one output, several tiles, not square, stride 1, and few channels (a product over patches). In the polyphase
# method the kernels of 15x15 are taken by groups of rows.
_SHAPES = [
    (20, 20, 32, 9, 16, 2),
    (32, 32, 20, 9, 8, 2),
    (26, 26, 20, 15, 8, 2),
    (20, 20, 32, 15, 8, 2),
    (9, 9, 17, 9, 3, 2),
    (10, 10, 17, 9, 3, 2),
    (13, 17, 16, 4, 5, 2),
    (17, 13, 16, 1, 5, 2),
    (19, 18, 16, 3, 2, 1),
    (31, 14, 16, 5, 4, 1),
    (45, 47, 16, 9, 2, 2),
    (60, 33, 16, 6, 2, 2),
    (28, 28, 1, 9, 16, 1),
    (21, 24, 3, 5, 4, 2),
]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("method", ["spectral", "polyphase"])
@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_forward_and_gradients(shape, method, dtype, tolerance):
    height, width, channels, k, outputs, stride = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, height, width, channels)), dtype)
    kernel = jnp.asarray(rng.standard_normal((k, k, channels, outputs)), dtype)
    outputs_shape = (2, output_size(height, k, stride), output_size(width, k, stride), outputs)
    dy = jnp.asarray(rng.standard_normal(outputs_shape), dtype)

    @jax.jit
    def convolve(x, kernel, dy):
        y, pull = jax.vjp(lambda x, w: strided_conv(x, w, stride=stride, method=method), x, kernel)
        return y, *pull(dy)

    y, dx, dkernel = convolve(x, kernel, dy)
    assert y.dtype == dx.dtype == dkernel.dtype == dtype

    x64, kernel64, dy64 = (np.asarray(array.astype(jnp.float32), np.float64) for array in (x, kernel, dy))
    reference = _direct64(x64, kernel64, stride)
    assert y.shape == reference.shape
    dx64, dkernel64 = _direct64_gradients(x64, kernel64, stride, dy64)
    assert _error(y.astype(jnp.float32), reference) < tolerance
    assert _error(dx.astype(jnp.float32), dx64) < tolerance
    assert _error(dkernel.astype(jnp.float32), dkernel64) < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_forward_and_of_batches(method):
    """A Jacobian is that of a linear map, by columns, by rows, and with a batch of directions."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 7, 8, 16), np.float32), rng.standard_normal((3, 3, 16, 2), np.float32)

    def features(x):
        return strided_conv(x, kernel, stride=2, method=method)

    direction = rng.standard_normal(x.shape, np.float32)
    y, tangent = jax.jit(lambda: jax.jvp(features, (x,), (direction,)))()
    assert _error(y, _direct64(x, kernel, 2)) < 1e-5
    assert _error(tangent, _direct64(direction, kernel, 2)) < 1e-5
    rows = jax.jit(jax.jacrev(features))(x)
    assert _error(np.sum(rows * direction, axis=(4, 5, 6, 7)), _direct64(direction, kernel, 2)) < 1e-5
    several = np.stack([x, direction])
    assert _error(jax.jit(jax.vmap(features))(several)[1], _direct64(direction, kernel, 2)) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 16])
def test_layouts_only_reorder_axes(method, channels):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.standard_normal((2, 20, 19, channels), np.float32),
        rng.standard_normal((9, 9, channels, 4), np.float32),
    )
    expected = strided_conv(x, kernel, stride=2, method=method)
    for before, after in itertools.product(LAYOUTS, LAYOUTS):
        y = strided_conv(
            x.transpose(["NHWC".index(axis) for axis in before]),
            kernel,
            stride=2,
            method=method,
            layouts=(before, after),
        )
        np.testing.assert_allclose(y.transpose([after.index(axis) for axis in "NHWC"]), expected, atol=1e-4)


def test_methods_agree_and_auto_is_spectral_on_a_cpu():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 20, 20, 16), np.float32), rng.standard_normal((9, 9, 16, 4), np.float32)
    by_method = {method: strided_conv(x, kernel, stride=2, method=method) for method in METHODS}
    np.testing.assert_allclose(by_method["spectral"], by_method["direct"], atol=1e-3)
    np.testing.assert_array_equal(by_method["auto"], by_method["spectral"])
    assert not np.array_equal(by_method["spectral"], by_method["direct"])  # they are two computations


def test_the_platform_is_chosen_when_the_program_is_lowered():
    """Whatever machine it is traced on, a TPU's program has XLA's convolutions, and a CPU's has products alone.

    An NVIDIA GPU's has convolutions without strides, whose gradients have no zeros between the numbers.
    """
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
def test_a_stack_is_its_convolutions_with_biases_and_relu_between(method):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 11, 3), np.float32)
    kernels = [rng.standard_normal((3, 3, 3, 16), np.float32), rng.standard_normal((5, 5, 16, 4), np.float32)]
    biases = [rng.standard_normal(16).astype(np.float32), rng.standard_normal(4).astype(np.float32)]
    y = conv_stack(x, kernels, biases, strides=(1, 2), padding=2, method=method)
    pad = ((0, 0), (2, 2), (2, 2), (0, 0))
    hidden = np.maximum(_direct64(np.pad(x, pad), kernels[0], 1) + biases[0], 0)
    expected = _direct64(np.pad(hidden, pad), kernels[1], 2) + biases[1]
    assert y.shape == expected.shape and _error(y, expected) < 1e-5


def test_image_gradient_is_not_computed_unless_asked():
    """Conv1's image gradient would be a convolution of its own."""
    images, kernel = jnp.zeros((2, 28, 28, 1)), jnp.zeros((9, 9, 1, 4))

    def products(argnums):
        gradient = jax.grad(lambda x, w: jnp.sum(strided_conv(x, w, method="spectral") ** 2), argnums)
        return jax.jit(gradient).lower(images, kernel).compile().as_text().count(" dot(")

    assert products(1) < products((0, 1))


@pytest.mark.parametrize(
    "x_shape, kernel_shape, options, message",
    [
        ((1, 8, 8, 1), (9, 9, 1, 2), {}, "8x8 image is smaller than the 9x9 kernel"),
        ((1, 20, 20, 2), (9, 9, 1, 2), {}, r"\(1, 20, 20, 2\)"),
        ((1, 20, 20, 1), (9, 8, 1, 2), {}, r"\(9, 8, 1, 2\)"),
        ((1, 20, 20, 1), (9, 9, 1, 2), {"stride": 3}, "strides 1 and 2, got 3"),
        ((1, 20, 20, 1), (9, 9, 1, 2), {"method": "fft"}, "auto, spectral, polyphase, direct, got 'fft'"),
        ((1, 20, 20, 1), (9, 9, 1, 2), {"layouts": ("NHWC", "NCHW")}, "NHWC, CHWN, got .*NCHW"),
    ],
)
def test_refusals(x_shape, kernel_shape, options, message):
    with pytest.raises(ValueError, match=message):
        strided_conv(jnp.zeros(x_shape), jnp.zeros(kernel_shape), **options)
