"""Two devices against one: the same steps, the same figures, and shards that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.train import evaluate, steps
from lcaps_jax.util import devices
from lcaps_jax.util.devices import DeviceError
import workloads

_CHECK = """
import sys; sys.path[:0] = ["tests/util", "tests", "."]
import numpy as np
import test_devices
np.savez(sys.argv[1], **test_devices.train_and_evaluate())
"""


def train_and_evaluate():
    """Three steps with random shifts and an evaluation, on whatever devices there are: named arrays."""
    config = workloads.tiny_config(convolution="auto", max_shift=2, batch_size=20)
    optimizer, split = config.optimizer.make(), workloads.random_split(60)
    train_data = devices.replicate(steps.TrainData(split.images, split.labels, jax.random.key(1)))
    begin = steps.compute_once(lambda: steps.init_state(config.network, optimizer, (28, 28, 1)))
    train_steps = steps.make_train_steps(config.network, optimizer, config.augment)
    batches = steps.make_batches(np.arange(60, dtype=np.int32).reshape(3, 20))
    state, metrics = train_steps(devices.replicate(begin), train_data, batches)
    test = evaluate.on_devices(workloads.random_split(47, seed=1))
    evaluation = evaluate.evaluate(evaluate.make_eval_steps(config.network), state.params, test, 20)
    for leaf in jax.tree.leaves(state):  # out_axes=None does not check that the devices agree
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == jax.local_device_count() and all(shard.shape == leaf.shape for shard in shards)
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])
    return {
        **{f"param{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state.params))},
        "loss": np.asarray(metrics["loss"]),
        "errors": np.asarray(metrics["errors"]),
        "confusion": evaluation.confusion,
        "margin": evaluation.margin,
        "eval_loss": evaluation.loss,
    }


def test_one_device_equals_two(tmp_path, run_python):
    assert jax.device_count() == 2
    two = train_and_evaluate()
    run_python(_CHECK, str(tmp_path / "one.npz"), devices=1)
    one = np.load(tmp_path / "one.npz")
    assert two["confusion"].sum() == 47
    for name, value in two.items():
        scale = 1 if name == "margin" else np.max(np.abs(value)) or 1  # a difference of activities, which are up to 1
        np.testing.assert_allclose(one[name], value, atol=1e-5 * scale, rtol=1e-5, err_msg=name)


def test_pmap_returns_reduced_values_without_a_device_axis():
    def function(state, data, batch):
        return {
            "mean": devices.mean(jnp.mean(batch) + state + data),
            "total": devices.total(jnp.sum(batch)),
            "gathered": devices.gather(batch, 1),
        }

    batches = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(devices.shard(batches), [batches[:, :2], batches[:, 2:]])
    out = devices.pmap(function)(*devices.replicate((jnp.ones(()), jnp.ones(()))), devices.shard(batches))
    assert float(out["mean"]) == batches.mean() + 2 and float(out["total"]) == batches.sum()
    np.testing.assert_array_equal(out["gathered"], batches)


@pytest.mark.parametrize("batch, nearest", [(101, "100 or 102"), (1, "2")])
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest(batch, nearest):
    with pytest.raises(DeviceError, match=rf"batch_size={batch}\b.*2 devices.*{nearest}"):
        devices.check_batch_size(batch)
    devices.check_batch_size(100)


def test_data_too_large_for_the_device_are_refused_with_both_sizes():
    devices.check_fits(2**20, "The data")
    with pytest.raises(DeviceError, match=r"The data .*1024.0 GiB.* GiB of cpu"):
        devices.check_fits(2**40, "The data")


@pytest.mark.parametrize("given", [("localhost:1", 2, None), (None, None, 0), ("localhost:1", 2, 2)])
def test_processes_that_cannot_be_connected_are_refused(given):
    with pytest.raises(DeviceError, match="process_id"):
        devices.connect(*given)
