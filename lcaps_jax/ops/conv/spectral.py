"""Convolution in the frequency domain: on a CPU far faster than XLA's own, forward and backward.

A stride-2 correlation is the sum over the 4 pixel parities of stride-1 correlations with half the kernel
(space-to-depth), so parities join the channels. The output is cut into tiles. A tile of ``n = m + taps - 1`` inputs
along each axis gives ``m`` outputs free of wrap-around: ``y = backward[(forward x) * (filter w)]``, contracted over the
channels. All transforms are constant matrices, so that autodiff yields matrix products only.

Axes besides those of the package: ``m`` outputs and ``n`` inputs of a tile along an axis, ``R`` real products a tile.
"""

from collections.abc import Callable, Iterator
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.ops.conv.patches import output_size
from lcaps_jax.ops.conv.polyphase import kernel_phases, pixel_phases
from lcaps_jax.ops.precision import einsum

# Named scopes, visible in a profile.
IMAGES, KERNEL, PRODUCT, OUTPUTS = "transform_images", "transform_kernel", "product_of_spectra", "transform_outputs"

# Most outputs of a tile along an axis. A larger tile takes fewer multiplications per output, costlier transforms and
# more memory for the transformed kernel. The 12x12 grid of a 40x40 image is the largest that gains from a single tile.
_MAX_TILE = 12

_PIXELS_FIRST = (2, 4, 3, 5, 1, 0, 6)
_Pair = tuple[np.ndarray, np.ndarray]


