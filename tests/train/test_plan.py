"""The plan of a run's steps, without JAX."""

import numpy as np
import pytest

from lcaps_jax.train.plan import ScheduleConfig, StepPlan
from lcaps_jax.util.errors import ConfigError


def _plan(images=105, **settings):
    return StepPlan(images, ScheduleConfig(**{"batch_size": 10, "epochs": 3, "log_every": 4, **settings}))


def test_calls_cover_every_step_once_and_end_at_the_same_steps_from_any_start():
    plan = _plan()
    calls = list(plan.calls(0))
    assert [step for call in calls for step in range(call.first_step, call.last_step)] == list(range(30))
    for start in range(31):
        later = list(plan.calls(start))
        assert [call.last_step for call in later] == [call.last_step for call in calls if call.last_step > start]
        assert not later or later[0].first_step == start


@pytest.mark.parametrize("every, saved", [(0, [10, 20, 30]), (7, [8, 10, 14, 20, 24, 28, 30]), (1, None)])
def test_checkpoints_are_due_at_epochs_and_in_the_first_call_that_reaches_their_step(every, saved):
    calls = list(_plan(checkpoint_every=every).calls(0))
    assert [call.last_step for call in calls if call.saves] == (saved or [call.last_step for call in calls])


def test_the_images_of_an_epoch_s_calls_are_its_whole_batches():
    plan = _plan()
    for epoch in range(3):
        places = [i for call in plan.calls(0) if call.epoch == epoch for i in range(105)[plan.of_epoch(call)]]
        assert places == list(range(100))


@pytest.mark.parametrize("every, evaluated", [(1, [10, 20, 30]), (2, [20, 30]), (5, [30])])
def test_evaluations_are_due_every_few_epochs_and_at_the_end_after_a_save(every, evaluated):
    plan = _plan(eval_every=every)
    assert [step for step in range(31) if plan.evaluates(step)] == evaluated
    for wanted in ("evaluates", "saves"):
        assert [call.last_step for call in plan.calls(0) if getattr(call, wanted)] == evaluated


def test_without_shuffling_each_image_is_seen_equally_often():
    """Of 105 images an epoch leaves 5 out: 21 epochs see each 20 times."""
    plan = _plan(epochs=21)
    assert plan.left_out == 5
    seen = np.concatenate([plan.unshuffled(call.epoch)[plan.of_epoch(call)] for call in plan.calls(0)])
    assert np.bincount(seen, minlength=105).tolist() == [20] * 105
    np.testing.assert_array_equal(_plan(images=100).unshuffled(7), np.arange(100))


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size=106.*105"):
        _plan(batch_size=106)
    assert _plan(batch_size=105).steps_per_epoch == 1


def test_the_plan_computes_nothing_with_jax(run_python):
    code = """
from lcaps_jax.train.plan import ScheduleConfig, StepPlan
from jax._src import xla_bridge
assert list(StepPlan(100, ScheduleConfig()).calls(0))
print(xla_bridge.backends_are_initialized())
"""
    assert run_python(code, devices=1).strip() == "False"
