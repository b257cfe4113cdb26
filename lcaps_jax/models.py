"""The network as Flax modules: they hold parameters and call the mathematics of ``capsules.py``.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``K`` kept
capsules, ``J`` classes, ``D``=16 class-capsule dimension, ``h`` hidden width.
"""

import dataclasses
import functools
import math

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import optax

from lcaps_jax import capsules
from lcaps_jax.convolution import output_size, preferred_layout, strided_conv

PAPER = "paper"
RELEASED = "released"
VARIANTS = (PAPER, RELEASED)
# Where the released graph departs from the paper; see choices_of.
RECTIFIED, WIDTHS, BIASES, UNIT, DISTANCE, LOSS, CODE_LOSS = RELEASED_CHOICES = (
    "rectified", "widths", "biases", "unit", "distance", "loss", "code_loss",
)  # fmt: skip
AGREEMENT, LENGTH = ACTIVITIES = ("agreement", "length")
ACTIVE, RANDOM = SELECTIONS = ("active", "random")

CAPSULE_DIM = 8
POSE_DIM = 16
CONV1_CHANNELS = 256
CAPSULE_TYPES = 32
_PRIMARY_STRIDE = 2

# eps of the loss (section 4).
CODE_LOSS_WEIGHT = 1e-4
# Of the summed squared error of CapsNet's decoder (Sabour et al. 2017), whatever the size of the image.
RECONSTRUCTION_LOSS_WEIGHT = 5e-4
_CNN_KERNEL = 5
_CNN_DENSE = (328, 192)
_CNN_DROPOUT = 0.5
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


def choices_of(variant: str) -> frozenset[str]:
    """Which of the released graph's choices a variant makes, of ``RELEASED_CHOICES``.

    * rectified: a ReLU before the squash, so that capsules are not negative.
    * widths: 128, 256, 384 for f and f_reg in place of 384, 256, 128, and K, K, K for p in place of 3K, 2K, K.
    * biases: of the class networks, not zero at first but uniform in ``+-sqrt(3/width)``.
    * unit: capsules are regressed from ``s/(|s|+1e-8)``, not from s.
    * distance: the error is the mean distance, not its square.
    * loss: ``released_loss`` of the error in place of the margin loss, and 1 - error as the activity.
    * code_loss: ``released_code_loss``.

    Args:
      variant: ``"paper"``, which makes none; ``"released"``, which makes all; or, to find out what one does, as
        ``"paper+rectified"`` or ``"paper+distance+loss"``.

    Returns:
      Their names.

    Raises:
      ValueError: for anything else.
    """
    if variant == RELEASED:
        return frozenset(RELEASED_CHOICES)
    base, *made = variant.split("+")
    if base != PAPER or not set(made) <= set(RELEASED_CHOICES):
        raise ValueError(
            f"variant must be one of {', '.join(VARIANTS)}, or {PAPER} with any of +{', +'.join(RELEASED_CHOICES)}; "
            f"got {variant!r}."
        )
    return frozenset(made)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


@struct.dataclass
class LadderOutput:
    """What the ladder layer computes of each class.

    Attributes:
      activity: ``[B, J]`` d of eq. (4); released: 1 - error; without the ladder, the length of the pose.
      error: ``[B, J]`` mean squared distance of the kept capsules to their regression; released: mean distance;
        None without the ladder.
      pose: ``[B, J, D]`` class capsules v: the activity times the direction of s.
      regressed: ``[B, J, K, d]`` the regressed capsules, or None where they were not asked for.
    """

    activity: jax.Array
    error: jax.Array | None
    pose: jax.Array
    regressed: jax.Array | None


@struct.dataclass
class NetworkOutput:
    """What a network computes of a batch of images; None is what it does not have.

    Attributes:
      activity: ``[B, J]``; the prediction is its argmax.
      pose: ``[B, J, D]`` class capsules.
      primary_activity: ``[B, n]``.
      error: ``[B, J]`` as in LadderOutput.
      index: ``[B, K]`` int32, ascending indices of the kept capsules.
      code: ``[B, n]`` the code vector.
      kept: ``[B, K, d]`` the kept capsules.
      regressed: ``[B, J, K, d]``, where it was asked for.
      coupling: ``[B, n, J]`` coupling coefficients of the last routing iteration.
      reconstruction: ``[B, I*I*C]`` the decoder's image, in [0, 1].
      logits: ``[B, J]`` of a convolutional network.
    """

    activity: jax.Array
    pose: jax.Array | None = None
    primary_activity: jax.Array | None = None
    error: jax.Array | None = None
    index: jax.Array | None = None
    code: jax.Array | None = None
    kept: jax.Array | None = None
    regressed: jax.Array | None = None
    coupling: jax.Array | None = None
    reconstruction: jax.Array | None = None
    logits: jax.Array | None = None


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


