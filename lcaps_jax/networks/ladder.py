"""The Ladder Capsule Network as Flax modules: they hold parameters and call the mathematics of ``capsules.py``.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``K`` kept
capsules, ``J`` classes, ``D``=16 class-capsule dimension, ``h`` hidden width.
"""

from collections.abc import Mapping
import functools
from typing import Any, ClassVar, Self

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from lcaps_jax import capsules
from lcaps_jax.errors import ArgumentError, arg
from lcaps_jax.networks import base, released
from lcaps_jax.networks.base import CAPSULE_DIM, CAPSULE_TYPES, CONV1_CHANNELS, POSE_DIM, NetworkOutput, check_choice
from lcaps_jax.networks.released import PAPER, choices_of
from lcaps_jax.precision import einsum

AGREEMENT, LENGTH = ACTIVITIES = ("agreement", "length")
ACTIVE, BALANCED, BIASED, RANDOM = SELECTIONS = ("active", "balanced", "biased", "random")
CODE, CAPSULE = OPERATORS = ("code", "capsule")

# Positions for one kept capsule of each type in small layers.
_POSITIONS_FOR_ONE_KEPT = 5
# Weight eps of the code loss (section 4).
CODE_LOSS_WEIGHT = 1e-4
# The released graph adds this to |s| before it divides.
_RELEASED_EPSILON = 1e-8


@struct.dataclass
class LadderOutput:
    """What the ladder layer computes of each class.

    Attributes:
      activity: Activity d of eq. (4), ``[B, J]``; released: 1 - error; without the ladder, the length of the pose.
      error: Mean squared distance of the kept capsules to their regression, ``[B, J]``; released: mean distance;
        None without the ladder.
      pose: Class capsules v, ``[B, J, D]``: the activity times the direction of s.
      regressed: Regressed capsules, ``[B, J, K, d]``; None without the ladder.
    """

    activity: jax.Array
    error: jax.Array | None
    pose: jax.Array
    regressed: jax.Array | None


# Each class has a network of its own. The leading axis of every parameter is the class, and Glorot's fans are those of
# a single class.
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
      classes: Number of classes, J.
      widths: Widths of the layers.
      uniform_biases: Whether biases begin uniform, as in the released graph, instead of at zero.
      dtype: Type of the computation.
      last_is_linear: Whether the last layer has no ReLU.
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
            x = einsum("jbi,jio->jbo", x, kernel.astype(self.dtype))
            x = x + bias[:, None].astype(self.dtype)
            if not (self.last_is_linear and layer == len(self.widths)):
                x = nn.relu(x)
        return x


class LadderLayer(nn.Module):
    """Weight construction, propagation and ladder layer: kept capsules to class capsules (sections 3.2, 3.3).

    Attributes:
      classes: Number of classes, J.
      pose_dim: Dimension of a class capsule, D.
      variant: Form of the layer: "paper", "released", or the paper's with some of the released graph's choices; see
        ``released.choices_of``.
      activity: Activity of a class: "agreement", or "length" to leave the ladder out. The pose is then ``squash(s)``
        and its length the activity, as in CapsNet (an ablation of the paper's variant).
      dtype: Type of the class networks; norms, sums and activities are float32.
    """

    classes: int
    pose_dim: int = POSE_DIM
    variant: str = PAPER
    activity: str = AGREEMENT
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, kept: jax.Array, code: jax.Array) -> LadderOutput:
        """Class capsules of kept capsules.

        Args:
          kept: Kept capsules in ascending order of index, ``[B, K, d]``.
          code: Code vector, ``[B, n]``.

        Raises:
          ValueError: The variant or the activity is unknown.
        """
        check_choice("activity", self.activity, ACTIVITIES)
        made = choices_of(self.variant)
        k, dim = kept.shape[-2:]
        matrix = dim * self.pose_dim  # entries of one linear operator
        hidden_widths = (
            (matrix, 2 * matrix, 3 * matrix) if released.WIDTHS in made else (3 * matrix, 2 * matrix, matrix)
        )
        weight_widths = (k, k, k, k) if released.WIDTHS in made else (3 * k, 2 * k, k, k)
        networks = functools.partial(
            ClassNetworks, self.classes, uniform_biases=released.BIASES in made, dtype=self.dtype
        )

        contribution = networks(weight_widths, last_is_linear=True, name="contribution")(code)
        contribution = nn.sigmoid(contribution.astype(jnp.float32))
        hidden = networks(hidden_widths, name="propagation")(code)

        # The last layers are stored in the order of their contraction: see capsules.propagate_factored. Glorot's fans
        # are still those of a layer from h to K*d*D.
        width, rows = hidden_widths[-1], k * dim
        bias_init = _bias_initializer(released.BIASES in made, rows * self.pose_dim)
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

        unit = capsules.direction(s, _RELEASED_EPSILON if released.UNIT in made else 0.0)
        regressed = capsules.regress_factored(
            unit if released.UNIT in made else s, hidden_reg, cast(kernel_reg), cast(bias_reg), dim
        )
        error = capsules.regression_error(regressed, kept, squared=released.DISTANCE not in made)  # [J, B]
        activity = 1 - error if released.LOSS in made else capsules.agreement_of_error(error)
        return _ladder_output(activity, error, unit, regressed)


