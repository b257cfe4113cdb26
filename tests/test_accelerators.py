"""Programs for TPUs, compiled without one, and the benchmark of an accelerator, tried on a CPU."""

import json
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import device, tpu_compile
from experiments.ablations import ABLATIONS
from experiments.cells import CELLS
from experiments.plan import Plan
from lcaps_jax import commands, runs
import workloads


def test_all_reduces_are_read_off_a_compiled_program():
    text = """
  %all-reduce.1 = (f32[9,9,1,256]{3,2,1,0:T(8,128)}, bf16[10]{0}) all-reduce(%a, %b), replica_groups={{0,1}}
  %start = f32[] all-reduce-start(f32[] %x)
  %done = f32[] all-reduce-done(%start)
"""
    assert tpu_compile.all_reduced(text) == [4 * 9 * 9 * 256 + 2 * 10, 4]


@pytest.mark.parametrize("target", ["v5e", "v5e 2x4"])
def test_a_step_of_a_tiny_network_compiles_for_tpus(target):
    pytest.importorskip("libtpu")
    network = {name: workloads.TINY[name] for name in ("channels", "capsule_types", "k", "capsule_dim", "pose_dim")}
    case = tpu_compile.Case(target, settings=tuple(network.items()))
    found = tpu_compile.measure(case, limit=300)
    assert found["fits"] and found["arguments"] > tpu_compile.IMAGES * 28**2
    assert found["flop"] > 0 and found["bytes"] > 0
    several = tpu_compile.TARGETS[target].cores > 1
    assert 1 <= found["all_reduces"] <= 4 if several else found["all_reduces"] == 0


@pytest.mark.slow
def test_the_benchmark_of_an_accelerator_checks_times_and_trains_on_a_cpu_too(tmp_path):
    output = tmp_path / "device.json"
    names = ["affnist_15x15_k70", "ablation_shifted_mnist", "ablation_shift10_seed1"]
    options = ["--tiny", "--minutes=8", f"--workdir={tmp_path / 'runs'}", f"--output={output}"]
    command = [sys.executable, "-m", "benchmarks.device", *options, *(f"--only={name}" for name in names)]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert set(found["differences"].values()) == {0.0}  # a CPU against itself
    assert "Continuing from step" in done.stdout and found["quickstart"]["changed_by_pause"] == 0
    assert found["quickstart"]["error"] == found["quickstart"]["error_in_parts"] < 80
    assert len(found["cases"]) == 6 and all(case["images_per_second"] > 0 for case in found["cases"].values())
    assert found["left_out"] == []
    assert list(found["runs"]) == names and all(0 < run["sample"] < 100 for run in found["runs"].values())


def test_an_accelerator_trains_table_2_then_the_open_questions_then_further_seeds(tmp_path):
    planned = device.planned(Plan(tmp_path, quick=False, data_dir=None))
    names, asked = [folder.name for folder in planned], [name for name, one in ABLATIONS.items() if one.asked]
    first = [*(cell.flagfile for cell in CELLS), *(f"ablation_{name}" for name in asked)]
    again = [*(cell.flagfile for cell in CELLS), *(f"ablation_{name}" for name in ABLATIONS)]
    assert names == [*first, *(f"{name}_seed1" for name in again), *(f"{name}_seed2" for name in again)]
    seeds = {folder.name: settings.seed for folder, settings in planned.items()}
    assert seeds["ablation_length"] == 0 and seeds["ablation_length_seed1"] == seeds["mnist_cnn_seed1"] == 1
    for settings in planned.values():
        settings.without_unused().check_settings_are_used()  # as train.py does


def test_what_an_accelerator_has_trained_is_told_when_its_time_is_over(tmp_path, monkeypatch):
    folders, begun = [tmp_path / name for name in ("one", "two", "three")], []

    def train(settings, folder):
        begun.append(folder)
        time.sleep(20 * (len(begun) - 1))  # the second takes longer than there is time

    monkeypatch.setattr(commands, "train", train)
    monkeypatch.setattr(runs, "is_finished", lambda settings, folder, archived: folder in begun)
    monkeypatch.setattr(runs, "read_results", lambda folder: {"mnist": {"error": 1.5}})
    plan, before = Plan(tmp_path, quick=False, data_dir=None), signal.getsignal(signal.SIGTERM)
    found = device.train_runs(plan, dict.fromkeys(folders, workloads.tiny_config()), minutes=0.005)
    assert found == {"one": {"mnist": 1.5}} and begun == folders[:2]
    assert signal.getsignal(signal.SIGTERM) == before
