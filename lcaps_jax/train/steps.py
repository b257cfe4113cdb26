"""The training step, from a batch of indices to Adam's update, on data that are on the devices.

Axes: ``S`` steps of one call, ``B`` global batch, ``b`` a device's share of it, ``N`` images.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from lcaps_jax.data import augment
from lcaps_jax.data.augment import Array
from lcaps_jax.nn import Network
from lcaps_jax.util.devices import mean, pmap, shard, total
from lcaps_jax.util.settings import setting

INIT, ORDER, SHIFT = range(3)  # random streams derived from the run's seed
DROPOUT = 2**31  # stream of dropout within a step's stream of shifts; larger than every position in a batch
UPDATE = "update"  # the optimizer's part in a profile of the compiled program
_SHORT = 64  # shorter rows do not fill the optimizer's vectorized loops


@struct.dataclass
class TrainState:
    """Everything that a step changes and a checkpoint holds."""

    step: jax.Array  # number of steps done, int32
    params: dict  # parameters of the network
    opt_state: optax.OptState  # state of the optimizer


@struct.dataclass
class TrainData:
    """What all steps read; replicated."""

    images: Array  # images, [N, I, I, C] uint8
    labels: Array  # class of each image, [N] int32
    key: jax.Array  # random key of the shifts


@struct.dataclass
class Batches:
    """The batches of one call; divided among the devices."""

    index: Array  # images of each step, [S, b] int32
    position: Array  # places of the images in the global batch, [S, b] int32
    weight: Array  # 0 for padding and 1 for an image, [S, b] float32


def make_batches(index: np.ndarray, weight: np.ndarray | None = None) -> Batches:
    """This process's share of global batches ``[S, B]``, with a leading device axis."""
    position = np.broadcast_to(np.arange(index.shape[1], dtype=np.int32), index.shape)
    weight = np.ones(index.shape, np.float32) if weight is None else weight
    return Batches(*map(shard, (index, position, weight)))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam with an exponentially decaying learning rate (section 4)."""

    learning_rate: float = setting(1e-3, "Adam's learning rate at the start.", above=0.0)
    decay_rate: float = setting(0.9, "Factor of the learning rate's exponential decay.", above=0.0, maximum=1.0)
    decay_steps: int = setting(1000, "Steps over which the learning rate decays by one factor.", minimum=1)
    decay_staircase: bool = setting(False, "Decay in jumps every decay_steps rather than smoothly.")

    def make(self) -> optax.GradientTransformation:
        """The optimizer."""
        rate = self.learning_rate, self.decay_steps, self.decay_rate
        return optax.adam(optax.exponential_decay(*rate, staircase=self.decay_staircase))


def init_params(network: Network, shape: tuple[int, int, int], seed: int = 0) -> dict:
    """Initial parameters for images of the shape (I, I, C), which depend on the seed alone; see ``compute_once``."""
    return network.init_params(jax.random.fold_in(jax.random.key(seed), INIT), shape)


def init_state(
    network: Network, optimizer: optax.GradientTransformation, shape: tuple[int, int, int], seed: int = 0
) -> TrainState:
    """State before the first step; see ``compute_once``."""
    params = init_params(network, shape, seed)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def compute_once(compute: Callable[[], Any]) -> Any:
    """Computes a function without arguments as one program, which is compiled with little optimization.

    XLA's CPU compiler spends seconds on the program that draws a network's initial parameters. With little optimization
    it takes a fifth of the time, and the parameters are the same bit for bit.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(compute, compiler_options=options)()


def make_train_steps(
    network: Network,
    optimizer: optax.GradientTransformation,
    augmentation: augment.AugmentConfig,
    devices: Sequence[jax.Device] | None = None,
) -> Callable:
    """Makes the function ``(state, TrainData, Batches) -> (state, metrics)`` that runs the steps of one call.

    It is mapped over the devices (see ``util.devices.pmap``), and the state is donated. Metrics are ``loss [S]``, the
    mean over the batch, and ``errors [S]``, the number of wrong predictions in it.
    """

    def loss_and_errors(wide, shapes, images, labels, keys):
        params = jax.tree.map(lambda leaf, shape: leaf.reshape(shape), wide, shapes)
        output = network.apply({"params": params}, images, labels, keys, train=True)
        errors = jnp.sum(jnp.argmax(output.activity, axis=-1) != labels)
        return jnp.mean(network.loss(output, labels, images)), errors

    def train_step(train_data: TrainData, shapes: Any, state: TrainState, batch: Batches):
        images, labels = train_data.images[batch.index], train_data.labels[batch.index]
        step_key = jax.random.fold_in(train_data.key, state.step)
        images = augment.to_unit_range(augment.augment(images, step_key, batch.position, augmentation))
        dropout_keys = augment.keys_of(jax.random.fold_in(step_key, DROPOUT), batch.position)
        loss_and_gradients = jax.value_and_grad(loss_and_errors, has_aux=True)
        (loss, errors), gradients = loss_and_gradients(state.params, shapes, images, labels, dropout_keys)
        gradients, loss = mean((gradients, loss))
        with jax.named_scope(UPDATE):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), {"loss": loss, "errors": total(errors)}

    def train_steps(state, train_data, batches):
        step = functools.partial(train_step, train_data, jax.tree.map(jnp.shape, state.params))
        after, metrics = lax.scan(step, jax.tree.map(_widened, state), batches)
        return jax.tree.map(lambda leaf, before: leaf.reshape(before.shape), after, state), metrics

    return pmap(train_steps, donate_first=True, devices=devices)


def _widened(x: jax.Array) -> jax.Array:
    """An array of three axes or more with the last two merged where the last is short.

    The optimizer's loops run over the last axis, and take twice as long over rows of 16 numbers as over long ones.
    """
    return x.reshape(*x.shape[:-2], -1) if x.ndim > 2 and x.shape[-1] < _SHORT else x


@jax.jit
def all_finite(tree) -> jax.Array:
    """Whether every number of a pytree is finite, a scalar bool."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
