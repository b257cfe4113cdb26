"""Parts and networks of a user's own: passed to the ladder network, or in one file that train.py is told of."""

import json
import subprocess

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.data.augment import AugmentConfig
from lcaps_jax.nn.ladder import LadderCapsNet, LadderOutput
from lcaps_jax.ops import capsules
from lcaps_jax.train.steps import OptimizerConfig, TrainData, compute_once, init_state, make_batches, make_train_steps
from lcaps_jax.util.devices import replicate
import workloads

_DIM = 4


class RowCapsules(nn.Module):
    """Primary capsules that are linear in a row of pixels."""

    types: int = 2

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.types * _DIM)(images[..., 0]).reshape(len(images), -1, _DIM)


class SoftTopK(nn.Module):
    """Keeps the K most active capsules, in a code vector that says how far each is above the K-th."""

    k: int = 9
    sharpness: float = 20.0

    def __call__(self, primary, activity):
        hard = capsules.prune(primary, activity, self.k)
        lowest = jnp.min(jnp.take_along_axis(activity, hard.index, axis=-1), axis=-1, keepdims=True)
        weight = nn.sigmoid(self.sharpness * (activity - lowest))
        kept = hard.capsules * jnp.take_along_axis(weight, hard.index, axis=-1)[..., None]
        return hard.replace(capsules=kept, code=weight)


class LinearLadder(nn.Module):
    """A class capsule is linear in the kept capsules and the code vector."""

    classes: int

    @nn.compact
    def __call__(self, pruned):
        kept = pruned.capsules.reshape(len(pruned.code), -1)
        s = nn.Dense(self.classes * _DIM)(jnp.concatenate([kept, pruned.code], axis=-1))
        pose = capsules.squash(s.reshape(-1, self.classes, _DIM))
        return LadderOutput(activity=capsules.length(pose), pose=pose)


def test_the_ladder_network_is_trained_with_other_parts():
    network = LadderCapsNet(primary=RowCapsules(), pruning=SoftTopK(), ladder=LinearLadder(classes=3))
    split = workloads.random_split(60, classes=3)
    optimizer = OptimizerConfig(learning_rate=0.01).make()
    state = compute_once(lambda: init_state(network, optimizer, (28, 28, 1)))
    assert set(state.params) == {"primary_capsules", "ladder"} and network.geometry(28) is None
    train_data = replicate(TrainData(split.images, split.labels, jax.random.key(0)))
    steps = make_train_steps(network, optimizer, AugmentConfig())
    index = np.tile(np.arange(60, dtype=np.int32).reshape(3, 20), (20, 1))
    state, metrics = steps(replicate(state), train_data, make_batches(index))
    assert np.mean(metrics["loss"][-3:]) < 0.3 * metrics["loss"][0]
    assert np.sum(metrics["errors"][-3:]) < 6 < np.sum(metrics["errors"][:3])
    code = network.apply({"params": state.params}, split.images / np.float32(255)).code
    assert np.all(np.sum(code >= 0.5, axis=1) == 9) and np.any((code > 0.01) & (code < 0.49))


_WIDE = '''
from flax import linen as nn

from lcaps_jax.nn import Network, Output
from lcaps_jax.ops.capsules import length, margin_loss, squash
from lcaps_jax.util.settings import part, setting


class Hidden(nn.Module):
    """A dense layer."""

    hidden_width: int = setting(16, "Width of the hidden layer.", minimum=1, maximum=500)

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(self.hidden_width)(x))


class WideNet(Network):
    """A dense network whose outputs are capsules."""

    classes: int = 10
    wide_dim: int = setting(16, "Dimension of a class capsule.", minimum=1)
    hidden: nn.Module = part(Hidden)

    @nn.compact
    def __call__(self, images, labels=None, keys=None, train=False):
        x = nn.Dense(self.classes * self.wide_dim)(self.hidden(images.reshape(len(images), -1)))
        pose = squash(x.reshape(-1, self.classes, self.wide_dim))
        return Output(activity=length(pose), pose=pose)

    def loss(self, output, labels, images=None):
        return margin_loss(output.activity, labels)
'''


def test_a_network_in_one_file_has_flags_and_is_trained_continued_and_evaluated(tmp_path):
    (tmp_path / "wide.py").write_text(_WIDE)
    workdir, settings = tmp_path / "run", {"model": f"{tmp_path}/wide.py:WideNet", "learning_rate": 3e-3, "epochs": 1}

    def run(script, **settings):
        command = workloads.command(script, workdir, settings)
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    refused = run("train.py", **settings, hidden_width=0)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert "hidden_width=0: must be at least 1" in refused.stderr and not workdir.exists()

    settings |= {"hidden_width": 40, "wide_dim": 4}
    for epochs in (1, 2):
        done = run("train.py", **settings | {"epochs": epochs})
        assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((workdir / "config.json").read_text())["settings"]
    assert stored["hidden_width"] == 40 and stored["wide_dim"] == 4

    results = workdir / "results.json"
    trained = json.loads(results.read_text())["sample"]
    assert trained["error"] < 30 and trained["step"] == 160  # chance is 90
    results.unlink()
    done = run("eval.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(results.read_text())["sample"]["error"] == trained["error"]
