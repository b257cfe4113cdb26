"""The Ladder Capsule Network as Flax modules, which hold parameters and call the array functions of ``ops.capsules``.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``n`` primary capsules, ``d``=8 their dimension, ``K`` kept
capsules, ``J`` classes, ``D``=16 class-capsule dimension, ``h`` hidden width.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from lcaps_jax.nn import layers
from lcaps_jax.nn.layers import PrimaryCapsules
from lcaps_jax.nn.outputs import Geometry, LadderCapsNetOutput, Network
from lcaps_jax.ops import capsules
from lcaps_jax.ops.precision import einsum
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import build, part, setting

# In the small preset, positions for one kept capsule of each type.
_POSITIONS_FOR_ONE_KEPT = 5
# Settings by which the authors' released TensorFlow graph departs from the paper, each with its value there.
RELEASED_CHOICES: dict[str, Any] = {
    "rectify": True,  # a ReLU before the squash, so that capsules are not negative
    "ascending_widths": True,  # f and f_reg have widths 128, 256, 384; p has K, K, K
    "uniform_biases": True,  # initial biases of the class networks, in +-sqrt(3/width)
    "regress_direction": True,  # from s/(|s|+1e-8), not from s
    "squared_distance": False,  # the mean distance, not the mean squared one
    "class_activity": "complement",  # 1 - distance
    "class_loss": "released",  # of the distance, in place of the margin loss
    "code_loss": "mean",  # of absolute differences, in place of a sum of squares
}
# The released graph adds this to |s| before it divides.
_RELEASED_EPSILON = 1e-8
_REGRESSION = functools.partial(
    setting, True, "Take as a class's activity how well it regresses the kept capsules; as an ablation without the "
    "ladder, --noregression takes the length of its pose.",
)  # fmt: skip


class TopK(nn.Module):
    """Pruning layer of the paper: keeps the K most active capsules (section 3.1)."""

    k: int = setting(70, "Primary capsules that the pruning layer keeps, K.", minimum=1)

    def check(self, n: int) -> None:
        """Raises ConfigError unless K of n capsules can be kept."""
        capsules.check_keep(self.k, n)

    def __call__(self, primary: jax.Array, activity: jax.Array) -> capsules.Pruned:
        """Capsules ``[B, n, d]`` and their activities ``[B, n]`` to the kept ones."""
        return capsules.prune(primary, activity, self.k)


class TopKPerType(TopK):
    """Pruning layer that keeps the K/types most active capsules of each type, so that no type dies."""

    capsule_types: int = layers.CAPSULE_TYPES()

    def check(self, n: int) -> None:
        """Raises ConfigError unless K of n capsules can be kept, equally many of each type."""
        capsules.check_keep(self.k, n, self.capsule_types)

    def __call__(self, primary: jax.Array, activity: jax.Array) -> capsules.Pruned:
        """Capsules ``[B, n, d]`` and their activities ``[B, n]`` to the kept ones."""
        return capsules.prune(primary, activity, self.k, self.capsule_types)


@struct.dataclass
class LadderOutput:
    """What a ladder layer computes for each class; without regression only the first two."""

    activity: jax.Array  # [B, J] d of eq. (4)
    pose: jax.Array  # [B, J, D] class capsules v: the activity times the direction of s
    distance: jax.Array | None = None  # [B, J] mean squared distance of the kept capsules from their regression
    regressed: jax.Array | None = None  # [B, J, K, d] regressed capsules


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
    """Hidden layers of the J class networks on the code vector, as one stacked computation (Table 1)."""

    classes: int
    widths: tuple[int, ...]
    uniform_biases: bool = False
    dtype: str = "float32"
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


def _complement(distance: jax.Array) -> jax.Array:
    """``1 - distance``, the activity of the released graph."""
    return 1 - distance


class LadderLayer(nn.Module):
    """The paper's ladder layer: transformation matrices are generated from the code vector (sections 3.2, 3.3).

    The class networks are computed in ``dtype``; norms, sums and activities are float32. The settings from
    ``ascending_widths`` on are ``RELEASED_CHOICES``.
    """

    classes: int = 10
    pose_dim: int = layers.POSE_DIM()
    regression: bool = _REGRESSION()
    dtype: str = layers.DTYPE()
    ascending_widths: bool = setting(False, "Released graph: widths 128, 256, 384 and K, K, K of the class networks.")
    uniform_biases: bool = setting(False, "Released graph: initial biases of the class networks uniform, not zero.")
    regress_direction: bool = setting(False, "Released graph: regress from the direction of the pose, not from s.")
    squared_distance: bool = setting(True, "Square the regression distance; the released graph does not.")
    class_activity: Callable = part(
        {"agreement": capsules.agreement_of_distance, "complement": _complement},
        "Activity of a class as a function of its regression distance: exp(-5.12 distance), or 1 - distance as in the "
        "released graph.",
    )

    @nn.compact
    def __call__(self, pruned: capsules.Pruned) -> LadderOutput:
        """Class capsules of kept capsules."""
        kept, code = pruned.capsules, pruned.code
        k, dim = kept.shape[-2:]
        matrix = dim * self.pose_dim  # entries of one transformation matrix
        hidden_widths = (3 * matrix, 2 * matrix, matrix)  # of f and f_reg (Table 1)
        weight_widths = (3 * k, 2 * k, k, k)  # of p
        if self.ascending_widths:
            hidden_widths, weight_widths = hidden_widths[::-1], (k, k, k, k)
        networks = functools.partial(ClassNetworks, self.classes, uniform_biases=self.uniform_biases, dtype=self.dtype)

        contribution = networks(weight_widths, last_is_linear=True, name="contribution")(code)
        contribution = nn.sigmoid(contribution.astype(jnp.float32))
        hidden = networks(hidden_widths, name="propagation")(code)

        # The last layers are stored in the order of their contraction: see capsules.propagate_factored. Glorot's fans
        # are still those of a layer from h to K*d*D.
        width, rows = hidden_widths[-1], k * dim
        bias_init = _bias_initializer(self.uniform_biases, rows * self.pose_dim)
        kernel = self.param(
            "propagation_kernel",
            nn.initializers.glorot_uniform(in_axis=2, out_axis=(1, 3), batch_axis=0),
            (self.classes, rows, width, self.pose_dim),
        )
        bias = self.param("propagation_bias", bias_init, (self.classes, rows, self.pose_dim))
        cast = functools.partial(jnp.asarray, dtype=self.dtype)
        s = capsules.propagate_factored(kept, hidden, cast(kernel), cast(bias), contribution)
        if not self.regression:
            return _by_length(s)

        hidden_reg = networks(hidden_widths, name="regression")(code)
        kernel_reg = self.param(
            "regression_kernel",
            nn.initializers.glorot_uniform(in_axis=1, out_axis=(2, 3), batch_axis=0),
            (self.classes, width, self.pose_dim, rows),
        )
        bias_reg = self.param("regression_bias", bias_init, (self.classes, self.pose_dim, rows))
        direction = capsules.direction(s, _RELEASED_EPSILON if self.regress_direction else 0.0)
        source = direction if self.regress_direction else s
        regressed = capsules.regress_factored(source, hidden_reg, cast(kernel_reg), cast(bias_reg), dim)
        distance = capsules.regression_distance(regressed, kept, squared=self.squared_distance)  # [J, B]
        return _by_distance(self.class_activity(distance), distance, direction, regressed)


class PerCapsuleLadder(nn.Module):
    """A ladder layer whose transformation matrices belong to the capsules, not to the code vector as a whole.

    Each primary capsule has a transformation matrix for each class, as in CapsNet, and another one for its regression.
    The code vector says which of them apply: ``s_j = sum_i c_i (u_i f_j|i)``, and only kept capsules are regressed.
    All else is as in ``LadderLayer``.
    """

    classes: int = 10
    pose_dim: int = layers.POSE_DIM()
    regression: bool = _REGRESSION()
    dtype: str = layers.DTYPE()

    @nn.compact
    def __call__(self, pruned: capsules.Pruned) -> LadderOutput:
        """Class capsules of kept capsules."""
        count, (k, dim) = pruned.code.shape[-1], pruned.capsules.shape[-2:]
        shape = (self.classes, count * dim, self.pose_dim)
        kernel = self.param("propagation_kernel", nn.initializers.normal((k * dim) ** -0.5), shape)
        s = capsules.propagate_per_capsule(pruned, kernel.astype(self.dtype))
        if not self.regression:
            return _by_length(s)
        kernel_reg = self.param("regression_kernel", nn.initializers.normal((2 / (self.pose_dim + dim)) ** 0.5), shape)
        regressed = capsules.regress_per_capsule(s, pruned.index, kernel_reg.astype(self.dtype), dim)
        distance = capsules.regression_distance(regressed, pruned.capsules)
        activity = capsules.agreement_of_distance(distance)
        return _by_distance(activity, distance, capsules.direction(s), regressed)


def _by_length(s: jax.Array) -> LadderOutput:
    """The output without regression, from ``s [J, B, D]``: the pose is ``squash(s)`` and its length the activity."""
    pose = capsules.squash(s).transpose(1, 0, 2)
    return LadderOutput(capsules.length(pose), pose)


def _by_distance(activity: jax.Array, distance: jax.Array, direction: jax.Array, regressed: jax.Array) -> LadderOutput:
    """The output of a ladder layer from arrays whose first axis is the class."""
    pose = (activity[..., None] * direction).transpose(1, 0, 2)
    return LadderOutput(activity.T, pose, distance.T, regressed.transpose(1, 0, 2, 3))


def margin_loss(output: LadderCapsNetOutput, labels: jax.Array) -> jax.Array:
    """Margin loss of the activities, ``[B]`` (section 4)."""
    return capsules.margin_loss(output.activity, labels)


def released_loss(output: LadderCapsNetOutput, labels: jax.Array) -> jax.Array:
    """Loss of the released graph, which reads the regression distances, ``[B]``."""
    if output.distance is None:
        raise ConfigError("class_loss=released: needs regression=True, whose distances it reads.")
    return capsules.released_loss(output.distance, labels)


class LadderCapsNet(Network):
    """The Ladder Capsule Network (Jeong et al. 2019, Figure 3), made of replaceable parts.

    Example::

      network = LadderCapsNet(pruning=TopK(k=50), ladder=LadderLayer(classes=10))
      params = network.init(jax.random.key(0), images)
      output = network.apply(params, images)  # output.activity [B, J]
    """

    # Images [B, I, I, C] to inputs of the primary capsules before the squash, [B, n, d].
    primary: nn.Module = part(PrimaryCapsules)
    # Capsules [B, n, d] and activities [B, n] to ops.capsules.Pruned.
    pruning: nn.Module = part(
        {"top_k": TopK, "top_k_per_type": TopKPerType},
        "Capsules that the pruning layer keeps: the most active ones, or the most active ones of each type.",
    )
    # Pruned to LadderOutput.
    ladder: nn.Module = part(
        {"generated": LadderLayer, "per_capsule": PerCapsuleLadder},
        "Transformation matrices of the ladder layer: generated from the code vector, as in the paper, or per capsule.",
    )
    # The output and the labels [B] to a loss of each example, [B].
    class_loss: Callable = part(
        {"margin": margin_loss, "released": released_loss},
        "Loss of the classes: the paper's margin loss, or that of the released graph.",
    )
    # The code vector and the activities of the primary capsules, both [B, n], to [B].
    code_loss: Callable = part(
        {"sum": capsules.code_loss, "mean": capsules.released_code_loss},
        "Code loss: the paper's sum of squares over the capsules, or the released graph's mean of absolute values.",
    )
    code_loss_weight: float = setting(1e-4, "Weight of the code loss.", minimum=0.0)

    @classmethod
    def preset(cls, name: str, image_size: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a preset; see ``Network``. ``released`` makes all choices of the authors' released graph.

        ``small`` has a transformation matrix per capsule and keeps a fifth of the capsules, of all types.
        """
        if name == "released":
            return dict(RELEASED_CHOICES)
        if name != "small":
            return super().preset(name, image_size, given)
        primary = build(PrimaryCapsules, {**layers.SMALL, **given})
        kept_of_type = max(1, primary.geometry(image_size).grid ** 2 // _POSITIONS_FOR_ONE_KEPT)
        k = primary.capsule_types * kept_of_type
        return {**layers.SMALL, "k": k, "ladder": "per_capsule", "pruning": "top_k_per_type"}

    def geometry(self, image_size: int) -> Geometry | None:
        """Grid of primary capsules on images of that size; None where the primary layer does not tell.

        Raises ConfigError for images too small for the kernels, or with too few capsules to keep K of them.
        """
        if not hasattr(self.primary, "geometry"):
            return None
        sizes = self.primary.geometry(image_size)
        if hasattr(self.pruning, "check"):
            self.pruning.check(sizes.capsules)
        return sizes

    @nn.compact
    def __call__(self, images: jax.Array, labels=None, keys=None, train: bool = False) -> LadderCapsNetOutput:
        """Class capsules of images ``[B, H, W, C]`` in [0, 1]; the other arguments are not used (see ``Network``)."""
        del labels, keys, train
        t = self.primary.clone(parent=self, name="primary_capsules")(images)
        primary_activity = capsules.squashed_length(t)
        pruned = self.pruning(capsules.squash(t), primary_activity)
        ladder = self.ladder(pruned)
        return LadderCapsNetOutput(
            activity=ladder.activity,
            pose=ladder.pose,
            primary_activity=primary_activity,
            kept_index=pruned.index,
            kept_capsules=pruned.capsules,
            code=pruned.code,
            distance=ladder.distance,
            regressed=ladder.regressed,
        )

    def loss(self, output: LadderCapsNetOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Loss of each example, ``[B]`` (section 4); the images are not used."""
        del images
        code_loss = self.code_loss(output.code, output.primary_activity)
        return self.class_loss(output, labels) + self.code_loss_weight * code_loss
