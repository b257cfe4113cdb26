"""A network small enough to train in seconds, and the entry points run on it as somebody would run them."""

from collections.abc import Sequence
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from lcaps_jax.data import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.nn import load_network
from lcaps_jax.train.config import Config
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.train.steps import compute_once, init_params
from lcaps_jax.util.settings import declared

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

TINY = {
    "filters": 8,
    "convolution": "direct",
    "capsule_types": 2,
    "k": 5,
    "capsule_dim": 4,
    "pose_dim": 4,
    "batch_size": 100,
    "epochs": 2,
    "log_every": 10,
    "checkpoint_every": 20,
}


def xla_flags(devices: int) -> str:
    """For so many virtual CPU devices, and programs that are quickly compiled."""
    return f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=1"


def tiny_config(classes: int = 10, **settings) -> Config:
    """Settings of a tiny network on the bundled sample; those of TINY that the model does not have are left out."""
    own, ladder = (
        {each.name for each in declared(load_network(model))}
        for model in (settings.get("model", "lcapsnet"), "lcapsnet")
    )
    tiny = {name: value for name, value in TINY.items() if name in own or name not in ladder}
    return resolve({**tiny, **settings}, Facts("sample", 8000, 28), classes)[0]


def untrained_model(class_names: Sequence[str] = "0123456789", step: int = 0, channels: int = 1, **settings) -> Model:
    """The tiny network as it is before its first step."""
    config = tiny_config(len(class_names), **settings)
    size = config.data.image_size
    params = compute_once(lambda: init_params(config.network, (size, size, channels)))
    return Model(config.network, params, config, tuple(class_names), channels, step)


def random_split(count: int, classes: int = 10, size: int = 28, channels: int = 1, seed: int = 0) -> Split:
    """Made-up images, each class with a bright bar of its own, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32)
    images = rng.integers(0, 60, (count, size, size, channels))
    for image, label in zip(images, labels):
        row = 4 + label * (size - 8) // classes
        image[row : row + 3, 6:-6] += 150
    return Split(images.astype(np.uint8), labels)


def command(script: str, workdir: pathlib.Path, settings: dict) -> list[str]:
    """An entry point's command line."""
    return [
        sys.executable,
        str(REPOSITORY / script),
        f"--workdir={workdir}",
        *(f"--{k}={v}" for k, v in settings.items()),
    ]


def train(workdir: pathlib.Path, check: bool = True, **settings) -> subprocess.CompletedProcess:
    """Runs train.py on the tiny network; ``check`` expects exit code 0."""
    arguments = command("train.py", workdir, {**TINY, **settings})
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def evaluate(workdir: pathlib.Path, check: bool = True, **settings) -> subprocess.CompletedProcess:
    """Runs eval.py."""
    done = subprocess.run(command("eval.py", workdir, settings), capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def train_until(workdir: pathlib.Path, when, how: signal.Signals, **settings) -> tuple[int, str]:
    """Runs train.py, and sends it the signal as soon as ``when()`` is true: its exit code and output."""
    process = subprocess.Popen(
        command("train.py", workdir, {**TINY, **settings}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 200
    while not when():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the moment to send the signal never came"
        time.sleep(0.0005)
    process.send_signal(how)
    output = process.communicate(timeout=200)[0]
    return process.returncode, output


_REFUSED = """
import contextlib, io, json, runpy, sys
from absl import flags
from lcaps_jax.cli import evaluate, main as cli
script = runpy.run_path(sys.argv[1])
said = []
for arguments in json.loads(sys.argv[2]):
    sys.argv = [sys.argv[0], *arguments]
    flags.FLAGS.unparse_flags()
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            cli.run(script.get("main", evaluate.main))
            stop = SystemExit(0)
        except SystemExit as stop_:
            stop = stop_
    said.append([stop.code if isinstance(stop.code, int) else 1, stderr.getvalue() + f"{stop.code}"])
print(json.dumps(said))
"""


def refusals(script: str, commands: Sequence[Sequence[str]], cwd: pathlib.Path) -> list[tuple[int, str]]:
    """The exit code and what is said of each command line of an entry point, in one process for all of them."""
    arguments = [sys.executable, "-c", _REFUSED, str(REPOSITORY / script), json.dumps(list(map(list, commands)))]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]
