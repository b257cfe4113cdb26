"""The mathematics of the Ladder Capsule Network as pure array functions.

Equations are numbered as in Jeong, Lee, Kim, "Ladder Capsule Network", ICML 2019. Every function works under ``jit``,
``vmap`` and ``grad`` and takes any leading batch axes. Gradients are finite everywhere, zero included, up to lengths of
1e18, because float32 still holds their squares.

Axes: ``...`` batch, ``n`` capsules, ``d`` their dimension, ``K`` kept capsules, ``J`` classes, ``D`` dimension of a
class capsule, ``h`` width of the last hidden layer of a class network.
"""

import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.errors import ArgumentError, arg
from lcaps_jax.precision import einsum

# The sharpness gamma of eq. (4) is such that exp(-0.01 gamma) = 0.95.
AGREEMENT_SHARPNESS = 5.12

_einsum = functools.partial(einsum, preferred_element_type=jnp.float32)


def length(x: jax.Array) -> jax.Array:
    """Euclidean length ``[...]`` of ``x [..., d]``, with gradient zero at zero.

    A plain square root has an infinite slope at zero, and an epsilon added to the root does not change that.
    """
    square = jnp.sum(jnp.square(x), axis=-1)
    is_zero = square == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))


def squash(t: jax.Array) -> jax.Array:
    """Shrinks vectors into the unit ball, keeping their direction: ``|t|^2/(1+|t|^2) * t/|t|`` (eq. 3).

    Args:
      t: ``[..., d]``.

    Returns:
      ``[..., d]``, of length ``|t|^2/(1+|t|^2) < 1``; zero, with zero gradient, at zero.
    """
    size = length(t)[..., None]
    return t * (size / (1 + jnp.square(size)))


def squashed_length(t: jax.Array) -> jax.Array:
    """Length of ``squash(t)``, which is the activity of a capsule: ``|t|^2/(1+|t|^2)`` (section 5.1).

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
    """Raises ArgumentError, a ValueError, unless ``k`` of ``n`` capsules can be kept, as many of each group."""
    if not 1 <= k <= n:
        raise ArgumentError(f"Cannot keep {arg('k')}={k} of n={n} capsules: {arg('k')} must be between 1 and {n}.")
    if k % groups:
        raise ArgumentError(
            f"Cannot keep {arg('k')}={k} capsules, as many of each of {groups} types: {arg('k')} must be a multiple of "
            f"{groups}."
        )


def prune(capsules: jax.Array, activity: jax.Array, k: int, groups: int = 1) -> Pruned:
    """Pruning layer: keeps the ``k`` most active capsules (section 3.1).

    The kept rows stay in ascending order of index, so that the code vector tells which capsule each row is
    (Figure 2). Of equally active capsules the one with the lower index wins. No gradient flows through the choice.

    Args:
      capsules: Capsules to choose from, ``[..., n, d]``.
      activity: Activity of each capsule, ``[..., n]``.
      k: Number of capsules to keep, K.
      groups: Number of groups G, of each of which ``k/G`` capsules are kept. Capsule ``i`` belongs to group ``i % G``,
        so that the types of primary capsules are groups.

    Returns:
      Kept capsules ``[..., K, d]``, their indices ``[..., K]`` and the code vector ``[..., n]``.

    Raises:
      ValueError: ``k`` is not between 1 and n, or not a multiple of ``groups``.
    """
    check_keep(k, activity.shape[-1], groups)
    activity = lax.stop_gradient(activity)
    leading, n = activity.shape[:-1], activity.shape[-1]
    by_group = jnp.moveaxis(activity.reshape(*leading, n // groups, groups), -1, -2)
    index = lax.top_k(by_group, k // groups)[1] * groups + jnp.arange(groups)[:, None]
    index = jnp.sort(index.reshape(*leading, k), axis=-1)
    mark, take = _mark, _take
    for _ in leading:  # because NumPy's functions along an axis cannot be exported for any number of images
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
      transform: Linear operators f, which are functions of the code vector, ``[..., J, K, d, D]``.
      contribution: Weights p in (0, 1), ``[..., J, K]``.

    Returns:
      ``[..., J, D]``.
    """
    return _einsum("...jk,...kd,...jkde->...je", contribution, capsules, transform)


