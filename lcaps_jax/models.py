"""The network as Flax modules: they hold parameters and call the mathematics of ``capsules.py``.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``K`` kept
capsules, ``J`` classes, ``D``=16 class-capsule dimension, ``h`` hidden width.
"""

import dataclasses
import functools

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax import capsules
from lcaps_jax.convolution import output_size, preferred_layout, strided_conv

PAPER = "paper"
RELEASED = "released"
VARIANTS = (PAPER, RELEASED)

CAPSULE_DIM = 8
POSE_DIM = 16
CONV1_CHANNELS = 256
CAPSULE_TYPES = 32
_PRIMARY_STRIDE = 2

# eps of the loss (section 4).
CODE_LOSS_WEIGHT = 1e-4
# What the released graph adds to |s| before it divides.
_RELEASED_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes that follow from the image and the kernels.

    Attributes:
      grid: positions of primary capsules along each side.
      capsules: n, all primary capsules; capsule ``i`` sits at row ``i // (grid*types)``, column
        ``i // types % grid``, and is of type ``i % types``.
      stride: pixels between neighbouring positions.
      receptive_field: pixels along a side of what one capsule sees.
    """

    grid: int
    capsules: int
    stride: int
    receptive_field: int


def geometry(image_size: int, conv1_kernel: int, primary_kernel: int, capsule_types: int = CAPSULE_TYPES) -> Geometry:
    """Grid and number of primary capsules, computed from the two VALID convolutions.

    Raises:
      ValueError: for an image too small for the kernels, naming the sizes that would do.
    """
    field = conv1_kernel + primary_kernel - 1
    if image_size < field:
        raise ValueError(
            f"An image of {image_size}x{image_size} pixels is too small for kernels of {conv1_kernel}x{conv1_kernel} "
            f"and {primary_kernel}x{primary_kernel}: image_size must be at least {field}, or the kernels' sizes must "
            f"add up to at most {image_size + 1}."
        )
    grid = output_size(output_size(image_size, conv1_kernel, 1), primary_kernel, _PRIMARY_STRIDE)
    return Geometry(grid, grid * grid * capsule_types, _PRIMARY_STRIDE, field)


@struct.dataclass
class LadderOutput:
    """What the ladder layer computes of each class.

    Attributes:
      activity: ``[B, J]`` d of eq. (4); released: 1 - error.
      error: ``[B, J]`` mean squared distance of the kept capsules to their regression; released: mean distance.
      pose: ``[B, J, D]`` class capsules v: the activity times the direction of s.
      regressed: ``[B, J, K, d]`` the regressed capsules, or None where they were not asked for.
    """

    activity: jax.Array
    error: jax.Array
    pose: jax.Array
    regressed: jax.Array | None


@struct.dataclass
class NetworkOutput:
    """What a network computes of a batch of images.

    Attributes:
      activity: ``[B, J]``; the prediction is its argmax.
      error: ``[B, J]`` as in LadderOutput.
      pose: ``[B, J, D]`` class capsules.
      primary_activity: ``[B, n]``.
      index: ``[B, K]`` int32, ascending indices of the kept capsules.
      code: ``[B, n]`` the code vector.
      kept: ``[B, K, d]`` the kept capsules.
      regressed: ``[B, J, K, d]``, or None where it was not asked for.
    """

    activity: jax.Array
    error: jax.Array
    pose: jax.Array
    primary_activity: jax.Array
    index: jax.Array
    code: jax.Array
    kept: jax.Array
    regressed: jax.Array | None


class Convolution(nn.Module):
    """VALID convolution with bias; Glorot-uniform kernel.

    Attributes:
      channels: output channels.
      kernel_size: along each side.
      stride: 1 or 2.
      method, layouts: see ``strided_conv``.
      dtype: of the computation; parameters are float32.
    """

    channels: int
    kernel_size: int
    stride: int = 1
    method: str = "auto"
    layouts: tuple[str, str] = ("NHWC", "NHWC")
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, h, w, channels]`` in the layout NHWC, of ``dtype``."""
        shape = (self.kernel_size, self.kernel_size, x.shape[self.layouts[0].index("C")], self.channels)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        y = strided_conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            method=self.method,
            layouts=self.layouts,
        )
        axes_after_channels = y.ndim - 1 - self.layouts[1].index("C")
        return y + bias.astype(self.dtype).reshape(-1, *(1,) * axes_after_channels)