class CapsuleLadder(nn.Module):
    """The ladder layer with operators that belong to the capsules, and not to the code vector as a whole.

    Each primary capsule has an operator of its own for each class, as in CapsNet, and so has its regression. The code
    vector says which of them apply: ``s_j = sum_i c_i (u_i f_j|i)``, and only kept capsules are regressed. All else is
    as in ``LadderLayer``.

    Attributes:
      classes: Number of classes, J.
      pose_dim: Dimension of a class capsule, D.
      activity: Activity of a class; see LadderLayer.
      dtype: Type of the operators; norms, sums and activities are float32.
    """

    classes: int
    pose_dim: int = POSE_DIM
    activity: str = AGREEMENT
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pruned: capsules.Pruned) -> LadderOutput:
        """Class capsules of kept capsules."""
        check_choice("activity", self.activity, ACTIVITIES)
        count, (k, dim) = pruned.code.shape[-1], pruned.capsules.shape[-2:]
        shape = (self.classes, count * dim, self.pose_dim)
        kernel = self.param("propagation_kernel", nn.initializers.normal((k * dim) ** -0.5), shape)
        s = capsules.propagate_own(pruned, kernel.astype(self.dtype))
        if self.activity == LENGTH:
            pose = capsules.squash(s).transpose(1, 0, 2)
            return LadderOutput(capsules.length(pose), error=None, pose=pose, regressed=None)
        kernel_reg = self.param("regression_kernel", nn.initializers.normal((2 / (self.pose_dim + dim)) ** 0.5), shape)
        regressed = capsules.regress_own(s, pruned.index, kernel_reg.astype(self.dtype), dim)
        error = capsules.regression_error(regressed, pruned.capsules)
        return _ladder_output(capsules.agreement_of_error(error), error, capsules.direction(s), regressed)


class TypeBiases(nn.Module):
    """Biases of the types of capsules, ``[types]``, which are added to their activities before some are kept.

    Attributes:
      types: Number of types.
    """

    types: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """The biases."""
        return self.param("bias", nn.initializers.zeros, (self.types,))


def _ladder_output(activity: jax.Array, error: jax.Array, unit: jax.Array, regressed: jax.Array) -> LadderOutput:
    """The output of a ladder layer from arrays whose first axis is the class."""
    return LadderOutput(
        activity=activity.T,
        error=error.T,
        pose=(activity[..., None] * unit).transpose(1, 0, 2),
        regressed=regressed.transpose(1, 0, 2, 3),
    )


