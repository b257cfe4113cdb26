"""Steps, evaluation and the loop, in one process: what each computes, what it refuses, and how a run goes on."""

import contextlib
import dataclasses
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcaps_jax import data, networks, parallel, training
from lcaps_jax.data import augment
from lcaps_jax.networks.ladder import LadderCapsNet
from lcaps_jax.training import DivergenceError, Stopped, loop, opening, read_metrics
from lcaps_jax.training.checkpoints import BEST, LAST, CheckpointError, Checkpoints
from lcaps_jax.training.steps import DROPOUT, ORDER
import workloads


def _fit(workdir, train=None, validation=None, **settings):
    config = workloads.tiny_config(
        **{"batch_size": 20, "log_every": 3, "epochs": 2, "checkpoint_every": None, **settings}
    )
    model = networks.from_config(config, 10)
    test = workloads.random_split(30, seed=1)
    workdir.mkdir(exist_ok=True)
    train = train or workloads.random_split(105)
    return training.fit(config, model, train, validation, {"made": test}, workdir)


def test_a_step_is_adam_on_the_mean_loss():
    """One call of two steps on two devices against optax by hand on the whole batch."""
    config = workloads.tiny_config(batch_size=20)
    model, optimizer = networks.from_config(config, 10), training.make_optimizer(config)
    split = workloads.random_split(40)
    state = training.compute_once(lambda: training.init_state(model, optimizer, config, 1))
    adam = optax.adam(lambda step: 1e-3 * 0.9 ** (step / 1000))
    params, opt_state = state.params, adam.init(state.params)
    images, labels = augment.to_unit_range(jnp.asarray(split.images)), jnp.asarray(split.labels)

    def by_hand(params, images, labels):
        output = model.apply({"params": params}, images)
        return jnp.mean(model.loss(output, labels)), jnp.sum(jnp.argmax(output.activity, 1) != labels)

    @jax.jit
    def step_by_hand(params, opt_state, images, labels):
        (loss, wrong), gradients = jax.value_and_grad(by_hand, has_aux=True)(params, images, labels)
        updates, opt_state = adam.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss, wrong

    losses, errors = [], []
    for part in (slice(0, 20), slice(20, 40)):
        params, opt_state, loss, wrong = step_by_hand(params, opt_state, images[part], labels[part])
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
    loss = jax.jit(by_hand)
    np.testing.assert_allclose(
        loss(jax.device_get(stepped.params), images, labels)[0], loss(params, images, labels)[0], rtol=1e-4
    )


def test_learning_rate_decays_exponentially():
    config = workloads.tiny_config(learning_rate=0.1, decay_rate=0.5, decay_steps=4)
    for staircase, halfway in ((False, 0.1 * 0.5**0.5), (True, 0.1)):
        optimizer = training.make_optimizer(dataclasses.replace(config, decay_staircase=staircase))
        params, gradients = jnp.zeros(()), jnp.array(7.0)
        state = optimizer.init(params)
        sizes = []
        for _ in range(5):
            updates, state = optimizer.update(gradients, state)
            sizes.append(
                -float(updates)
            )  # with a constant gradient Adam's step is the learning rate, whatever its size
        np.testing.assert_allclose([sizes[0], sizes[2], sizes[4]], [0.1, halfway, 0.05], rtol=1e-4)


def _call_of_two_steps(max_shift=0):
    """What a call of two steps of the tiny network takes: the steps, state, data and batches."""
    config = workloads.tiny_config(batch_size=20)
    model, optimizer = networks.from_config(config, 10), training.make_optimizer(config)
    split = workloads.random_split(40)
    train_data = parallel.replicate(training.TrainData(split.images, split.labels, jax.random.key(0)))
    state = parallel.replicate(training.compute_once(lambda: training.init_state(model, optimizer, config, 1)))
    batches = training.make_batches(np.arange(40, dtype=np.int32).reshape(2, 20))
    return training.make_train_steps(model, optimizer, max_shift), state, train_data, batches


def test_nothing_compiles_after_the_first_call():
    steps, state, train_data, batches = _call_of_two_steps()
    with _compilations() as first:
        state, _ = steps(state, train_data, batches)
    with _compilations() as later:
        for _ in range(3):
            state, figures = steps(state, train_data, batches)
    assert first and not later
    assert int(state.step) == 8 and np.isfinite(figures["loss"]).all()


