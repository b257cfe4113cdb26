"""The training loop: calls of the devices, metrics, checkpoints and evaluations, in an order that matters."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import math
import pathlib
import time

import jax
import numpy as np

from lcaps_jax.util import devices
from lcaps_jax.train.config import Config
from lcaps_jax.data import augment
from lcaps_jax.data.splits import Split, TestSet
from lcaps_jax.train import steps, summary
from lcaps_jax.train.checkpoint import BEST, LAST, Checkpoints
from lcaps_jax.train.evaluate import Evaluation, evaluate, make_eval_steps, on_devices, out_of_patience
from lcaps_jax.train.meter import DivergenceError, StepMeter
from lcaps_jax.train.log import MetricLog, rounded
from lcaps_jax.train.plan import Call, StepPlan
from lcaps_jax.train.steps import TrainData, TrainState
from lcaps_jax.train.stop import StopSignals

VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
      state: State after the last step.
      evaluations: Evaluations after the last epoch, by name of the test set.
      steps: Number of steps done.
      seconds: Seconds that training and evaluation took, without pauses.
    """

    state: TrainState
    evaluations: dict[str, Evaluation]
    steps: int
    seconds: float


OnEpoch = Callable[[dict[str, Evaluation], TrainState, int, bool], None]


def fit(
    config: Config,
    train: Split,
    validation: Split | None,
    tests: Mapping[str, TestSet],
    workdir: pathlib.Path,
    on_epoch: OnEpoch = lambda evaluations, state, step, is_last: None,
) -> Fitted:
    """Trains a network, or continues from the run's last checkpoint.

    Args:
      config: Resolved settings.
      train: Training images.
      validation: Images held out of the training set, or None.
      tests: Test sets by name, evaluated after every epoch or every few.
      workdir: Folder of the run.
      on_epoch: Called on the main process with the evaluations of the test sets, the state, the step, and whether
        they are the run's last.

    Raises:
      Stopped: SIGTERM or Ctrl-C came, and everything is saved.
      DivergenceError: The loss is not finite; the last good checkpoint stays.
      ConfigError: The batch is larger than the training set.
      checkpoints.CheckpointError: None of the run's checkpoints can be read, or a new one cannot be written.
    """
    plan = plan_of(config, len(train))
    optimizer = config.optimizer.make()
    train_steps = steps.make_train_steps(config.network, optimizer, _augmentation(config))
    order = _EpochOrder(config, plan)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        state, start = _restore_or_begin(checkpoints, config, optimizer, train.images.shape[1:])
        log = MetricLog(workdir, start, plan.total_steps, config.schedule.log_every, quiet=not devices.is_main())
        with contextlib.closing(log), StopSignals() as stop:
            log.say(summary.text(config, plan, state.params, start))
            train_data = devices.replicate(TrainData(train.images, train.labels, _key(config, steps.SHIFT)))
            began = time.monotonic() - log.seconds_before
            session = Session(config, plan, checkpoints, log, stop, elapsed=lambda: time.monotonic() - began)
            evaluator = Evaluator(session, tests, validation, on_epoch)
            step = start
            if plan.evaluates(start):  # because the stop may have come before the evaluation
                evaluator.evaluate(state, start)
                session.stop_if_wanted(start)
            session.meter.restart()
            for call in plan.calls(start):
                if evaluator.done:
                    break
                state, metrics = train_steps(state, train_data, order.batches(call))
                session.meter.add(call, metrics)  # logs the call before, while the devices compute this one
                step = call.last_step
                if call.saves or stop.wanted():
                    session.save(state, step)
                    session.stop_if_wanted(step)
                    if call.evaluates:  # evaluated after it is saved, so that a kill here costs no step
                        evaluator.evaluate(state, step)
                        session.stop_if_wanted(step)
                    session.meter.restart()
            checkpoints.finish(state)
            return Fitted(state, evaluator.evaluations, step, session.elapsed())


def plan_of(config: Config, images: int) -> StepPlan:
    """Plan of a run on ``images`` training images; raises ConfigError for a batch larger than the set."""
    return StepPlan(images, config.schedule)


def _augmentation(config: Config) -> augment.AugmentConfig:
    """How the steps change images. A canonical frame would undo shifts, so there the network shifts the picture."""
    return dataclasses.replace(config.augment, max_shift=0) if config.network.frame else config.augment


def _key(config: Config, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.schedule.seed), stream)


def _restore_or_begin(
    checkpoints: Checkpoints, config: Config, optimizer, shape: tuple[int, int, int]
) -> tuple[TrainState, int]:
    """The state that the run goes on from, and its step."""
    begin = steps.compute_once(lambda: steps.init_state(config.network, optimizer, shape, config.schedule.seed))
    state = devices.replicate(begin)
    return checkpoints.restore(state) or (state, 0)


