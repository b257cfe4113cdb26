"""The mathematics of the Ladder Capsule Network as pure array functions.

Equations are numbered as in Jeong, Lee, Kim, "Ladder Capsule Network", ICML 2019. Everything works under
``jit``, ``vmap`` and ``grad``, takes any leading batch axes, and has finite gradients everywhere, zero included, up to
lengths of 1e18, whose squares float32 still holds.

Axes: ``...`` batch, ``n`` capsules, ``d`` their dimension, ``K`` kept capsules, ``J`` classes, ``D`` dimension of a
class capsule, ``h`` width of the last hidden layer of a class network.
"""

import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

# gamma of eq. (4): exp(-0.01 gamma) = 0.95.
AGREEMENT_SHARPNESS = 5.12

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def length(x: jax.Array) -> jax.Array:
    """Euclidean length ``[...]`` of ``x [..., d]``, with gradient zero at zero.

    A plain square root has an infinite slope there, and adding an epsilon behind it does not change that.
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
    """What the pruning layer passes on.

    Attributes:
      capsules: ``[..., K, d]`` the kept capsules, in ascending order of index.
      index: ``[..., K]`` int32, their indices among the ``n``.
      code: ``[..., n]`` float32, the code vector: 1 where a capsule is kept, else 0.
    """

    capsules: jax.Array
    index: jax.Array
    code: jax.Array


def check_keep(k: int, n: int) -> None:
    """Raises ValueError unless ``k`` of ``n`` capsules can be kept."""
    if not 1 <= k <= n:
        raise ValueError(f"Cannot keep k={k} of n={n} capsules: k must be between 1 and {n}.")


def prune(capsules: jax.Array, activity: jax.Array, k: int) -> Pruned:
    """Pruning layer: keeps the ``k`` most active capsules (section 3.1).

    The kept rows stay in ascending order of index, so that the code vector tells which capsule each row is
    (Figure 2). Equally active capsules: the lower index wins. No gradient flows through the choice.

    Args:
      capsules: ``[..., n, d]``.
      activity: ``[..., n]``.
      k: how many to keep, K.

    Returns:
      Pruned: kept capsules ``[..., K, d]``, their indices ``[..., K]``, the code vector ``[..., n]``.

    Raises:
      ValueError: unless ``1 <= k <= n``.
    """
    check_keep(k, activity.shape[-1])
    activity = lax.stop_gradient(activity)
    index = jnp.sort(lax.top_k(activity, k)[1], axis=-1)
    code = jnp.put_along_axis(jnp.zeros(activity.shape, jnp.float32), index, 1.0, axis=-1, inplace=False)
    kept = jnp.take_along_axis(capsules, index[..., None], axis=-2)
    return Pruned(kept, index, code)


def propagate(capsules: jax.Array, transform: jax.Array, contribution: jax.Array) -> jax.Array:
    """Partial input of the class capsules: ``s_j = sum_i p_j|i (u_i f_j|i)`` (eq. 1).

    Args:
      capsules: ``[..., K, d]`` kept capsules u.
      transform: ``[..., J, K, d, D]`` the linear operators f, functions of the code vector.
      contribution: ``[..., J, K]`` the weights p, in (0, 1).

    Returns:
      ``[..., J, D]``.
    """
    return _einsum("...jk,...kd,...jkde->...je", contribution, capsules, transform)


def propagate_factored(
    capsules: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, contribution: jax.Array
) -> jax.Array:
    """``propagate`` with ``transform = hidden kernel + bias``, never written out (eq. 1).

    The transforms are by far the largest array of the network, ``[B, J, K, d, D]``. Contracting the kept capsules
    with the kernel first costs the same arithmetic and leaves ``[J, B, h, D]``, several times less memory.

    Args:
      capsules: ``[B, K, d]`` kept capsules.
      hidden: ``[J, B, h]`` last hidden layers of the class networks f.
      kernel: ``[J, K*d, h, D]`` and bias: ``[J, K*d, D]``, their last layers.
      contribution: ``[J, B, K]`` the weights p.

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
      s: ``[..., J, D]`` the class capsules' partial input.
      transform: ``[..., J, K, d, D]`` the linear operators f_reg, functions of the code vector.

    Returns:
      ``[..., J, K, d]``; each row is squashed by itself.
    """
    return squash(_einsum("...jkde,...je->...jkd", transform, s))


def regress_factored(s: jax.Array, hidden: jax.Array, kernel: jax.Array, bias: jax.Array, dim: int) -> jax.Array:
    """``regress`` with ``transform = hidden kernel + bias``, never written out (eqs. 2, 3).

    Args:
      s: ``[J, B, D]`` partial input.
      hidden: ``[J, B, h]`` last hidden layers of the class networks f_reg.
      kernel: ``[J, h, D, K*d]`` and bias: ``[J, D, K*d]``, their last layers.
      dim: d.

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