def test_a_call_of_many_steps_needs_nothing_of_the_host():
    """Under a guard that forbids transfers, and with no instruction in the program that could talk to the host."""
    steps, state, train_data, on_host = _call_of_two_steps(max_shift=2)
    # What pmap itself does with a call's indices, done beforehand.
    devices = jax.sharding.NamedSharding(
        jax.sharding.Mesh(jax.devices(), ("data",)), jax.sharding.PartitionSpec("data")
    )
    batches = jax.device_put(on_host, devices)
    state, _ = steps(state, train_data, batches)
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            steps(state, train_data, on_host)  # the guard does see what crosses
        state, _ = steps(state, train_data, batches)
    assert int(state.step) == 4
    program = steps.lower(state, train_data, batches).compile().as_text()
    assert "while(" in program
    for instruction in ("infeed(", "outfeed(", " send(", " recv(", "callback"):
        assert instruction not in program


@contextlib.contextmanager
def _compilations():
    """A list that grows by one entry for everything that is compiled while entered."""
    seen = []

    def note(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append((duration, details))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


def test_an_evaluation_computes_no_more_than_the_set_has():
    computed = []

    def eval_steps(params, split, batches):
        computed.append(batches.index.size)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.evaluate(eval_steps, {}, training.on_devices(workloads.random_split(5)), batch_size=10**6)
    assert computed == [6]  # two devices


def test_evaluation_counts_every_image_once_whatever_the_batch():
    config = workloads.tiny_config()
    model = networks.from_config(config, 10)
    split = workloads.random_split(47)
    # Larger than at the start, where all classes are as good as tied.
    params = jax.tree.map(lambda x: 4 * x, training.compute_once(lambda: training.init_params(model, config, 1)))
    output = jax.jit(model.apply)({"params": params}, augment.to_unit_range(jnp.asarray(split.images)))
    predicted = np.argmax(output.activity, 1)
    second, first = np.sort(output.activity, 1)[:, -2:].T
    clear = first - second > 1e-4
    assert clear.sum() > 20
    eval_steps = training.make_eval_steps(model)
    for batch_size in (2, 20, 46, 48, 100):
        on_devices = training.on_devices(split)
        evaluation = training.evaluate(eval_steps, parallel.replicate(params), on_devices, batch_size, variants=4)
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
    single = dataclasses.replace(evaluation, variants=1).result(step=7)["ci95"]
    lower, upper = evaluation.result(step=7)["ci95"]  # as of a fourth of the images
    assert upper - lower > 1.5 * np.diff(single)[0]


def test_fit_learns_and_logs(tmp_path):
    fitted = _fit(tmp_path, workloads.random_split(400), epochs=4, learning_rate=3e-3)
    assert fitted.evaluations["made"].error < 50  # chance is 90
    lines = read_metrics(tmp_path)
    assert {line["split"] for line in lines} == {"train", "made"}
    assert lines[-1]["step"] == fitted.steps == 80 and lines[-1]["error"] == fitted.evaluations["made"].error
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


_DISTORTED = {"flip": "both", "max_rotation": 20.0, "max_scale": 1.2, "max_brightness": 0.2}


def test_a_continued_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    """With every random change of the images."""
    whole = _fit(tmp_path / "whole", max_shift=2, **_DISTORTED)

    # Stopped by a signal in the middle of the first epoch, and once more in the second.
    parts = tmp_path / "parts"
    for number, at in ((signal.SIGTERM, 3), (signal.SIGINT, 5)):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match="all saved") as stop:
            patch.setattr(loop.steps, "make_batches", _signal_after(training.make_batches, number, at))
            _fit(parts, max_shift=2, **_DISTORTED)
        assert stop.value.signal == number
        assert Checkpoints(parts, read_only=True).steps()[-1] == {signal.SIGTERM: 3, signal.SIGINT: 8}[number]
    resumed = _fit(parts, max_shift=2, **_DISTORTED)
    chex.assert_trees_all_equal(resumed.state, whole.state)
    strip = ("seconds", "seconds_per_step", "images_per_second")
    logs = [
        [{k: v for k, v in line.items() if k not in strip} for line in read_metrics(folder)]
        for folder in (tmp_path / "whole", parts)
    ]
    assert logs[0] == logs[1]


def test_the_steps_distort_images_as_the_settings_say(tmp_path, monkeypatch):
    def make_train_steps(network, optimizer, max_shift, distortion):
        raise RuntimeError(max_shift, distortion)

    monkeypatch.setattr(loop.steps, "make_train_steps", make_train_steps)
    with pytest.raises(RuntimeError) as stop:
        _fit(tmp_path, max_shift=3, **_DISTORTED)
    assert stop.value.args == (3, augment.Distortion("both", 20.0, 1.2, 0.2))


def _signal_after(function, number, at):
    """``function``, which raises a signal first when it has made ``at`` batches."""
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


def _with_errors(monkeypatch, wrong):
    """Lets evaluations of 60 images find so many wrong, one number after the other."""
    counts = iter(wrong)

    def evaluate(*arguments, original=training.evaluate):
        evaluation = original(*arguments)
        if evaluation.count != 60:
            return evaluation
        count = next(counts)
        return dataclasses.replace(evaluation, confusion=np.array([[60 - count, count], [0, 0]]))

    monkeypatch.setattr(loop, "evaluate", evaluate)


