"""Training steps to be measured: their arithmetic, their compilation, and the memory that they take."""

from collections.abc import Callable
import dataclasses
import pathlib
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax import networks, parallel, training
from lcaps_jax.config import Config
from lcaps_jax.convolution import output_size

STEPS_A_CALL = 5


def step_flops(config: Config, classes: int = 10) -> float:
    """Direct arithmetic of a step on one grey image, FLOP: 6 for each product, less the gradient of the image.

    Convolutions and routing count as they are usually written: a kernel multiplies at each of its places, and the votes
    are written out.

    Args:
      config: Resolved settings.
      classes: Number of classes.
    """
    network, size = networks.from_config(config, classes), config.image_size
    image = jnp.zeros((1, size, size, 1))
    output, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image))
    geometry = network.geometry(size)
    if geometry is None:  # convolutions without capsules are padded, so that features keep the image's size
        places = dict.fromkeys(("conv1", "conv2", "conv3"), size**2)
    else:
        places = {"conv1": output_size(size, config.conv1_kernel, 1) ** 2, "primary": geometry.grid**2}
    products, image_gradient = 0, 0
    for path, leaf in jax.tree.leaves_with_path(variables["params"]):
        *_, module, name = [entry.key for entry in path]
        if "kernel" not in name:
            continue
        count = int(np.prod(leaf.shape)) * places.get(module, 1)
        products += count
        if module == "conv1":
            image_gradient = count
    if output.coupling is not None:  # s = sum c u_hat in every iteration, the agreement u_hat v in all but the last
        votes = output.coupling.size * output.pose.shape[-1]
        products += (2 * config.routing_iterations - 1) * votes
    return 6.0 * products - 2.0 * image_gradient


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A case, compiled.

    Attributes:
      run: Runs five steps, and returns when they are done.
      config: Settings of the case.
      parameters: Number of parameters of the network.
      compile_seconds: Seconds of the first call, less those of its steps.
      program: Compiles the steps once more, and gives the compiled program as text.
    """

    run: Callable[[], None]
    config: Config
    parameters: int
    compile_seconds: float
    program: Callable[[], str]


def prepare(config: Config, classes: int = 10) -> Prepared:
    """Makes the steps of a case with resolved settings, and runs them once, on made-up images."""
    network, optimizer = networks.from_config(config, classes), training.make_optimizer(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, config.image_size, config.image_size, 1)).astype(np.uint8)
    labels = rng.integers(0, classes, 1000).astype(np.int32)
    train_data = parallel.replicate(training.TrainData(images, labels, jax.random.key(0)))
    state = parallel.replicate(training.compute_once(lambda: training.init_state(network, optimizer, config, 1)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    steps: Any = training.make_train_steps(network, optimizer, config.max_shift)
    batches = training.make_batches(rng.integers(0, 1000, (STEPS_A_CALL, config.batch_size)).astype(np.int32))

    def run():
        nonlocal state
        state, metrics = steps(state, train_data, batches)
        jax.block_until_ready(metrics)

    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return Prepared(
        run,
        config,
        parameters,
        compile_seconds=seconds[0] - seconds[1],
        program=lambda: steps.lower(state, train_data, batches).compile().as_text(),
    )


def peak_memory_gib() -> float:
    """The most memory that this process has had, GiB."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Not ru_maxrss, because Linux counts in it the memory of the process that started this one.
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20
