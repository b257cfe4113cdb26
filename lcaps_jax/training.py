"""Training and evaluation of a network on a data set that lies on the devices.

Axes: ``S`` steps of one call, ``B`` global batch, ``b`` a device's share of it, ``N`` images, ``J`` classes, ``n``
primary capsules.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import math
import pathlib
import signal
import time
from typing import Any, cast

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from lcaps_jax import data, parallel
from lcaps_jax.checkpoints import BEST, LAST, Checkpoints
from lcaps_jax.config import CAPSNET, CNN, FRESH, Config
from lcaps_jax.metrics import MetricLog, rounded, wilson_interval
from lcaps_jax.models import CapsNet, ConvNet, LadderCapsNet, Network, NetworkOutput

# Streams of randomness that all start at the run's seed.
_INIT, _ORDER, _SHIFT = range(3)
# Of a step's stream of shifts, beyond every position in a batch.
_DROPOUT = 2**31
# Batches of one evaluation call.
_EVAL_STEPS = 20


class DivergenceError(RuntimeError):
    """The loss is no longer finite; the message names the step."""


class Stopped(Exception):
    """The run was asked to stop, has saved, and can be continued.

    Attributes:
      signal: number of the signal that asked.
    """

    def __init__(self, number: signal.Signals, step: int, total_steps: int):
        super().__init__(
            f"Stopped by {number.name} at step {step} of {total_steps}, all saved. The same command continues."
        )
        self.signal = int(number)


@struct.dataclass
class TrainState:
    """Everything that a step changes, and a checkpoint holds.

    Attributes:
      step: int32, steps done.
      params: of the network.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: dict
    opt_state: optax.OptState


@struct.dataclass
class TrainData:
    """What all steps read; replicated.

    Attributes:
      images: ``[N, I, I, C]`` uint8.
      labels: ``[N]`` int32.
      key: of the random shifts.
    """

    images: data.Array
    labels: data.Array
    key: jax.Array


@struct.dataclass
class Batches:
    """The batches of one call; divided among the devices.

    Attributes:
      index: ``[S, b]`` int32, which images.
      position: ``[S, b]`` int32, their places in the global batch.
      weight: ``[S, b]`` float32, 0 for padding.
    """

    index: data.Array
    position: data.Array
    weight: data.Array


def make_batches(index: np.ndarray, weight: np.ndarray | None = None) -> Batches:
    """This process's share of global batches ``[S, B]``, with a leading device axis."""
    position = np.broadcast_to(np.arange(index.shape[1], dtype=np.int32), index.shape)
    weight = np.ones(index.shape, np.float32) if weight is None else weight
    return Batches(*map(parallel.shard, (index, position, weight)))


