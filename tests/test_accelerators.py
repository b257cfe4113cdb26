"""Programs for TPUs, compiled without one, and the benchmark of an accelerator, tried on a CPU."""

import functools
import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import device, tpu_compile
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
    network = {name: workloads.TINY[name] for name in ("filters", "capsule_types", "k", "capsule_dim", "pose_dim")}
    found = tpu_compile.measure(tpu_compile.Case(target, settings=tuple(network.items())), limit=300)
    assert found["fits"] and found["arguments"] > tpu_compile.IMAGES * 28**2
    assert found["flop"] > 0 and found["bytes"] > 0
    _, cores, _ = tpu_compile.TARGETS[target]
    assert 1 <= found["all_reduces"] <= 4 if cores > 1 else found["all_reduces"] == 0


@pytest.mark.parametrize("given", ["", "--xla_gpu_enable_triton_gemm=true"])
def test_with_cuda_products_are_left_to_cublas_unless_the_user_decides(tmp_path, given):
    plugin = tmp_path / "jax_plugins" / "xla_cuda99" / "__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("def initialize():\n    pass\n")
    code = "import os; from lcaps_jax.util import process; process.prepare(); print(os.environ['XLA_FLAGS'])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "XLA_FLAGS": given}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == (given or "--xla_gpu_enable_triton_gemm=false"), done.stderr


@pytest.mark.slow
def test_the_benchmark_of_an_accelerator_checks_times_and_trains_on_a_cpu_too(tmp_path):
    output, workdir = tmp_path / "device.json", tmp_path / "runs"
    options = ["--tiny", "--minutes=8", f"--workdir={workdir}", f"--output={output}", "quickstart"]
    command = [sys.executable, "-m", "benchmarks.device", *options]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert set(found["differences"].values()) == {0.0}  # a CPU against itself
    assert len(found["cases"]) == 6 and all(case["images_per_second"] > 0 for case in found["cases"].values())
    assert found["left_out"] == [] and (workdir / "quickstart" / "results.json").exists()


def pretend(folder, name):
    """Trains nothing for as many seconds as its name says, and notes its beginning and its end."""
    (folder / f"{name} begun").touch()
    if name == "13":
        raise ValueError("a fault of this network alone")
    time.sleep(int(name))
    (folder / f"{name} done").touch()


@pytest.mark.slow
def test_an_accelerator_trains_until_its_time_is_over_and_a_fault_stops_no_other_training(tmp_path, capfd):
    began = time.monotonic()
    train = functools.partial(pretend, tmp_path)
    device.train_in_time(["300", "13", "0", "301", "302"], train, minutes=45 / 60, at_once=2)
    assert 44 < time.monotonic() - began < 100
    assert {path.name for path in tmp_path.iterdir()} == {"300 begun", "13 begun", "0 begun", "0 done", "301 begun"}
    assert "a fault of this network alone" in capfd.readouterr().err
