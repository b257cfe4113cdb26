"""The plan of a run's steps, without JAX."""

import subprocess
import sys

import numpy as np
import pytest

from lcaps_jax.data.splits import DataError
from lcaps_jax.training.plan import StepPlan


def _plan(**settings):
    return StepPlan(**{"images": 105, "batch_size": 10, "epochs": 3, "log_every": 4, **settings})


def test_calls_cover_every_step_once_and_borders_do_not_depend_on_the_start():
    plan = _plan()
    calls = list(plan.calls(0))
    steps = [step for call in calls for step in range(call.first_step, call.last_step)]
    assert steps == list(range(30)) and plan.total_steps == 30
    assert [call.last_step for call in calls if call.evaluates] == [10, 20, 30]
    borders = {call.first_step for call in calls}
    for start in range(30):
        later = list(plan.calls(start))
        assert later[0].first_step == start and later[-1].last_step == 30
        assert {call.first_step for call in later[1:]} <= borders
        assert [call.last_step for call in later] == [call.last_step for call in calls if call.last_step > start]
    assert list(plan.calls(30)) == []


@pytest.mark.parametrize("every, saved", [(None, [10, 20, 30]), (7, [8, 10, 14, 20, 24, 28, 30]), (1, None)])
def test_checkpoints_are_due_at_epochs_and_in_the_first_call_that_reaches_their_step(every, saved):
    calls = list(_plan(checkpoint_every=every).calls(0))
    due = [call.last_step for call in calls if call.saves]
    assert due == (saved or [call.last_step for call in calls])


def test_the_images_of_an_epoch_s_calls_are_its_whole_batches():
    plan = _plan()
    calls = list(plan.calls(0))
    for epoch in range(3):
        places = [i for call in calls if call.epoch == epoch for i in range(105)[plan.of_epoch(call)]]
        assert places == list(range(100))


@pytest.mark.parametrize("every, evaluated", [(1, [10, 20, 30]), (2, [20, 30]), (5, [30])])
def test_evaluations_are_due_at_the_ends_of_some_epochs_and_of_the_last_after_a_save(every, evaluated):
    plan = _plan(eval_every=every)
    assert [step for step in range(31) if plan.evaluates(step)] == evaluated
    calls = list(plan.calls(0))
    assert [call.last_step for call in calls if call.evaluates] == evaluated
    assert [call.last_step for call in calls if call.saves] == evaluated


def test_without_shuffling_each_image_is_met_as_often_as_any_other():
    """105 images, of which an epoch leaves 5 out: 21 epochs meet each 20 times."""
    plan = _plan(epochs=21)
    assert plan.left_out == 5
    met = np.concatenate([plan.unshuffled(call.epoch)[plan.of_epoch(call)] for call in plan.calls(0)])
    assert np.bincount(met, minlength=105).tolist() == [20] * 105
    np.testing.assert_array_equal(_plan(images=100).unshuffled(7), np.arange(100))


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(DataError, match="batch_size=106: there are 105 training images, so at most 105"):
        _plan(batch_size=106)
    assert _plan(batch_size=105).steps_per_epoch == 1


def test_the_plan_computes_nothing_with_jax():
    """It can be read and tried where no device is at hand."""
    code = """
from lcaps_jax.training.plan import StepPlan
from jax._src import xla_bridge
assert list(StepPlan(100, 10, 2, 4).calls(0))
print(xla_bridge.backends_are_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
