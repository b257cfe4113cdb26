"""The public convolutions: checks, order of axes, and the choice of a method when a program is lowered."""

from collections.abc import Callable, Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.ops.conv.patches import patches_conv
from lcaps_jax.ops.conv.polyphase import polyphase_conv
from lcaps_jax.ops.conv.spectral import spectral_conv
from lcaps_jax.ops.precision import matmul_precision
from lcaps_jax.util.errors import ConfigError

AUTO, SPECTRAL, POLYPHASE, DIRECT = METHODS = ("auto", "spectral", "polyphase", "direct")
# "auto" on TPUs and other accelerators: direct, but a product over patches for the images themselves, because XLA's TPU
# compiler takes minutes for the kernel gradient of a one-channel convolution.
_ACCELERATED = "accelerated"
LAYOUTS = ("NHWC", "CHWN")
_FEW_CHANNELS = 16  # below this many input channels a matrix product over patches beats the transforms
_IMAGE_CHANNELS = 3  # most channels of an image, grey or coloured
_Arrays = Sequence[jax.Array]


def strided_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, method: str = AUTO, layouts: tuple[str, str] = ("NHWC", "NHWC")
) -> jax.Array:
    """VALID convolution (cross-correlation) of images with a square kernel: ``[B, (H-k)//s+1, (W-k)//s+1, O]``.

    Args:
      x: Images or features, ``[B, H, W, C]``, float32 or bfloat16.
      kernel: Kernel ``[k, k, C, O]``, of the dtype of ``x``, as is the result.
      stride: Stride along both axes, 1 or 2.
      method: ``"spectral"``, ``"polyphase"``, ``"direct"``, or ``"auto"``: that of the platform the program is lowered
        for. All but ``"direct"`` multiply over patches where there are few channels (fewer than 16 for spectral, at
        most 3 otherwise). Spectral computes bfloat16 in float32 and rounds once, which is faster and more exact.
      layouts: Order of the axes of ``x`` and of the result, each ``"NHWC"`` or ``"CHWN"``.
    """
    _check(x, kernel, stride, layouts)
    return _by_method(functools.partial(_strided_conv, stride=stride, layouts=layouts), method, x, kernel)


def conv_stack(
    x: jax.Array, kernels: _Arrays, biases: _Arrays, *, strides: Sequence[int], padding: int = 0, method: str = AUTO
) -> jax.Array:
    """Convolutions of ``x [B, H, W, C]`` with biases, and a ReLU between them (none after the last): ``[B, h, w, O]``.

    Each has a kernel ``[k, k, C, O]``, a bias ``[O]`` and a stride, and ``padding`` zeros on each side of its input.
    Between two convolutions the features keep the layout that saves the method transpositions, forward and backward.
    """

    def stack(x, kernels, biases, method):
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

    return _by_method(stack, method, x, tuple(kernels), tuple(biases))


def _by_method(compute: Callable, method: str, *arrays) -> jax.Array:
    """``compute(*arrays, method=method)``, where "auto" is resolved for each platform a program is lowered for."""
    if method not in METHODS:
        raise ConfigError(f"method={method}: must be one of {', '.join(METHODS)}.")
    if method != AUTO:
        return compute(*arrays, method=method)
    methods = {"cpu": SPECTRAL, "cuda": POLYPHASE, "default": _ACCELERATED}
    computed = {platform: functools.partial(compute, method=method) for platform, method in methods.items()}
    return lax.platform_dependent(*arrays, **computed)


def _check(x: jax.Array, kernel: jax.Array, stride: int, layouts: tuple[str, str]) -> None:
    if not set(layouts) <= set(LAYOUTS):
        raise ValueError(f"layouts={layouts}: each must be one of {', '.join(LAYOUTS)}.")
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}: must have four axes.")
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel has shape {kernel.shape}: must be [k, k, C, O].")
    height, width, channels = (x.shape[layouts[0].index(axis)] for axis in "HWC")
    if channels != kernel.shape[2]:
        raise ValueError(f"kernel has shape {kernel.shape}: must have the {channels} channels of x, {x.shape}.")
    if stride not in (1, 2):
        raise ValueError(f"stride={stride}: must be 1 or 2.")
    if min(height, width) < kernel.shape[0]:
        raise ValueError(f"kernel has shape {kernel.shape}: must not exceed the {height}x{width} pixels of x.")


def _reorder(x: jax.Array, layout: str, wanted: str) -> jax.Array:
    return x.transpose([layout.index(axis) for axis in wanted])


def _strided_conv(x: jax.Array, kernel: jax.Array, *, stride: int, layouts: tuple[str, str], method: str) -> jax.Array:
    channels = kernel.shape[2]
    if method in (_ACCELERATED, POLYPHASE) and channels <= _IMAGE_CHANNELS:
        return _reorder(patches_conv(_reorder(x, layouts[0], "NHWC"), kernel, stride, "NHWC"), "NHWC", layouts[1])
    if method == POLYPHASE:
        return _reorder(polyphase_conv(_reorder(x, layouts[0], "NHWC"), kernel, stride), "NHWC", layouts[1])
    if method in (DIRECT, _ACCELERATED):
        convolve = functools.partial(lax.conv_general_dilated, precision=matmul_precision())
        return convolve(x, kernel, (stride, stride), "VALID", dimension_numbers=(layouts[0], "HWIO", layouts[1]))
    dtype, x, kernel = x.dtype, _reorder(x, layouts[0], "CHWN").astype(jnp.float32), kernel.astype(jnp.float32)
    if channels < _FEW_CHANNELS:
        y, layout = patches_conv(x, kernel, stride, "CHWN"), "CHWN"
    else:
        y, layout = spectral_conv(x, kernel, stride), "HWNC"
    return _reorder(y, layout, layouts[1]).astype(dtype)