def make_model(config: Config, classes: int) -> Network:
    """The network of the settings."""
    common: dict[str, Any] = {
        "classes": classes,
        "channels": config.channels,
        "convolution": config.convolution,
        "dtype": jnp.dtype(config.precision),
    }
    if config.model == CNN:
        return ConvNet(**common)
    primary: dict[str, Any] = {
        "conv1_kernel": config.conv1_kernel,
        "primary_kernel": config.primary_kernel,
        "types": config.capsule_types,
        "capsule_dim": config.capsule_dim,
        "pose_dim": config.pose_dim,
    }
    if config.model == CAPSNET:
        return CapsNet(iterations=config.routing_iterations, decoder=config.decoder, **primary, **common)
    return LadderCapsNet(
        k=config.k,
        variant=config.variant,
        activity=config.activity,
        selection=config.selection,
        **primary,
        **common,
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with an exponentially decaying learning rate (section 4)."""
    schedule = optax.exponential_decay(
        config.learning_rate, config.decay_steps, config.decay_rate, staircase=config.decay_staircase
    )
    return optax.adam(schedule)


def init_params(model: Network, config: Config, channels: int) -> dict:
    """Initial parameters, from the seed alone; see ``compute_once``."""
    image = jnp.zeros((1, config.image_size, config.image_size, channels))
    key = jax.random.fold_in(jax.random.key(config.seed), _INIT)
    return model.init(key, image)["params"]


def init_state(model: Network, optimizer: optax.GradientTransformation, config: Config, channels: int) -> TrainState:
    """State before the first step; see ``compute_once``."""
    params = init_params(model, config, channels)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def compute_once(compute: Callable[[], Any]) -> Any:
    """What a function without arguments computes, as one program that is compiled without much optimization.

    XLA's CPU compiler spends seconds optimizing the drawing of a network's initial parameters; these are the same bits
    in a fifth of the time.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(compute, compiler_options=options)()


def make_train_steps(model: Network, optimizer: optax.GradientTransformation, max_shift: int) -> Callable:
    """The training steps of one call.

    Returns:
      ``(state, TrainData, Batches) -> (state, metrics)``, mapped over the devices; the state is donated. Metrics are
      ``loss [S]``, mean over the batch, and ``errors [S]``, wrong predictions in it.
    """

    def loss_and_errors(params, images, labels, keys):
        output = model.apply({"params": params}, images, labels, keys)
        errors = jnp.sum(jnp.argmax(output.activity, axis=-1) != labels)
        return jnp.mean(model.loss(output, labels, images)), errors

    def train_step(train_data: TrainData, state: TrainState, batch: Batches):
        images, labels = train_data.images[batch.index], train_data.labels[batch.index]
        step_key = jax.random.fold_in(train_data.key, state.step)
        images = data.to_unit_range(data.augment(images, step_key, batch.position, max_shift))
        dropout_keys = data.keys_of(jax.random.fold_in(step_key, _DROPOUT), batch.position)
        loss_and_gradients = jax.value_and_grad(loss_and_errors, has_aux=True)
        (loss, errors), gradients = loss_and_gradients(state.params, images, labels, dropout_keys)
        gradients, loss = parallel.mean((gradients, loss))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), {"loss": loss, "errors": parallel.total(errors)}

    def train_steps(state, train_data, batches):
        return lax.scan(functools.partial(train_step, train_data), state, batches)

    return parallel.pmap(train_steps, donate_first=True)


@struct.dataclass
class EvalSums:
    """Sums over images.

    Attributes:
      loss: of the losses.
      confusion: ``[J, J]``, images by true and predicted class.
      primary_activity: ``[n]``, activities of the primary capsules; None without capsules.
      kept: ``[n]``, how often each is kept; None without pruning.
    """

    loss: jax.Array
    confusion: jax.Array
    primary_activity: jax.Array | None
    kept: jax.Array | None


def make_eval_steps(model: Network) -> Callable:
    """The evaluation of one call's batches.

    Returns:
      ``(params, (images, labels), Batches) -> (EvalSums, predicted [S, B], margin [S, B])``, mapped over the devices.
      The margin is the activity of the predicted class less that of the true one: 0 where right.
    """

    def eval_step(params, images, labels, batch: Batches):
        images = data.to_unit_range(images[batch.index])
        output = cast(NetworkOutput, model.apply({"params": params}, images))
        labels, weight = labels[batch.index], batch.weight
        predicted = jnp.argmax(output.activity, axis=-1)
        classes = output.activity.shape[-1]
        sums = EvalSums(
            loss=jnp.sum(weight * model.loss(output, labels, images)),
            confusion=jnp.zeros((classes, classes)).at[labels, predicted].add(weight),
            primary_activity=weighted_sum(weight, output.primary_activity),
            kept=weighted_sum(weight, output.code),
        )
        true_activity = jnp.take_along_axis(output.activity, labels[:, None], axis=-1)[:, 0]
        return sums, predicted, jnp.max(output.activity, axis=-1) - true_activity

    def eval_steps(params, split, batches):
        sums, predicted, margin = lax.map(lambda batch: eval_step(params, *split, batch), batches)
        sums = parallel.total(jax.tree.map(lambda x: jnp.sum(x, axis=0), sums))
        return sums, parallel.gather(predicted, 1), parallel.gather(margin, 1)

    return parallel.pmap(eval_steps)