class PrimaryCapsules(nn.Module):
    """Images to the inputs ``t`` of the primary capsules: Conv1, ReLU, and a stride-2 convolution (section 5.1).

    Attributes:
      conv1_kernel, primary_kernel: kernel sizes.
      channels: of Conv1.
      types: capsules at each position.
      dim: d.
      rectify: ReLU before the squash, as the released graph has it.
      method: see ``strided_conv``.
      dtype: of the convolutions.
    """

    conv1_kernel: int = 9
    primary_kernel: int = 9
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    dim: int = CAPSULE_DIM
    rectify: bool = False
    method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``[B, I, I, C]`` images to ``[B, n, d]`` float32."""
        conv = functools.partial(Convolution, method=self.method, dtype=self.dtype)
        between = preferred_layout(self.method)
        conv1 = conv(self.channels, self.conv1_kernel, layouts=("NHWC", between), name="conv1")
        primary = conv(
            self.types * self.dim, self.primary_kernel, _PRIMARY_STRIDE, layouts=(between, "NHWC"), name="primary"
        )
        t = primary(nn.relu(conv1(images)))
        if self.rectify:
            t = nn.relu(t)
        return t.reshape(images.shape[0], -1, self.dim).astype(jnp.float32)


# One independent network per class: the leading axis of every parameter is the class, and Glorot's fans are of one.
_glorot_per_class = nn.initializers.glorot_uniform(batch_axis=0)


def _bias_initializer(variant: str, width: int):
    """Zeros; in the released graph uniform in ``+-sqrt(3/width)``."""
    if variant == PAPER:
        return nn.initializers.zeros
    limit = (3 / width) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


class ClassNetworks(nn.Module):
    """Hidden layers of the J class networks on the code vector, as one stacked computation (Table 1).

    Attributes:
      classes: J.
      widths: of the layers.
      variant: decides the biases' initial values.
      dtype: of the computation.
      last_is_linear: no ReLU after the last layer.
    """

    classes: int
    widths: tuple[int, ...]
    variant: str = PAPER
    dtype: jnp.dtype = jnp.float32
    last_is_linear: bool = False

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        """``[B, n]`` to ``[J, B, widths[-1]]``."""
        x = jnp.broadcast_to(code.astype(self.dtype), (self.classes, *code.shape))
        for layer, width in enumerate(self.widths, start=1):
            kernel = self.param(f"kernel{layer}", _glorot_per_class, (self.classes, x.shape[-1], width))
            bias = self.param(f"bias{layer}", _bias_initializer(self.variant, width), (self.classes, width))
            x = jnp.einsum("jbi,jio->jbo", x, kernel.astype(self.dtype), precision=lax.Precision.HIGHEST)
            x = x + bias[:, None].astype(self.dtype)
            if not (self.last_is_linear and layer == len(self.widths)):
                x = nn.relu(x)
        return x


class LadderLayer(nn.Module):
    """Weight construction, propagation and ladder layer: kept capsules to class capsules (sections 3.2, 3.3).

    Attributes:
      classes: J.
      pose_dim: D.
      variant: "paper" or "released".
      dtype: of the class networks; norms, sums and activities are float32.
    """

    classes: int
    pose_dim: int = POSE_DIM
    variant: str = PAPER
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, kept: jax.Array, code: jax.Array, *, with_regressed: bool = False) -> LadderOutput:
        """Class capsules of kept capsules.

        Args:
          kept: ``[B, K, d]``, in ascending order of index.
          code: ``[B, n]`` code vector.
          with_regressed: also return the regressed capsules.

        Returns:
          LadderOutput.
        """
        k, dim = kept.shape[-2:]
        paper = self.variant == PAPER
        matrix = dim * self.pose_dim  # entries of one linear operator
        hidden_widths = (3 * matrix, 2 * matrix, matrix) if paper else (matrix, 2 * matrix, 3 * matrix)
        weight_widths = (3 * k, 2 * k, k, k) if paper else (k, k, k, k)
        networks = functools.partial(ClassNetworks, self.classes, variant=self.variant, dtype=self.dtype)

        contribution = networks(weight_widths, last_is_linear=True, name="contribution")(code)
        contribution = nn.sigmoid(contribution.astype(jnp.float32))
        hidden = networks(hidden_widths, name="propagation")(code)
        hidden_reg = networks(hidden_widths, name="regression")(code)

        # The last layers are stored as they are contracted: see capsules.propagate_factored. Glorot's fans stay
        # those of the layer they are, h to K*d*D.
        width, rows = hidden_widths[-1], k * dim
        bias_init = _bias_initializer(self.variant, rows * self.pose_dim)
        kernel = self.param(
            "propagation_kernel",
            nn.initializers.glorot_uniform(in_axis=2, out_axis=(1, 3), batch_axis=0),
            (self.classes, rows, width, self.pose_dim),
        )
        bias = self.param("propagation_bias", bias_init, (self.classes, rows, self.pose_dim))
        kernel_reg = self.param(
            "regression_kernel",
            nn.initializers.glorot_uniform(in_axis=1, out_axis=(2, 3), batch_axis=0),
            (self.classes, width, self.pose_dim, rows),
        )
        bias_reg = self.param("regression_bias", bias_init, (self.classes, self.pose_dim, rows))

        cast = functools.partial(jnp.asarray, dtype=self.dtype)
        s = capsules.propagate_factored(kept, hidden, cast(kernel), cast(bias), contribution)
        unit = capsules.direction(s) if paper else capsules.direction(s, _RELEASED_EPSILON)
        regressed = capsules.regress_factored(s if paper else unit, hidden_reg, cast(kernel_reg), cast(bias_reg), dim)
        error = capsules.regression_error(regressed, kept, squared=paper)  # [J, B]
        activity = capsules.agreement_of_error(error) if paper else 1 - error
        return LadderOutput(
            activity=activity.T,
            error=error.T,
            pose=(activity[..., None] * unit).transpose(1, 0, 2),
            regressed=regressed.transpose(1, 0, 2, 3) if with_regressed else None,
        )


class LadderCapsNet(nn.Module):
    """The Ladder Capsule Network (Jeong et al. 2019, Figure 3).

    Attributes:
      classes: J.
      k: capsules to keep, K.
      conv1_kernel, primary_kernel: kernel sizes.
      channels: of Conv1.
      types: primary capsules at each position.
      variant: "paper", or "released" for what the authors' graph does instead.
      convolution: method, see ``strided_conv``.
      dtype: of convolutions and class networks; capsules, activities and losses are float32.
    """

    classes: int = 10
    k: int = 70
    conv1_kernel: int = 9
    primary_kernel: int = 9
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    variant: str = PAPER
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, with_regressed: bool = False) -> NetworkOutput:
        """Class capsules of images.

        Args:
          images: ``[B, I, I, C]`` in [0, 1].
          with_regressed: also return the regressed capsules.

        Returns:
          NetworkOutput.

        Raises:
          ValueError: for images too small for the kernels, ``k`` outside 1..n, or an unknown variant.
        """
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}.")
        sizes = geometry(min(images.shape[1:3]), self.conv1_kernel, self.primary_kernel, self.types)
        if images.shape[1] == images.shape[2]:
            capsules.check_keep(self.k, sizes.capsules)
        t = PrimaryCapsules(
            self.conv1_kernel,
            self.primary_kernel,
            channels=self.channels,
            types=self.types,
            rectify=self.variant == RELEASED,
            method=self.convolution,
            dtype=self.dtype,
            name="primary_capsules",
        )(images)
        primary_activity = capsules.squashed_length(t)
        pruned = capsules.prune(capsules.squash(t), primary_activity, self.k)
        ladder = LadderLayer(self.classes, variant=self.variant, dtype=self.dtype, name="ladder")(
            pruned.capsules, pruned.code, with_regressed=with_regressed
        )
        return NetworkOutput(
            activity=ladder.activity,
            error=ladder.error,
            pose=ladder.pose,
            primary_activity=primary_activity,
            index=pruned.index,
            code=pruned.code,
            kept=pruned.capsules,
            regressed=ladder.regressed,
        )

    def loss(self, output: NetworkOutput, labels: jax.Array) -> jax.Array:
        """Loss of each example, ``[B]`` (section 4), of the output and integer labels ``[B]``."""
        if self.variant == PAPER:
            class_loss, code_loss = capsules.margin_loss(output.activity, labels), capsules.code_loss
        else:
            class_loss, code_loss = capsules.released_loss(output.error, labels), capsules.released_code_loss
        return class_loss + CODE_LOSS_WEIGHT * code_loss(output.code, output.primary_activity)
