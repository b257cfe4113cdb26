"""Checkpoints on disk, and what happens when they are damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.train.checkpoint import BEST, LAST, CheckpointError, Checkpoints
from lcaps_jax.train.steps import TrainState


def _state(value=0.0):
    return TrainState(jnp.asarray(value, jnp.int32), {"x": jnp.full(1000, float(value))}, {"moment": jnp.ones(7)})


def _save(workdir, *steps, kind=LAST):
    checkpoints = Checkpoints(workdir)
    for step in steps:
        checkpoints.save(step, _state(step), kind)
    checkpoints.close()


def _reader(workdir):
    return Checkpoints(workdir, read_only=True)


def _damage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _newest(checkpoints):
    """The first parameter of the newest state that can be read, and its step."""
    state, step = checkpoints.restore(_state())
    assert int(state.step) == state.params["x"][0]
    return float(state.params["x"][0]), step


def test_the_last_two_stay_and_the_newest_is_restored(tmp_path):
    _save(tmp_path, 1, 2, 3)
    assert _reader(tmp_path).steps() == [2, 3] and _newest(_reader(tmp_path)) == (3, 3)
    assert _reader(tmp_path / "empty").restore(_state()) is None


def test_a_checkpoint_is_composite_and_inference_reads_the_parameters_alone(tmp_path):
    _save(tmp_path, 3)
    _save(tmp_path, 3, kind=BEST)
    items = {kind: {path.name for path in (tmp_path / "checkpoints" / kind / "3").iterdir()} for kind in (LAST, BEST)}
    assert items[LAST] >= {"params", "training"} and "training" not in items[BEST]
    shutil.rmtree(tmp_path / "checkpoints" / LAST / "3" / "training")
    for kind in (LAST, BEST):
        params, step = _reader(tmp_path).restore_params({"x": jnp.zeros(1000)}, kind)
        assert step == 3 and set(params) == {"x"} and (params["x"] == 3).all()
    with pytest.raises(CheckpointError):
        _reader(tmp_path).restore(_state())


def test_what_is_saved_does_not_change_when_the_array_is_donated(tmp_path):
    checkpoints, x = Checkpoints(tmp_path), jnp.arange(2e6)
    checkpoints.save(1, _state().replace(params={"x": x}))
    jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(x).block_until_ready()
    checkpoints.close()
    params, _ = _reader(tmp_path).restore_params({"x": jnp.zeros(2_000_000)}, LAST)
    np.testing.assert_array_equal(params["x"], np.arange(2e6, dtype=np.float32))


def test_a_damaged_checkpoint_is_set_aside_and_training_goes_on_from_the_previous_one(tmp_path, capsys):
    _save(tmp_path, 1, 2, 3)
    _save(tmp_path, 3, kind=BEST)
    _damage(tmp_path / "checkpoints" / LAST / "3")
    assert _newest(_reader(tmp_path)) == (2, 2)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]  # the reader left everything as it was
    assert _newest(checkpoints) == (2, 2) and "step 3" in capsys.readouterr().out
    assert checkpoints.steps() == [2] and checkpoints.steps(BEST) == []  # training finds that best one again
    aside = sorted((tmp_path / "checkpoints" / "damaged").iterdir())
    assert [path.name.rpartition("_")[0] for path in aside] == ["best_3", "last_3"] and any(aside[1].iterdir())
    checkpoints.save(3, _state(30))
    checkpoints.save(3, _state(30), BEST)
    checkpoints.close()
    assert _newest(_reader(tmp_path)) == (30, 3)


def test_a_finished_run_keeps_its_newest_state_alone(tmp_path):
    _save(tmp_path, 1, 2, 3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.finish(_state(3))
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints" / LAST).iterdir()] == ["3"]
    assert _newest(_reader(tmp_path)) == (3, 3)
    _save(tmp_path, 4)  # more epochs
    assert _reader(tmp_path).steps() == [3, 4]


def test_the_previous_state_stays_where_the_newest_is_not_what_was_saved(tmp_path):
    _save(tmp_path, 1, 2, 3)
    with pytest.raises(CheckpointError, match="step 3 .*other numbers"):
        Checkpoints(tmp_path).finish(_state(3).replace(opt_state={"moment": jnp.zeros(7)}))
    assert _reader(tmp_path).steps() == [2, 3]
    _damage(tmp_path / "checkpoints" / LAST / "3")
    with pytest.raises(CheckpointError, match="step 3 .*read back"):
        Checkpoints(tmp_path).finish(_state(3))
    assert _reader(tmp_path).steps() == [2]


def test_a_step_that_is_there_and_a_full_disk_are_errors_before_anything_is_written(tmp_path, monkeypatch):
    _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="1"):
        Checkpoints(tmp_path).save(1, _state())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Checkpoints(tmp_path).save(2, _state(2))
    assert _newest(_reader(tmp_path)) == (1, 1)


def test_another_network_and_nothing_readable_are_errors_that_name_the_folder(tmp_path):
    _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"\(1000,\).*\(2000,\)"):
        _reader(tmp_path).restore_params({"x": jnp.zeros(2000)}, LAST)
    _damage(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*step 1"):
        Checkpoints(tmp_path).restore(_state())


def test_half_written_ones_are_removed_by_training_and_not_by_a_reader(tmp_path):
    _save(tmp_path, 2, 3)
    half = tmp_path / "checkpoints" / LAST / "4.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "data").write_text("half")
    assert _reader(tmp_path).steps() == [2, 3] and half.exists()
    _save(tmp_path, 4)
    assert _reader(tmp_path).steps() == [3, 4] and not half.exists()


@pytest.mark.parametrize("name", ["a[1]", "a*", "what?"])
def test_a_folder_that_orbax_would_take_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="workdir="):
        Checkpoints(tmp_path / name)
    assert not (tmp_path / name).exists()
