"""Times a training step, as train.py runs it: the paper's Table 3.

    python -m benchmarks.step_time

All cases run in one process, in turns of five steps. Effective throughput is the arithmetic of a step as it is usually
written, with direct convolutions, divided by its time and by the machine's own rate in a large float32 matrix product:
above 1 the step outruns what a direct convolution could reach on the machine. Peak memory is that of a process that
runs the case alone.
"""

from collections.abc import Mapping, Sequence
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags
import numpy as np

from benchmarks import timing
from benchmarks.timing import STEPS_A_CALL
from lcaps_jax.util import process

_SMALL = {"filters": 64, "capsule_types": 16, "capsule_dim": 4, "pose_dim": 8, "k": 32, "max_shift": 2}
_AFFNIST = {"image_size": 40}
CASES: dict[str, dict[str, Any]] = {  # given settings by name
    "MNIST 9x9, K=50": {"k": 50},
    "MNIST 9x9, K=70": {"k": 70},
    "MNIST 9x9, K=100": {"k": 100},
    "MNIST 9x9, CapsNet r=3": {"model": "capsnet", "routing_iterations": 3},
    "MNIST 9x9, CapsNet r=4": {"model": "capsnet", "routing_iterations": 4},
    "MNIST 9x9, CapsNet r=5": {"model": "capsnet", "routing_iterations": 5},
    "MNIST 9x9, K=50, released": {"k": 50, "preset": "released"},
    "MNIST 9x9, K=70, released": {"k": 70, "preset": "released"},
    "MNIST 9x9, K=100, released": {"k": 100, "preset": "released"},
    "MNIST 15x15, K=70": {"k": 70, "primary_kernel": 15},
    "affNIST 9x9, K=70": {"k": 70, **_AFFNIST},
    "affNIST 9x9, CapsNet r=3": {"model": "capsnet", **_AFFNIST},
    "affNIST 15x15, K=70": {"k": 70, "conv1_kernel": 15, "primary_kernel": 15, **_AFFNIST},
    "MNIST, small network": _SMALL,
    "MNIST, CNN of 64 channels": {"model": "cnn", "filters": 64},
    "MNIST, CNN": {"model": "cnn"},
}
TABLE3 = {
    "MNIST 9x9, K=50": 0.2034,
    "MNIST 9x9, K=70": 0.2159,
    "MNIST 9x9, K=100": 0.2953,
    "MNIST 9x9, CapsNet r=3": 1.732,
    "MNIST 9x9, CapsNet r=4": 2.123,
    "MNIST 9x9, CapsNet r=5": 2.656,
}
_HEADER = (
    "case", "mean (s.e.), ms", "median, ms", "images/s", "in matmuls", "effective throughput",
    "compile, s", "parameters", "peak memory, GiB", "paper, ms",
)  # fmt: skip

_ITERATIONS = flags.DEFINE_integer("iterations", 100, "Steps to measure of each.", lower_bound=2 * STEPS_A_CALL)
_ONLY = flags.DEFINE_multi_string("only", None, "Case to measure, as printed; may be repeated. Default: all.")
_PEAKS = flags.DEFINE_boolean("peak_memory", True, "Run each case once more, alone, to see its peak memory.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/step_time.json", "JSON file to write.")


def config_of(name: str):
    """The configuration of a case."""
    return timing.configured(CASES[name], CASES[name].get("image_size", 28))


def measure(names: Sequence[str], iterations: int, peaks: Mapping[str, float]) -> dict:
    """Times the steps of cases in turns.

    Args:
      names: Names of cases in ``CASES``.
      iterations: Number of steps to measure of each, at least ten.
      peaks: Peak memory of a process that ran a case alone, GiB.

    Returns:
      Times in seconds and what follows from them, by case, for a JSON file.
    """
    cases = {}
    for name in names:
        cases[name] = timing.prepare(config_of(name))
        print(f"{name}: compiled", flush=True)
    functions = {"matmul": timing.matmul(), **{name: case.run for name, case in cases.items()}}
    seconds = timing.alternate(functions, -(-iterations // STEPS_A_CALL))
    unit = float(seconds["matmul"].min())
    metrics = {}
    for name, case in cases.items():
        a_step = seconds[name] / STEPS_A_CALL
        median, batch = float(np.median(a_step)), case.config.schedule.batch_size
        metrics[name] = {
            "seconds": median,
            "mean": float(np.mean(a_step)),
            "standard_error_over_calls": float(np.std(a_step, ddof=1) / len(a_step) ** 0.5),
            "iterations": len(a_step) * STEPS_A_CALL,
            "compile_seconds": case.compile_seconds,
            "images_per_second": batch / median,
            "in_matmuls": median / unit,
            "effective_throughput": timing.step_flops(case.config) * batch / median / timing.matmul_flops(unit),
            "parameters": case.parameters,
            "peak_memory_gib": peaks.get(name),
            "paper_seconds": TABLE3.get(name),
        }
    return {"matmul_seconds": unit, "peak_memory_gib": timing.peak_memory_gib(), "cases": metrics}


def _line(name: str, case: Mapping) -> tuple:
    """A row of the table that is printed."""
    return (
        name,
        f"{1e3 * case['mean']:.0f} ({1e3 * case['standard_error_over_calls']:.0f})",
        f"{1e3 * case['seconds']:.0f}",
        f"{case['images_per_second']:.0f}",
        f"{case['in_matmuls']:.1f} M",
        f"{case['effective_throughput']:.2f}",
        f"{case['compile_seconds']:.1f}",
        f"{case['parameters'] / 1e6:.1f} M",
        "" if case["peak_memory_gib"] is None else f"{case['peak_memory_gib']:.1f}",
        "" if case["paper_seconds"] is None else f"{1e3 * case['paper_seconds']:.0f}",
    )


def _peak_alone(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "case.json"
        options = [f"--only={name}", f"--iterations={2 * STEPS_A_CALL}", "--nopeak_memory", f"--output={output}"]
        subprocess.run([sys.executable, "-m", "benchmarks.step_time", *options], check=True, capture_output=True)
        return json.loads(output.read_text())["peak_memory_gib"]


def main(argv):
    del argv
    process.reuse_freed_memory()
    names = _ONLY.value or list(CASES)
    # Before this process takes the device: a TPU serves one at a time.
    peaks = {name: _peak_alone(name) for name in names} if _PEAKS.value else {}
    metrics = measure(names, _ITERATIONS.value, peaks)
    rows = [_line(name, case) for name, case in metrics["cases"].items()]
    print(f"M = {1e3 * metrics['matmul_seconds']:.0f} ms\n" + timing.table(_HEADER, rows))
    timing.write(_OUTPUT.value, metrics)


if __name__ == "__main__":
    app.run(main)