def spectral_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Correlates ``x [C, H, W, B]`` with ``kernel [k, k, C, O]``, both float32: ``[h, w, B, O]``.

    The images are the last axis of ``x``: in that order the product and both its gradients run fastest on a CPU.
    """
    channels, height, width, batch = x.shape
    k, outputs = kernel.shape[0], kernel.shape[3]
    taps = -(-k // stride)  # size of the kernel of each parity
    rows, columns = output_size(height, k, stride), output_size(width, k, stride)
    tiles_y, tiles_x = -(-rows // _MAX_TILE), -(-columns // _MAX_TILE)
    m_y, m_x = -(-rows // tiles_y), -(-columns // tiles_x)
    n_y, n_x = m_y + taps - 1, m_x + taps - 1
    forward, of_filter, backward = _correlation(n_y, n_x, taps, m_y, m_x)

    with jax.named_scope(IMAGES):
        # Crop pixels that no output sees; pad those that only the last tile and the kernel's padding see.
        x = pixel_phases(x, tiles_y * m_y + taps - 1, tiles_x * m_x + taps - 1, stride)
        corners = [(i * m_y, j * m_x) for i in range(tiles_y) for j in range(tiles_x)]
        x = jnp.stack([x[:, i : i + n_y, :, j : j + n_x] for i, j in corners])  # [tiles, C, n, s, n, s, B]
        x = _pixels_first(x).reshape(n_y, n_x, -1)
        depth = stride * stride * channels
        x_spectrum = _analyse(x, *forward).reshape(-1, depth, len(corners) * batch)

    with jax.named_scope(KERNEL):
        w = kernel_phases(kernel, stride).reshape(taps, taps, -1)
        w_spectrum = _analyse(w, *of_filter).reshape(-1, depth, outputs)

    with jax.named_scope(PRODUCT):
        y_spectrum = einsum("rcb,rco->rbo", x_spectrum, w_spectrum)

    with jax.named_scope(OUTPUTS):
        y = _synthesise(y_spectrum.reshape(len(x_spectrum), -1), *backward)
        y = y.reshape(m_y, m_x, tiles_y, tiles_x, batch, outputs).transpose(2, 0, 3, 1, 4, 5)
        return y.reshape(tiles_y * m_y, tiles_x * m_x, batch, outputs)[:rows, :columns]


@jax.custom_jvp
def _pixels_first(x: jax.Array) -> jax.Array:
    """Tiles ``[tiles, C, n, s, n, s, B]`` as ``[n, n, s, s, C, tiles, B]``.

    XLA's CPU compiler merges a transposition with the reshape that follows it and then divides to find each number,
    which takes five times as long. A concatenation keeps the two apart. The gradient does not need this.
    """
    halves = lax.split(x, (x.shape[2] // 2, -(-x.shape[2] // 2)), axis=2)
    return jnp.concatenate([half.transpose(_PIXELS_FIRST) for half in halves])


_pixels_first.defjvp(lambda primals, tangents: (_pixels_first(*primals), tangents[0].transpose(_PIXELS_FIRST)))


def _analyse(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Transforms values of a tile ``[n_y, n_x, N]`` to ``[R, N]``.

    The matrix ``rows [groups, 2, n_y]`` transforms along the first axis; then, for each group of its frequencies,
    ``columns [groups, R/groups, 2, n_x]`` along the second.
    """
    groups, _, size = rows.shape
    x = _transform(rows.reshape(-1, size), x.reshape(size, -1))
    x = x.reshape(groups, -1, x.shape[1] // columns.shape[3])
    return _transform(columns.reshape(groups, -1, x.shape[1]), x).reshape(-1, x.shape[2])


def _synthesise(y: jax.Array, columns: np.ndarray, rows: np.ndarray) -> jax.Array:
    """Transforms a product of spectra ``[R, N]`` back to ``[m_y, m_x, N]``.

    The matrices ``columns [groups, 2, m_x, R/groups]`` transform along the second axis, then ``rows [m_y, groups, 2]``
    along the first.
    """
    groups, _, size, products = columns.shape
    y = _transform(columns.reshape(groups, -1, products), y.reshape(groups, products, -1))
    return _transform(rows.reshape(len(rows), -1), y.reshape(2 * groups, -1)).reshape(len(rows), size, -1)


def _transform(matrices: np.ndarray, x: jax.Array) -> jax.Array:
    """Product of a constant matrix ``[p, n]``, or one for each group, with ``[n, N]``.

    XLA's CPU compiler multiplies by the rows of a constant faster than by its columns. The tangent is computed with the
    transposed constant, so that both the product and its gradient read rows.
    """
    transposed = np.ascontiguousarray(matrices.swapaxes(-1, -2))
    transform = jax.custom_jvp(lambda x: einsum("...pn,...nm->...pm", matrices, x))
    transform.defjvp(lambda x, dx: (transform(*x), einsum("...np,...nm->...pm", transposed, *dx)))
    return transform(x)


@functools.cache
def _correlation(n_y: int, n_x: int, taps: int, m_y: int, m_x: int) -> tuple[_Pair, _Pair, _Pair]:
    """Real matrices that make a DFT of size ``n_y x n_x`` a correlation with ``taps x taps`` filters.

    These are the last two arguments of ``_analyse`` for the images, of ``_analyse`` for the filter, and of
    ``_synthesise``. They are computed in float64 and returned as float32.

    The frequencies 0 to n_y/2 along the rows determine a real sequence of ``n_y`` rows. Each complex one is a group;
    the real ones, 0 and (for even n_y) n_y/2, form group 0. A group consists of two real sequences of ``n_x`` values.
    Those of a complex frequency are transformed together, as one complex sequence with ``n_x`` frequencies; each of the
    real ones has one of each conjugate pair. The product of two complex numbers is Gauss's three real ones,
    ``(a+ib)(c+id) = (k1-k3) + i(k1+k2)`` with ``k1 = c(a+b), k2 = a(d-c), k3 = b(c+d)``, whose sums are folded into
    the matrices. Rows that group 0 does not need are zero, so that all groups have equal size.
    """
    forward = _analysis(n_y, n_x, n_y, n_x, lambda a, b: (a + b, a, b))
    # A correlation conjugates the filter's spectrum a + ib, so that c = a and d = -b.
    of_filter = _analysis(n_y, n_x, taps, taps, lambda a, b: (a, -a - b, a - b))
    return forward, of_filter, _synthesis(n_y, n_x, m_y, m_x)


def _frequencies(n_y: int, n_x: int) -> Iterator[tuple[int, int, int, slice]]:
    """Group, sequence (in group 0), frequency along the columns, and the one or three products that it takes."""
    for group in range(-(-n_y // 2)):
        first = 0
        sequences, count = (1, n_x) if group else (2 - n_y % 2, n_x // 2 + 1)
        for sequence, f in np.ndindex(sequences, count):
            products = 3 if group or 2 * f % n_x else 1
            yield group, sequence, f, slice(first, first + products)
            first += products


def _waves(f: int, size: int, period: int) -> _Pair:
    angle = 2 * np.pi * f * np.arange(size) / period
    return np.cos(angle), np.sin(angle)


def _analysis(n_y: int, n_x: int, size_y: int, size_x: int, gauss: Callable) -> _Pair:
    """Matrices of ``_analyse`` for ``size_y x size_x`` values; ``gauss`` gives three sums of (real, imaginary)."""
    groups, real = -(-n_y // 2), 2 - n_y % 2
    rows, columns = np.zeros((groups, 2, size_y)), np.zeros((groups, 3 * n_x, 2, size_x))
    rows[0, :real] = np.stack([np.ones(size_y), (-1.0) ** np.arange(size_y)])[:real]
    for group in range(1, groups):
        cos, sin = _waves(group, size_y, n_y)
        rows[group] = cos, -sin
    for group, sequence, f, products in _frequencies(n_y, n_x):
        cos, sin = _waves(f, size_x, n_x)
        which = np.eye(2)[sequence][:, None]
        re, im = (np.stack([cos, sin]), np.stack([-sin, cos])) if group else (which * cos, which * -sin)
        columns[group, products] = gauss(re, im) if group or 2 * f % n_x else re
    return rows.astype(np.float32), columns.astype(np.float32)


def _synthesis(n_y: int, n_x: int, m_y: int, m_x: int) -> _Pair:
    """Matrices of ``_synthesise`` for ``m_y x m_x`` outputs."""
    groups, real = -(-n_y // 2), 2 - n_y % 2
    columns, rows = np.zeros((groups, 2, m_x, 3 * n_x)), np.zeros((m_y, groups, 2))
    rows[:, 0, :real] = np.stack([np.ones(m_y), (-1.0) ** np.arange(m_y)], axis=1)[:, :real]
    for group in range(1, groups):  # twice the real part, for the conjugate frequency
        cos, sin = _waves(group, m_y, n_y)
        rows[:, group] = np.stack([2 * cos, -2 * sin], axis=1)
    re, im = np.array([(1, 1), (0, 1), (-1, 0)]).T[:, None]  # real and imaginary part of k1, k2, k3
    for group, sequence, f, products in _frequencies(n_y, n_x):
        cos, sin = (wave[:, None] for wave in _waves(f, m_x, n_x))
        if group:
            columns[group, :, :, products] = re * cos - im * sin, re * sin + im * cos
        else:
            columns[0, sequence, :, products] = 2 * (re * cos - im * sin) if 2 * f % n_x else cos
    return columns.astype(np.float32), (rows / (n_y * n_x)).astype(np.float32)
