"""The training loop: what it logs and keeps, how it continues bit for bit, and when it ends early."""

import dataclasses
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.data import augment
from lcaps_jax.nn import Preprocessed
from lcaps_jax.train import loop, steps
from lcaps_jax.train.checkpoint import BEST, LAST, Checkpoints
from lcaps_jax.train.log import DivergenceError, read_metrics
from lcaps_jax.train.loop import Stopped
import workloads


def _fit(workdir, train=None, validation=None, **settings):
    train, test = train or workloads.random_split(105), workloads.random_split(30, seed=1)
    config = workloads.tiny_config(**{"batch_size": 20, "log_every": 3, "checkpoint_every": 0, **settings})
    return loop.fit(config, train, validation, {"sample": test}, workdir)


def _reader(workdir):
    return Checkpoints(workdir, read_only=True)


def _log(workdir):
    """The lines of a log without their times."""
    times = ("seconds", "seconds_per_step", "images_per_second")
    return [{name: line[name] for name in line if name not in times} for line in read_metrics(workdir)]


def test_fit_learns_and_says_its_steps_and_layers(tmp_path, capsys):
    fitted = _fit(tmp_path, workloads.random_split(405), epochs=4, learning_rate=3e-3, eval_every=3)
    assert fitted.evaluations["sample"].error < 50  # chance is 90
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "sample"] == [60, 80]
    assert lines[-1]["step"] == fitted.steps == 80 and lines[-1]["error"] == fitted.evaluations["sample"].error
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    printed = capsys.readouterr().out
    assert "4 epochs of 20 steps" in printed and "5 images are left out" in printed and "Warning" in printed
    assert "primary_capsules 5,848" in printed


def _signal_after(function, number, at):
    """``function``, which raises a signal first when it has made ``at`` batches."""
    made = 0

    def wrapped(index, *rest):
        nonlocal made
        made += len(index)
        if made >= at:
            signal.raise_signal(number)
            made = -1000
        return function(index, *rest)

    return wrapped


