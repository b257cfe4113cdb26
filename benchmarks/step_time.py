"""Times a training step, as train.py runs it: the paper's Table 3.

    python -m benchmarks.step_time

All cases run in one process, in turns of five steps. Effective throughput is the arithmetic of a step as it is usually
written, with direct convolutions, divided by its time and by the machine's own rate in a large float32 matrix product:
above 1 the step outruns what a direct convolution could reach on the machine. Peak memory is that of a process that
runs the case alone.
"""

from collections.abc import Mapping, Sequence
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


def config_of(name: str):
    """The configuration of a case."""
    return timing.configured(CASES[name], CASES[name].get("image_size", 28))


def measure(names: Sequence[str], iterations: int, peaks: Mapping[str, float]) -> dict:
    """Times so many steps of each case in turns; ``peaks`` are GiB of a process that ran a case alone."""
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
    return {"matmul_seconds": unit, "cases": metrics}


def main() -> None:
    """The command line."""
    iterations = flags.DEFINE_integer("iterations", 100, "Steps to measure of each.", lower_bound=2 * STEPS_A_CALL)
    only = flags.DEFINE_multi_enum("only", list(CASES), list(CASES), "Case to measure; may be repeated.")
    peak_of = flags.DEFINE_enum("peak_of", None, list(CASES), "Run this case alone, and print its peak memory in GiB.")
    output = flags.DEFINE_string("output", "benchmarks/results/step_time.json", "JSON file to write.")

    def parsed(argv):
        del argv
        process.reuse_freed_memory()
        if peak_of.value:
            timing.prepare(config_of(peak_of.value)).run()
            print(timing.peak_memory_gib())
            return
        # Before this process takes the device: a TPU serves one at a time.
        peaks = {name: timing.alone("benchmarks.step_time", [f"--peak_of={name}"]) for name in only.value}
        metrics = measure(only.value, iterations.value, peaks)
        print(f"M = {1e3 * metrics['matmul_seconds']:.0f} ms")
        timing.show(metrics["cases"])
        timing.write(output.value, metrics)

    app.run(parsed)


if __name__ == "__main__":
    main()
