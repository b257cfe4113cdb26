"""The training loop, which sets the order of calls, metrics, checkpoints and evaluations."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import math
import pathlib
import signal

import jax
import numpy as np

from lcaps_jax.data import augment
from lcaps_jax.data.splits import Split
from lcaps_jax.train import steps
from lcaps_jax.train.checkpoint import BEST, LAST, Checkpoints
from lcaps_jax.train.config import Config
from lcaps_jax.train.evaluate import Evaluation, evaluate, make_eval_steps, on_devices, out_of_patience
from lcaps_jax.train.log import DivergenceError, MetricLog, rounded
from lcaps_jax.train.plan import Call, StepPlan
from lcaps_jax.train.steps import TrainData, TrainState
from lcaps_jax.util import devices
from lcaps_jax.util.process import write_line

VALIDATION = "validation"
_FEW_STEPS = 300  # below which the networks barely learn
OnEpoch = Callable[[dict[str, Evaluation], TrainState, int, bool], None]


class Stopped(Exception):
    """The run was asked to stop, has saved everything, and can be continued."""

    def __init__(self, number: signal.Signals, step: int, total_steps: int):
        where = f"at step {step} of {total_steps}, all saved"
        super().__init__(f"Stopped by {number.name} {where}. The same command continues.")
        self.signal = int(number)


class StopSignals:
    """While entered, SIGTERM and Ctrl-C are noted; a second one acts as it does elsewhere."""

    def __enter__(self) -> "StopSignals":
        self._received: signal.Signals | None = None
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        del frame
        self._received = signal.Signals(number)
        signal.signal(number, self._before[number])
        with contextlib.suppress(RuntimeError):  # Python's, where the signal came in the middle of printing
            write_line(f"{self._received.name}: the steps in flight end, and everything is saved. A second one quits.")

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self) -> bool:
        """Whether any process has been asked to stop; every process must call it."""
        return devices.any_process(self._received is not None)

    def stopped(self, step: int, total_steps: int) -> Stopped:
        """The exception to raise once everything is saved."""
        return Stopped(self._received or signal.SIGTERM, step, total_steps)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A finished training."""

    state: TrainState  # state after the last step
    evaluations: dict[str, Evaluation]  # evaluations after the last epoch, by name of the test set
    steps: int  # number of steps done
    seconds: float  # seconds that training and evaluation took, without pauses


def fit(
    config: Config,
    train: Split,
    validation: Split | None,
    tests: Mapping[str, Split],
    workdir: pathlib.Path,
    on_epoch: OnEpoch = lambda evaluations, state, step, is_last: None,
) -> Fitted:
    """Trains a network in ``workdir`` by resolved settings, or continues from the run's last checkpoint.

    On the main process, ``on_epoch`` is called after each evaluation of ``tests`` with the evaluations by name, the
    state, the step, and whether it was the run's last.

    Raises:
      Stopped: SIGTERM or Ctrl-C came, and everything is saved.
      DivergenceError: The loss is not finite; the last good checkpoint stays.
      ConfigError: The batch is larger than the training set.
      CheckpointError: None of the run's checkpoints can be read, or a new one cannot be written.
    """
    network, plan, optimizer = config.network, StepPlan(len(train), config.schedule), config.optimizer.make()
    # A canonical frame would undo shifts, so a network with one shifts in its frame.
    augmentation = dataclasses.replace(config.augment, max_shift=0) if network.frame else config.augment
    train_steps = steps.make_train_steps(network, optimizer, augmentation)
    shape, seed = train.images.shape[1:], config.schedule.seed
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        state = steps.compute_once(lambda: steps.init_state(network, optimizer, shape, seed))
        state = devices.replicate(state)
        state, start = checkpoints.restore(state) or (state, 0)
        log = MetricLog(workdir, start, plan, quiet=not devices.is_main())
        with contextlib.closing(log), StopSignals() as stop:
            log.say(_summary(config, plan, state.params, start))
            train_data = devices.replicate(TrainData(train.images, train.labels, _key(config, steps.SHIFT)))
            run = _Run(config, plan, checkpoints, log, stop, tests, validation, on_epoch)
            step = start
            if plan.evaluates(start):  # which the stop may have prevented
                run.evaluate(state, start)
            log.restart()
            for call in plan.calls(start):
                if run.done:
                    break
                state, metrics = train_steps(state, train_data, run.batches(call))
                log.add(call, metrics, run.advice)  # logs the previous call while the devices compute this one
                step = call.last_step
                if call.saves or stop.wanted():
                    run.save(state, step)
                    if call.evaluates:  # after the save, so that a kill here costs no step
                        run.evaluate(state, step)
                    log.restart()
            checkpoints.finish(state)
            return Fitted(state, run.evaluations, step, log.elapsed())