_WHOLE = {
    "max_shift": 2, "flip": "both", "max_rotation": 20.0, "max_scale": 1.2, "max_brightness": 0.2,
    "validation": workloads.random_split(40, seed=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with every augmentation: its folder and final state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, _fit(workdir, **_WHOLE).state


def _check_same(whole, workdir, fitted):
    chex.assert_trees_all_equal(fitted.state, whole[1])
    assert _log(workdir) == _log(whole[0]) and _reader(workdir).steps(BEST) == _reader(whole[0]).steps(BEST)


def test_a_run_that_was_stopped_is_the_uninterrupted_one_bit_for_bit(whole, tmp_path, monkeypatch):
    """By a signal in the middle of the first epoch, and in the middle of the second."""
    for number, at, stopped_at in ((signal.SIGTERM, 3, 3), (signal.SIGINT, 5, 8)):
        with monkeypatch.context() as patch, pytest.raises(Stopped) as stop:
            patch.setattr(steps, "make_batches", _signal_after(steps.make_batches, number, at))
            _fit(tmp_path, **_WHOLE)
        assert stop.value.signal == number and _reader(tmp_path).steps()[-1] == stopped_at
    _check_same(whole, tmp_path, _fit(tmp_path, **_WHOLE))


def test_more_epochs_continue_a_finished_run_bit_for_bit(whole, tmp_path):
    """The first one was ended by its error."""
    assert _fit(tmp_path, **_WHOLE, stop_at_error=99.9).steps == 5 and _reader(tmp_path).steps() == [5]
    _check_same(whole, tmp_path, _fit(tmp_path, **_WHOLE))


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_evaluation_that_was_cut_off_is_made_up_for(whole, tmp_path, monkeypatch, is_killed):
    """Stopped in the evaluation after the first epoch, or killed between the checkpoint and the evaluation."""

    def evaluate(*arguments, original=loop.evaluate):
        if is_killed:
            raise SystemExit
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit if is_killed else Stopped):
        patch.setattr(loop, "evaluate", evaluate)
        _fit(tmp_path, **_WHOLE)
    assert [line["split"] for line in _log(tmp_path)] == ["train", "train", *([] if is_killed else ["sample"])]
    _check_same(whole, tmp_path, _fit(tmp_path, **_WHOLE))


def _with_errors(monkeypatch, wrong):
    """Lets evaluations of 60 images find so many wrong, one number after the other."""
    counts = iter(wrong)

    def evaluate(*arguments, original=loop.evaluate):
        evaluation = original(*arguments)
        if evaluation.count != 60:
            return evaluation
        count = next(counts)
        return dataclasses.replace(evaluation, confusion=np.array([[60 - count, count], [0, 0]]))

    monkeypatch.setattr(loop, "evaluate", evaluate)


def test_patience_ends_a_run_and_more_patience_continues_it(tmp_path, monkeypatch):
    _with_errors(monkeypatch, [30, 24, 24, 25, 25, 24, 30])
    settings = {"epochs": 9, "validation": workloads.random_split(60, seed=2)}
    assert _fit(tmp_path, **settings, patience=2).steps == 20  # the second of four epochs was the best
    assert _fit(tmp_path, **settings, patience=4).steps == 30
    assert _reader(tmp_path).steps(BEST) == [10]


def test_the_best_parameters_are_kept_by_validation_error_also_in_a_run_that_continues(tmp_path, monkeypatch):
    _with_errors(monkeypatch, [24, 4, 4, 16])
    validation = workloads.random_split(60, seed=2)
    second = _fit(tmp_path, validation=validation, epochs=2).state
    fitted = _fit(tmp_path, validation=validation, epochs=3)
    assert [line["error"] for line in _log(tmp_path) if line["split"] == "validation"] == [40, 6.66667, 26.6667]
    checkpoints = _reader(tmp_path)
    assert checkpoints.steps(BEST) == [10] and checkpoints.steps(LAST) == [15]
    chex.assert_trees_all_equal(second.params, checkpoints.restore_params(fitted.state.params, BEST)[0])
    chex.assert_trees_all_equal(fitted.state, checkpoints.restore(fitted.state)[0])


def test_a_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    """One image, alone of class 9, makes the loss of its step in the second epoch NaN."""
    split = workloads.random_split(100, classes=9)
    split.labels[37] = 9
    first = _fit(tmp_path, split, epochs=1)
    key = jax.random.fold_in(jax.random.key(0), steps.ORDER)
    position = int(np.argmax(np.asarray(augment.epoch_order(key, 1, 100)) == 37))

    def with_nan(self, output, labels, images=None, original=Preprocessed.loss):
        return original(self, output, labels, images) + jnp.where(labels == 9, jnp.nan, 0.0)

    monkeypatch.setattr(Preprocessed, "loss", with_nan)
    with pytest.raises(DivergenceError, match=rf"step {5 + position // 20 + 1} is nan.*step 5 .*learning_rate"):
        _fit(tmp_path, split, epochs=2)
    restored, step = _reader(tmp_path).restore(first.state)
    assert step == 5
    chex.assert_trees_all_equal(restored, first.state)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """A finite loss of a step may leave parameters that are not."""
    monkeypatch.setattr(steps, "all_finite", lambda params: False)
    with pytest.raises(DivergenceError, match="step 5"):
        _fit(tmp_path)
    assert _reader(tmp_path).steps() == []


@pytest.mark.parametrize("frame, shift", [("none", 3), ("affine", 0)])
def test_the_steps_augment_images_as_the_settings_say(tmp_path, monkeypatch, frame, shift):
    """A network with a canonical frame shifts images in its frame."""

    def make_train_steps(network, optimizer, augmentation):
        raise RuntimeError(network.max_shift, augmentation)

    monkeypatch.setattr(steps, "make_train_steps", make_train_steps)
    with pytest.raises(RuntimeError) as stop:
        _fit(tmp_path, **{**_WHOLE, "max_shift": 3}, frame=frame)
    assert stop.value.args == (3, augment.AugmentConfig(shift, "both", 20.0, 1.2, 0.2))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"model": "capsnet", "capsule_types": 4, "capsule_dim": 4}, {"model": "cnn"}])
def test_baselines_learn(settings, tmp_path):
    fitted = _fit(tmp_path, **settings, filters=16, epochs=8, decay_rate=1.0, learning_rate=3e-3)
    assert fitted.evaluations["sample"].error < 30  # nine in ten are wrong by chance
