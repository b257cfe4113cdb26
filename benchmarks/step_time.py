"""Times a training step, as train.py runs it: the paper's Table 3.

    python -m benchmarks.step_time

All cases run in one process, in turns of five steps. Effective throughput is the arithmetic that a step takes as it
is usually written, with direct convolutions, by the time, by the machine's own rate in a large float32 matrix product:
above 1 the step outruns what a direct convolution could reach on the machine. Peak memory is that of a process that
runs the case alone.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import jax
import numpy as np

from benchmarks import timing
from lcaps_jax import models, parallel, training
from lcaps_jax.config import CAPSNET, CNN, Config

_ITERATIONS = flags.DEFINE_integer("iterations", 100, "Steps measured of each.", lower_bound=2)
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
_STEPS_A_CALL = 5


def step_flops(config: Config, classes: int = 10) -> float:
    """Direct arithmetic of a step on one grey image, FLOP: 6 a product, less the gradient of the image.

    Convolutions and routing as they are usually written: a product for each place of a kernel, and the votes.
    """
    shapes = jax.eval_shape(lambda: training.init_params(training.make_model(config, classes), config, 1))
    if config.model == CNN:
        places = {f"conv{layer}": config.image_size**2 for layer in (1, 2, 3)}
    else:
        sizes = models.geometry(config.image_size, config.conv1_kernel, config.primary_kernel, config.capsule_types)
        places = {"conv1": (config.image_size - config.conv1_kernel + 1) ** 2, "primary": sizes.grid**2}
    products, image_gradient = 0, 0
    for path, leaf in jax.tree.leaves_with_path(shapes):
        *_, module, name = [entry.key for entry in path]
        if "kernel" not in name:
            continue
        count = int(np.prod(leaf.shape)) * places.get(module, 1)
        products += count
        if module == "conv1":
            image_gradient = count
    if config.model == CAPSNET:  # s = sum c u_hat in every iteration, the agreement u_hat v in all but the last
        products += (2 * config.routing_iterations - 1) * sizes.capsules * classes * models.POSE_DIM
    return 6.0 * products - 2.0 * image_gradient


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A case, compiled.

    Attributes:
      run: five steps; returns when they are done.
      config: its settings.
      parameters: of the network.
      compile_seconds: the first call, less the time of its steps.
    """

    run: Callable[[], None]
    config: Config
    parameters: int
    compile_seconds: float


def prepare(config: Config, classes: int = 10) -> Prepared:
    """Makes the steps of a case and runs them once; made-up images, the settings resolved."""
    model, optimizer = training.make_model(config, classes), training.make_optimizer(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, config.image_size, config.image_size, 1)).astype(np.uint8)
    labels = rng.integers(0, classes, 1000).astype(np.int32)
    train_data = parallel.replicate(training.TrainData(images, labels, jax.random.key(0)))
    state = parallel.replicate(training.init_state(model, optimizer, config, 1))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    steps = training.make_train_steps(model, optimizer, config.max_shift)
    batches = training.make_batches(rng.integers(0, 1000, (_STEPS_A_CALL, config.batch_size)).astype(np.int32))

    def run():
        nonlocal state
        state, figures = steps(state, train_data, batches)
        jax.block_until_ready(figures)

    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return Prepared(run, config, parameters, seconds[0] - seconds[1])


def peak_memory_gib() -> float:
    """The most memory that this process has had; Linux's ru_maxrss would count that of the process that started it."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def _peak_alone(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "case.json"
        options = [f"--only={name}", "--iterations=5", "--nopeak_memory", f"--output={output}"]
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
        cases[name] = prepare(config.resolved(config.image_size or 28, 0))
        print(f"{name}: compiled", flush=True)
    functions = {"matmul": timing.matmul(), **{name: case.run for name, case in cases.items()}}
    seconds = timing.alternate(functions, -(-_ITERATIONS.value // _STEPS_A_CALL))
    unit = float(seconds["matmul"].min())
    peak = peak_memory_gib()
    rows, figures = [], {}
    for name, case in cases.items():
        steps = seconds[name] / _STEPS_A_CALL
        median, error = float(np.median(steps)), float(np.std(steps, ddof=1) / len(steps) ** 0.5)
        batch = case.config.batch_size
        paper = _PAPER_SECONDS.get(name)
        alone = _peak_alone(name) if _PEAK_MEMORY.value else None
        figures[name] = {
            "seconds": median,
            "mean": float(np.mean(steps)),
            "standard_error_over_calls": error,
            "iterations": len(steps) * _STEPS_A_CALL,
            "compile_seconds": case.compile_seconds,
            "images_per_second": batch / median,
            "in_matmuls": median / unit,
            "effective_throughput": step_flops(case.config) * batch / median / timing.matmul_flops(unit),
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
