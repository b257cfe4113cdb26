"""Dynamic routing by agreement (Sabour, Frosst, Hinton, 2017, Algorithm 1) as pure array functions.

Axes: ``...`` batch, ``n`` capsules, ``d`` their dimension, ``J`` classes, ``D`` dimension of a class capsule.
"""

from collections.abc import Callable
import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from lcaps_jax.ops.capsules import squash
from lcaps_jax.ops.precision import einsum
from lcaps_jax.util.errors import ConfigError

_einsum = functools.partial(einsum, preferred_element_type=jnp.float32)


@struct.dataclass
class Routed:
    """Result of dynamic routing.

    Attributes:
      pose: Class capsules v, ``[..., J, D]``; their length is the activity.
      coupling: Coupling coefficients c of the last iteration, ``[..., n, J]``; they sum to 1 over the classes.
    """

    pose: jax.Array
    coupling: jax.Array


def route(votes: jax.Array, iterations: int) -> Routed:
    """Routes the predictions ``u_hat_j|i [..., n, J, D]`` of capsules i for classes j, in one or more iterations.

    The logits start at zero for each example, so that its result does not depend on the rest of the batch. Gradients
    flow through every iteration.
    """
    _check_iterations(iterations)
    logits = jnp.zeros(votes.shape[:-1], votes.dtype)
    for iteration in range(iterations):
        coupling = jax.nn.softmax(logits, axis=-1)
        pose = squash(_einsum("...ij,...ije->...je", coupling, votes))
        if iteration + 1 < iterations:
            logits += _einsum("...ije,...je->...ij", votes, pose)
    return Routed(pose, coupling)


def route_factored(capsules: jax.Array, kernel: jax.Array, iterations: int) -> Routed:
    """``route`` of the votes ``u_i W_ij``, which are never materialised; the result is float32.

    The primary capsules u are ``[B, n, d]``. The transformation matrices W are ``[J, D, d*n]``, the dimensions of a
    capsule before the capsules. The votes ``[B, n, J, D]`` would be the largest array of a routing network, read twice
    in each iteration and again in its gradient. Weighting the capsules before the transformation, and transforming the
    poses back for their agreement, leaves ``[B, d, n]`` for a class at a time. A CPU computes the classes one by one,
    so that these arrays stay in its cache. The backward pass recomputes them.
    """
    _check_iterations(iterations)
    one_by_one = functools.partial(_route_factored, iterations=iterations, each_class=lax.map)
    all_at_once = functools.partial(_route_factored, iterations=iterations, each_class=lambda f, xs: jax.vmap(f)(xs))
    return lax.platform_dependent(capsules, kernel, cpu=one_by_one, default=all_at_once)


def _route_factored(capsules: jax.Array, kernel: jax.Array, *, iterations: int, each_class: Callable) -> Routed:
    batch, count, dim = capsules.shape
    classes = kernel.shape[0]
    u = capsules.swapaxes(1, 2)  # [B, d, n]: sums over d then run along n

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
    # The softmax of zeros is a constant, which XLA would take seconds to fold.
    coupling = jnp.full((classes, batch, count), 1 / classes)
    pose = each_class(pose_of_class, (coupling, kernel))
    for _ in range(iterations - 1):
        logits += each_class(agreement_of_class, (pose, kernel))
        coupling = _softmax_over_classes(logits)
        pose = each_class(pose_of_class, (coupling, kernel))
    return Routed(pose.swapaxes(0, 1), coupling.transpose(1, 2, 0))


@jax.custom_vjp
def _softmax_over_classes(logits: jax.Array) -> jax.Array:
    """Softmax over the first axis. Its sums are matrix products, because XLA's reduction is slow on a CPU."""
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


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise ConfigError(f"iterations={iterations}: must be at least 1.")
