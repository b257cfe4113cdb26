"""The mathematics of the Ladder Capsule Network as pure array functions.

Equations are numbered as in Jeong, Lee, Kim, "Ladder Capsule Network", ICML 2019. Gradients are finite everywhere,
including at zero, for vectors up to a length of 1e18, whose square float32 can represent.

Axes: ``...`` batch, ``n`` capsules, ``d`` their dimension, ``K`` kept capsules, ``J`` classes, ``D`` dimension of a
class capsule, ``h`` width of the last hidden layer of a class network.
"""

import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.ops.precision import einsum
from lcaps_jax.util.errors import ConfigError

# Gamma of eq. (4), chosen so that exp(-0.01 gamma) = 0.95.
AGREEMENT_SHARPNESS = 5.12

_einsum = functools.partial(einsum, preferred_element_type=jnp.float32)


def length(x: jax.Array) -> jax.Array:
    """Euclidean length ``[...]`` of ``x [..., d]``, with gradient zero at zero, where a root has infinite slope."""
    square = jnp.sum(jnp.square(x), axis=-1)
    is_zero = square == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))


def squash(t: jax.Array) -> jax.Array:
    """Shrinks vectors into the unit ball and keeps their direction: ``|t|^2/(1+|t|^2) * t/|t|`` (eq. 3).

    Args:
      t: ``[..., d]``.

    Returns:
      ``[..., d]``, of length ``|t|^2/(1+|t|^2) < 1``; zero, with zero gradient, at zero.
    """
    size = length(t)[..., None]
    return t * (size / (1 + jnp.square(size)))


def squashed_length(t: jax.Array) -> jax.Array:
    """Length of ``squash(t)``, a capsule's activity: ``|t|^2/(1+|t|^2)`` (section 5.1).

    Args:
      t: ``[..., d]``.

    Returns:
      ``[...]``, in ``[0, 1)``; smooth everywhere.
    """
    square = jnp.sum(jnp.square(t), axis=-1)
    return square / (1 + square)


@struct.dataclass
class Pruned:
    """Result of the pruning layer.

    Attributes:
      capsules: Kept capsules in ascending order of index, ``[..., K, d]``.
      index: Indices of the kept capsules among the ``n``, ``[..., K]`` int32.
      code: Code vector, ``[..., n]`` float32: 1 where a capsule is kept, else 0.
    """

    capsules: jax.Array
    index: jax.Array
    code: jax.Array


def check_keep(k: int, n: int, groups: int = 1) -> None:
    """Raises ConfigError unless ``k`` of ``n`` capsules can be kept, equally many of each group."""
    if not 1 <= k <= n:
        raise ConfigError(f"k={k}: must be between 1 and {n}, the number of capsules.")
    if k % groups:
        raise ConfigError(f"k={k}: must be a multiple of {groups}, the number of capsule types.")


