"""Times a training step, as train.py runs it: the paper's Table 3.

    python -m benchmarks.step_time

All cases run in one process, in turns of five steps. Effective throughput is the arithmetic that a step takes as it
is usually written, with direct convolutions, by the time, by the machine's own rate in a large float32 matrix product:
above 1 the step outruns what a direct convolution could reach on the machine. Peak memory is that of a process that
runs the case alone.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags
import numpy as np

from benchmarks import steps, timing
from lcaps_jax import parallel
from lcaps_jax.config import Config

_ITERATIONS = flags.DEFINE_integer("iterations", 100, "Steps measured of each.", lower_bound=2 * steps.STEPS_A_CALL)
_ONLY = flags.DEFINE_multi_string("only", None, "A case to measure, as it is printed; may be repeated. Default: all.")
_REUSE_MEMORY = flags.DEFINE_boolean("reuse_memory", True, "Have the allocator keep freed memory, as train.py does.")
_PEAK_MEMORY = flags.DEFINE_boolean("peak_memory", True, "Run each case once more, alone, to see its peak memory.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/step_time.json", "JSON file to write.")

_CASES = {
    "MNIST 9x9, K=50": {"k": 50},
    "MNIST 9x9, K=70": {"k": 70},
    "MNIST 9x9, K=100": {"k": 100},
    "MNIST 9x9, CapsNet r=3": {"model": "capsnet", "routing_iterations": 3},
    "MNIST 9x9, CapsNet r=4": {"model": "capsnet", "routing_iterations": 4},
    "MNIST 9x9, CapsNet r=5": {"model": "capsnet", "routing_iterations": 5},
    "MNIST 9x9, K=50, released": {"k": 50, "variant": "released"},
    "MNIST 9x9, K=70, released": {"k": 70, "variant": "released"},
    "MNIST 9x9, K=100, released": {"k": 100, "variant": "released"},
    "MNIST 15x15, K=70": {"k": 70, "primary_kernel": 15},
    "affNIST 9x9, K=70": {"k": 70, "image_size": 40},
    "affNIST 9x9, CapsNet r=3": {"model": "capsnet", "image_size": 40},
    "affNIST 15x15, K=70": {"k": 70, "image_size": 40, "conv1_kernel": 15, "primary_kernel": 15},
    "MNIST, CNN of 64 channels": {"model": "cnn", "channels": 64},
    "MNIST, CNN": {"model": "cnn"},
}
_PAPER_SECONDS = {
    "MNIST 9x9, K=50": 0.2034,
    "MNIST 9x9, K=70": 0.2159,
    "MNIST 9x9, K=100": 0.2953,
    "MNIST 9x9, CapsNet r=3": 1.732,
    "MNIST 9x9, CapsNet r=4": 2.123,
    "MNIST 9x9, CapsNet r=5": 2.656,
}


def _peak_alone(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "case.json"
        options = [f"--only={name}", f"--iterations={2 * steps.STEPS_A_CALL}", "--nopeak_memory", f"--output={output}"]
        command = [sys.executable, "-m", "benchmarks.step_time", *options, f"--reuse_memory={_REUSE_MEMORY.value}"]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads(output.read_text())["peak_memory_gib"]


def main(argv):
    del argv
    if _REUSE_MEMORY.value:
        parallel.reuse_freed_memory()
    names = _ONLY.value or list(_CASES)
    cases = {}
    for name in names:
        config = Config(**_CASES[name])
        cases[name] = steps.prepare(config.resolved(config.image_size or 28, 0))
        print(f"{name}: compiled", flush=True)
    functions = {"matmul": timing.matmul(), **{name: case.run for name, case in cases.items()}}
    seconds = timing.alternate(functions, -(-_ITERATIONS.value // steps.STEPS_A_CALL))
    unit = float(seconds["matmul"].min())
    peak = steps.peak_memory_gib()
    rows, figures = [], {}
    for name, case in cases.items():
        a_step = seconds[name] / steps.STEPS_A_CALL
        median, error = float(np.median(a_step)), float(np.std(a_step, ddof=1) / len(a_step) ** 0.5)
        batch = case.config.batch_size
        paper = _PAPER_SECONDS.get(name)
        alone = _peak_alone(name) if _PEAK_MEMORY.value else None
        figures[name] = {
            "seconds": median,
            "mean": float(np.mean(a_step)),
            "standard_error_over_calls": error,
            "iterations": len(a_step) * steps.STEPS_A_CALL,
            "compile_seconds": case.compile_seconds,
            "images_per_second": batch / median,
            "in_matmuls": median / unit,
            "effective_throughput": steps.step_flops(case.config) * batch / median / timing.matmul_flops(unit),
            "parameters": case.parameters,
            "peak_memory_gib": alone,
            "paper_seconds": paper,
        }
        rows.append(
            (
                name,
                f"{1e3 * figures[name]['mean']:.0f} ({1e3 * error:.0f})",
                f"{1e3 * median:.0f}",
                f"{batch / median:.0f}",
                f"{median / unit:.1f} M",
                f"{figures[name]['effective_throughput']:.2f}",
                f"{case.compile_seconds:.1f}",
                f"{case.parameters / 1e6:.1f} M",
                f"{alone:.1f}" if alone else "",
                f"{1e3 * paper:.0f}" if paper else "",
            )
        )
    header = (
        "case", "mean (s.e.), ms", "median, ms", "images/s", "in matmuls", "effective throughput",
        "compile, s", "parameters", "peak memory, GiB", "paper, ms",
    )  # fmt: skip
    print(f"M = {1e3 * unit:.0f} ms\n" + timing.table(header, rows))
    timing.write(_OUTPUT.value, {"matmul_seconds": unit, "peak_memory_gib": peak, "cases": figures})


if __name__ == "__main__":
    app.run(main)
