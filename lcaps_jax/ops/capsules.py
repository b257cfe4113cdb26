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
    """Shrinks vectors ``[..., d]`` into the unit ball without turning them: ``|t|^2/(1+|t|^2) * t/|t|`` (eq. 3)."""
    size = length(t)[..., None]
    return t * (size / (1 + jnp.square(size)))


def squashed_length(t: jax.Array) -> jax.Array:
    """Activity ``[...]`` of capsules ``t [..., d]``: ``|squash(t)| = |t|^2/(1+|t|^2)``, in [0, 1) (section 5.1)."""
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
    """Pruning layer: keeps the ``k`` capsules ``[..., n, d]`` of the highest activity ``[..., n]`` (section 3.1).

    The kept capsules stay in ascending order of index, so that the code vector identifies them (Figure 2). Ties go to
    the lower index. No gradient flows through the choice. Capsule ``i`` belongs to group ``i % groups``, the type of a
    primary capsule, and each group keeps equally many.
    """
    check_keep(k, activity.shape[-1], groups)
    activity = lax.stop_gradient(activity)
    leading, n = activity.shape[:-1], activity.shape[-1]
    by_group = jnp.moveaxis(activity.reshape(*leading, n // groups, groups), -1, -2)
    index = lax.top_k(by_group, k // groups)[1] * groups + jnp.arange(groups)[:, None]
    index = jnp.sort(index.reshape(*leading, k), axis=-1)

    def each(function):  # jnp.put_along_axis cannot be exported for a symbolic batch size
        return functools.reduce(lambda f, _: jax.vmap(f), leading, function)

    kept = each(lambda units, index: units[index])(capsules, index)
    code = each(lambda code, index: code.at[index].set(1.0))(jnp.zeros(activity.shape, jnp.float32), index)
    return Pruned(kept, index, code)


def propagate(capsules: jax.Array, transform: jax.Array, contribution: jax.Array) -> jax.Array:
    """Partial input of the class capsules, ``[..., J, D]``: ``s_j = sum_i p_j|i (u_i f_j|i)`` (eq. 1).

    The kept capsules u are ``[..., K, d]``, the transformation matrices f are ``[..., J, K, d, D]``, and the weights p,
    in (0, 1), are ``[..., J, K]``.
    """
    return _einsum("...jk,...kd,...jkde->...je", contribution, capsules, transform)


def propagate_factored(
    capsules: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, contribution: jax.Array
) -> jax.Array:
    """``propagate`` with ``transform = hidden kernel + bias``, which is never materialised: ``[J, B, D]``, float32.

    The kept capsules are ``[B, K, d]``, the last hidden layers of the class networks f ``[J, B, h]``, the kernels of
    their output layers ``[J, K*d, h, D]``, the biases ``[J, K*d, D]``, and the weights p ``[J, B, K]``.
    The transformation matrices ``[B, J, K, d, D]`` would be by far the largest array of the network. Contracting the
    kept capsules with the kernel first costs the same arithmetic and leaves ``[J, B, h, D]``.
    """
    classes, batch, width = hidden.shape
    rows, dim = kernel.shape[1], kernel.shape[3]
    weighted = (contribution[..., None] * capsules).reshape(classes, batch, rows).astype(hidden.dtype)
    mixed = _einsum("jbr,jrf->jbf", weighted, kernel.reshape(classes, rows, width * dim))
    mixed = mixed.reshape(classes, batch, width, dim)
    return jnp.sum(hidden[..., None] * mixed, axis=2) + _einsum("jbr,jre->jbe", weighted, bias)


def regress(s: jax.Array, transform: jax.Array) -> jax.Array:
    """Ladder layer: regresses the kept capsules from each class, ``squash(f_reg_j s_j) [..., J, K, d]`` (eqs. 2, 3).

    The partial input ``s`` is ``[..., J, D]``; the transformation matrices f_reg are ``[..., J, K, d, D]``.
    """
    return squash(_einsum("...jkde,...je->...jkd", transform, s))


def regress_factored(s: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, dim: int) -> jax.Array:
    """``regress`` with ``transform = hidden kernel + bias``, which is never materialised: ``[J, B, K, d]``, float32.

    The partial input ``s`` is ``[J, B, D]``, the last hidden layers of the class networks f_reg are ``[J, B, h]``, the
    kernels of their output layers ``[J, h, D, K*d]``, and the biases ``[J, D, K*d]``, with d = ``dim``.
    """
    classes, batch, _ = hidden.shape
    rows = kernel.shape[3]
    s = s.astype(hidden.dtype)
    products = (hidden[..., :, None] * s[..., None, :]).reshape(classes, batch, -1)
    regressed = _einsum("jbf,jfr->jbr", products, kernel.reshape(classes, -1, rows))
    regressed = regressed + _einsum("jbe,jer->jbr", s, bias)
    return squash(regressed.reshape(classes, batch, rows // dim, dim))


def propagate_per_capsule(pruned: Pruned, kernel: jax.Array) -> jax.Array:
    """``propagate`` with a fixed matrix per capsule, ``s_j = sum_i c_i (u_i f_j|i)``: ``[J, B, D]``, float32.

    The kept capsules are those of images ``[B]``; ``kernel [J, n*d, D]`` has the matrices f of all capsules.
    """
    put = jax.vmap(lambda row, index, kept: row.at[index].set(kept, unique_indices=True))
    rows = jnp.zeros((*pruned.code.shape, pruned.capsules.shape[-1]), kernel.dtype)
    rows = put(rows, pruned.index, pruned.capsules.astype(kernel.dtype))
    return _einsum("br,jre->jbe", rows.reshape(rows.shape[0], kernel.shape[1]), kernel)


def regress_per_capsule(s: jax.Array, index: jax.Array, kernel: jax.Array, dim: int) -> jax.Array:
    """``regress`` with a fixed matrix per capsule: ``[J, B, K, d]``, float32.

    The partial input ``s`` is ``[J, B, D]``, the indices of the kept capsules of dimension ``dim`` are ``[B, K]``, and
    ``kernel [J, n*d, D]`` has the matrices f_reg of all capsules.
    """
    regressed = _einsum("jbe,jre->jbr", s.astype(kernel.dtype), kernel)
    regressed = regressed.reshape(*regressed.shape[:2], kernel.shape[1] // dim, dim)
    take = jax.vmap(jax.vmap(lambda capsules, kept: capsules[kept]), in_axes=(0, None))
    return squash(take(regressed, index))


def regression_distance(regressed: jax.Array, capsules: jax.Array, *, squared: bool = True) -> jax.Array:
    """Mean distance ``[...]`` of the kept capsules ``[..., K, d]`` from their regression, the norm in eq. (4).

    The paper squares the distances; the released graph does not.
    """
    difference = regressed - capsules
    distance = jnp.sum(jnp.square(difference), axis=-1) if squared else length(difference)
    return jnp.mean(distance, axis=-1)


def agreement(regressed: jax.Array, capsules: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """Activity of a class, ``[..., J]`` in (0, 1]: ``d_j = exp(-gamma * mean_i |u_reg_ij - u_i|^2)`` (eq. 4).

    The regressed capsules are ``[..., J, K, d]``, the kept ones ``[..., 1, K, d]`` or another shape that broadcasts.
    """
    return agreement_of_distance(regression_distance(regressed, capsules), gamma)


def agreement_of_distance(distance: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """``exp(-gamma * distance)`` of mean squared distances of any shape (eq. 4)."""
    return jnp.exp(-gamma * distance)


def direction(s: jax.Array, epsilon: float = 0.0) -> jax.Array:
    """``s/(|s| + epsilon)`` of ``s [..., D]``; zero at zero, where the gradient is 1/epsilon, or zero if epsilon is."""
    size = length(s)[..., None] + epsilon
    return jnp.where(size == 0, 0.0, s / jnp.where(size == 0, 1.0, size))


def check_labels(labels: jax.Array, by_class: jax.Array) -> None:
    """Raises ValueError unless labels are integers ``[...]`` for values ``[..., J]``; ``[B, 1]`` would broadcast."""
    labels, shape = jnp.asarray(labels), by_class.shape[:-1]
    if labels.shape != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}{list(labels.shape)}: must be integers {list(shape)}.")


def margin_loss(activity: jax.Array, labels: jax.Array) -> jax.Array:
    """Margin loss ``sum_j T_j max(0, 0.9-d_j)^2 + 0.5 (1-T_j) max(0, d_j-0.1)^2`` (section 4; Sabour et al. 2017).

    The activities d are ``[..., J]``, the labels ``[...]`` integers in ``[0, J)``, and the losses ``[...]``.
    """
    check_labels(labels, activity)
    target = jax.nn.one_hot(labels, activity.shape[-1])
    present = jnp.square(jnp.maximum(0, 0.9 - activity))
    absent = jnp.square(jnp.maximum(0, activity - 0.1))
    return jnp.sum(target * present + 0.5 * (1 - target) * absent, axis=-1)


def code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """Pulls activities ``[..., n]`` of kept capsules to 1, of others to 0: ``sum_i (c_i - a_i)^2`` (section 4)."""
    return jnp.sum(jnp.square(code - activity), axis=-1)


def released_loss(distance: jax.Array, labels: jax.Array) -> jax.Array:
    """The released graph's loss, of distances ``e [..., J]``: ``sum_j T_j e_j^2 + (1-T_j) max(0, 0.8-e_j)^2``."""
    check_labels(labels, distance)
    target = jax.nn.one_hot(labels, distance.shape[-1])
    return jnp.sum(target * jnp.square(distance) + (1 - target) * jnp.square(jnp.maximum(0, 0.8 - distance)), axis=-1)


def released_code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """The released graph's code loss, of code and activities ``[..., n]``: ``mean_i |c_i - a_i|``."""
    return jnp.mean(jnp.abs(code - activity), axis=-1)
