"""Programs for TPUs, compiled without one, and the benchmark of an accelerator, tried on a CPU."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import device, gpu_compile, tpu_compile
from experiments.ablations import ABLATIONS
from experiments.cells import CELLS
from experiments.plan import Plan
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


def test_products_of_convolutions_are_read_off_a_compiled_program():
    text = """
  %x = f32[4,10,10,8]{3,2,1,0} parameter(0)
  %w = f32[16,5,5,8]{3,2,1,0} fusion(%y), calls=%c
  %conv = (f32[4,6,6,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=5x5}, custom_call_target="__cudnn$convForward"
  %g = f32[4,6,6,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %a = (f32[4,10,10,8]{3,2,1,0}, u8[0]{0}) custom-call(%g, %w), window={size=5x5}, custom_call_target="__cudnn$convBackwardInput"
  %b = (f32[16,5,5,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), window={size=5x5}, custom_call_target="__cudnn$convBackwardFilter"
"""  # noqa: E501
    assert gpu_compile.multiplications(text) == 3 * [4 * 6 * 6 * 16 * 5 * 5 * 8]


def test_cudnn_is_handed_no_zeros_of_a_strided_convolution():
    pytest.importorskip("jax_plugins.xla_cuda13")
    needed = 3 * 2 * 6 * 6 * 9 * 9 * 16 * 16
    direct, polyphase = (
        sum(gpu_compile.multiplications(gpu_compile.compiled(20, 9, method, channels=16, batch=2)))
        for method in ("direct", "polyphase")
    )
    assert polyphase < 1.3 * needed < 3 * needed < direct


@pytest.mark.parametrize("given", ["", "--xla_gpu_enable_triton_gemm=true"])
def test_with_cuda_products_are_left_to_cublas_unless_the_user_decides(tmp_path, given):
    plugin = tmp_path / "jax_plugins" / "xla_cuda99" / "__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("def initialize():\n    pass\n")
    code = "import os; from lcaps_jax import runtime; runtime.prepare(); print(os.environ['XLA_FLAGS'])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "XLA_FLAGS": given}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == (given or "--xla_gpu_enable_triton_gemm=false"), done.stderr


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
    assert all(0 < found["runs"][name]["sample"] < 100 for name in names)


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


def pretend(settings, folder):
    """Trains nothing for as many seconds as the run's seed says, and notes its beginning and its end."""
    (folder.parent / f"{folder.name} begun").touch()
    if settings.seed == 13:
        raise ValueError("a fault of this run alone")
    time.sleep(settings.seed)
    (folder.parent / f"{folder.name} done").touch()


def test_an_accelerator_trains_until_its_time_is_over_and_a_fault_stops_no_other_run(tmp_path, capfd):
    seconds = {"long": 300, "faulty": 13, "short": 0, "long too": 300}
    waiting = {f"waiting {number}": 0 for number in range(200)}  # more than a pipe holds
    wanted = {tmp_path / name: workloads.tiny_config(seed=seed) for name, seed in (seconds | waiting).items()}
    began = time.monotonic()
    device.train_runs(wanted, minutes=15 / 60, at_once=2, train=pretend)
    assert 14 < time.monotonic() - began < 60
    assert {path.name for path in tmp_path.iterdir()} == {*(f"{name} begun" for name in seconds), "short done"}
    printed = capfd.readouterr()
    assert "The time for training is over." in printed.out and "faulty: failed" in printed.out
    assert "a fault of this run alone" in printed.err
