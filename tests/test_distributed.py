"""Two real processes, each with one device, that train together over the loopback network."""

import json
import os
import signal
import socket
import subprocess
import time

import chex
import numpy as np
import pytest

import lcaps_jax
from lcaps_jax.train.log import read_metrics
import workloads


def _start(workdir, script="train.py", processes=2, **settings):
    """Starts the processes of a training or an evaluation."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "XLA_FLAGS": workloads.xla_flags(devices=1)}
    started = []
    for process in range(processes):
        flags = {"distributed": True, "coordinator_address": f"localhost:{port}", "num_processes": processes}
        command = workloads.command(script, workdir, {**settings, **flags, "process_id": process})
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return started


def _finish(started):
    printed = [process.communicate(timeout=200)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, printed)]


def _wait_for(condition, started):
    deadline = time.monotonic() + 200
    while not condition():
        assert all(process.poll() is None for process in started), _finish(started)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _figures(workdir):
    return [(line["step"], line["split"], line["loss"], line["error"]) for line in read_metrics(workdir)]


@pytest.mark.slow
def test_two_processes_train_to_the_numbers_of_one_and_survive_a_death(tiny_run, tmp_path):
    """One of two is killed, and the other ends with a message; started again, the pair ends with the numbers of one."""
    whole, _ = tiny_run  # one process with two devices
    workdir = tmp_path / "pair"
    started = _start(workdir, **workloads.TINY)
    _wait_for(lambda: any(line["step"] >= 50 for line in read_metrics(workdir)), started)
    began = time.monotonic()
    started[1].send_signal(signal.SIGKILL)
    (code, output), _ = _finish(started)
    assert code != 0 and time.monotonic() - began < 100, output
    assert "another process" in output, output

    (code, output), (other_code, other_output) = _finish(_start(workdir, **workloads.TINY))
    assert (code, other_code) == (0, 0), output + other_output
    assert "Continuing from step" in output and "2 process(es)" in output
    assert not [line for line in other_output.splitlines() if not line.startswith("[Gloo]")]  # one speaks for both
    np.testing.assert_allclose(
        [line[2:] for line in _figures(workdir)], [line[2:] for line in _figures(whole)], rtol=1e-5
    )
    one, two = (lcaps_jax.load_model(folder).params for folder in (whole, workdir))
    chex.assert_trees_all_close(one, two, rtol=1e-5, atol=1e-5)

    (code, output), _ = _finish(_start(workdir, "eval.py", batch_size=100))
    assert code == 0 and "sample: error" in output
    results = [json.loads((folder / "results.json").read_text())["sample"] for folder in (whole, workdir)]
    assert results[0] == results[1]


@pytest.mark.parametrize("name, value", [("batch_size", 101), ("k", 0)])
def test_what_is_refused_ends_both(tmp_path, name, value):
    for code, output in _finish(_start(tmp_path / "run", **{**workloads.TINY, name: value})):
        assert code == 1 and f"{name}={value}" in output and "Traceback" not in output, output