def prune(capsules: jax.Array, activity: jax.Array, k: int, groups: int = 1) -> Pruned:
    """Pruning layer: keeps the ``k`` most active capsules (section 3.1).

    The kept capsules stay in ascending order of index, so that the code vector identifies them (Figure 2). Ties go to
    the lower index. No gradient flows through the choice.

    Args:
      capsules: Capsules to choose from, ``[..., n, d]``.
      activity: Activity of each capsule, ``[..., n]``.
      k: Number of capsules to keep, K.
      groups: Number of groups G, each of which keeps its ``k/G`` most active capsules. Capsule ``i`` belongs to group
        ``i % G``, which is the type of a primary capsule.

    Raises:
      ConfigError: ``k`` is not between 1 and n, or not a multiple of ``groups``.
    """
    check_keep(k, activity.shape[-1], groups)
    activity = lax.stop_gradient(activity)
    leading, n = activity.shape[:-1], activity.shape[-1]
    by_group = jnp.moveaxis(activity.reshape(*leading, n // groups, groups), -1, -2)
    index = lax.top_k(by_group, k // groups)[1] * groups + jnp.arange(groups)[:, None]
    index = jnp.sort(index.reshape(*leading, k), axis=-1)
    mark, take = _mark, _take
    for _ in leading:  # jnp.put_along_axis cannot be exported for a symbolic batch size
        mark, take = jax.vmap(mark), jax.vmap(take)
    return Pruned(take(capsules, index), index, mark(jnp.zeros(activity.shape, jnp.float32), index))


def _mark(code: jax.Array, index: jax.Array) -> jax.Array:
    return code.at[index].set(1.0)


def _take(capsules: jax.Array, index: jax.Array) -> jax.Array:
    return capsules[index]


def propagate(capsules: jax.Array, transform: jax.Array, contribution: jax.Array) -> jax.Array:
    """Partial input of the class capsules: ``s_j = sum_i p_j|i (u_i f_j|i)`` (eq. 1).

    Args:
      capsules: Kept capsules u, ``[..., K, d]``.
      transform: Transformation matrices f, ``[..., J, K, d, D]``.
      contribution: Weights p in (0, 1), ``[..., J, K]``.

    Returns:
      ``[..., J, D]``.
    """
    return _einsum("...jk,...kd,...jkde->...je", contribution, capsules, transform)


def propagate_factored(
    capsules: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, contribution: jax.Array
) -> jax.Array:
    """``propagate`` with ``transform = hidden kernel + bias``, which is never materialised (eq. 1).

    The transformation matrices ``[B, J, K, d, D]`` would be by far the largest array of the network. Contracting the
    kept capsules with the kernel first costs the same arithmetic and leaves ``[J, B, h, D]``.

    Args:
      capsules: Kept capsules, ``[B, K, d]``.
      hidden: Last hidden layers of the class networks f, ``[J, B, h]``.
      kernel: Kernels of their output layers, ``[J, K*d, h, D]``.
      bias: Biases of their output layers, ``[J, K*d, D]``.
      contribution: Weights p, ``[J, B, K]``.

    Returns:
      ``[J, B, D]``, float32.
    """
    classes, batch, width = hidden.shape
    rows, dim = kernel.shape[1], kernel.shape[3]
    weighted = (contribution[..., None] * capsules).reshape(classes, batch, rows).astype(hidden.dtype)
    mixed = _einsum("jbr,jrf->jbf", weighted, kernel.reshape(classes, rows, width * dim))
    mixed = mixed.reshape(classes, batch, width, dim)
    return jnp.sum(hidden[..., None] * mixed, axis=2) + _einsum("jbr,jre->jbe", weighted, bias)


def regress(s: jax.Array, transform: jax.Array) -> jax.Array:
    """Ladder layer: regresses the kept capsules from each class, ``squash(f_reg_j s_j)`` (eqs. 2, 3).

    Args:
      s: Partial input of the class capsules, ``[..., J, D]``.
      transform: Transformation matrices f_reg, ``[..., J, K, d, D]``.

    Returns:
      ``[..., J, K, d]``; each capsule is squashed separately.
    """
    return squash(_einsum("...jkde,...je->...jkd", transform, s))


def regress_factored(s: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, dim: int) -> jax.Array:
    """``regress`` with ``transform = hidden kernel + bias``, which is never materialised (eqs. 2, 3).

    Args:
      s: Partial input of the class capsules, ``[J, B, D]``.
      hidden: Last hidden layers of the class networks f_reg, ``[J, B, h]``.
      kernel: Kernels of their output layers, ``[J, h, D, K*d]``.
      bias: Biases of their output layers, ``[J, D, K*d]``.
      dim: Dimension of a kept capsule, d.

    Returns:
      ``[J, B, K, d]``, float32.
    """
    classes, batch, _ = hidden.shape
    rows = kernel.shape[3]
    s = s.astype(hidden.dtype)
    products = (hidden[..., :, None] * s[..., None, :]).reshape(classes, batch, -1)
    regressed = _einsum("jbf,jfr->jbr", products, kernel.reshape(classes, -1, rows))
    regressed = regressed + _einsum("jbe,jer->jbr", s, bias)
    return squash(regressed.reshape(classes, batch, rows // dim, dim))


def propagate_per_capsule(pruned: Pruned, kernel: jax.Array) -> jax.Array:
    """``propagate`` with fixed transformation matrices per capsule: ``s_j = sum_i c_i (u_i f_j|i)`` (eq. 1).

    Args:
      pruned: Kept capsules of images ``[B]``.
      kernel: Transformation matrices f of all capsules, ``[J, n*d, D]``.

    Returns:
      ``[J, B, D]``, float32.
    """
    rows = jnp.zeros((*pruned.code.shape, pruned.capsules.shape[-1]), kernel.dtype)
    rows = jax.vmap(lambda row, index, kept: row.at[index].set(kept, unique_indices=True))(
        rows, pruned.index, pruned.capsules.astype(kernel.dtype)
    )
    return _einsum("br,jre->jbe", rows.reshape(rows.shape[0], kernel.shape[1]), kernel)


def regress_per_capsule(s: jax.Array, index: jax.Array, kernel: jax.Array, dim: int) -> jax.Array:
    """``regress`` with fixed transformation matrices per capsule (eqs. 2, 3).

    Args:
      s: Partial input of the class capsules, ``[J, B, D]``.
      index: Indices of the kept capsules, ``[B, K]``.
      kernel: Transformation matrices f_reg of all capsules, ``[J, n*d, D]``.
      dim: Dimension of a kept capsule, d.

    Returns:
      ``[J, B, K, d]``, float32.
    """
    all_ = _einsum("jbe,jre->jbr", s.astype(kernel.dtype), kernel)
    all_ = all_.reshape(*all_.shape[:2], kernel.shape[1] // dim, dim)
    return squash(jax.vmap(jax.vmap(_take), in_axes=(0, None))(all_, index))


def regression_distance(regressed: jax.Array, capsules: jax.Array, *, squared: bool = True) -> jax.Array:
    """Mean distance of the kept capsules from their regression: the norm in eq. (4).

    Args:
      regressed: Regressed capsules, ``[..., K, d]``.
      capsules: Kept capsules, ``[..., K, d]`` or a shape that broadcasts to it.
      squared: Whether to square the distances, as the paper does; the released graph does not.

    Returns:
      ``[...]``.
    """
    difference = regressed - capsules
    distance = jnp.sum(jnp.square(difference), axis=-1) if squared else length(difference)
    return jnp.mean(distance, axis=-1)


def agreement(regressed: jax.Array, capsules: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """Activity of a class: ``d_j = exp(-gamma * mean_i |u_reg_ij - u_i|^2)`` (eq. 4).

    Args:
      regressed: Regressed capsules, ``[..., J, K, d]``.
      capsules: Kept capsules, ``[..., 1, K, d]`` or another shape that broadcasts.
      gamma: Sharpness.

    Returns:
      ``[..., J]``, in (0, 1]: 1 where the regression is exact.
    """
    return agreement_of_distance(regression_distance(regressed, capsules), gamma)


def agreement_of_distance(distance: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """``exp(-gamma * distance)`` of mean squared distances of any shape (eq. 4)."""
    return jnp.exp(-gamma * distance)


def direction(s: jax.Array, epsilon: float = 0.0) -> jax.Array:
    """``s/(|s| + epsilon)`` of vectors ``[..., D]``; zero at zero.

    The gradient at zero is that of ``s/epsilon``, or zero if epsilon is zero.
    """
    size = length(s)[..., None] + epsilon
    return jnp.where(size == 0, 0.0, s / jnp.where(size == 0, 1.0, size))


def check_labels(labels: jax.Array, by_class: jax.Array) -> None:
    """Raises ValueError unless labels are integers ``[...]`` for values ``[..., J]``; ``[B, 1]`` would broadcast."""
    labels = jnp.asarray(labels)
    if labels.shape != by_class.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)}: must be integers {list(by_class.shape[:-1])}."
        )


def _one_hot(labels: jax.Array, by_class: jax.Array) -> jax.Array:
    check_labels(labels, by_class)
    return jax.nn.one_hot(labels, by_class.shape[-1])


def margin_loss(activity: jax.Array, labels: jax.Array) -> jax.Array:
    """Margin loss ``sum_j T_j max(0, 0.9-d_j)^2 + 0.5 (1-T_j) max(0, d_j-0.1)^2`` (section 4; Sabour et al. 2017).

    Args:
      activity: Activities of the classes, ``[..., J]``.
      labels: True classes, ``[...]`` integers in ``[0, J)``.

    Returns:
      Loss of each example, ``[...]``.

    Raises:
      ValueError: ``labels`` have another shape or are not integers.
    """
    target = _one_hot(labels, activity)
    present = jnp.square(jnp.maximum(0, 0.9 - activity))
    absent = jnp.square(jnp.maximum(0, activity - 0.1))
    return jnp.sum(target * present + 0.5 * (1 - target) * absent, axis=-1)


def code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """Pulls the activity of kept capsules to 1 and of the others to 0: ``sum_i (c_i - a_i)^2`` (section 4).

    Args:
      code: Code vector, ``[..., n]``.
      activity: Activities of the primary capsules, ``[..., n]``.

    Returns:
      Loss of each example, ``[...]``.
    """
    return jnp.sum(jnp.square(code - activity), axis=-1)


def released_loss(distance: jax.Array, labels: jax.Array) -> jax.Array:
    """The released graph's loss: ``sum_j T_j e_j^2 + (1-T_j) max(0, 0.8-e_j)^2``.

    Args:
      distance: Mean distance e of the kept capsules from their regression, ``[..., J]``.
      labels: True classes, ``[...]`` integers in ``[0, J)``.

    Returns:
      Loss of each example, ``[...]``.

    Raises:
      ValueError: ``labels`` have another shape or are not integers.
    """
    target = _one_hot(labels, distance)
    return jnp.sum(target * jnp.square(distance) + (1 - target) * jnp.square(jnp.maximum(0, 0.8 - distance)), axis=-1)


def released_code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """The released graph's code loss: ``mean_i |c_i - a_i|``; shapes as in ``code_loss``."""
    return jnp.mean(jnp.abs(code - activity), axis=-1)
