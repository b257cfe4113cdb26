"""The meter with a clock that the test sets: what it logs, when, and when it refuses."""

import numpy as np
import pytest

from lcaps_jax.training import DivergenceError, StepMeter, StepPlan

_PLAN = StepPlan(images=100, batch_size=10, epochs=2, log_every=4)
_CALLS = list(_PLAN.calls(0))


class _Meter:
    """A meter whose clock stands still until it is set, and the lines that it wrote."""

    def __init__(self):
        self.now, self.lines = 0.0, []
        self.meter = StepMeter(_PLAN, lambda *line: self.lines.append(line), lambda: self.now, lambda: "Try less.")


def _metrics(steps, loss=0.5):
    return {"loss": np.full(steps, loss, np.float32), "errors": np.ones(steps, int)}


def test_a_call_is_logged_while_the_next_one_runs():
    made = _Meter()
    made.meter.add(_CALLS[0], _metrics(4))
    assert made.lines == []
    made.now = 8.0
    made.meter.add(_CALLS[1], _metrics(4, loss=0.25))
    [(split, step, epoch, metrics, left)] = made.lines
    assert (split, step, epoch, left) == ("train", 4, 0.4, 32.0)  # 16 steps of 2 seconds
    assert metrics == {
        "loss": 0.5, "error": 10.0, "images_per_second": 5.0, "seconds_per_step": 2.0, "seconds": 8.0
    }  # fmt: skip
    made.now = 12.0
    made.meter.flush()
    assert len(made.lines) == 2 and made.lines[1][3]["seconds_per_step"] == 1.0
    made.meter.flush()
    assert len(made.lines) == 2  # nothing is written twice


def test_time_between_flush_and_restart_is_not_the_steps():
    made = _Meter()
    made.now = 100.0  # an evaluation
    made.meter.restart()
    made.meter.add(_CALLS[0], _metrics(4))
    made.now = 104.0
    made.meter.flush()
    assert made.lines[0][3]["seconds_per_step"] == 1.0


def test_the_time_left_counts_evaluations_and_pictures():
    made = _Meter()
    made.meter.restart()
    for call in _CALLS[:3]:  # the first epoch, of ten steps
        made.meter.add(call, _metrics(call.steps))
        made.now += call.steps
    made.meter.flush()
    made.now += 30.0
    made.meter.restart()
    made.meter.add(_CALLS[3], _metrics(4))
    made.now += 4.0
    made.meter.flush()
    assert made.lines[-2][-1] == 10.0  # nothing but steps was seen so far
    assert made.lines[-1][-1] == 6 * (1.0 + 30 / 10)


def test_a_loss_that_is_not_finite_is_refused_by_its_step_and_not_logged():
    made = _Meter()
    losses = np.array([0.5, 0.5, np.inf, np.nan], np.float32)
    made.meter.add(_CALLS[1], {"loss": losses, "errors": np.zeros(4)})
    with pytest.raises(DivergenceError, match=r"loss of step 7 is inf, not a finite number\. Try less\."):
        made.meter.flush()
    assert made.lines == []
    made.meter.flush()  # what was refused is gone
