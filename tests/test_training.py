"""Steps, evaluation and the loop, in one process: what each computes, what it refuses, and how a run goes on."""

import dataclasses
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcaps_jax import checkpoints, data, metrics, models, parallel, training
from lcaps_jax.checkpoints import BEST, LAST, Checkpoints
from lcaps_jax.training import DivergenceError, Stopped
import workloads


def _fit(workdir, train=None, validation=None, **settings):
    config = workloads.tiny_config(
        **{"batch_size": 20, "log_every": 3, "epochs": 2, "checkpoint_every": None, **settings}
    )
    model = training.make_model(config, 10)
    test = workloads.random_split(30, seed=1)
    workdir.mkdir(exist_ok=True)
    train = train or workloads.random_split(105)
    return training.fit(config, model, train, validation, {"made": test}, workdir)


def test_a_step_is_adam_on_the_mean_loss():
    """One call of two steps on two devices against optax by hand on the whole batch."""
    config = workloads.tiny_config(batch_size=20)
    model, optimizer = training.make_model(config, 10), training.make_optimizer(config)
    split = workloads.random_split(40)
    state = training.init_state(model, optimizer, config, 1)
    params, opt_state = state.params, optax.adam(1e-3).init(state.params)
    images, labels = data.to_unit_range(jnp.asarray(split.images)), jnp.asarray(split.labels)

    @jax.jit
    def by_hand(params, images, labels):
        output = model.apply({"params": params}, images)
        return jnp.mean(model.loss(output, labels)), jnp.sum(jnp.argmax(output.activity, 1) != labels)

    losses, errors = [], []
    for part in (slice(0, 20), slice(20, 40)):
        (loss, wrong), gradients = jax.value_and_grad(by_hand, has_aux=True)(params, images[part], labels[part])
        updates, opt_state = (
            optimizer.update(gradients, opt_state) if losses else optimizer.update(gradients, state.opt_state)
        )
        params = optax.apply_updates(params, updates)
        losses.append(loss)
        errors.append(wrong)

    train_data = parallel.replicate(training.TrainData(split.images, split.labels, jax.random.key(0)))
    steps = training.make_train_steps(model, optimizer, 0)
    index = np.arange(40, dtype=np.int32).reshape(2, 20)
    stepped, figures = steps(parallel.replicate(state), train_data, training.make_batches(index))
    assert int(stepped.step) == 2
    np.testing.assert_allclose(figures["loss"], losses, rtol=1e-5)
    np.testing.assert_array_equal(figures["errors"], errors)
    # Adam divides by the gradient's size, so where a gradient is nearly zero rounding decides its sign: compare
    # what the parameters do rather than each of them.
    np.testing.assert_allclose(
        by_hand(jax.device_get(stepped.params), images, labels)[0], by_hand(params, images, labels)[0], rtol=1e-4
    )


def test_learning_rate_decays_exponentially():
    config = workloads.tiny_config(learning_rate=0.1, decay_rate=0.5, decay_steps=4)
    for staircase, halfway in ((False, 0.1 * 0.5**0.5), (True, 0.1)):
        optimizer = training.make_optimizer(dataclasses.replace(config, decay_staircase=staircase))
        params, gradients = jnp.zeros(()), jnp.ones(())
        state = optimizer.init(params)
        sizes = []
        for _ in range(5):
            updates, state = optimizer.update(gradients, state)
            sizes.append(-float(updates))  # with a constant gradient Adam's step is the learning rate
        np.testing.assert_allclose([sizes[0], sizes[2], sizes[4]], [0.1, halfway, 0.05], rtol=1e-4)


def test_nothing_compiles_or_reaches_the_host_after_the_first_call():
    config = workloads.tiny_config(batch_size=20)
    model, optimizer = training.make_model(config, 10), training.make_optimizer(config)
    split = workloads.random_split(40)
    train_data = parallel.replicate(training.TrainData(split.images, split.labels, jax.random.key(0)))
    state = parallel.replicate(training.init_state(model, optimizer, config, 1))
    steps = training.make_train_steps(model, optimizer, 0)
    batches = training.make_batches(np.arange(40, dtype=np.int32).reshape(2, 20))
    state, _ = steps(state, train_data, batches)
    with jax.log_compiles(), jax.transfer_guard_device_to_host("disallow"), _no_compilation():
        for _ in range(3):
            state, figures = steps(state, train_data, batches)
    assert int(state.step) == 8 and np.isfinite(figures["loss"]).all()


