"""Training steps and evaluation: what they compute, on the devices alone."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcaps_jax.data import Affnist, Split, affnist
from lcaps_jax.data.augment import keys_of, to_unit_range
from lcaps_jax.train import evaluate, steps
from lcaps_jax.train.steps import OptimizerConfig
from lcaps_jax.util import devices
import workloads


def _call(count=2, images=40, **settings):
    """What a call of ``count`` steps takes: the settings, the function, its state, data and batches."""
    config = workloads.tiny_config(batch_size=images // count, **settings)
    optimizer, split = config.optimizer.make(), workloads.random_split(images)
    state = steps.compute_once(lambda: steps.init_state(config.network, optimizer, (28, 28, 1)))
    train_data = devices.replicate(steps.TrainData(split.images, split.labels, jax.random.key(3)))
    batches = steps.make_batches(np.arange(images, dtype=np.int32).reshape(count, -1))
    train_steps = steps.make_train_steps(config.network, optimizer, config.augment)
    return config, train_steps, devices.replicate(state), train_data, batches


def test_a_step_is_adam_on_the_mean_loss():
    """One call of two steps on two devices against optax by hand on the whole batch."""
    config, train_steps, state, train_data, batches = _call()
    adam = optax.adam(lambda step: 1e-3 * 0.9 ** (step / 1000))
    params, opt_state = jax.device_get(state.params), adam.init(state.params)
    images, labels = to_unit_range(train_data.images), train_data.labels

    def by_hand(params, images, labels):
        output = config.network.apply({"params": params}, images)
        return jnp.mean(config.network.loss(output, labels)), jnp.sum(jnp.argmax(output.activity, 1) != labels)

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
    stepped, metrics = train_steps(state, train_data, batches)
    assert int(stepped.step) == 2
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    np.testing.assert_array_equal(metrics["errors"], errors)
    # Adam divides by the gradient's size, so where a gradient is nearly zero rounding decides its sign: compare
    # what the parameters do rather than each of them.
    loss = jax.jit(by_hand)
    stepped_loss, _ = loss(jax.device_get(stepped.params), images, labels)
    np.testing.assert_allclose(stepped_loss, loss(params, images, labels)[0], rtol=1e-4)


@pytest.mark.parametrize("staircase, halfway", [(False, 0.1 * 0.5**0.5), (True, 0.1)])
def test_learning_rate_decays_exponentially(staircase, halfway):
    optimizer = OptimizerConfig(learning_rate=0.1, decay_rate=0.5, decay_steps=4, decay_staircase=staircase).make()
    state, sizes = optimizer.init(jnp.zeros(())), []
    for _ in range(5):
        updates, state = optimizer.update(jnp.array(7.0), state)
        sizes.append(-float(updates))  # with a constant gradient Adam's step is the learning rate
    np.testing.assert_allclose([sizes[0], sizes[2], sizes[4]], [0.1, halfway, 0.05], rtol=1e-4)


def test_calls_compile_once_and_need_nothing_from_the_host():
    """Under a guard that forbids transfers, and with no instruction in the program that could talk to the host."""
    _, train_steps, state, train_data, on_host = _call(max_shift=2)
    # What pmap itself does with a call's indices, done beforehand.
    spec = jax.sharding.PartitionSpec("data")
    batches = jax.device_put(on_host, jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), ("data",)), spec))
    with _compilations() as first:
        state, _ = train_steps(state, train_data, on_host)
    with _compilations() as later:
        state, _ = train_steps(state, train_data, on_host)
    assert first and not later
    state, _ = train_steps(state, train_data, batches)
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            train_steps(state, train_data, on_host)  # the guard does see transfers
        state, _ = train_steps(state, train_data, batches)
    assert int(state.step) == 8
    program = train_steps.lower(state, train_data, batches).compile().as_text()
    assert "while(" in program
    assert not [name for name in ("infeed(", "outfeed(", " send(", " recv(", "callback") if name in program]


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


@pytest.mark.parametrize("model", ["capsnet", "cnn"])
def test_a_baseline_s_step_on_two_devices_is_the_whole_batch_s(model):
    """Dropout included: each image draws by its position in the global batch."""
    config, train_steps, state, train_data, batches = _call(1, 20, model=model)
    dropout = keys_of(jax.random.fold_in(jax.random.fold_in(train_data.key, 0), steps.DROPOUT), jnp.arange(20))

    @jax.jit
    def loss(params, images, labels):
        images = to_unit_range(images)
        output = config.network.apply({"params": params}, images, labels, dropout, train=True)
        return jnp.mean(config.network.loss(output, labels, images))

    expected = loss(state.params, train_data.images, train_data.labels)
    np.testing.assert_allclose(train_steps(state, train_data, batches)[1]["loss"], [expected], rtol=1e-5)


def test_bfloat16_learns_as_float32_does():
    """The same steps on the same images: the losses stay together while they fall."""

    def train(dtype):
        _, train_steps, *arguments = _call(20, 800, k=20, dtype=dtype)
        return train_steps(*arguments)

    (_, exact), (half, rounded) = train("float32"), train("bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.params))
    losses, rounded_losses = np.array(exact["loss"]), np.array(rounded["loss"])
    assert losses[-1] < 0.6 * losses[0] and (losses != rounded_losses).any()
    np.testing.assert_allclose(rounded_losses, losses, rtol=0.02)


def test_an_evaluation_computes_no_more_than_the_set_has():
    computed = []

    def eval_steps(params, split, batches):
        computed.append(batches.index.size)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(eval_steps, {}, evaluate.on_devices(workloads.random_split(5)), batch_size=10**6)
    assert computed == [6]  # two devices


def _network(image_size=28):
    network = workloads.tiny_config(image_size=image_size).network
    params = steps.compute_once(lambda: steps.init_params(network, (image_size, image_size, 1)))
    # Larger than at the start, where all classes are nearly tied.
    return network, jax.tree.map(lambda x: 4 * x, params)


def test_evaluation_counts_every_image_once_whatever_the_batch():
    (network, params), split = _network(), workloads.random_split(47)
    output = jax.jit(network.apply)({"params": params}, to_unit_range(jnp.asarray(split.images)))
    activity = np.asarray(output.activity)
    second, first = np.sort(activity, 1)[:, -2:].T
    clear = first - second > 1e-4
    assert clear.sum() > 20
    eval_steps, test = evaluate.make_eval_steps(network), evaluate.on_devices(split)
    for batch_size in (2, 46, 100):
        evaluation = evaluate.evaluate(eval_steps, devices.replicate(params), test, batch_size)
        np.testing.assert_array_equal(evaluation.predicted[clear], np.argmax(activity, 1)[clear])
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (split.labels, evaluation.predicted), 1)
        np.testing.assert_array_equal(evaluation.confusion, confusion)
        np.testing.assert_allclose(evaluation.loss, network.loss(output, split.labels).mean(), rtol=1e-5)
        np.testing.assert_allclose(evaluation.kept_rate, output.code.mean(0), atol=1e-6)
        np.testing.assert_allclose(evaluation.primary_activity, output.primary_activity.mean(0), atol=1e-6)
        np.testing.assert_allclose(evaluation.margin, first - activity[np.arange(47), split.labels], atol=1e-6)
        assert evaluation.count == 47 and evaluation.errors == np.sum(evaluation.predicted != split.labels)


def test_streamed_evaluation_of_affnist_is_that_of_the_whole(monkeypatch):
    network, params = _network(image_size=40)
    split = Affnist(workloads.random_split(30), 3)
    monkeypatch.setattr(affnist, "_CHUNK", 7)
    whole = Split(split.images, split.labels)
    eval_steps = evaluate.make_eval_steps(network)
    one, other = (evaluate.evaluate(eval_steps, params, evaluate.on_devices(each), 16) for each in (split, whole))
    assert one.count == other.count == 90
    np.testing.assert_array_equal(one.confusion, other.confusion)
    np.testing.assert_array_equal(one.predicted, other.predicted)
    np.testing.assert_allclose(one.margin, other.margin, atol=1e-6)