def test_patience_ends_a_run_and_more_patience_continues_it(tmp_path, monkeypatch, capsys):
    _with_errors(monkeypatch, [30, 24, 24, 25, 25, 24, 30])
    settings = {"epochs": 9, "validation_size": 60, "validation": workloads.random_split(60, seed=2)}
    assert _fit(tmp_path, **settings, patience=2).steps == 20  # the second of four epochs was the best
    assert "No lower validation error for 2 epochs: training ends." in capsys.readouterr().out
    assert _fit(tmp_path, **settings, patience=4).steps == 30
    assert Checkpoints(tmp_path, read_only=True).steps(BEST) == [10]


@pytest.mark.parametrize(
    "errors, steps, expected",
    [
        ({}, 1, False),
        ({10: 5.0}, 1, False),
        ({10: 5.0, 20: 5.0, 30: 6.0}, 20, True),  # as low again is not lower
        ({10: 5.0, 20: 4.0, 30: 6.0}, 20, False),
    ],
)
def test_out_of_patience(errors, steps, expected):
    assert training.out_of_patience(errors, steps) == expected


def test_fit_says_its_steps_its_layers_and_that_they_are_few(tmp_path, capsys):
    _fit(tmp_path, epochs=3, eval_every=2)
    printed = capsys.readouterr().out
    assert "Epochs: 3. Steps an epoch: 5, of 20 images. Evaluations: after every 2 epochs." in printed
    assert "5 of the images sit an epoch out, other ones each time." in printed
    assert "primary_capsules 72x4 5,848; ladder 10x4 " in printed and "The largest array is ladder/" in printed
    assert "Warning: 15 steps are few" in printed
    assert [line["step"] for line in read_metrics(tmp_path) if line["split"] == "made"] == [10, 15]


@pytest.mark.parametrize("layers", ["paper", "small"])
def test_a_run_says_where_its_layers_are_small(layers):
    run = workloads.untrained_run(layers=layers, k=4)
    plan = training.StepPlan(images=105, batch_size=20, epochs=1, log_every=10)
    text = opening.text(run.config, plan, run.network, run.params, channels=1, start=0)
    assert ("small ones, for few images; --layers=paper takes the paper's" in text) == (layers == "small")


@pytest.mark.parametrize("settings, layer", [
    ({"model": "capsnet"}, "routing 10x4 "), ({"model": "cnn"}, "conv1 kernel 5x5x1x8 "),
    ({"frame": "affine"}, "ladder 10x4 "),
])  # fmt: skip
def test_the_layers_of_every_network_are_said(settings, layer):
    run = workloads.untrained_run(**settings)
    assert layer in opening.layers_line(run.network, run.params, (28, 28, 1))


def test_best_is_kept_by_validation_error(tmp_path, monkeypatch):
    """With 24, 4 and 16 of 60 wrong after three epochs, the second stays, also in a run that goes on from there."""
    _with_errors(monkeypatch, [24, 4, 4, 16])
    validation = workloads.random_split(60, seed=2)
    second = _fit(tmp_path, validation=validation, epochs=2).state
    fitted = _fit(tmp_path, validation=validation, epochs=3)
    lines = [line["error"] for line in read_metrics(tmp_path) if line["split"] == "validation"]
    assert lines == [40, 6.66667, 26.6667]
    store = Checkpoints(tmp_path)
    assert store.steps(BEST) == [10] and store.steps(LAST) == [15]
    chex.assert_trees_all_equal(second.params, store.restore(fitted.state.params, BEST)[0])
    chex.assert_trees_all_equal(fitted.state, store.restore(fitted.state)[0])


def test_an_evaluation_that_a_stop_cut_off_is_made_up_for(tmp_path, monkeypatch):
    """Stopped by a signal during the evaluation after the first epoch: its figures and its best checkpoint come."""
    validation = workloads.random_split(40, seed=2)

    def evaluate(*arguments, original=training.evaluate):
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 5 of 10"):
        patch.setattr(loop, "evaluate", evaluate)
        _fit(tmp_path / "parts", validation=validation)
    assert [line["split"] for line in read_metrics(tmp_path / "parts")] == ["train", "train", "made"]
    for folder in ("parts", "whole"):
        _fit(tmp_path / folder, validation=validation)
    logs = [
        [(line["step"], line["split"], line["error"]) for line in read_metrics(tmp_path / folder)]
        for folder in ("parts", "whole")
    ]
    assert logs[0] == logs[1]
    assert Checkpoints(tmp_path / "parts").steps(BEST) == Checkpoints(tmp_path / "whole").steps(BEST)


