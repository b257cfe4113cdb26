"""Programs for TPUs, compiled without one, and the benchmark of an accelerator, tried on a CPU."""

import json
import subprocess
import sys

import pytest

from benchmarks import tpu_compile
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
    assert (found["all_reduces"] > 0) == several


@pytest.mark.slow
def test_the_benchmark_of_an_accelerator_checks_times_and_trains_on_a_cpu_too(tmp_path):
    output = tmp_path / "device.json"
    options = ["--tiny", "--minutes=0.3", f"--workdir={tmp_path / 'runs'}", f"--output={output}"]
    command = [sys.executable, "-m", "benchmarks.device", *options]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert set(found["differences"].values()) == {0.0}  # a CPU against itself
    assert found["quickstart"]["error"] < 80 and "Continuing from step" in done.stdout
    assert len(found["cases"]) == 6 and all(case["images_per_second"] > 0 for case in found["cases"].values())
    assert found["left_out"] == []
    assert found["cells"] or "is over" in done.stdout or "Stopped by SIGTERM" in done.stdout
