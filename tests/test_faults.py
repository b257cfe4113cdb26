"""What real disks, files and users do to a run."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import time

import chex
import jax
import pytest

from lcaps_jax.infer.model import load_run
from lcaps_jax.train.log import read_metrics
from lcaps_jax.util.errors import ConfigError
import workloads


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_never_was(tiny_run, tmp_path, seed):
    rng, run, kills = random.Random(seed), tmp_path / "run", 0
    while kills < 4:
        logged = len(read_metrics(run))
        process = subprocess.Popen(workloads.command("train.py", run, workloads.TINY), stdout=subprocess.DEVNULL)
        moment = rng.choice(("a start", "a step", "a save"))
        while moment != "a start" and process.poll() is None and len(read_metrics(run)) == logged:
            time.sleep(0.02)
        while moment == "a save" and process.poll() is None and not list(run.glob("checkpoints/last/*tmp*")):
            time.sleep(0.0002)
        time.sleep(0 if moment == "a save" else rng.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        kills += 1
        if process.wait() == 0:
            break
    workloads.train(run)
    one, two = (load_run(each) for each in (tiny_run[0], run))
    chex.assert_trees_all_equal(one.params, two.params)
    logs = [[(line["step"], line["split"], line["loss"]) for line in read_metrics(each)] for each in (tiny_run[0], run)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("damage", ["cut", "deleted", "emptied"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny_run, tmp_path, capfd, damage):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    states = run / "checkpoints" / "last"
    last = states / str(max(int(path.name) for path in states.iterdir() if path.name.isdigit()))
    shutil.copytree(last, states / "140")  # as an unfinished run has the state before
    parameters = (file for file in (last / "params").rglob("*") if file.is_file())
    largest = max(parameters, key=lambda file: file.stat().st_size)
    if damage == "cut":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif damage == "deleted":
        largest.unlink()
    else:
        shutil.rmtree(last)
        last.mkdir()
    assert load_run(run).step == 140
    gc.collect()  # where the reads abandoned at the damaged part end, which pytest would take for a failure
    assert damage == "emptied" or last.name in capfd.readouterr().out  # Orbax does not count an empty checkpoint


@pytest.mark.parametrize("content", ["", "[]", "{", '{"sample": {}}'])
def test_damaged_results_are_named(tiny_run, tmp_path, content):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    (run / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=r"results\.json"):
        load_run(run)


@pytest.mark.slow
def test_a_training_whose_reader_has_gone_goes_on(tmp_path):
    """As behind ``| head``."""
    command = workloads.command("train.py", tmp_path / "run", {**workloads.TINY, "epochs": 1})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=300) == 0 and errors == "", errors
    assert load_run(tmp_path / "run").step == 80


@pytest.mark.parametrize("change", [{"k": 6}, {"hyper_capsules": 3}])
def test_settings_that_do_not_fit_the_checkpoint_are_refused(tiny_run, tmp_path, change):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["settings"] |= change
    (run / "config.json").write_text(json.dumps(config))
    done = workloads.evaluate(run, check=False)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


_ON_A_SMALL_DISK = (
    'mount -t tmpfs -o size=%dk tmpfs "$1" && shift && { "$@"; code=$?; cp -r "$DISK" "$KEPT"; exit $code; }'
)


@pytest.mark.slow
def test_a_full_disk_during_a_save_ends_with_a_message_and_loses_nothing_saved(tiny_run, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    saved = 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(load_run(tiny_run[0]).params))
    size = int(2.7 * saved / 1024)  # room for two checkpoints; a third is written before the first is removed
    command = workloads.command("train.py", disk / "run", workloads.TINY)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _ON_A_SMALL_DISK % size, "sh", str(disk), *command],
        env={**os.environ, "DISK": str(disk / "run"), "KEPT": str(kept)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Error: " in done.stderr, done.stderr
    workloads.train(kept)  # on a disk with room
    chex.assert_trees_all_equal(load_run(tiny_run[0]).params, load_run(kept).params)
