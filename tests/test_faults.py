"""What real disks, files and hands do to a run; benchmarks/faults.py kills one fifty times, and counts such faults."""

import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import pytest

from benchmarks import faults
import lcaps_jax
from lcaps_jax.config import ConfigError
import workloads


def _spoil(folder: pathlib.Path, how: str) -> None:
    """Damages the largest file of a checkpoint."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if how == "deleted":
        largest.unlink()
    elif how == "truncated":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    else:
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize("how", ["truncated", "deleted", "emptied"])
def test_a_damaged_checkpoint_is_passed_over_by_readers_and_said(tiny_run, tmp_path, capfd, caplog, how):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    states = run / "checkpoints" / "last"
    shutil.copytree(states / "160", states / "140")  # as an unfinished run has the state before
    _spoil(states / "160", how)
    assert lcaps_jax.load_run(run).step == 140
    gc.collect()  # where the reads abandoned at the damaged part end, which pytest would take for a failure
    assert "never retrieved" not in caplog.text
    if how != "emptied":  # which Orbax does not count as a checkpoint
        assert "Could not read the newest checkpoint (step 160" in capfd.readouterr().out


def test_a_checkpoint_of_another_configuration_is_refused(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["settings"]["k"] = 6
    (run / "config.json").write_text(json.dumps(config))
    done = workloads.evaluate(run, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Error: The checkpoint of step 160 in" in done.stderr and "is of another network: " in done.stderr
    assert "has the shape (10, 15) there and (10, 18) here" in done.stderr


def test_a_run_of_a_newer_version_is_refused(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["settings"]["hyper_capsules"] = 3
    (run / "config.json").write_text(json.dumps(config))
    for done in (workloads.evaluate(run, check=False), workloads.train(run, check=False)):
        assert done.returncode == 1 and "another version: it has the settings hyper_capsules" in done.stderr


def test_a_misspelt_flag_in_a_flagfile_is_refused_with_what_was_meant(tmp_path):
    (tmp_path / "my.flags").write_text("--k=5\n--routing_iteration=3\n")
    done = workloads.train(tmp_path / "run", check=False, flagfile=tmp_path / "my.flags")
    assert done.returncode == 1 and "routing_iteration" in done.stderr
    assert "Did you mean: routing_iterations" in done.stderr and "Traceback" not in done.stderr
    done = workloads.train(tmp_path / "run", check=False, flagfile=tmp_path / "none.flags")
    assert done.returncode == 1 and "none.flags" in done.stderr and "Traceback" not in done.stderr


_FULL_DISK = """
set -e
mount -t tmpfs -o size=%dk tmpfs "$1"
shift
"$@" || code=$?
cp -r "$DISK" "$KEPT"
exit ${code:-0}
"""


@pytest.mark.slow
def test_a_full_disk_during_a_save_ends_with_a_message_and_loses_nothing_saved(tiny_run, tmp_path):
    """On a real file system of a few megabytes, in a mount namespace of its own."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    run = lcaps_jax.load_run(tiny_run[0])
    saved = 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(run.params))
    size = int(2.7 * saved / 1024)  # room for two checkpoints; a third is written before the first is removed
    command = workloads.command("train.py", disk / "run", {**workloads.TINY, "checkpoint_every": 20})
    assert command[0] == sys.executable
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _FULL_DISK % size, "sh", str(disk), *command],
        env={**os.environ, "DISK": str(disk / "run"), "KEPT": str(kept)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "Error: " in done.stderr and "What was saved before stays" in done.stderr, done.stderr
    done = workloads.train(kept)  # on a disk with room
    assert "Continuing from step" in done.stdout
    one, two = (lcaps_jax.load_run(run) for run in (tiny_run[0], kept))
    chex.assert_trees_all_equal(one.params, two.params)


def test_a_training_whose_reader_has_gone_goes_on(tmp_path):
    """As behind ``| head``."""
    command = workloads.command("train.py", tmp_path / "run", {**workloads.TINY, "epochs": 1})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("Settings other than the defaults: k=5, channels=8, ")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=300) == 0 and errors == "", errors
    assert lcaps_jax.load_run(tmp_path / "run").step == 80


@pytest.mark.parametrize("content", ["", "[]", "{", '{"sample": {}}'])
def test_damaged_results_are_named(tiny_run, tmp_path, content):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    (run / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=r"run/results\.json cannot be read .*Remove it, and evaluate the run again"):
        lcaps_jax.load_run(run)


def test_the_faults_that_the_benchmark_counts_have_tests():
    for test in (test for tests in faults.FAULTS.values() for test in tests):
        file, name = test.split("::")
        assert f"\ndef {name}(" in (workloads.REPOSITORY / file).read_text(), test


def test_a_comma_in_a_new_run_s_path_is_refused(tmp_path):
    done = workloads.train(tmp_path / "a,b", check=False)
    assert done.returncode == 1 and "give a path without a comma" in done.stderr and not (tmp_path / "a,b").exists()