def _summary(config: Config, plan: StepPlan, params: Mapping, start: int) -> str:
    """The steps, the learning rate and the layers of a run that continues from step ``start``, in a few lines."""
    often = "each epoch" if config.schedule.eval_every == 1 else f"every {config.schedule.eval_every} epochs"
    out = f" {plan.left_out} images are left out of each epoch, different ones each time." if plan.left_out else ""
    optimizer = config.optimizer
    layers = ", ".join(f"{name} {_size(params[name]):,}" for name in params)
    lines = [
        f"{'Continuing' if start else 'Training'} from step {start} to {plan.total_steps}: {_size(params):,} "
        f"parameters, {plan.images} images, {devices.describe()}.",
        f"{config.schedule.epochs} epochs of {plan.steps_per_epoch} steps, {plan.batch_size} images a step; evaluation "
        f"after {often}. Learning rate {optimizer.learning_rate:g}, times {optimizer.decay_rate:g} every "
        f"{optimizer.decay_steps} steps.{out}",
        f"Parameters by layer: {layers}.",
    ]
    if plan.total_steps < _FEW_STEPS:
        lines.append(
            f"Warning: most networks learn little in {plan.total_steps} steps. More --epochs, or a smaller "
            "--batch_size in a new --workdir, give more."
        )
    return "\n".join(lines)


def _size(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _key(config: Config, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.schedule.seed), stream)


class _Run:
    """What the loop does between calls of the devices: it orders images, saves, evaluates, and stops when asked to."""

    def __init__(self, config, plan, checkpoints, log, stop, tests, validation, on_epoch):
        self._config, self._plan, self._checkpoints = config, plan, checkpoints
        self._log, self._stop, self._on_epoch = log, stop, on_epoch
        self._epoch, self._order = -1, np.arange(0)
        self._eval_steps = make_eval_steps(config.network)
        self._sets = {name: (on_devices(split), split.about.get("variants", 1)) for name, split in tests.items()}
        if validation is not None:
            self._sets[VALIDATION] = on_devices(validation), 1
        # Lines that a killed run has written are not written again.
        self._logged = {(line["step"], line["split"]): line["error"] for line in log.kept if "error" in line}
        best_step = max(checkpoints.steps(BEST), default=None)
        self._best_error = self._logged.get((best_step, VALIDATION), math.inf)
        self.evaluations: dict[str, Evaluation] = {}  # the last ones of the test sets, by name

    def batches(self, call: Call) -> steps.Batches:
        """The batches of a call, in the order of its epoch."""
        if call.epoch != self._epoch:
            self._epoch, self._order = call.epoch, self._plan.unshuffled(call.epoch)
            if self._config.data.shuffle:
                key = _key(self._config, steps.ORDER)
                self._order = np.asarray(augment.epoch_order(key, call.epoch, self._plan.images))
        index = self._order[self._plan.of_epoch(call)]
        return steps.make_batches(index.reshape(call.steps, self._plan.batch_size))

    def save(self, state: TrainState, step: int) -> None:
        """Saves the state if it is finite, so that a diverged run keeps its earlier checkpoints."""
        self._log.flush(self.advice)
        if not steps.all_finite(state.params):
            raise DivergenceError(f"A parameter is no longer a finite number at step {step}. {self.advice()}")
        self._checkpoints.save(step, state, LAST)
        self._stop_if_wanted(step)

    def _stop_if_wanted(self, step: int) -> None:
        """Raises Stopped if a signal came, once everything saved is on disk."""
        if self._stop.wanted():
            self._checkpoints.wait()
            raise self._stop.stopped(step, self._plan.total_steps)

    def advice(self) -> str:
        """What is kept of a run that diverges, and what to try."""
        saved = self._checkpoints.steps()
        kept = f"The checkpoint of step {saved[-1]} is kept." if saved else "There was no checkpoint yet."
        rate = self._config.optimizer.learning_rate
        return f"{kept} Try a lower learning_rate than {rate:g} in a new workdir, and check the images."

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.evaluation.patience * self._plan.steps_per_epoch
        errors = {step: error for (step, split), error in self._logged.items() if split == VALIDATION}
        return bool(patience) and out_of_patience(errors, patience)

    @property
    def done(self) -> bool:
        """Whether ``stop_at_error`` or ``patience`` ends training before its last epoch."""
        stop_at = self._config.evaluation.stop_at_error
        evaluation = self.evaluations.get(self._config.data.dataset)
        return bool(stop_at and evaluation and evaluation.error <= stop_at) or self._out_of_patience

    def evaluate(self, state: TrainState, step: int) -> None:
        """Evaluates every set, logs what is not in the log yet, and keeps the best parameters.

        A request to stop ends this between two sets, and the next start evaluates again.
        """
        for name, (parts, variants) in self._sets.items():
            evaluation = evaluate(self._eval_steps, state.params, parts, self._plan.batch_size, variants)
            if (step, name) not in self._logged:
                metrics = {"loss": evaluation.loss, "error": evaluation.error, "seconds": self._log.elapsed()}
                self._log.write(name, step, metrics)
                self._logged[step, name] = rounded(evaluation.error)
            if name == VALIDATION:
                self._keep_best(evaluation, state, step)
            else:
                self.evaluations[name] = evaluation
            self._stop_if_wanted(step)
        if self._out_of_patience:
            patience = self._config.evaluation.patience
            self._log.say(f"No lower validation error for {patience} epochs: training ends.")
        if devices.is_main():
            self._on_epoch(self.evaluations, state, step, self.done or step == self._plan.total_steps)
        self._stop_if_wanted(step)

    def _keep_best(self, evaluation: Evaluation, state: TrainState, step: int) -> None:
        error = rounded(evaluation.error)  # as logged, because a continued run compares with the log
        if error < self._best_error and step not in self._checkpoints.steps(BEST):
            self._best_error = error
            self._checkpoints.save(step, state, BEST)