def propagate_factored(
    capsules: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, contribution: jax.Array
) -> jax.Array:
    """``propagate`` with ``transform = hidden kernel + bias``, which is never written out (eq. 1).

    The transforms are by far the largest array of the network, ``[B, J, K, d, D]``. Contracting the kept capsules
    with the kernel first costs the same arithmetic and leaves ``[J, B, h, D]``, several times less memory.

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
    """Ladder layer: the kept capsules regressed from each class, ``squash(f_reg_j s_j)`` (eqs. 2, 3).

    Args:
      s: Partial input of the class capsules, ``[..., J, D]``.
      transform: Linear operators f_reg, which are functions of the code vector, ``[..., J, K, d, D]``.

    Returns:
      ``[..., J, K, d]``; each row is squashed by itself.
    """
    return squash(_einsum("...jkde,...je->...jkd", transform, s))


def regress_factored(s: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, dim: int) -> jax.Array:
    """``regress`` with ``transform = hidden kernel + bias``, which is never written out (eqs. 2, 3).

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


def propagate_own(pruned: Pruned, kernel: jax.Array) -> jax.Array:
    """``propagate`` where each of the ``n`` capsules has operators of its own: ``s_j = sum_i c_i (u_i f_j|i)`` (eq. 1).

    Args:
      pruned: Kept capsules of images ``[B]``.
      kernel: Operators f of all capsules, ``[J, n*d, D]``.

    Returns:
      ``[J, B, D]``, float32.
    """
    rows = jnp.zeros((*pruned.code.shape, pruned.capsules.shape[-1]), kernel.dtype)
    rows = jax.vmap(lambda row, index, kept: row.at[index].set(kept, unique_indices=True))(
        rows, pruned.index, pruned.capsules.astype(kernel.dtype)
    )
    return _einsum("br,jre->jbe", rows.reshape(rows.shape[0], kernel.shape[1]), kernel)


