"""Strided convolution that trains fast on a CPU as well as on GPUs and TPUs.

XLA's CPU backend has no fast gradient for a strided convolution with many channels: for the primary
capsules of a capsule network it is some twenty-five times slower than it need be. There the convolution is
computed in the frequency domain instead, where it is one batched matrix product between two small exact
transforms, so that autodiff, too, yields matrix products only. GPUs and TPUs use XLA's own convolution.

Axes: ``B`` images, ``H x W`` pixels, ``C`` input channels, ``O`` output channels, ``k`` kernel size,
``s`` stride, ``m`` outputs and ``n`` inputs of a tile along one axis, ``R`` real products per tile.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

METHODS = ("auto", "spectral", "direct")

# Below this many input channels a matrix product over image patches beats the transforms.
_FEW_CHANNELS = 16
# Outputs of one tile along an axis. Multiplications per output fall as a tile grows while the dense
# transforms of it get dearer; the 12x12 primary grid of a 40x40 image is the largest that pays as one.
_MAX_TILE = 12


def output_size(size: int, kernel: int, stride: int) -> int:
    """Outputs along an axis of a VALID convolution; at most 0 where the kernel does not fit."""
    return (size - kernel) // stride + 1


def strided_conv(x: jax.Array, kernel: jax.Array, *, stride: int = 1, method: str = "auto") -> jax.Array:
    """VALID convolution (cross-correlation) of images with a square kernel.

    Args:
      x: ``[B, H, W, C]`` images or features, float32 or bfloat16.
      kernel: ``[k, k, C, O]``, of the dtype of ``x``.
      stride: 1 or 2.
      method: ``"spectral"`` (exact transforms and one batched product; images of few channels, a product
        over patches), ``"direct"`` (XLA's convolution), or ``"auto"``: spectral on a CPU, direct elsewhere.

    Returns:
      ``[B, (H-k)//stride+1, (W-k)//stride+1, O]``, of the dtype of ``x``. On a CPU bfloat16 is computed
      in float32 and rounded once, which is both faster and closer.

    Raises:
      ValueError: for shapes that do not fit each other, a stride other than 1 and 2, an unknown method,
        or an image smaller than the kernel.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2] or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"strided_conv wants x [B, H, W, C] and kernel [k, k, C, O], got {x.shape} and {kernel.shape}."
        )
    if stride not in (1, 2):
        raise ValueError(f"strided_conv has strides 1 and 2, got {stride}.")
    if method not in METHODS:
        raise ValueError(f"strided_conv has the methods {', '.join(METHODS)}, got {method!r}.")
    if min(x.shape[1:3]) < kernel.shape[0]:
        raise ValueError(
            f"A {x.shape[1]}x{x.shape[2]} image is smaller than the {kernel.shape[0]}x{kernel.shape[0]} kernel."
        )
    if method == "auto":
        method = "spectral" if jax.default_backend() == "cpu" else "direct"
    if method == "direct":
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
    convolve = _patches_conv if x.shape[3] < _FEW_CHANNELS else _spectral_conv
    return convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), stride).astype(x.dtype)


def _patches_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """One matrix product over the ``k*k*C`` values under the kernel; gathered one axis at a time."""
    k = kernel.shape[0]
    for axis in (2, 1):
        out = output_size(x.shape[axis], k, stride)
        shifts = [lax.slice_in_dim(x, i, i + (out - 1) * stride + 1, stride, axis) for i in range(k)]
        x = jnp.concatenate(shifts, axis=3)  # ends as [B, h, w, (row, column, channel)]
    return jnp.einsum("bhwc,co->bhwo", x, kernel.reshape(-1, kernel.shape[3]), precision=lax.Precision.HIGHEST)


