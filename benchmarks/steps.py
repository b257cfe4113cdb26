"""Training steps to be measured: their arithmetic, their compilation, and the memory that they take."""

from collections.abc import Callable
import dataclasses
import pathlib
import resource
import time

import jax
import numpy as np

from lcaps_jax import models, parallel, training
from lcaps_jax.config import CAPSNET, CNN, Config

STEPS_A_CALL = 5


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
    state = parallel.replicate(training.compute_once(lambda: training.init_state(model, optimizer, config, 1)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    steps = training.make_train_steps(model, optimizer, config.max_shift)
    batches = training.make_batches(rng.integers(0, 1000, (STEPS_A_CALL, config.batch_size)).astype(np.int32))

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