def regress_own(s: jax.Array, index: jax.Array, kernel: jax.Array, dim: int) -> jax.Array:
    """``regress`` where each of the ``n`` capsules has operators of its own (eqs. 2, 3).

    Args:
      s: Partial input of the class capsules, ``[J, B, D]``.
      index: Indices of the kept capsules, ``[B, K]``.
      kernel: Operators f_reg of all capsules, ``[J, n*d, D]``.
      dim: Dimension of a kept capsule, d.

    Returns:
      ``[J, B, K, d]``, float32.
    """
    all_ = _einsum("jbe,jre->jbr", s.astype(kernel.dtype), kernel)
    all_ = all_.reshape(*all_.shape[:2], kernel.shape[1] // dim, dim)
    return squash(jax.vmap(jax.vmap(_take), in_axes=(0, None))(all_, index))


def regression_error(regressed: jax.Array, capsules: jax.Array, *, squared: bool = True) -> jax.Array:
    """Mean over the kept capsules of the (squared) distance to their regression: the norm in eq. (4).

    Args:
      regressed: Regressed capsules, ``[..., K, d]``.
      capsules: Kept capsules, ``[..., K, d]`` or a shape that broadcasts to it.
      squared: Whether the distance is squared, as in the paper; the released graph takes the plain one.

    Returns:
      ``[...]``.
    """
    difference = regressed - capsules
    distance = jnp.sum(jnp.square(difference), axis=-1) if squared else length(difference)
    return jnp.mean(distance, axis=-1)


def agreement(regressed: jax.Array, capsules: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """Activity of a class: ``d_j = exp(-gamma * mean_i |u_reg_ij - u_i|^2)`` (eq. 4).

    Args:
      regressed: Regressed capsules, ``[..., K, d]``; of all classes ``[..., J, K, d]``.
      capsules: Kept capsules, ``[..., K, d]`` or a shape that broadcasts to it, such as ``[..., 1, K, d]``.
      gamma: Sharpness.

    Returns:
      ``[...]``, in (0, 1]: 1 where the regression is exact.
    """
    return agreement_of_error(regression_error(regressed, capsules), gamma)


def agreement_of_error(error: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """``exp(-gamma * error)`` of mean squared distances (eq. 4), any shape."""
    return jnp.exp(-gamma * error)


def direction(s: jax.Array, epsilon: float = 0.0) -> jax.Array:
    """``s/(|s| + epsilon)`` of vectors ``[..., D]``; zero at zero.

    A direction has no gradient at exact zero. The gradient there is that of ``s/epsilon``, or zero without an epsilon.
    """
    size = length(s)[..., None] + epsilon
    return jnp.where(size == 0, 0.0, s / jnp.where(size == 0, 1.0, size))


def check_labels(labels: jax.Array, by_class: jax.Array) -> None:
    """Raises ValueError unless ``labels`` are integers ``[...]`` for values ``[..., J]``.

    Labels of another shape, such as ``[B, 1]``, would silently broadcast to ``[B, B]``.
    """
    labels = jnp.asarray(labels)
    if labels.shape != by_class.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape {by_class.shape[:-1]} for values by class of shape {by_class.shape}; "
            f"got {labels.dtype} of shape {labels.shape}."
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
      ValueError: ``labels`` have another shape or are no integers.
    """
    target = _one_hot(labels, activity)
    present = jnp.square(jnp.maximum(0, 0.9 - activity))
    absent = jnp.square(jnp.maximum(0, activity - 0.1))
    return jnp.sum(target * present + 0.5 * (1 - target) * absent, axis=-1)


def code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """``sum_i (c_i - a_i)^2``: pulls kept capsules towards activity 1 and the others towards 0 (section 4).

    Args:
      code: Code vector, ``[..., n]``.
      activity: Activities of the primary capsules, ``[..., n]``.

    Returns:
      Loss of each example, ``[...]``.
    """
    return jnp.sum(jnp.square(code - activity), axis=-1)


def balance_loss(code: jax.Array, bias: jax.Array) -> jax.Array:
    """A loss of zero whose gradient moves the biases of groups until all are kept equally often.

    The gradient of a group's bias is how much more often the group is kept than the others are. So each step of an
    optimizer raises the biases of groups that are kept rarely, and nothing else is trained by it (Wang et al. 2024,
    "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts").

    Args:
      code: Code vector, ``[..., n]``; capsule ``i`` belongs to group ``i % G``.
      bias: Biases that were added to the activities before capsules were kept, ``[G]``.

    Returns:
      Loss of each example, ``[...]``.
    """
    groups = bias.shape[0]
    kept = jnp.sum(code.reshape(*code.shape[:-1], -1, groups), axis=-2)
    share = kept / jnp.sum(kept, axis=-1, keepdims=True)
    loss = jnp.sum(lax.stop_gradient(share - 1 / groups) * bias, axis=-1)
    return loss - lax.stop_gradient(loss)


def released_loss(error: jax.Array, labels: jax.Array) -> jax.Array:
    """The released graph's loss: ``sum_j T_j e_j^2 + (1-T_j) max(0, 0.8-e_j)^2``.

    Args:
      error: Mean distance of the regressed from the kept capsules, ``[..., J]``.
      labels: True classes, ``[...]`` integers in ``[0, J)``.

    Returns:
      Loss of each example, ``[...]``.

    Raises:
      ValueError: ``labels`` have another shape or are no integers.
    """
    target = _one_hot(labels, error)
    return jnp.sum(target * jnp.square(error) + (1 - target) * jnp.square(jnp.maximum(0, 0.8 - error)), axis=-1)


def released_code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """The released graph's code loss: ``mean_i |c_i - a_i|``; shapes as for ``code_loss``."""
    return jnp.mean(jnp.abs(code - activity), axis=-1)