class LadderCapsNet(base.Network):
    """The Ladder Capsule Network (Jeong et al. 2019, Figure 3).

    Attributes:
      classes: Number of classes, J.
      k: Number of capsules to keep, K.
      conv1_kernel: Kernel size of Conv1.
      primary_kernel: Kernel size of the primary capsules' convolution.
      conv2_kernel: Kernel size of a second convolution between them; 0 for none. See ``base.PrimaryCapsules``.
      channels: Output channels of Conv1.
      types: Types of primary capsules at each position.
      capsule_dim: Dimension of a primary capsule, d.
      pose_dim: Dimension of a class capsule, D.
      variant: Form of the network: "paper", "released", or the paper's with some of the released graph's choices; see
        ``released.choices_of``.
      activity: Activity of a class; see LadderLayer.
      operators: Where the ladder layer's operators come from: the whole "code" vector by class networks, as in the
        paper, or each "capsule", which then has operators of its own.
      selection: Capsules to keep: the most "active" ones; "balanced", the most active ones of each type, K/types of
        them; "biased", the most active ones after a bias of each type is added, which is learnt so that all types are
        kept equally often; or, as an ablation, "random" ones, which the image's pixels seed.
      convolution: Method of the convolutions; see ``strided_conv``.
      dtype: Type of convolutions and class networks; capsules, activities and losses are float32.
    """

    settings: ClassVar[Mapping[str, str]] = base.PRIMARY_SETTINGS | {
        "k": "k",
        "variant": "variant",
        "activity": "activity",
        "selection": "selection",
        "operators": "operators",
    }

    classes: int = 10
    k: int = 70
    conv1_kernel: int = 9
    primary_kernel: int = 9
    conv2_kernel: int = 0
    channels: int = CONV1_CHANNELS
    types: int = CAPSULE_TYPES
    capsule_dim: int = CAPSULE_DIM
    pose_dim: int = POSE_DIM
    variant: str = PAPER
    activity: str = AGREEMENT
    selection: str = ACTIVE
    operators: str = CODE
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @classmethod
    def from_config(cls, config: base.Settings, classes: int) -> Self:
        """The network of a run's settings.

        Raises:
          ValueError: The variant is unknown, or another variant than the paper's is to be ablated.
        """
        network = super().from_config(config, classes)
        choices_of(network.variant)
        if network.variant != PAPER and network.activity != AGREEMENT:
            raise ArgumentError(
                f"{arg('activity')}={network.activity}: is an ablation of {arg('variant')}={PAPER} alone."
            )
        if network.variant != PAPER and network.operators != CODE:
            raise ArgumentError(f"{arg('operators')}={network.operators}: goes with {arg('variant')}={PAPER} alone.")
        return network

    @classmethod
    def small_layers(cls, config: base.Settings, image_size: int) -> dict[str, Any]:
        """Settings of small layers: operators of each capsule's own, and a fifth of the capsules kept, of all types.

        Raises:
          ArgumentError: The images are too small for the kernels.
        """
        types = base.SMALL_CONVOLUTIONS["capsule_types"]
        first, second, last = (getattr(config, name) for name in ("conv1_kernel", "conv2_kernel", "primary_kernel"))
        positions = base.geometry(image_size, first, last, types, second).grid ** 2
        kept = types * max(1, positions // _POSITIONS_FOR_ONE_KEPT)
        return {**base.SMALL_CONVOLUTIONS, "k": kept, "operators": CAPSULE, "selection": BALANCED}

    def geometry(self, image_size: int) -> base.Geometry:
        """Grid of primary capsules on images of that size.

        Raises:
          ValueError: The images are too small for the kernels, or have fewer than ``k`` capsules.
        """
        sizes = base.geometry(image_size, self.conv1_kernel, self.primary_kernel, self.types, self.conv2_kernel)
        capsules.check_keep(self.k, sizes.capsules, self._groups)
        return sizes

    @property
    def _groups(self) -> int:
        """Groups of capsules of which the pruning layer keeps as many each."""
        return self.types if self.selection == BALANCED else 1

    @nn.compact
    def __call__(
        self, images: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> NetworkOutput:
        """Class capsules of images.

        Args:
          images: Images in [0, 1], ``[B, H, W, C]``.
          labels: Not used by this network.
          keys: Not used by this network.

        Raises:
          ValueError: Images are too small for the kernels, ``k`` is not between 1 and n, or the variant, the activity
            or the selection is unknown.
        """
        del labels, keys
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("operators", self.operators, OPERATORS)
        base.geometry(min(images.shape[1:3]), self.conv1_kernel, self.primary_kernel, self.types, self.conv2_kernel)
        t = base.primary_capsules(self, images, rectify=released.RECTIFIED in choices_of(self.variant))
        primary_activity = capsules.squashed_length(t)
        score, bias = primary_activity, None
        if self.selection == RANDOM:
            score = _random_scores(images, t.shape[1])
        if self.selection == BIASED:
            bias = TypeBiases(self.types, name="selection")()
            score = primary_activity + jnp.tile(bias, t.shape[1] // self.types)
        pruned = capsules.prune(capsules.squash(t), score, self.k, self._groups)
        if self.operators == CAPSULE:
            ladder = CapsuleLadder(self.classes, self.pose_dim, self.activity, dtype=self.dtype, name="ladder")(pruned)
        else:
            ladder = LadderLayer(
                self.classes, self.pose_dim, self.variant, activity=self.activity, dtype=self.dtype, name="ladder"
            )(pruned.capsules, pruned.code)
        return NetworkOutput(
            activity=ladder.activity,
            error=ladder.error,
            pose=ladder.pose,
            primary_activity=primary_activity,
            index=pruned.index,
            code=pruned.code,
            kept=pruned.capsules,
            regressed=ladder.regressed,
            balance=None if bias is None else capsules.balance_loss(pruned.code, bias),
        )

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]`` (section 4), of integer labels ``[B]``; the images are not used."""
        del images
        made = choices_of(self.variant)
        if released.LOSS in made:
            class_loss = capsules.released_loss(output.error, labels)
        else:
            class_loss = capsules.margin_loss(output.activity, labels)
        code_loss = capsules.released_code_loss if released.CODE_LOSS in made else capsules.code_loss
        loss = class_loss + CODE_LOSS_WEIGHT * code_loss(output.code, output.primary_activity)
        return loss if output.balance is None else loss + output.balance


def _random_scores(images: jax.Array, count: int) -> jax.Array:
    """Random numbers ``[B, count]``, seeded by the pixels of each image, so that an image always gets the same."""
    pixels = jnp.rint(255 * images).astype(jnp.uint32).reshape(images.shape[0], -1)
    seeds = jnp.sum(pixels * jax.random.bits(jax.random.key(0), pixels.shape[1:]), axis=-1, dtype=jnp.uint32)
    return jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed), (count,)))(seeds)