def _bias_initializer(uniform: bool, width: int):
    """Zeros; in the released graph uniform in ``+-sqrt(3/width)``."""
    if not uniform:
        return nn.initializers.zeros
    limit = (3 / width) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


class ClassNetworks(nn.Module):
    """Hidden layers of the J class networks on the code vector, as one stacked computation (Table 1).

    Attributes:
      classes: J.
      widths: of the layers.
      uniform_biases: at first, in place of zeros.
      dtype: of the computation.
      last_is_linear: no ReLU after the last layer.
    """

    classes: int
    widths: tuple[int, ...]
    uniform_biases: bool = False
    dtype: jnp.dtype = jnp.float32
    last_is_linear: bool = False

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        """``[B, n]`` to ``[J, B, widths[-1]]``."""
        x = jnp.broadcast_to(code.astype(self.dtype), (self.classes, *code.shape))
        for layer, width in enumerate(self.widths, start=1):
            kernel = self.param(f"kernel{layer}", _glorot_per_class, (self.classes, x.shape[-1], width))
            bias = self.param(f"bias{layer}", _bias_initializer(self.uniform_biases, width), (self.classes, width))
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
      variant: "paper", "released", or the paper's with some of the released graph's choices; see ``choices_of``.
      activity: "agreement", or "length" to leave the ladder out: the pose is then ``squash(s)`` and its length the
        activity, as in CapsNet (an ablation of the paper's variant).
      dtype: of the class networks; norms, sums and activities are float32.
    """

    classes: int
    pose_dim: int = POSE_DIM
    variant: str = PAPER
    activity: str = AGREEMENT
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

        Raises:
          ValueError: for an unknown variant or activity.
        """
        _check_choice("activity", self.activity, ACTIVITIES)
        made = choices_of(self.variant)
        k, dim = kept.shape[-2:]
        matrix = dim * self.pose_dim  # entries of one linear operator
        hidden_widths = (matrix, 2 * matrix, 3 * matrix) if WIDTHS in made else (3 * matrix, 2 * matrix, matrix)
        weight_widths = (k, k, k, k) if WIDTHS in made else (3 * k, 2 * k, k, k)
        networks = functools.partial(ClassNetworks, self.classes, uniform_biases=BIASES in made, dtype=self.dtype)

        contribution = networks(weight_widths, last_is_linear=True, name="contribution")(code)
        contribution = nn.sigmoid(contribution.astype(jnp.float32))
        hidden = networks(hidden_widths, name="propagation")(code)

        # The last layers are stored as they are contracted: see capsules.propagate_factored. Glorot's fans stay
        # those of the layer they are, h to K*d*D.
        width, rows = hidden_widths[-1], k * dim
        bias_init = _bias_initializer(BIASES in made, rows * self.pose_dim)
        kernel = self.param(
            "propagation_kernel",
            nn.initializers.glorot_uniform(in_axis=2, out_axis=(1, 3), batch_axis=0),
            (self.classes, rows, width, self.pose_dim),
        )
        bias = self.param("propagation_bias", bias_init, (self.classes, rows, self.pose_dim))
        cast = functools.partial(jnp.asarray, dtype=self.dtype)
        s = capsules.propagate_factored(kept, hidden, cast(kernel), cast(bias), contribution)
        if self.activity == LENGTH:
            pose = capsules.squash(s).transpose(1, 0, 2)
            return LadderOutput(capsules.length(pose), error=None, pose=pose, regressed=None)

        hidden_reg = networks(hidden_widths, name="regression")(code)
        kernel_reg = self.param(
            "regression_kernel",
            nn.initializers.glorot_uniform(in_axis=1, out_axis=(2, 3), batch_axis=0),
            (self.classes, width, self.pose_dim, rows),
        )
        bias_reg = self.param("regression_bias", bias_init, (self.classes, self.pose_dim, rows))

        unit = capsules.direction(s, _RELEASED_EPSILON if UNIT in made else 0.0)
        regressed = capsules.regress_factored(
            unit if UNIT in made else s, hidden_reg, cast(kernel_reg), cast(bias_reg), dim
        )
        error = capsules.regression_error(regressed, kept, squared=DISTANCE not in made)  # [J, B]
        activity = 1 - error if LOSS in made else capsules.agreement_of_error(error)
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
      capsule_dim, pose_dim: d and D.
      variant: "paper", "released" for what the authors' graph does instead, or some of it; see ``choices_of``.
      activity: see LadderLayer.
      selection: which capsules are kept, the most "active" or, as an ablation, "random" ones, drawn by the image.
      convolution: method, see ``strided_conv``.
      dtype: of convolutions and class networks; capsules, activities and losses are float32.
    """

    classes: int = 10
    k: int = 70
    conv1_kernel: int = 9
    primary_kernel: int = 9
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    capsule_dim: int = CAPSULE_DIM
    pose_dim: int = POSE_DIM
    variant: str = PAPER
    activity: str = AGREEMENT
    selection: str = ACTIVE
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array | None = None,
        keys: jax.Array | None = None,
        *,
        with_regressed: bool = False,
    ) -> NetworkOutput:
        """Class capsules of images.

        Args:
          images: ``[B, I, I, C]`` in [0, 1].
          labels, keys: what training gives every network; not used by this one.
          with_regressed: also return the regressed capsules.

        Returns:
          NetworkOutput.

        Raises:
          ValueError: for images too small for the kernels, ``k`` outside 1..n, or an unknown variant, activity or
            selection.
        """
        del labels, keys
        _check_choice("selection", self.selection, SELECTIONS)
        sizes = geometry(min(images.shape[1:3]), self.conv1_kernel, self.primary_kernel, self.types)
        if images.shape[1] == images.shape[2]:
            capsules.check_keep(self.k, sizes.capsules)
        t = PrimaryCapsules(
            self.conv1_kernel,
            self.primary_kernel,
            channels=self.channels,
            types=self.types,
            dim=self.capsule_dim,
            rectify=RECTIFIED in choices_of(self.variant),
            method=self.convolution,
            dtype=self.dtype,
            name="primary_capsules",
        )(images)
        primary_activity = capsules.squashed_length(t)
        score = primary_activity if self.selection == ACTIVE else _random_scores(images, sizes.capsules)
        pruned = capsules.prune(capsules.squash(t), score, self.k)
        ladder = LadderLayer(
            self.classes, self.pose_dim, self.variant, activity=self.activity, dtype=self.dtype, name="ladder"
        )(pruned.capsules, pruned.code, with_regressed=with_regressed)
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

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]`` (section 4), of the output and integer labels ``[B]``; images are not used."""
        del images
        made = choices_of(self.variant)
        if LOSS in made:
            class_loss = capsules.released_loss(output.error, labels)
        else:
            class_loss = capsules.margin_loss(output.activity, labels)
        code_loss = capsules.released_code_loss if CODE_LOSS in made else capsules.code_loss
        return class_loss + CODE_LOSS_WEIGHT * code_loss(output.code, output.primary_activity)


def _random_scores(images: jax.Array, count: int) -> jax.Array:
    """Random numbers ``[B, count]``, drawn by the pixels of each of the images, so that an image keeps its own."""
    pixels = jnp.rint(255 * images).astype(jnp.uint32).reshape(len(images), -1)
    seeds = jnp.sum(pixels * jax.random.bits(jax.random.key(0), pixels.shape[1:]), axis=-1, dtype=jnp.uint32)
    return jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed), (count,)))(seeds)