def regression_error(regressed: jax.Array, capsules: jax.Array, *, squared: bool = True) -> jax.Array:
    """Mean over the kept capsules of the (squared) distance to their regression: the norm in eq. (4).

    Args:
      regressed: ``[..., K, d]``.
      capsules: ``[..., K, d]``, or a shape that broadcasts to it.
      squared: the paper's squared distance, or the plain one of the released graph.

    Returns:
      ``[...]``.
    """
    difference = regressed - capsules
    distance = jnp.sum(jnp.square(difference), axis=-1) if squared else length(difference)
    return jnp.mean(distance, axis=-1)


def agreement(regressed: jax.Array, capsules: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """Activity of a class: ``d_j = exp(-gamma * mean_i |u_reg_ij - u_i|^2)`` (eq. 4).

    Args:
      regressed: ``[..., K, d]``; for all classes, ``[..., J, K, d]``.
      capsules: ``[..., K, d]``, or a shape that broadcasts to it, as ``[..., 1, K, d]``.
      gamma: sharpness.

    Returns:
      ``[...]``, in (0, 1]: 1 where the regression is exact.
    """
    return agreement_of_error(regression_error(regressed, capsules), gamma)


def agreement_of_error(error: jax.Array, gamma: float = AGREEMENT_SHARPNESS) -> jax.Array:
    """``exp(-gamma * error)`` of mean squared distances (eq. 4), any shape."""
    return jnp.exp(-gamma * error)


def direction(s: jax.Array, epsilon: float = 0.0) -> jax.Array:
    """``s/(|s| + epsilon)`` of vectors ``[..., D]``; zero at zero.

    At exact zero, where a direction has no gradient, the gradient is that of ``s/epsilon``, and zero without one.
    """
    size = length(s)[..., None] + epsilon
    return jnp.where(size == 0, 0.0, s / jnp.where(size == 0, 1.0, size))


@struct.dataclass
class Routed:
    """What dynamic routing makes of votes.

    Attributes:
      pose: ``[..., J, D]`` class capsules v; their length is the activity.
      coupling: ``[..., n, J]`` coupling coefficients c of the last iteration, which sum to 1 over the classes.
    """

    pose: jax.Array
    coupling: jax.Array


def route(votes: jax.Array, iterations: int) -> Routed:
    """Dynamic routing by agreement (Sabour et al. 2017, Algorithm 1), with gradients through every iteration.

    The logits start at zero for each example, so that a result does not depend on the rest of the batch.

    Args:
      votes: ``[..., n, J, D]`` predictions ``u_hat_j|i`` of capsule i for class j.
      iterations: r, at least 1.

    Returns:
      Routed.

    Raises:
      ValueError: for less than one iteration.
    """
    check_iterations(iterations)
    logits = jnp.zeros(votes.shape[:-1], votes.dtype)
    for iteration in range(iterations):
        coupling = jax.nn.softmax(logits, axis=-1)
        pose = squash(_einsum("...ij,...ije->...je", coupling, votes))
        if iteration + 1 < iterations:
            logits += _einsum("...ije,...je->...ij", votes, pose)
    return Routed(pose, coupling)


def route_factored(capsules: jax.Array, kernel: jax.Array, iterations: int) -> Routed:
    """``route`` of ``votes_ij = u_i W_ij``, which are never written out.

    The votes are the largest array of a routing network, ``[B, n, J, D]``, read twice in each iteration and again in
    its gradient. Weighting the capsules before the transformation, and transforming the poses back for their
    agreement, leaves ``[B, d, n]`` for a class at a time. On a CPU the classes are taken one by one, so that this
    stays in its cache; what the gradient needs of it is computed again rather than kept.

    Args:
      capsules: ``[B, n, d]``.
      kernel: ``[J, D, d*n]`` the transformations W, a capsule's dimensions before the capsules.
      iterations: r, at least 1.

    Returns:
      Routed, float32.

    Raises:
      ValueError: for less than one iteration.
    """
    check_iterations(iterations)
    batch, count, dim = capsules.shape
    classes = kernel.shape[0]
    u = capsules.swapaxes(1, 2)  # [B, d, n]: sums over d then run along n
    each_class = lax.map if jax.default_backend() == "cpu" else lambda f, arrays: jax.vmap(f)(arrays)

    @jax.checkpoint
    def pose_of_class(arrays):
        coupling, transform = arrays  # [B, n], [D, d*n]
        weighted = (coupling[:, None] * u).reshape(batch, -1).astype(transform.dtype)
        return squash(_einsum("bf,ef->be", weighted, transform))

    @jax.checkpoint
    def agreement_of_class(arrays):
        pose, transform = arrays  # [B, D], [D, d*n]
        back = _einsum("be,ef->bf", pose.astype(transform.dtype), transform)
        return jnp.sum(back.reshape(batch, dim, count) * u, axis=1)

    logits = 0.0
    coupling = jnp.full((classes, batch, count), 1 / classes)  # their softmax; XLA takes seconds to find that itself
    pose = each_class(pose_of_class, (coupling, kernel))
    for _ in range(iterations - 1):
        logits += each_class(agreement_of_class, (pose, kernel))
        coupling = _softmax_over_classes(logits)
        pose = each_class(pose_of_class, (coupling, kernel))
    return Routed(pose.swapaxes(0, 1), coupling.transpose(1, 2, 0))


@jax.custom_vjp
def _softmax_over_classes(logits: jax.Array) -> jax.Array:
    """Softmax over the first axis, whose sums are matrix products: XLA's reduction of it on a CPU is slow."""
    exponential = jnp.exp(logits - jnp.max(logits, axis=0))
    return exponential / _sum_over_classes(exponential)


def _sum_over_classes(x: jax.Array) -> jax.Array:
    return _einsum("j,jm->m", jnp.ones(len(x)), x.reshape(len(x), -1)).reshape(x.shape[1:])


def _softmax_forward(logits):
    coupling = _softmax_over_classes(logits)
    return coupling, coupling


def _softmax_backward(coupling, gradient):
    return (coupling * (gradient - _sum_over_classes(coupling * gradient)),)


_softmax_over_classes.defvjp(_softmax_forward, _softmax_backward)


def check_iterations(iterations: int) -> None:
    """Raises ValueError unless routing can have so many iterations."""
    if iterations < 1:
        raise ValueError(f"Routing needs at least 1 iteration, got {iterations}.")


def margin_loss(activity: jax.Array, labels: jax.Array) -> jax.Array:
    """Margin loss ``sum_j T_j max(0, 0.9-d_j)^2 + 0.5 (1-T_j) max(0, d_j-0.1)^2`` (section 4; Sabour et al. 2017).

    Args:
      activity: ``[..., J]`` activities of the classes.
      labels: ``[...]`` integers in ``[0, J)``.

    Returns:
      ``[...]``, one loss an example.
    """
    target = jax.nn.one_hot(labels, activity.shape[-1])
    present = jnp.square(jnp.maximum(0, 0.9 - activity))
    absent = jnp.square(jnp.maximum(0, activity - 0.1))
    return jnp.sum(target * present + 0.5 * (1 - target) * absent, axis=-1)


def code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """``sum_i (c_i - a_i)^2``: pulls kept capsules towards activity 1 and the others towards 0 (section 4).

    Args:
      code: ``[..., n]`` code vector.
      activity: ``[..., n]`` activities of the primary capsules.

    Returns:
      ``[...]``, one loss an example.
    """
    return jnp.sum(jnp.square(code - activity), axis=-1)


def released_loss(error: jax.Array, labels: jax.Array) -> jax.Array:
    """The released graph's loss: ``sum_j T_j e_j^2 + (1-T_j) max(0, 0.8-e_j)^2``.

    Args:
      error: ``[..., J]`` mean distance of the regressed from the kept capsules.
      labels: ``[...]`` integers in ``[0, J)``.

    Returns:
      ``[...]``, one loss an example.
    """
    target = jax.nn.one_hot(labels, error.shape[-1])
    return jnp.sum(target * jnp.square(error) + (1 - target) * jnp.square(jnp.maximum(0, 0.8 - error)), axis=-1)


def released_code_loss(code: jax.Array, activity: jax.Array) -> jax.Array:
    """The released graph's code loss: ``mean_i |c_i - a_i|``; shapes as for ``code_loss``."""
    return jnp.mean(jnp.abs(code - activity), axis=-1)