def _spectral_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Polyphase components, correlated tile by tile in a DFT that is just large enough not to wrap.

    A stride-2 correlation is the sum over the 4 pixel parities of stride-1 correlations with half the kernel
    (space-to-depth), so parities join the channels. A tile of ``n = m + k' - 1`` inputs along each axis gives
    ``m`` outputs free of wrap-around: ``y = backward[(forward x) * (filter w)]``, contracted over the channels.
    """
    batch, height, width, channels = x.shape
    k, outputs = kernel.shape[0], kernel.shape[3]
    taps = -(-k // stride)  # k', per parity
    rows, columns = output_size(height, k, stride), output_size(width, k, stride)
    tiles_y, tiles_x = -(-rows // _MAX_TILE), -(-columns // _MAX_TILE)
    m_y, m_x = -(-rows // tiles_y), -(-columns // tiles_x)
    n_y, n_x = m_y + taps - 1, m_x + taps - 1
    forward, filter_, backward = _bilinear_form(n_y, n_x, taps, m_y, m_x)

    # Crop what no output sees, pad what only the last tile and the kernel's added zeros see.
    used = [((tiles * m + taps - 1) * stride) for tiles, m in ((tiles_y, m_y), (tiles_x, m_x))]
    x = x[:, : used[0], : used[1]]
    x = jnp.pad(x, ((0, 0), (0, used[0] - x.shape[1]), (0, used[1] - x.shape[2]), (0, 0)))
    x = x.reshape(batch, used[0] // stride, stride, used[1] // stride, stride, channels)
    tiles = [x[:, i * m_y : i * m_y + n_y, :, j * m_x : j * m_x + n_x] for i in range(tiles_y) for j in range(tiles_x)]
    x = jnp.stack(tiles)  # [tiles, B, n, s, n, s, C]
    x = x.transpose(2, 4, 0, 1, 3, 5, 6).reshape(n_y * n_x, -1)

    extra = taps * stride - k
    w = jnp.pad(kernel, ((0, extra), (0, extra), (0, 0), (0, 0)))
    w = w.reshape(taps, stride, taps, stride, channels, outputs).transpose(0, 2, 1, 3, 4, 5).reshape(taps * taps, -1)

    dot = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)
    depth = stride * stride * channels
    x_spectrum = dot(forward, x).reshape(-1, len(tiles) * batch, depth)
    w_spectrum = dot(filter_, w).reshape(-1, depth, outputs)
    y_spectrum = jnp.einsum("rbc,rco->rbo", x_spectrum, w_spectrum, precision=lax.Precision.HIGHEST)
    y = dot(backward, y_spectrum.reshape(len(forward), -1))

    y = y.reshape(m_y, m_x, tiles_y, tiles_x, batch, outputs).transpose(4, 2, 0, 3, 1, 5)
    return y.reshape(batch, tiles_y * m_y, tiles_x * m_x, outputs)[:, :rows, :columns]


@functools.cache
def _bilinear_form(n_y: int, n_x: int, taps: int, m_y: int, m_x: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real matrices of a 2-D correlation: ``backward @ ((forward @ x) * (filter @ w))``.

    One of each pair of conjugate frequencies of an ``n_y x n_x`` DFT suffices for real data. The complex product
    of such a pair is Gauss's three real ones, whose sums are folded into the matrices:
    ``(a+ib)(c+id) = (k1-k3) + i(k1+k2)`` with ``k1 = c(a+b), k2 = a(d-c), k3 = b(c+d)``.

    Returns:
      forward ``[R, n_y*n_x]``, filter ``[R, taps*taps]``, backward ``[m_y*m_x, R]``, computed in float64, as float32.
    """
    forward, filter_, backward = [], [], []

    def waves(fy, fx, rows, columns):
        phase = 2 * math.pi * (fy * np.arange(rows)[:, None] / n_y + fx * np.arange(columns)[None, :] / n_x)
        return np.cos(phase).ravel(), np.sin(phase).ravel()

    for fy in range(n_y):
        for fx in range(n_x):
            mirror = (-fy % n_y, -fx % n_x)
            if mirror < (fy, fx):
                continue
            x_cos, x_sin = waves(fy, fx, n_y, n_x)
            w_cos, w_sin = waves(fy, fx, taps, taps)
            y_cos, y_sin = waves(fy, fx, m_y, m_x)
            if mirror == (fy, fx):  # its sine is zero: a real frequency
                forward += [x_cos]
                filter_ += [w_cos]
                backward += [y_cos]
            else:  # a = x.cos, b = -x.sin; a correlation conjugates the filter: c = w.cos, d = +w.sin
                forward += [x_cos - x_sin, x_cos, -x_sin]
                filter_ += [w_cos, w_sin - w_cos, w_cos + w_sin]
                backward += [2 * (y_cos - y_sin), -2 * y_sin, -2 * y_cos]
    as_float32 = functools.partial(np.asarray, dtype=np.float32)
    return as_float32(forward), as_float32(filter_), as_float32(np.transpose(backward) / (n_y * n_x))