def test_a_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    """One image, alone of class 9, poisons the loss of the step of the second epoch that it falls into."""
    split = workloads.random_split(100, classes=9)
    split.labels[37] = 9
    first = _fit(tmp_path, split, epochs=1)
    key = jax.random.fold_in(jax.random.key(0), ORDER)
    place = int(np.argmax(np.asarray(augment.epoch_order(key, 1, 100)) == 37))

    def poisoned(self, output, labels, images, original=LadderCapsNet.loss):
        return original(self, output, labels, images) + jnp.where(labels == 9, jnp.nan, 0.0)

    monkeypatch.setattr(LadderCapsNet, "loss", poisoned)
    step = 5 + place // 20 + 1
    with pytest.raises(
        DivergenceError, match=rf"loss of step {step} is nan.*checkpoint of step 5 is kept.*learning_rate"
    ):
        _fit(tmp_path, split, epochs=2)
    restored, at = Checkpoints(tmp_path, read_only=True).restore(first.state)
    assert at == 5
    chex.assert_trees_all_equal(restored, first.state)


def test_a_run_whose_last_state_cannot_be_read_back_is_not_called_saved(tmp_path, monkeypatch):
    def save(self, step, tree, kind=LAST, original=Checkpoints.save):
        original(self, step, tree, kind)
        self.wait()
        if step == 10:
            for path in (tmp_path / "checkpoints" / kind / "10").rglob("*"):
                if path.is_file():
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(CheckpointError, match="step 10 .*cannot be read back. The run stands at step 5"):
        _fit(tmp_path)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """A finite loss of a step may leave parameters that are not."""
    monkeypatch.setattr(loop.steps, "all_finite", lambda params: False)
    with pytest.raises(DivergenceError, match="no longer a finite number at step 5. There was no checkpoint yet"):
        _fit(tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps() == []


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(data.DataError, match=r"batch_size=100: there are 99 training images, so at most 99"):
        training.plan_of(workloads.tiny_config(), 99)


@pytest.mark.parametrize("model", ["capsnet", "cnn"])
def test_a_baseline_s_step_on_two_devices_is_the_whole_batch_s(model):
    """Dropout included: each image draws by its place in the global batch."""
    config = workloads.tiny_config(model=model, batch_size=20, channels=16)
    network, optimizer = networks.from_config(config, 10), training.make_optimizer(config)
    split = workloads.random_split(20)
    state = training.compute_once(lambda: training.init_state(network, optimizer, config, 1))
    key = jax.random.key(3)
    dropout = augment.keys_of(jax.random.fold_in(jax.random.fold_in(key, 0), DROPOUT), jnp.arange(20))
    images, labels = augment.to_unit_range(jnp.asarray(split.images)), jnp.asarray(split.labels)

    @jax.jit
    def loss(params):
        return jnp.mean(network.loss(network.apply({"params": params}, images, labels, dropout), labels, images))

    expected = loss(state.params)
    train_data = parallel.replicate(training.TrainData(split.images, split.labels, key))
    steps = training.make_train_steps(network, optimizer, 0)
    batches = training.make_batches(np.arange(20, dtype=np.int32)[None])
    _, figures = steps(parallel.replicate(state), train_data, batches)
    np.testing.assert_allclose(figures["loss"], [expected], rtol=1e-5)


@pytest.mark.parametrize("model", ["capsnet", "cnn"])
def test_baselines_learn(model, tmp_path):
    settings = {
        "model": model,
        "channels": 16,
        "capsule_types": 4,
        "epochs": 8,
        "decay_rate": 1.0,
        "learning_rate": 3e-3,
    }
    fitted = _fit(tmp_path / "run", **settings)
    assert fitted.evaluations["made"].error < 30  # nine in ten are wrong by chance


def test_bfloat16_learns_as_float32_does():
    """The same steps on the same images: the losses stay together while they fall."""
    split = workloads.random_split(800)
    train_data = parallel.replicate(training.TrainData(split.images, split.labels, jax.random.key(0)))
    batches = training.make_batches(np.arange(800, dtype=np.int32).reshape(20, 40))

    def train(precision):
        config = workloads.tiny_config(batch_size=40, k=20, precision=precision, learning_rate=1e-3)
        model, optimizer = networks.from_config(config, 10), training.make_optimizer(config)
        state = training.compute_once(lambda: training.init_state(model, optimizer, config, 1))
        return training.make_train_steps(model, optimizer, 0)(parallel.replicate(state), train_data, batches)

    (_, exact), (half, rounded) = train("float32"), train("bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.params))
    losses, rounded_losses = np.array(exact["loss"]), np.array(rounded["loss"])
    assert losses[-1] < 0.6 * losses[0] and (losses != rounded_losses).any()
    np.testing.assert_allclose(rounded_losses, losses, rtol=0.02)