class _EpochOrder:
    """The images of each call, in the order of their epoch."""

    def __init__(self, config: Config, plan: StepPlan):
        self._plan = plan
        self._shuffle = config.data.shuffle
        self._key = _key(config, steps.ORDER)
        self._epoch, self._order = -1, np.arange(0)

    def _order_of(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return self._plan.unshuffled(epoch)
        return np.asarray(augment.epoch_order(self._key, epoch, self._plan.images))

    def batches(self, call: Call) -> steps.Batches:
        """The batches of a call."""
        if call.epoch != self._epoch:
            self._epoch, self._order = call.epoch, self._order_of(call.epoch)
        index = self._order[self._plan.of_epoch(call)]
        return steps.make_batches(index.reshape(call.steps, self._plan.batch_size))


class Session:
    """What the loop and its evaluations share: where metrics and checkpoints go, the clock, and the wish to stop."""

    def __init__(
        self,
        config: Config,
        plan: StepPlan,
        checkpoints: Checkpoints,
        log: MetricLog,
        stop: StopSignals,
        elapsed: Callable[[], float],
    ):
        self.config, self.plan, self.checkpoints, self.log, self.stop = config, plan, checkpoints, log, stop
        self.elapsed = elapsed
        self.meter = StepMeter(plan, log.write, elapsed, self._advice)

    def save(self, state: TrainState, step: int) -> None:
        """Saves the state if it is finite, so that a diverged run keeps its earlier checkpoints."""
        self.meter.flush()
        if not steps.all_finite(state.params):
            raise DivergenceError(f"A parameter is no longer a finite number at step {step}. {self._advice()}")
        self.checkpoints.save(step, state, LAST)

    def stop_if_wanted(self, step: int) -> None:
        """Raises Stopped where a signal came, once everything that was saved is on disk."""
        if self.stop.wanted():
            self.checkpoints.wait()
            raise self.stop.stopped(step, self.plan.total_steps)

    def _advice(self) -> str:
        saved = self.checkpoints.steps()
        kept = f"The checkpoint of step {saved[-1]} is kept." if saved else "There was no checkpoint yet."
        return (
            f"{kept} Try a lower learning_rate than {self.config.optimizer.learning_rate:g} in a new workdir, "
            "and check the images."
        )


class Evaluator:
    """Evaluates every set, logs what was not logged before, and keeps the best parameters.

    Attributes:
      evaluations: Last evaluations of the test sets, by name.
    """

    def __init__(
        self,
        session: Session,
        tests: Mapping[str, TestSet],
        validation: Split | None,
        on_epoch: OnEpoch,
    ):
        self._session = session
        self._eval_steps = make_eval_steps(session.config.network)
        self._variants = {name: split.about.get("variants", 1) for name, split in tests.items()}
        self._sets = {name: on_devices(split) for name, split in tests.items()}
        if validation is not None:
            self._sets[VALIDATION] = on_devices(validation)
        self._on_epoch = on_epoch
        # Lines that a run wrote before it was killed are not written twice.
        self._logged = {(line["step"], line["split"]): line["error"] for line in session.log.kept if "error" in line}
        best_step = max(session.checkpoints.steps(BEST), default=None)
        self._best_error = self._logged.get((best_step, VALIDATION), math.inf)
        self.evaluations: dict[str, Evaluation] = {}

    @property
    def done(self) -> bool:
        """Whether training ends before its last epoch, by ``stop_at_error`` or by ``patience``."""
        config, stop_at = self._session.config, self._session.config.evaluation.stop_at_error
        evaluation = self.evaluations.get(config.data.dataset)
        good_enough = stop_at and evaluation is not None and evaluation.error <= stop_at
        return bool(good_enough or self._out_of_patience)

    @property
    def _out_of_patience(self) -> bool:
        patience, plan = self._session.config.evaluation.patience, self._session.plan
        errors = {step: error for (step, split), error in self._logged.items() if split == VALIDATION}
        return bool(patience) and out_of_patience(errors, patience * plan.steps_per_epoch)

    def evaluate(self, state: TrainState, step: int) -> None:
        """Evaluates every set; a wish to stop ends this between two sets, and the next start evaluates again."""
        for name, split in self._sets.items():
            variants = self._variants.get(name, 1)
            evaluation = evaluate(self._eval_steps, state.params, split, self._session.plan.batch_size, variants)
            self._write(name, step, evaluation)
            if name == VALIDATION:
                self._keep_best(evaluation, state, step)
            else:
                self.evaluations[name] = evaluation
            if self._session.stop.wanted():
                return
        if self._out_of_patience:
            self._session.log.say(
                f"No lower validation error for {self._session.config.evaluation.patience} epochs: training ends."
            )
        if devices.is_main():
            self._on_epoch(self.evaluations, state, step, self.done or step == self._session.plan.total_steps)

    def _write(self, name: str, step: int, evaluation: Evaluation) -> None:
        if (step, name) not in self._logged:
            metrics = {"loss": evaluation.loss, "error": evaluation.error, "seconds": self._session.elapsed()}
            self._session.log.write(name, step, step / self._session.plan.steps_per_epoch, metrics)
            self._logged[step, name] = rounded(evaluation.error)

    def _keep_best(self, evaluation: Evaluation, state: TrainState, step: int) -> None:
        error = rounded(evaluation.error)  # as logged, because a continued run compares with the log
        if error < self._best_error and step not in self._session.checkpoints.steps(BEST):
            self._best_error = error
            self._session.checkpoints.save(step, state, BEST)
