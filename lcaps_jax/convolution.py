"""Strided convolution that trains fast on a CPU as well as on GPUs and TPUs.

XLA's CPU backend has no fast gradient of a strided convolution with many channels: for the primary capsules of a
capsule network it is some twenty-five times slower than it need be. On a CPU this module therefore computes the
convolution in the frequency domain. There it is one batched matrix product between small exact transforms, so that
autodiff, too, yields matrix products only. TPUs use XLA's own convolution. NVIDIA's GPUs use it too, but on the four
parities of the pixels, because XLA hands cuDNN the gradients of a large strided kernel as convolutions of zero-filled
images.

Axes: ``B`` images, ``H x W`` pixels, ``C`` input channels, ``O`` output channels, ``k`` kernel size,
``s`` stride, ``m`` outputs and ``n`` inputs of a tile along one axis, ``R`` real products per tile.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.precision import einsum, matmul_precision

AUTO, SPECTRAL, POLYPHASE, DIRECT = METHODS = ("auto", "spectral", "polyphase", "direct")
# What "auto" is for TPUs and other accelerators: direct, but a product over patches for the images themselves.
_ACCELERATED = "accelerated"
LAYOUTS = ("NHWC", "CHWN")
# Names of the parts of a convolution in a compiled program, for those who read a profile.
PATCHES, IMAGES, KERNEL, PRODUCT, OUTPUTS = (
    "patches_conv",
    "transform_images",
    "transform_kernel",
    "product_of_spectra",
    "transform_outputs",
)

# Below this many input channels a matrix product over image patches beats the transforms.
_FEW_CHANNELS = 16
# So many channels an image has at most, grey or coloured.
_IMAGE_CHANNELS = 3
# Outputs of one tile along an axis. Multiplications per output fall as a tile grows while its transforms and the
# memory of a transformed kernel grow. The 12x12 primary grid of a 40x40 image is the largest that gains from one tile.
_MAX_TILE = 12


def output_size(size: int, kernel: int, stride: int) -> int:
    """Number of outputs along an axis of a VALID convolution; at most 0 where the kernel does not fit."""
    return (size - kernel) // stride + 1


def strided_conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    method: str = "auto",
    layouts: tuple[str, str] = ("NHWC", "NHWC"),
) -> jax.Array:
    """VALID convolution (cross-correlation) of images with a square kernel.

    Args:
      x: Images or features, ``[B, H, W, C]`` in the layout NHWC, float32 or bfloat16.
      kernel: Kernel ``[k, k, C, O]``, of the dtype of ``x``.
      stride: Stride along both axes, 1 or 2.
      method: ``"spectral"`` (exact transforms and one batched product or, for few channels, a product over
        patches), ``"polyphase"`` (XLA's convolution of the pixels' parities, with stride 1), ``"direct"`` (XLA's
        convolution), or ``"auto"``, which is chosen where the program is lowered: spectral for a CPU, polyphase for an
        NVIDIA GPU, and direct elsewhere. The channels of an image itself become a product over patches in all but
        ``"direct"``: XLA's TPU compiler takes minutes over the kernel gradient of a convolution with one channel.
      layouts: Order of the axes of ``x`` and of the result, each ``"NHWC"`` or ``"CHWN"``.

    Returns:
      ``[B, (H-k)//stride+1, (W-k)//stride+1, O]`` in the layout NHWC, of the dtype of ``x``. The spectral method
      computes bfloat16 in float32 and rounds once, which is both faster and closer.

    Raises:
      ValueError: Shapes do not fit each other, the stride is neither 1 nor 2, the method or a layout is unknown, or an
        image is smaller than the kernel.
    """
    _check(x, kernel, stride, layouts)
    return _by_method(functools.partial(_strided_conv, stride=stride, layouts=layouts), method, x, kernel)


def conv_stack(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    *,
    strides: Sequence[int],
    padding: int = 0,
    method: str = "auto",
) -> jax.Array:
    """Convolutions one after the other, each with its bias, and a ReLU between them.

    Between two convolutions the features stay in the order of axes that costs the method no transposition, forward and
    backward.

    Args:
      x: Images ``[B, H, W, C]``, float32 or bfloat16.
      kernels: Kernel of each convolution, ``[k, k, C, O]``, of the dtype of ``x``.
      biases: Bias of each convolution, ``[O]``, of the dtype of ``x``.
      strides: Stride of each convolution, 1 or 2.
      padding: Pixels of zeros that every convolution adds on each side.
      method: See ``strided_conv``.

    Returns:
      ``[B, h, w, O]``, of the dtype of ``x``; no ReLU comes after the last convolution.

    Raises:
      ValueError: See ``strided_conv``.
    """
    stack = functools.partial(_conv_stack, strides=tuple(strides), padding=padding)
    return _by_method(stack, method, x, tuple(kernels), tuple(biases))


def _by_method(compute: Callable, method: str, *arrays) -> jax.Array:
    """``compute(*arrays, method)`` for the method, which for "auto" is chosen when the program is lowered.

    A program that is exported or compiled ahead of time for another platform thus gets that platform's code. One that
    is lowered for a single platform holds no trace of the others.
    """
    if method not in METHODS:
        raise ValueError(f"strided_conv has the methods {', '.join(METHODS)}, got {method!r}.")
    if method != AUTO:
        return compute(*arrays, method=method)
    methods = {"cpu": SPECTRAL, "cuda": POLYPHASE, "default": _ACCELERATED}
    computed = {platform: functools.partial(compute, method=method) for platform, method in methods.items()}
    return lax.platform_dependent(*arrays, **computed)


def _check(x: jax.Array, kernel: jax.Array, stride: int, layouts: tuple[str, str]) -> None:
    """Raises ValueError for what ``strided_conv`` refuses."""
    if not set(layouts) <= set(LAYOUTS):
        raise ValueError(f"strided_conv has the layouts {', '.join(LAYOUTS)}, got {layouts!r}.")
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"strided_conv wants four axes of x and a kernel [k, k, C, O], got {x.shape} and {kernel.shape}."
        )
    height, width, channels = (x.shape[layouts[0].index(axis)] for axis in "HWC")
    if channels != kernel.shape[2]:
        raise ValueError(
            f"x {x.shape} ({layouts[0]}) has {channels} channels, the kernel {kernel.shape} wants {kernel.shape[2]}."
        )
    if stride not in (1, 2):
        raise ValueError(f"strided_conv has strides 1 and 2, got {stride}.")
    if min(height, width) < kernel.shape[0]:
        raise ValueError(f"A {height}x{width} image is smaller than the {kernel.shape[0]}x{kernel.shape[0]} kernel.")


def _strided_conv(x: jax.Array, kernel: jax.Array, *, stride: int, layouts: tuple[str, str], method: str) -> jax.Array:
    channels = kernel.shape[2]
    if method in (_ACCELERATED, POLYPHASE) and channels <= _IMAGE_CHANNELS:
        return _reorder(_patches_conv(_reorder(x, layouts[0], "NHWC"), kernel, stride, "NHWC"), "NHWC", layouts[1])
    if method == POLYPHASE:
        return _reorder(_polyphase_conv(_reorder(x, layouts[0], "NHWC"), kernel, stride), "NHWC", layouts[1])
    if method in (DIRECT, _ACCELERATED):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=(layouts[0], "HWIO", layouts[1]),
            precision=matmul_precision(),
        )
    dtype, x, kernel = x.dtype, _reorder(x, layouts[0], "CHWN").astype(jnp.float32), kernel.astype(jnp.float32)
    few = channels < _FEW_CHANNELS
    y = _Ordered(_patches_conv(x, kernel, stride, "CHWN"), "CHWN") if few else _spectral_conv(x, kernel, stride)
    return _reorder(y.array, y.layout, layouts[1]).astype(dtype)


def _conv_stack(x: jax.Array, kernels, biases, *, strides: tuple[int, ...], padding: int, method: str) -> jax.Array:
    layout = "NHWC"
    for layer, (kernel, bias, stride) in enumerate(zip(kernels, biases, strides, strict=True), start=1):
        if layer > 1:
            x = jax.nn.relu(x)
        if padding:
            x = jnp.pad(x, [(padding, padding) if axis in "HW" else (0, 0) for axis in layout])
        after = "CHWN" if method == SPECTRAL and layer < len(kernels) else "NHWC"
        _check(x, kernel, stride, (layout, after))
        x = _strided_conv(x, kernel, stride=stride, layouts=(layout, after), method=method)
        x += bias.reshape(-1, *(1,) * (x.ndim - 1 - after.index("C")))
        layout = after
    return x


class _Ordered(NamedTuple):
    """An array and the order of its axes."""

    array: jax.Array
    layout: str


def _reorder(x: jax.Array, layout: str, wanted: str) -> jax.Array:
    return x.transpose([layout.index(axis) for axis in wanted])


@jax.named_scope(PATCHES)
def _patches_conv(x: jax.Array, kernel: jax.Array, stride: int, layout: str) -> jax.Array:
    """One matrix product over the ``k*k*C`` values under the kernel, gathered one axis at a time; keeps the layout."""
    k = kernel.shape[0]
    for axis in map(layout.index, "HW"):
        out = output_size(x.shape[axis], k, stride)
        shifts = [lax.slice_in_dim(x, i, i + (out - 1) * stride + 1, stride, axis) for i in range(k)]
        x = jnp.concatenate(shifts, layout.index("C"))  # whose channels end as (column, row, channel)
    kernel = kernel.swapaxes(0, 1).reshape(-1, kernel.shape[3])
    if layout == "CHWN":  # as one product of matrices, because XLA transposes the patches for any other
        return einsum("co,cp->op", kernel, x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])
    return einsum(f"{layout},CO->{layout.replace('C', 'O')}", x, kernel)


def _polyphase_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution with stride 1, in which the pixels' parities have joined the channels, by groups of kernel rows.

    XLA for NVIDIA's GPUs swaps the operands of a convolution whose kernel has more places than its image. It then no
    longer recognises cuDNN's own gradient by the images, where the kernel is larger than the grid of outputs. It writes
    zeros between the numbers, so that this gradient takes up to seventeen times the products it needs (MNIST, 9x9).
    Parities halve the kernel's size, and so few of its rows are taken at a time that they have no more places than the
    outputs, or one row. So both gradients stay cuDNN's own.
    """
    batch, height, width, channels = x.shape
    k = kernel.shape[0]
    rows, columns = output_size(height, k, stride), output_size(width, k, stride)
    kernel = _kernel_phases(kernel, stride)
    taps = len(kernel)
    if stride > 1:
        sizes = [(count + taps - 1) * stride for count in (rows, columns)]  # what an output sees, and added zeros
        x = x[:, : sizes[0], : sizes[1]]
        x = jnp.pad(x, ((0, 0), (0, sizes[0] - x.shape[1]), (0, sizes[1] - x.shape[2]), (0, 0)))
        x = x.reshape(batch, sizes[0] // stride, stride, sizes[1] // stride, stride, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, sizes[0] // stride, sizes[1] // stride, -1)
    group = max(1, rows * columns // taps)
    y = None
    for first in range(0, taps, group):
        part = kernel[first : first + group]
        seen = x[:, first : first + rows + len(part) - 1, : columns + taps - 1]
        product = lax.conv_general_dilated(
            seen, part, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=matmul_precision()
        )
        product = product.astype(jnp.promote_types(x.dtype, jnp.float32))  # in which the groups are added
        y = product if y is None else y + product
    return y.astype(x.dtype)


def _kernel_phases(kernel: jax.Array, stride: int) -> jax.Array:
    """A kernel by the parities of its pixels, ``[taps, taps, s*s*C, O]``; an odd size is filled up with zeros."""
    k, _, channels, outputs = kernel.shape
    taps = -(-k // stride)
    extra = taps * stride - k
    kernel = jnp.pad(kernel, ((0, extra), (0, extra), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, outputs).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(taps, taps, -1, outputs)


def _spectral_conv(x: jax.Array, kernel: jax.Array, stride: int) -> _Ordered:
    """Polyphase components, correlated tile by tile in a DFT that is just large enough not to wrap; x is CHWN.

    A stride-2 correlation is the sum over the 4 pixel parities of stride-1 correlations with half the kernel
    (space-to-depth), so parities join the channels. A tile of ``n = m + k' - 1`` inputs along each axis gives
    ``m`` outputs free of wrap-around: ``y = backward[(forward x) * (filter w)]``, contracted over the channels.
    The images are the last axis: in that order the product and both its gradients run fastest on a CPU.
    """
    channels, height, width, batch = x.shape
    k, outputs = kernel.shape[0], kernel.shape[3]
    taps = -(-k // stride)  # k', per parity
    rows, columns = output_size(height, k, stride), output_size(width, k, stride)
    tiles_y, tiles_x = -(-rows // _MAX_TILE), -(-columns // _MAX_TILE)
    m_y, m_x = -(-rows // tiles_y), -(-columns // tiles_x)
    n_y, n_x = m_y + taps - 1, m_x + taps - 1
    dft = _correlation(n_y, n_x, taps, m_y, m_x)

    with jax.named_scope(IMAGES):
        # Crop what no output sees, pad what only the last tile and the kernel's added zeros see.
        used = [((tiles * m + taps - 1) * stride) for tiles, m in ((tiles_y, m_y), (tiles_x, m_x))]
        x = x[:, : used[0], : used[1]]
        x = jnp.pad(x, ((0, 0), (0, used[0] - x.shape[1]), (0, used[1] - x.shape[2]), (0, 0)))
        x = x.reshape(channels, used[0] // stride, stride, used[1] // stride, stride, batch)
        corners = [(i * m_y, j * m_x) for i in range(tiles_y) for j in range(tiles_x)]
        x = jnp.stack([x[:, i : i + n_y, :, j : j + n_x] for i, j in corners])  # [tiles, C, n, s, n, s, B]
        x = _pixels_first(x).reshape(n_y, n_x, -1)
        depth = stride * stride * channels
        x_spectrum = _analyse(x, *dft.forward).reshape(-1, depth, len(corners) * batch)

    with jax.named_scope(KERNEL):
        w = _kernel_phases(kernel, stride)
        w_spectrum = _analyse(w.reshape(taps, taps, -1), *dft.filter).reshape(-1, depth, outputs)

    with jax.named_scope(PRODUCT):
        y_spectrum = einsum("rcb,rco->rbo", x_spectrum, w_spectrum)

    with jax.named_scope(OUTPUTS):
        y = _synthesise(y_spectrum.reshape(len(x_spectrum), -1), *dft.backward)
        y = y.reshape(m_y, m_x, tiles_y, tiles_x, batch, outputs).transpose(2, 0, 3, 1, 4, 5)
        y = y.reshape(tiles_y * m_y, tiles_x * m_x, batch, outputs)[:rows, :columns]
    return _Ordered(y, "HWNC")


@jax.custom_jvp
def _pixels_first(x: jax.Array) -> jax.Array:
    """Tiles ``[tiles, C, n, s, n, s, B]`` as ``[n, n, s, s, C, tiles, B]``.

    XLA's CPU compiler merges a transposition with the reshape that follows it, and then divides to find each number,
    which takes five times as long. It does not look behind a concatenation. The gradient needs no such help.
    """
    halves = lax.split(x, (x.shape[2] // 2, -(-x.shape[2] // 2)), axis=2)
    return jnp.concatenate([_transposed(half) for half in halves])


@_pixels_first.defjvp
def _pixels_first_tangent(primals, tangents):
    return _pixels_first(*primals), _transposed(*tangents)


def _transposed(x: jax.Array) -> jax.Array:
    return x.transpose(2, 4, 3, 5, 1, 0, 6)


def _analyse(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """A transform along the first axis, then, for each group of its frequencies, one along the second.

    Args:
      x: Values of a tile, ``[n_y, n_x, N]``.
      rows: Transform along the first axis, ``[groups, 2, n_y]``.
      columns: Transforms along the second axis, ``[groups, R/groups, 2, n_x]``.

    Returns:
      ``[R, N]``.
    """
    groups, _, size = rows.shape
    x = _transform(rows.reshape(-1, size), x.reshape(size, -1))
    x = x.reshape(groups, -1, x.shape[1] // columns.shape[3])
    return _transform(columns.reshape(groups, -1, x.shape[1]), x).reshape(-1, x.shape[2])


def _synthesise(y: jax.Array, columns: np.ndarray, rows: np.ndarray) -> jax.Array:
    """Transforms a product of spectra back.

    Args:
      y: Product of two spectra, ``[R, N]``.
      columns: Transforms along the second axis, ``[groups, 2, m_x, R/groups]``.
      rows: Transform along the first axis, ``[m_y, groups, 2]``.

    Returns:
      ``[m_y, m_x, N]``.
    """
    groups, _, size, products = columns.shape
    y = _transform(columns.reshape(groups, -1, products), y.reshape(groups, products, -1))
    return _transform(rows.reshape(len(rows), -1), y.reshape(2 * groups, -1)).reshape(len(rows), size, -1)


def _transform(matrices: np.ndarray, x: jax.Array) -> jax.Array:
    """Product of a constant matrix ``[p, n]`` with ``[n, N]``, or of as many matrices as there are groups.

    XLA's CPU compiler multiplies by the rows of a constant faster than by its columns. Both the product and its
    gradient get their rows here, because the tangent is computed by the transposed constant.
    """

    @jax.custom_jvp
    def transform(x):
        return einsum("...pn,...nm->...pm", matrices, x)

    @transform.defjvp
    def transform_tangent(primals, tangents):
        transposed = np.ascontiguousarray(matrices.swapaxes(-1, -2))
        return transform(*primals), einsum("...np,...nm->...pm", transposed, *tangents)

    return transform(x)


class _Correlation(NamedTuple):
    """Constant matrices of a 2-D correlation, one axis after the other.

    Attributes:
      forward: Arguments of ``_analyse`` for the images.
      filter: Arguments of ``_analyse`` for the filter.
      backward: Arguments of ``_synthesise``.
    """

    forward: tuple[np.ndarray, np.ndarray]
    filter: tuple[np.ndarray, np.ndarray]
    backward: tuple[np.ndarray, np.ndarray]


@functools.cache
def _correlation(n_y: int, n_x: int, taps: int, m_y: int, m_x: int) -> _Correlation:
    """Real matrices that make a DFT of size ``n_y x n_x`` a correlation with ``taps x taps`` filters.

    The frequencies 0 to n_y/2 determine a real sequence of ``n_y`` rows. Each complex one of them is a group. The real
    ones, 0 and (for even n_y) n_y/2, are another. A group has two real sequences of ``n_x`` values. The sequences of a
    complex frequency have all ``n_x`` complex frequencies along the columns. Each of the two real ones has one of each
    conjugate pair. The product of two complex numbers is Gauss's three real ones,
    ``(a+ib)(c+id) = (k1-k3) + i(k1+k2)`` with ``k1 = c(a+b), k2 = a(d-c), k3 = b(c+d)``, whose sums are folded into
    the matrices. Rows that the group of real frequencies does not need are zero, so that all groups have equal size.

    Computed in float64, returned as float32.
    """
    groups = -(-n_y // 2)
    real = 2 - n_y % 2  # real frequencies along the rows

    def analysis(size_y, size_x, gauss):
        y, x = np.arange(size_y), np.arange(size_x)
        rows, columns = np.zeros((groups, 2, size_y)), np.zeros((groups, 3 * n_x, 2, size_x))
        for group in range(groups):
            row = 0
            if group:
                rows[group] = np.cos(2 * math.pi * group * y / n_y), -np.sin(2 * math.pi * group * y / n_y)
                for f in range(n_x):
                    cos, sin = np.cos(2 * math.pi * f * x / n_x), np.sin(2 * math.pi * f * x / n_x)
                    columns[group, row : row + 3] = gauss(np.stack([cos, sin]), np.stack([-sin, cos]))
                    row += 3
                continue
            rows[0, :real] = np.stack([np.ones(size_y), (-1.0) ** y])[:real]
            for part, f in np.ndindex(real, n_x // 2 + 1):
                cos, sin = np.cos(2 * math.pi * f * x / n_x), np.sin(2 * math.pi * f * x / n_x)
                which = np.eye(2)[part][:, None]
                if 2 * f % n_x:
                    columns[0, row : row + 3] = gauss(which * cos, which * -sin)
                    row += 3
                else:
                    columns[0, row] = which * cos
                    row += 1
        return rows, columns

    def synthesis():
        y, x = np.arange(m_y), np.arange(m_x)
        columns, rows = np.zeros((groups, 2, m_x, 3 * n_x)), np.zeros((m_y, groups, 2))
        gauss = ((1, 1), (0, 1), (-1, 0))  # real and imaginary part of k1, k2, k3
        for group in range(groups):
            row = 0
            if group:  # the conjugate frequencies' part is the same: twice the real part
                phase = 2 * math.pi * group * y / n_y
                rows[:, group] = np.stack([2 * np.cos(phase), -2 * np.sin(phase)], axis=1)
                for f in range(n_x):
                    cos, sin = np.cos(2 * math.pi * f * x / n_x), np.sin(2 * math.pi * f * x / n_x)
                    for k, (re, im) in enumerate(gauss):
                        columns[group, :, :, row + k] = re * cos - im * sin, re * sin + im * cos
                    row += 3
                continue
            rows[:, 0, :real] = np.stack([np.ones(m_y), (-1.0) ** y], axis=1)[:, :real]
            for part, f in np.ndindex(real, n_x // 2 + 1):
                cos, sin = np.cos(2 * math.pi * f * x / n_x), np.sin(2 * math.pi * f * x / n_x)
                if 2 * f % n_x:
                    for k, (re, im) in enumerate(gauss):
                        columns[0, part, :, row + k] = 2 * (re * cos - im * sin)
                    row += 3
                else:
                    columns[0, part, :, row] = cos
                    row += 1
        return columns, rows / (n_y * n_x)

    def float32(pair):
        return tuple(np.asarray(matrix, np.float32) for matrix in pair)

    # A correlation conjugates the filter's spectrum a + ib, so that c = a and d = -b.
    return _Correlation(
        forward=float32(analysis(n_y, n_x, lambda a, b: (a + b, a, b))),
        filter=float32(analysis(taps, taps, lambda a, b: (a, -a - b, a - b))),
        backward=float32(synthesis()),
    )
