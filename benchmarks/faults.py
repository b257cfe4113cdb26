"""Kills a small training at random moments, saves included, and shows that nothing is lost; then counts made-up inputs.

    python -m benchmarks.faults

Half of the kills (``kill -9``) come at a random moment after the start, half while a checkpoint is being written. Every
restart must continue from the newest checkpoint on disk, and the run must end with the parameters and the log of one
that was never interrupted, bit for bit.
"""

import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging
import jax
import numpy as np

from benchmarks import timing
from lcaps_jax import runs
from lcaps_jax.training import read_metrics

_KILLS = flags.DEFINE_integer("kills", 50, "Number of kills.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/faults.json", "JSON file to write.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_EVERY = 25
_SETTINGS = {
    "channels": 8,
    "capsule_types": 2,
    "k": 5,
    "capsule_dim": 4,
    "pose_dim": 4,
    "batch_size": 20,
    "epochs": 8,
    "log_every": 5,
    "checkpoint_every": _EVERY,
}
# The latest moment of a random kill, in seconds after the first logged step.
_LATEST = 6.0
_LOGGED = ("step", "epoch", "split", "loss", "error")


def _start(workdir: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "train.py", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in _SETTINGS.items())]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _checkpoints(workdir: pathlib.Path) -> tuple[list[int], bool]:
    """The steps of the finished checkpoints, and whether one is being written."""
    folder = workdir / "checkpoints" / "last"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit()), any("tmp" in name for name in names)


def _made_up_inputs() -> int:
    """Tries made-up inputs on the pure functions by ``tests/test_properties.py``, and returns how many there were."""
    command = [sys.executable, "-m", "pytest", "-n0", "tests/test_properties.py", "--hypothesis-show-statistics"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return sum(map(int, re.findall(r"(\d+) passing, 0 failing", done.stdout)))


def _last_step(workdir: pathlib.Path) -> int:
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def _kill(process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random, in_a_save: bool) -> bool:
    """Kills the process at its moment, and returns whether it was alive until then."""
    before = _last_step(workdir)
    delay = rng.uniform(0, _LATEST)
    if rng.random() < 0.2:  # while it starts
        time.sleep(delay)
    else:
        while process.poll() is None and _last_step(workdir) <= before:
            time.sleep(0.02)
        deadline = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        while in_a_save and process.poll() is None and not _checkpoints(workdir)[1]:
            time.sleep(0.0002)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    return alive


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)  # because Orbax tells every step of its own
    rng = random.Random(_SEED.value)
    kills = in_saves = restarts = most_lost = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "whole"
        print(_start(whole).communicate()[0].splitlines()[-1], flush=True)
        number = 0
        while kills < _KILLS.value:
            number += 1
            workdir = pathlib.Path(folder) / f"killed{number}"
            saved = last = 0
            while True:
                process = _start(workdir)
                done = False
                if kills < _KILLS.value:
                    done = not _kill(process, workdir, rng, in_a_save=kills % 2 == 1)
                output = process.communicate()[0]
                match = re.search(r"(?:Training|Continuing) from step (\d+)", output)
                if match:
                    restarts += 1
                    assert int(match[1]) == saved, f"{match[0]}, with a checkpoint of step {saved} on disk"
                    most_lost = max(most_lost, last - saved)
                if process.returncode == 0:
                    break
                assert process.returncode == -signal.SIGKILL, output
                assert not done, output
                steps, half_written = _checkpoints(workdir)
                saved, last = max(steps, default=0), max(_last_step(workdir), saved)
                kills += 1
                in_saves += half_written
                print(f"kill {kills}: at step {last}, {saved} saved{', in a save' if half_written else ''}", flush=True)
            one, two = runs.load_run(whole), runs.load_run(workdir)
            jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
            logs = [[[line[key] for key in _LOGGED] for line in read_metrics(run)] for run in (whole, workdir)]
            assert logs[0] == logs[1], "the log differs from that of the uninterrupted run"
    metrics = {
        "kills": kills,
        "while_a_checkpoint_was_half_written": in_saves,
        "restarts": restarts,
        "runs": number,
        "checkpoint_every": _EVERY,
        "most_steps_to_do_again": most_lost,
        "seconds": time.monotonic() - began,
        "made_up_inputs": _made_up_inputs(),
    }
    header = (
        "kills survived",
        "of them in a save",
        "runs ended the same",
        "most steps to do again",
        "made-up inputs tried",
    )
    print(timing.table(header, [(kills, in_saves, number, most_lost, metrics["made_up_inputs"])]))
    timing.write(_OUTPUT.value, metrics)


if __name__ == "__main__":
    app.run(main)