class DynamicRouting(nn.Module):
    """Capsules to class capsules by routing (Sabour et al. 2017).

    Attributes:
      classes: J.
      iterations: r.
      pose_dim: D.
      dtype: of the transformations; poses and coupling coefficients are float32.
    """

    classes: int
    iterations: int = 3
    pose_dim: int = POSE_DIM
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, primary: jax.Array) -> capsules.Routed:
        """Capsules ``[B, n, d]`` to poses ``[B, J, D]`` and coupling coefficients ``[B, n, J]``."""
        count, dim = primary.shape[1:]
        # The initial scale of Sabour's own code.
        kernel = self.param("kernel", nn.initializers.normal(0.1), (self.classes, self.pose_dim, dim * count))
        return capsules.route_factored(primary, kernel.astype(self.dtype), self.iterations)


class Decoder(nn.Module):
    """The pose of one class to an image (Sabour et al. 2017, Figure 2).

    Attributes:
      pixels: I*I*C.
      dtype: of the computation.
    """

    pixels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pose: jax.Array, chosen: jax.Array) -> jax.Array:
        """Poses ``[B, J, D]`` and the class to show of each, ``[B]``, to ``[B, pixels]`` float32 in [0, 1]."""
        masked = pose * jax.nn.one_hot(chosen, pose.shape[1])[..., None]
        dense = functools.partial(
            nn.Dense,
            dtype=self.dtype,
            kernel_init=nn.initializers.glorot_uniform(),
            precision=lax.Precision.HIGHEST,
        )
        x = nn.relu(dense(512, name="dense1")(masked.reshape(len(pose), -1)))
        x = nn.relu(dense(1024, name="dense2")(x))
        return nn.sigmoid(dense(self.pixels, name="dense3")(x).astype(jnp.float32))


