"""A network of somebody's own is one file and one line in the table, and train.py trains it."""

import json
import subprocess
import sys

import workloads

_TOY = '''
"""A network of one dense layer, whose capsules are the rows of the image."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from lcaps_jax import margin_loss, squash
from lcaps_jax.networks import NETWORKS, Network, NetworkOutput


class Toy(Network):
    classes: int = 10
    channels: int = 8
    pose_dim: int = 16
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    settings: ClassVar = {"pose_dim": "pose_dim"}

    @nn.compact
    def __call__(self, images, labels=None, keys=None):
        x = nn.relu(nn.Dense(4 * self.channels)(images.reshape(len(images), -1)))
        pose = squash(nn.Dense(self.classes * self.pose_dim)(x).reshape(-1, self.classes, self.pose_dim))
        return NetworkOutput(activity=jnp.linalg.norm(pose + 1e-6, axis=-1), pose=pose)

    def loss(self, output, labels, images=None):
        return margin_loss(output.activity, labels)


NETWORKS["toy"] = Toy
'''


def test_a_toy_network_is_trained_evaluated_and_continued_by_the_entry_points(tmp_path):
    (tmp_path / "toy.py").write_text(_TOY)

    def run(script, **settings):
        flags = [f"--{name}={value}" for name, value in settings.items()]
        code = f"import toy, runpy; runpy.run_path({str(workloads.REPOSITORY / script)!r}, run_name='__main__')"
        path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(workloads.REPOSITORY)!r}]; "
        command = [sys.executable, "-c", path + code, f"--workdir={tmp_path / 'run'}", *flags]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    settings = {"model": "toy", "pose_dim": 4, "learning_rate": 3e-3, "log_every": 40}
    run("train.py", **settings, epochs=1)
    assert "Continuing from step 80 to 160" in run("train.py", **settings, epochs=2)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["sample"]["error"] < 30  # chance is 90
    assert "class  images  errors" in run("eval.py")
    names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert names == {"training_curve.png", "confusion_sample.png", "mistakes_sample.png"}