class _no_compilation:  # noqa: N801
    """Fails where anything is compiled while entered."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event, duration, **details):
        del duration, details
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *exception):
        jax.monitoring.unregister_event_duration_listener(self._note)
        assert self.count == 0


def test_evaluation_counts_every_image_once_whatever_the_batch():
    config = workloads.tiny_config()
    model = training.make_model(config, 10)
    split = workloads.random_split(47)
    params = jax.jit(lambda: training.init_params(model, config, 1))()
    output = jax.jit(model.apply)({"params": params}, data.to_unit_range(jnp.asarray(split.images)))
    predicted = np.argmax(output.activity, 1)
    second, first = np.sort(output.activity, 1)[:, -2:].T
    clear = first - second > 1e-4  # of an untrained network many are as good as tied
    assert clear.sum() > 20
    eval_steps = training.make_eval_steps(model)
    for batch_size in (2, 20, 46, 48, 100):
        evaluation = training.evaluate(eval_steps, parallel.replicate(params), training.to_device(split), batch_size)
        np.testing.assert_array_equal(evaluation.predicted[clear], predicted[clear])
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (split.labels, evaluation.predicted), 1)
        np.testing.assert_array_equal(evaluation.confusion, confusion)
        np.testing.assert_allclose(evaluation.loss, model.loss(output, split.labels).mean(), rtol=1e-5)
        np.testing.assert_allclose(evaluation.kept, output.code.mean(0), atol=1e-6)
        np.testing.assert_allclose(evaluation.primary_activity, output.primary_activity.mean(0), atol=1e-6)
        right = np.asarray(output.activity)[np.arange(47), split.labels]
        np.testing.assert_allclose(evaluation.margin, output.activity.max(1) - right, atol=1e-6)
        assert evaluation.errors == np.sum(evaluation.predicted != split.labels)
        assert evaluation.result(step=7)["count"] == 47


def test_calls_cover_every_step_once_and_borders_do_not_depend_on_the_start():
    calls = list(training._calls(0, epochs=3, steps_per_epoch=10, most_steps=4))
    steps = [step for call in calls for step in range(call.first_step, call.last_step)]
    assert steps == list(range(30))
    assert [call.last_step for call in calls if call.ends_epoch] == [10, 20, 30]
    for start in (4, 8, 10, 24):
        assert list(training._calls(start, 3, 10, 4)) == [call for call in calls if call.first_step >= start]


def test_fit_learns_and_logs(tmp_path):
    fitted = _fit(tmp_path, workloads.random_split(400), epochs=4, learning_rate=3e-3)
    assert fitted.evaluations["made"].error < 50  # chance is 90
    lines = metrics.read_metrics(tmp_path)
    assert {line["split"] for line in lines} == {"train", "made"}
    assert lines[-1]["step"] == fitted.steps == 80 and lines[-1]["error"] == fitted.evaluations["made"].error
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_a_continued_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    whole = _fit(tmp_path / "whole", max_shift=2)

    # Stopped by a signal in the middle of the first epoch, and once more in the second.
    parts = tmp_path / "parts"
    for number, at in ((signal.SIGTERM, 3), (signal.SIGINT, 4)):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match="all saved") as stop:
            patch.setattr(training, "make_batches", _signal_after(training.make_batches, number, at))
            _fit(parts, max_shift=2)
        assert stop.value.signal == number
        assert Checkpoints(parts, read_only=True).steps()[-1] == {signal.SIGTERM: 3, signal.SIGINT: 8}[number]
    resumed = _fit(parts, max_shift=2)
    chex.assert_trees_all_equal(resumed.state, whole.state)
    strip = ("seconds", "seconds_per_step", "images_per_second")
    logs = [
        [{k: v for k, v in line.items() if k not in strip} for line in metrics.read_metrics(folder)]
        for folder in (tmp_path / "whole", parts)
    ]
    assert logs[0] == logs[1]


def _signal_after(function, number, at):
    """``function``, which on its call for step ``at`` or later raises a signal first."""
    state = {"steps": 0}

    def wrapped(index, *rest):
        state["steps"] += len(index)
        if state["steps"] >= at:
            signal.raise_signal(number)
            state["steps"] = -1000
        return function(index, *rest)

    return wrapped


def test_more_epochs_continue_a_finished_run_bit_for_bit(tmp_path):
    whole = _fit(tmp_path / "whole", epochs=2)
    _fit(tmp_path / "parts", epochs=1)
    assert Checkpoints(tmp_path / "parts", read_only=True).steps() == [5]
    chex.assert_trees_all_equal(_fit(tmp_path / "parts", epochs=2).state, whole.state)


def test_best_is_kept_by_validation_error(tmp_path):
    fitted = _fit(tmp_path, validation=workloads.random_split(40, seed=2), epochs=3)
    lines = [line for line in metrics.read_metrics(tmp_path) if line["split"] == "validation"]
    assert len(lines) == 3
    best = min(lines, key=lambda line: line["error"])  # the first of equals
    store = Checkpoints(tmp_path, read_only=True)
    assert store.steps(BEST) == [best["step"]] and store.steps(LAST)[-1] == fitted.steps
    params, step = store.restore(fitted.state.params, BEST)
    assert step == best["step"]
    if step == fitted.steps:
        chex.assert_trees_all_equal(params, fitted.state.params)


def test_a_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    calls = []

    def poisoned(output, labels, original=models.LadderCapsNet.loss):
        return original(model, output, labels) + jnp.where(jnp.sum(output.activity) > -1, jnp.nan, 0.0)

    first = _fit(tmp_path, epochs=1)
    model = training.make_model(workloads.tiny_config(), 10)
    monkeypatch.setattr(models.LadderCapsNet, "loss", lambda self, output, labels: poisoned(output, labels))
    with pytest.raises(DivergenceError, match=r"loss of step 5 is nan.*checkpoint of step 5 is kept.*learning_rate"):
        _fit(tmp_path, epochs=2)
    restored, step = Checkpoints(tmp_path, read_only=True).restore(first.state)
    assert step == 5 and not calls
    chex.assert_trees_all_equal(restored, first.state)


def test_parameters_that_are_not_finite_are_not_saved():
    training._check_finite({"a": jnp.ones(3)}, 5)
    with pytest.raises(DivergenceError, match="step 5"):
        training._check_finite({"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf])}, 5)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(data.DataError, match=r"--batch_size=100: there are 99 training images, so at most 99"):
        training.steps_per_epoch(workloads.tiny_config(), 99)


class TestCheckpoints:
    """What stands on disk, and what becomes of damage."""

    def _saved(self, workdir, steps=(1, 2, 3)):
        store = Checkpoints(workdir)
        for step in steps:
            store.save(step, {"x": jnp.full(1000, float(step))})
        store.wait()
        store.close()

    def test_the_last_two_stay_and_the_newest_is_restored(self, tmp_path):
        self._saved(tmp_path)
        store = Checkpoints(tmp_path, read_only=True)
        assert store.steps() == [2, 3]
        tree, step = store.restore({"x": jnp.zeros(1000)})
        assert step == 3
        np.testing.assert_array_equal(tree["x"], np.full(1000, 3.0))
        assert Checkpoints(tmp_path / "empty", read_only=True).restore({"x": jnp.zeros(1000)}) is None

    def test_what_is_saved_does_not_change_when_the_array_is_donated(self, tmp_path):
        store = Checkpoints(tmp_path)
        x = jnp.arange(2e6)
        store.save(1, {"x": x})
        jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(x).block_until_ready()
        store.close()
        tree, _ = Checkpoints(tmp_path, read_only=True).restore({"x": jnp.zeros(2_000_000)})
        np.testing.assert_array_equal(tree["x"], np.arange(2e6, dtype=np.float32))

    def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(self, tmp_path, capsys):
        self._saved(tmp_path)
        for path in (tmp_path / "checkpoints" / "last" / "3").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        tree, step = Checkpoints(tmp_path).restore({"x": jnp.zeros(1000)})
        assert step == 2 and float(tree["x"][0]) == 2
        assert "Could not read the newest checkpoint (step 3" in capsys.readouterr().out

    def test_nothing_readable_is_an_error_that_names_the_folder(self, tmp_path):
        self._saved(tmp_path, steps=(1,))
        for path in (tmp_path / "checkpoints").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        with pytest.raises(checkpoints.CheckpointError, match=r"No checkpoint in .*last can be read: step 1"):
            Checkpoints(tmp_path).restore({"x": jnp.zeros(1000)})

    def test_half_written_ones_are_removed_at_start_but_not_by_a_reader(self, tmp_path):
        self._saved(tmp_path)
        half = tmp_path / "checkpoints" / "last" / "4.orbax-checkpoint-tmp"
        half.mkdir()
        (half / "data").write_text("half")
        assert Checkpoints(tmp_path, read_only=True).steps() == [2, 3] and half.exists()
        self._saved(tmp_path, steps=(4,))
        assert Checkpoints(tmp_path, read_only=True).steps() == [3, 4] and not half.exists()
