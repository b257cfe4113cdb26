"""Times the steps and logs their metrics, one call late, so that the devices never wait for a line of the log."""

from collections.abc import Callable, Mapping

import numpy as np

from lcaps_jax.util.errors import UserError
from lcaps_jax.train.plan import Call, StepPlan


class DivergenceError(UserError):
    """The loss or a parameter is no longer finite; the message names the step."""


class StepMeter:
    """Holds the metrics of the last call while the devices compute the next one, then logs them.

    Args:
      plan: Plan of the run's steps.
      write: Function of ``(split, step, epoch, metrics, seconds_left)`` that writes a line of the log.
      elapsed: Clock in seconds since the run began, without pauses.
      advice: Function that returns what to try where a loss is not finite.
    """

    def __init__(
        self,
        plan: StepPlan,
        write: Callable[[str, int, float, Mapping[str, float], float], None],
        elapsed: Callable[[], float],
        advice: Callable[[], str],
    ):
        self._plan = plan
        self._write = write
        self._elapsed = elapsed
        self._advice = advice
        self._pending: tuple[Call, Mapping] | None = None
        self._free_since = elapsed()
        self._steps = 0
        self._pauses = 0.0  # seconds between steps, in which checkpoints are saved, sets evaluated and pictures drawn
        self._pause_per_step = 0.0

    def restart(self) -> None:
        """Begins the time of the next call now, because the devices are free again, as after an evaluation."""
        now = self._elapsed()
        if self._steps:
            self._pauses += now - self._free_since
            self._pause_per_step = self._pauses / self._steps
        self._free_since = now

    def add(self, call: Call, metrics: Mapping) -> None:
        """Takes the metrics of a call that the devices have begun, and logs those of the call before.

        Args:
          call: The call.
          metrics: ``loss [S]`` and ``errors [S]``, which may still be on their way.

        Raises:
          DivergenceError: A loss of the call before is not finite.
        """
        self.flush()
        self._pending = call, metrics

    def flush(self) -> None:
        """Waits for the metrics that are held, and logs them.

        Raises:
          DivergenceError: A loss among them is not finite.
        """
        if self._pending is None:
            return
        (call, metrics), self._pending = self._pending, None
        losses, errors = np.asarray(metrics["loss"]), np.asarray(metrics["errors"])
        began, self._free_since = self._free_since, self._elapsed()
        if not np.isfinite(losses).all():
            bad = int(np.argmin(np.isfinite(losses)))
            raise DivergenceError(
                f"The loss of step {call.first_step + bad + 1} is {losses[bad]}, not a finite number. {self._advice()}"
            )
        batch_size = self._plan.batch_size
        seconds_per_step = (self._free_since - began) / call.steps
        metrics = {
            "loss": float(losses.mean(dtype=np.float64)),
            "error": 100 * float(errors.sum()) / (call.steps * batch_size),
            "images_per_second": batch_size / seconds_per_step,
            "seconds_per_step": seconds_per_step,
            "seconds": self._free_since,
        }
        self._steps += call.steps
        left = (self._plan.total_steps - call.last_step) * (seconds_per_step + self._pause_per_step)
        self._write("train", call.last_step, call.last_step / self._plan.steps_per_epoch, metrics, left)