def weighted_sum(weight: data.Array, x: data.Array | None) -> jax.Array | None:
    """``[B]`` times ``[B, ...]``, in float32 on an accelerator too: ``[...]``; None of None."""
    return None if x is None else jnp.tensordot(weight, x, axes=1, precision=lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a network does on a data set.

    Attributes:
      count: images, N.
      loss: mean.
      confusion: ``[J, J]`` int64, images by true and predicted class.
      primary_activity: ``[n]`` mean activity of each primary capsule; None without capsules.
      kept: ``[n]`` share of the images for which each is kept; None without pruning.
      predicted: ``[N]`` classes.
      margin: ``[N]`` activity of the predicted class less that of the true one.
      variants: so many images are of the same digit, and say less than as many digits would: intervals count digits.
    """

    count: int
    loss: float
    confusion: np.ndarray
    primary_activity: np.ndarray | None
    kept: np.ndarray | None
    predicted: np.ndarray
    margin: np.ndarray
    variants: int = 1

    @property
    def errors(self) -> int:
        """Wrong predictions."""
        return self.count - int(np.trace(self.confusion))

    @property
    def error(self) -> float:
        """Percent."""
        return 100 * self.errors / self.count

    def result(self, step: int) -> dict:
        """The entry of ``results.json``."""
        counted = self.errors / self.variants, self.count / self.variants
        interval = [round(bound, 4) for bound in wilson_interval(*counted)]
        return {"error": round(self.error, 4), "count": self.count, "ci95": interval, "step": step}


def evaluate(
    eval_steps: Callable,
    params,
    parts: Iterable[tuple[jax.Array, jax.Array]],
    batch_size: int,
    variants: int = 1,
) -> Evaluation:
    """Evaluates every image of a set exactly once; the last batch of a part is padded and masked.

    Args:
      eval_steps: of ``make_eval_steps``.
      params: of the network.
      parts: images and labels, replicated; see ``on_devices``.
      batch_size: over all devices.
      variants: see Evaluation.

    Returns:
      Evaluation.
    """
    count, summed, predicted, margin = 0, None, [], []
    for split in parts:
        size = len(split[1])
        count += size
        steps = min(_EVAL_STEPS, -(-size // batch_size))
        chunk = steps * batch_size
        for start in range(0, size, chunk):
            index = np.arange(start, start + chunk, dtype=np.int32)
            weight = (index < size).astype(np.float32).reshape(steps, batch_size)
            batches = make_batches(np.minimum(index, size - 1).reshape(steps, batch_size), weight)
            sums, chunk_predicted, chunk_margin = eval_steps(params, split, batches)
            sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
            summed = sums if summed is None else jax.tree.map(np.add, summed, sums)
            predicted.append(np.asarray(chunk_predicted).ravel()[: size - start])
            margin.append(np.asarray(chunk_margin).ravel()[: size - start])
    means = jax.tree.map(lambda total: total / count, summed)
    return Evaluation(
        count=count,
        loss=float(means.loss),
        confusion=np.rint(summed.confusion).astype(np.int64),
        primary_activity=means.primary_activity,
        kept=means.kept,
        predicted=np.concatenate(predicted),
        margin=np.concatenate(margin),
        variants=variants,
    )


class _Streamed:
    """A set whose parts come to the devices one at a time, each time that they are asked for."""

    def __init__(self, split: data.TestSet):
        self._split = split

    def __iter__(self):
        return (parallel.replicate((part.images, part.labels)) for part in self._split.parts())


def on_devices(split: data.TestSet) -> Iterable[tuple[jax.Array, jax.Array]]:
    """Images and labels of a set's parts, replicated; a whole set stays there, a generated one is streamed."""
    streamed = _Streamed(split)
    return list(streamed) if isinstance(split, data.Split) else streamed


@dataclasses.dataclass(frozen=True)
class _Call:
    """Some steps that run on the devices without the host."""

    first_step: int
    steps: int
    epoch: int
    ends_epoch: bool

    @property
    def last_step(self) -> int:
        return self.first_step + self.steps


def _calls(start: int, epochs: int, steps_per_epoch: int, most_steps: int) -> Iterator[_Call]:
    """Calls from step ``start`` to the end; their borders do not depend on ``start``."""
    step = start
    while step < epochs * steps_per_epoch:
        epoch, done = divmod(step, steps_per_epoch)
        steps = min(most_steps - done % most_steps, steps_per_epoch - done)
        yield _Call(step, steps, epoch, done + steps == steps_per_epoch)
        step += steps


class _StopSignals:
    """While entered, SIGTERM and Ctrl-C only set ``received``; a second one acts at once."""

    def __enter__(self) -> "_StopSignals":
        self.received: signal.Signals | None = None
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        del frame
        self.received = signal.Signals(number)
        signal.signal(number, self._before[number])

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
      state: after the last step.
      evaluations: by name of the test set, after the last epoch.
      steps: done.
      seconds: that training and evaluation took, pauses left out.
    """

    state: TrainState
    evaluations: dict[str, Evaluation]
    steps: int
    seconds: float


def steps_per_epoch(config: Config, images: int) -> int:
    """Steps of one epoch; the images that do not fill a last batch are left out, others in each shuffled epoch.

    Raises:
      data.DataError: for a batch larger than the training set.
    """
    if config.batch_size > images:
        raise data.DataError(
            f"--batch_size={config.batch_size}: there are {images} training images, so at most {images}."
        )
    return images // config.batch_size


def fit(
    config: Config,
    model: Network,
    train: data.Split,
    validation: data.Split | None,
    tests: dict[str, data.TestSet],
    workdir: pathlib.Path,
    on_epoch: Callable[[dict[str, Evaluation], TrainState, int], None] = lambda evaluations, state, step: None,
) -> Fitted:
    """Trains a network, or continues where the run's last checkpoint stands.

    Args:
      config: resolved settings.
      model: the network.
      train, validation: parts of the training set.
      tests: test sets by name, evaluated after every epoch.
      workdir: the run's folder.
      on_epoch: called with the evaluations of the test sets, the state and the step, on the main process.

    Returns:
      Fitted.

    Raises:
      Stopped: after SIGTERM or Ctrl-C, once all is saved.
      DivergenceError: when the loss is not finite; the last good checkpoint stays.
      data.DataError: for a batch larger than the training set.
      checkpoints.CheckpointError: where none of the run's checkpoints can be read, or a new one cannot be written.
    """
    epoch_steps = steps_per_epoch(config, len(train))
    total_steps = config.epochs * epoch_steps

    optimizer = make_optimizer(config)
    train_steps = make_train_steps(model, optimizer, config.max_shift if config.placement == FRESH else 0)
    eval_steps = make_eval_steps(model)
    order_key, shift_key = (jax.random.fold_in(jax.random.key(config.seed), stream) for stream in (_ORDER, _SHIFT))
    train_data = parallel.replicate(TrainData(train.images, train.labels, shift_key))
    eval_sets = {name: on_devices(split) for name, split in tests.items()}
    if validation is not None:
        eval_sets["validation"] = on_devices(validation)

    checkpoints = Checkpoints(workdir)
    channels = train.images.shape[-1]
    state = parallel.replicate(compute_once(lambda: init_state(model, optimizer, config, channels)))
    restored = checkpoints.restore(state)
    state, start = restored or (state, 0)
    log = MetricLog(workdir, start, total_steps, quiet=not parallel.is_main())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.say(
        f"{'Continuing' if start else 'Training'} from step {start} to {total_steps}: {parameters:,} parameters, "
        f"{len(train)} images, {parallel.describe()}."
    )
    evaluated = {(line["step"], line["split"]): line["error"] for line in log.kept if line["split"] != "train"}
    best_error = evaluated.get((max(checkpoints.steps(BEST), default=None), "validation"), math.inf)
    checkpoint_every = config.checkpoint_every or epoch_steps
    clock = time.monotonic() - log.seconds_before
    evaluations: dict[str, Evaluation] = {}
    order = None
    pending = None  # the call whose figures are still on the devices
    free_since = 0.0  # when the devices could begin it

    def write_pending():
        """Logs the figures of the call before, while the devices compute the next one."""
        nonlocal pending, free_since
        if pending is None:
            return
        call, figures = pending
        pending = None
        losses, errors = np.asarray(figures["loss"]), np.asarray(figures["errors"])
        began, free_since = free_since, time.monotonic()
        if not np.isfinite(losses).all():
            bad = int(np.argmin(np.isfinite(losses)))
            saved = checkpoints.steps()
            kept = f"The checkpoint of step {saved[-1]} is kept." if saved else "There was no checkpoint yet."
            raise DivergenceError(
                f"The loss of step {call.first_step + bad + 1} is {losses[bad]}, not a finite number. {kept} "
                f"Try a lower --learning_rate than {config.learning_rate} in a new --workdir, and check the images."
            )
        seconds_per_step = (free_since - began) / call.steps
        log.write(
            "train",
            call.last_step,
            call.last_step / epoch_steps,
            {
                "loss": float(losses.mean(dtype=np.float64)),
                "error": 100 * float(errors.sum()) / (call.steps * config.batch_size),
                "images_per_second": config.batch_size / seconds_per_step,
                "seconds_per_step": seconds_per_step,
                "seconds": time.monotonic() - clock,
            },
        )

    def stop_wanted():
        return parallel.any_process(signals.received is not None)

    def evaluate_all(step):
        """Evaluates every set after an epoch, and keeps the parameters where they are the best so far."""
        nonlocal best_error
        for name, split in eval_sets.items():
            variants = tests[name].about.get("variants", 1) if name in tests else 1
            evaluation = evaluate(eval_steps, state.params, split, config.batch_size, variants)
            if (step, name) not in evaluated:  # a run killed after this line continues behind it
                figures = {"loss": evaluation.loss, "error": evaluation.error, "seconds": time.monotonic() - clock}
                log.write(name, step, step / epoch_steps, figures)
            if name != "validation":
                evaluations[name] = evaluation
            elif rounded(evaluation.error) < best_error and step not in checkpoints.steps(BEST):
                best_error = rounded(evaluation.error)  # as logged, for a run that goes on compares with the log
                checkpoints.save(step, state.params, BEST)
            if stop_wanted():
                return
        if parallel.is_main():
            on_epoch(evaluations, state, step)

    def good_enough():
        evaluation = evaluations.get(config.dataset)
        return bool(config.stop_at_error) and evaluation is not None and evaluation.error <= config.stop_at_error

    def stop_if_wanted(step):
        if stop_wanted():
            checkpoints.wait()
            raise Stopped(signals.received or signal.SIGTERM, step, total_steps)

    try:
        with _StopSignals() as signals:
            if start and start % epoch_steps == 0:  # whether or not the evaluation was reached before the stop
                evaluate_all(start)
                stop_if_wanted(start)
            free_since = time.monotonic()
            step = start
            for call in _calls(start, config.epochs, epoch_steps, config.log_every):
                if good_enough():
                    break
                step = call.last_step
                if order is None or call.first_step % epoch_steps == 0:
                    order = _order(config, order_key, call.epoch, len(train))
                first = call.first_step % epoch_steps * config.batch_size
                index = order[first : first + call.steps * config.batch_size].reshape(call.steps, config.batch_size)
                state, figures = train_steps(state, train_data, make_batches(index))
                write_pending()
                pending = (call, figures)
                stop = stop_wanted()
                due = call.last_step // checkpoint_every > call.first_step // checkpoint_every
                if call.ends_epoch or due or stop:
                    write_pending()
                    _check_finite(state.params, call.last_step)
                    checkpoints.save(call.last_step, state, LAST)
                    stop_if_wanted(call.last_step)
                    if call.ends_epoch:
                        evaluate_all(call.last_step)
                        stop_if_wanted(call.last_step)
                    free_since = time.monotonic()
            checkpoints.wait()
        return Fitted(state, evaluations, step, time.monotonic() - clock)
    finally:
        checkpoints.close()
        log.close()


def _order(config: Config, key: jax.Array, epoch: int, count: int) -> np.ndarray:
    """Indices of an epoch's images, in their order."""
    return np.asarray(data.epoch_order(key, epoch, count)) if config.shuffle else np.arange(count, dtype=np.int32)


def _check_finite(params, step: int) -> None:
    """Raises DivergenceError for parameters that must not be saved."""
    if not all(bool(finite) for finite in jax.tree.leaves(_all_finite(params))):
        raise DivergenceError(
            f"A parameter is no longer a finite number at step {step}; the last good checkpoint is kept."
        )


@jax.jit
def _all_finite(tree):
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)