class CapsNet(nn.Module):
    """The capsule network with dynamic routing (Sabour et al. 2017).

    Attributes:
      classes: J.
      iterations: of the routing.
      decoder: whether to reconstruct the image, which regularises the poses.
      conv1_kernel, primary_kernel, channels, types, capsule_dim, pose_dim, convolution, dtype: as for LadderCapsNet.
    """

    classes: int = 10
    iterations: int = 3
    decoder: bool = True
    conv1_kernel: int = 9
    primary_kernel: int = 9
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    capsule_dim: int = CAPSULE_DIM
    pose_dim: int = POSE_DIM
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> NetworkOutput:
        """Class capsules of images.

        Args:
          images: ``[B, I, I, C]`` in [0, 1].
          labels: ``[B]`` the classes to reconstruct, as in training; None for the predicted ones.
          keys: not used by this network.

        Returns:
          NetworkOutput with activity, pose, primary_activity, coupling and, with a decoder, reconstruction.

        Raises:
          ValueError: for images too small for the kernels, or less than one iteration.
        """
        del keys
        geometry(min(images.shape[1:3]), self.conv1_kernel, self.primary_kernel, self.types)
        t = PrimaryCapsules(
            self.conv1_kernel,
            self.primary_kernel,
            channels=self.channels,
            types=self.types,
            dim=self.capsule_dim,
            method=self.convolution,
            dtype=self.dtype,
            name="primary_capsules",
        )(images)
        routing = DynamicRouting(self.classes, self.iterations, self.pose_dim, dtype=self.dtype, name="routing")
        routed = routing(capsules.squash(t))
        activity = capsules.length(routed.pose)
        reconstruction = None
        if self.decoder:
            shown = jnp.argmax(activity, axis=-1) if labels is None else labels
            pixels = math.prod(images.shape[1:])
            reconstruction = Decoder(pixels, dtype=self.dtype, name="decoder")(routed.pose, shown)
        return NetworkOutput(
            activity=activity,
            pose=routed.pose,
            primary_activity=capsules.squashed_length(t),
            coupling=routed.coupling,
            reconstruction=reconstruction,
        )

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array) -> jax.Array:
        """Margin loss and 0.0005 times the summed squared error of the reconstruction, ``[B]``."""
        loss = capsules.margin_loss(output.activity, labels)
        if output.reconstruction is None:
            return loss
        difference = output.reconstruction - images.reshape(len(images), -1)
        return loss + RECONSTRUCTION_LOSS_WEIGHT * jnp.sum(jnp.square(difference), axis=-1)


class ConvNet(nn.Module):
    """The convolutional baseline of Sabour et al. (2017, section 5), or a narrower one of its form.

    Attributes:
      classes: J.
      channels: of the first and the second convolution; the third has half as many. Sabour's: 256.
      convolution: method, see ``strided_conv``.
      dtype: of the computation; the softmax is float32.
    """

    classes: int = 10
    channels: int = CONV1_CHANNELS
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> NetworkOutput:
        """Class probabilities of images.

        Args:
          images: ``[B, I, I, C]`` in [0, 1].
          labels: not used by this network.
          keys: ``[B]`` of the dropout, as in training; None for none. Each image draws by its own key, so that one
            device and many see the same network.

        Returns:
          NetworkOutput with activity, the probabilities, and logits.
        """
        del labels
        between = preferred_layout(self.convolution)
        border = _CNN_KERNEL // 2
        x, layout = images, "NHWC"
        widths = (self.channels, self.channels, max(1, self.channels // 2))
        for layer, width in enumerate(widths, start=1):
            padding = [(border, border) if axis in "HW" else (0, 0) for axis in layout]
            out = between if layer < len(widths) else "NHWC"
            convolve = Convolution(
                width,
                _CNN_KERNEL,
                method=self.convolution,
                layouts=(layout, out),
                dtype=self.dtype,
                name=f"conv{layer}",
            )
            x, layout = nn.relu(convolve(jnp.pad(x, padding))), out
        x = x.reshape(len(x), -1)
        dense = functools.partial(
            nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform(), precision=lax.Precision.HIGHEST
        )
        for layer, width in enumerate(_CNN_DENSE, start=1):
            x = nn.relu(dense(width, name=f"dense{layer}")(x))
        if keys is not None:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - _CNN_DROPOUT, x.shape[1:]))(keys)
            x = jnp.where(kept, x / (1 - _CNN_DROPOUT), 0)
        logits = dense(self.classes, name="logits")(x).astype(jnp.float32)
        return NetworkOutput(activity=nn.softmax(logits), logits=logits)

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Softmax cross-entropy of each example, ``[B]``; images are not used."""
        del images
        return optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)


Network = LadderCapsNet | CapsNet | ConvNet
