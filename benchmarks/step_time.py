"""Times a training step, as train.py runs it: the paper's Table 3.

    python -m benchmarks.step_time

Effective throughput is the arithmetic that a direct convolution would take, by the time, by the machine's own rate
in a large float32 matrix product: above 1 the step outruns what a direct convolution could reach on the machine.
"""

import resource
import time

from absl import app, flags
import jax
import numpy as np

from benchmarks import timing
from lcaps_jax import models, parallel, training
from lcaps_jax.config import CAPSNET, CNN, Config
from lcaps_jax.data import Split

_BATCH = flags.DEFINE_integer("batch", 100, "Images a step.", lower_bound=1)
_ITERATIONS = flags.DEFINE_integer("iterations", 100, "Steps measured of each.", lower_bound=2)
_ONLY = flags.DEFINE_multi_string("only", None, "A case to measure, as it is printed; may be repeated. Default: all.")
_REUSE_MEMORY = flags.DEFINE_boolean("reuse_memory", True, "Have the allocator keep freed memory, as train.py does.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/step_time.json", "JSON file to write.")

_CASES = {
    "MNIST 9x9, K=50": {"k": 50},
    "MNIST 9x9, K=70": {"k": 70},
    "MNIST 9x9, K=100": {"k": 100},
    "MNIST 9x9, K=70, released": {"k": 70, "variant": "released"},
    "MNIST 15x15, K=70": {"k": 70, "primary_kernel": 15},
    "MNIST 9x9, CapsNet r=3": {"model": "capsnet", "routing_iterations": 3},
    "MNIST 9x9, CapsNet r=4": {"model": "capsnet", "routing_iterations": 4},
    "MNIST 9x9, CapsNet r=5": {"model": "capsnet", "routing_iterations": 5},
    "MNIST, CNN of 64 channels": {"model": "cnn", "channels": 64},
    "affNIST 9x9, K=70": {"k": 70, "image_size": 40},
    "affNIST 15x15, K=70": {"k": 70, "image_size": 40, "conv1_kernel": 15, "primary_kernel": 15},
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
    conv1_grid = config.image_size - config.conv1_kernel + 1
    places = {"conv1": conv1_grid**2, "primary": 0}
    if config.model == CNN:
        places = {f"conv{layer}": config.image_size**2 for layer in (1, 2, 3)}
    else:
        sizes = models.geometry(config.image_size, config.conv1_kernel, config.primary_kernel)
        places["primary"] = sizes.grid**2
    products, image_gradient = 0, 0
    for path, leaf in jax.tree.leaves_with_path(shapes):
        names = [entry.key for entry in path]
        if "kernel" not in names[-1]:
            continue
        count = int(np.prod(leaf.shape)) * places.get(names[-2], 1)
        products += count
        if names[-2] == "conv1":
            image_gradient = count
    if config.model == CAPSNET:  # s = sum c u_hat in every iteration, the agreement u_hat v in all but the last
        products += (2 * config.routing_iterations - 1) * sizes.capsules * classes * models.POSE_DIM
    return 6.0 * products - 2.0 * image_gradient


def main(argv):
    del argv
    if _REUSE_MEMORY.value:
        parallel.reuse_freed_memory()
    matmul = timing.matmul()
    rows, figures = [], {}
    for name in _ONLY.value or _CASES:
        config = Config(batch_size=_BATCH.value, **_CASES[name])
        config = config.resolved(config.image_size or 28, 0)
        model, optimizer = training.make_model(config, 10), training.make_optimizer(config)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (1000, config.image_size, config.image_size, 1)).astype(np.uint8)
        split = Split(images, rng.integers(0, 10, 1000).astype(np.int32))
        train_data = parallel.replicate(training.TrainData(split.images, split.labels, jax.random.key(0)))
        state = parallel.replicate(training.init_state(model, optimizer, config, 1))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        steps = training.make_train_steps(model, optimizer, config.max_shift)
        index = rng.integers(0, 1000, (_STEPS_A_CALL, _BATCH.value)).astype(np.int32)
        batches = training.make_batches(index)

        began = time.perf_counter()
        state, figures_of_call = steps(state, train_data, batches)
        jax.block_until_ready(figures_of_call)
        first_call = time.perf_counter() - began
        seconds, matmul_seconds = [], []
        for _ in range(-(-_ITERATIONS.value // _STEPS_A_CALL)):
            began = time.perf_counter()
            state, figures_of_call = steps(state, train_data, batches)
            jax.block_until_ready(figures_of_call)
            seconds.append((time.perf_counter() - began) / _STEPS_A_CALL)
            began = time.perf_counter()
            matmul()
            matmul_seconds.append(time.perf_counter() - began)
        median, error = float(np.median(seconds)), float(np.std(seconds, ddof=1) / len(seconds) ** 0.5)
        unit = min(matmul_seconds)
        effective = step_flops(config) * _BATCH.value / median / timing.matmul_flops(unit)
        figures[name] = {
            "seconds": median,
            "mean": float(np.mean(seconds)),
            "standard_error_over_calls": error,
            "iterations": len(seconds) * _STEPS_A_CALL,
            "compile_seconds": first_call - _STEPS_A_CALL * median,
            "images_per_second": _BATCH.value / median,
            "matmul_seconds": unit,
            "in_matmuls": median / unit,
            "effective_throughput": effective,
            "parameters": parameters,
            "peak_memory_so_far_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "paper_seconds": _PAPER_SECONDS.get(name),
        }
        rows.append(
            (
                name,
                f"{1e3 * figures[name]['mean']:.0f} ({1e3 * error:.0f})",
                f"{1e3 * median:.0f}",
                f"{_BATCH.value / median:.0f}",
                f"{median / unit:.1f} M",
                f"{effective:.2f}",
                f"{figures[name]['compile_seconds']:.1f}",
                f"{parameters / 1e6:.1f} M",
                f"{1e3 * _PAPER_SECONDS[name]:.0f}" if name in _PAPER_SECONDS else "",
            )
        )
        print(f"{name}: {1e3 * median:.0f} ms", flush=True)
        del state, figures_of_call, train_data
    header = (
        "case", "mean (s.e.), ms", "median, ms", "images/s", "in matmuls", "effective throughput",
        "compile, s", "parameters", "paper, ms",
    )  # fmt: skip
    print(timing.table(header, rows))
    timing.write(_OUTPUT.value, {"batch": _BATCH.value, "cases": figures})


if __name__ == "__main__":
    app.run(main)
