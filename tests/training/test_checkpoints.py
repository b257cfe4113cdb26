"""What stands on disk, and what becomes of damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.training import checkpoints
from lcaps_jax.training.checkpoints import Checkpoints


def _saved(workdir, steps=(1, 2, 3)):
    store = Checkpoints(workdir)
    for step in steps:
        store.save(step, {"x": jnp.full(1000, float(step))})
    store.wait()
    store.close()


def test_the_last_two_stay_and_the_newest_is_restored(tmp_path):
    _saved(tmp_path)
    store = Checkpoints(tmp_path, read_only=True)
    assert store.steps() == [2, 3]
    tree, step = store.restore({"x": jnp.zeros(1000)})
    assert step == 3
    np.testing.assert_array_equal(tree["x"], np.full(1000, 3.0))
    assert Checkpoints(tmp_path / "empty", read_only=True).restore({"x": jnp.zeros(1000)}) is None


def test_what_is_saved_does_not_change_when_the_array_is_donated(tmp_path):
    store = Checkpoints(tmp_path)
    x = jnp.arange(2e6)
    store.save(1, {"x": x})
    jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(x).block_until_ready()
    store.close()
    tree, _ = Checkpoints(tmp_path, read_only=True).restore({"x": jnp.zeros(2_000_000)})
    np.testing.assert_array_equal(tree["x"], np.arange(2e6, dtype=np.float32))


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, capsys):
    _saved(tmp_path)
    for path in (tmp_path / "checkpoints" / "last" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert Checkpoints(tmp_path, read_only=True).restore({"x": jnp.zeros(1000)})[1] == 2
    store = Checkpoints(tmp_path)
    assert store.steps() == [2, 3]  # the reader left everything as it was
    tree, step = store.restore({"x": jnp.zeros(1000)})
    assert step == 2 and float(tree["x"][0]) == 2
    assert "Could not read the newest checkpoint (step 3" in capsys.readouterr().out
    aside = list((tmp_path / "checkpoints" / "damaged").iterdir())  # kept, as the cause may pass
    assert store.steps() == [2] and len(aside) == 1 and aside[0].name.startswith("last_3_") and any(aside[0].iterdir())
    store.save(3, {"x": jnp.full(1000, 30.0)})  # the steps after it are trained and saved again
    store.close()
    tree, step = Checkpoints(tmp_path).restore({"x": jnp.zeros(1000)})
    assert step == 3 and float(tree["x"][0]) == 30


def test_a_finished_run_keeps_its_newest_state_alone(tmp_path):
    _saved(tmp_path)
    store = Checkpoints(tmp_path)
    store.finish({"x": jnp.full(1000, 3.0)})
    store.close()
    assert [path.name for path in (tmp_path / "checkpoints" / "last").iterdir()] == ["3"]
    assert float(Checkpoints(tmp_path, read_only=True).restore({"x": jnp.zeros(1000)})[0]["x"][0]) == 3
    _saved(tmp_path, steps=(4,))  # more epochs
    assert Checkpoints(tmp_path, read_only=True).steps() == [3, 4]


def test_the_state_before_stays_where_the_newest_is_not_what_was_saved(tmp_path):
    _saved(tmp_path)
    store = Checkpoints(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match=r"step 3 .*reads back as other numbers .*\[2, 3\] are kept"):
        store.finish({"x": jnp.full(1000, 3.5)})
    store.close()
    for path in (tmp_path / "checkpoints" / "last" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(checkpoints.CheckpointError, match="step 3 .*cannot be read back. The run stands at step 2"):
        Checkpoints(tmp_path).finish({"x": jnp.full(1000, 3.0)})
    assert Checkpoints(tmp_path, read_only=True).steps() == [2]


def test_with_a_damaged_state_goes_the_best_that_came_after_the_one_before(tmp_path):
    """Training from there finds that best again, and has to be able to save it."""
    _saved(tmp_path)
    tree = {"x": jnp.zeros(1000)}
    store = Checkpoints(tmp_path)
    store.save(3, tree, checkpoints.BEST)
    store.close()
    for path in (tmp_path / "checkpoints" / "last" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    store = Checkpoints(tmp_path)
    assert store.restore(tree)[1] == 2 and store.steps(checkpoints.BEST) == []
    store.save(3, tree, checkpoints.BEST)
    store.close()
    assert len(list((tmp_path / "checkpoints" / "damaged").iterdir())) == 2


def test_a_step_that_stands_already_is_not_passed_over_in_silence(tmp_path):
    _saved(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match="Step 3 was not saved"):
        Checkpoints(tmp_path).save(3, {"x": jnp.zeros(1000)})


def test_nothing_readable_is_an_error_that_names_the_folder(tmp_path):
    _saved(tmp_path, steps=(1,))
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(checkpoints.CheckpointError, match=r"No checkpoint in .*last can be read: step 1"):
        Checkpoints(tmp_path).restore({"x": jnp.zeros(1000)})


def test_half_written_ones_are_removed_at_start_but_not_by_a_reader(tmp_path):
    _saved(tmp_path)
    half = tmp_path / "checkpoints" / "last" / "4.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "data").write_text("half")
    assert Checkpoints(tmp_path, read_only=True).steps() == [2, 3] and half.exists()
    _saved(tmp_path, steps=(4,))
    assert Checkpoints(tmp_path, read_only=True).steps() == [3, 4] and not half.exists()
