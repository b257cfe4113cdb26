"""How the benchmarks measure: training steps as train.py runs them, medians of alternating runs, and JSON files.

Times stand beside the best time M of a float32 product of 2048x2048 matrices on the same machine.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.ops.conv import output_size
from lcaps_jax.train.config import Config
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.train.steps import TrainData, compute_once, init_state, make_batches, make_train_steps
from lcaps_jax.util import devices

STEPS_A_CALL = 5
_MATMUL = 2048


def matmul() -> Callable[[], None]:
    """The product whose best time is M."""
    a = jnp.ones((_MATMUL, _MATMUL))
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    return lambda: product(a).block_until_ready()


def matmul_flops(seconds: float) -> float:
    """The arithmetic rate of that product, FLOP/s."""
    return 2 * _MATMUL**3 / seconds


def alternate(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Runs each function once unmeasured, then all in turn; returns seconds ``[rounds]`` by name."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def configured(settings: Mapping[str, Any], image_size: int = 28, classes: int = 10) -> Config:
    """The configuration of a training on MNIST with these settings."""
    given = {"image_size": image_size, **settings}
    return resolve(given, Facts("mnist", 60_000, image_size, devices=jax.device_count()), classes)[0]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Compiled training steps: ``run`` runs five of them; ``program`` returns the compiled program as text."""

    run: Callable[[], None]
    config: Config
    parameters: int
    compile_seconds: float
    program: Callable[[], str]


def prepare(config: Config, classes: int = 10) -> Prepared:
    """Makes training steps on made-up images, and runs them once."""
    network, optimizer, size = config.network, config.optimizer.make(), config.data.image_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, size, size, 1)).astype(np.uint8)
    labels = rng.integers(0, classes, 1000).astype(np.int32)
    data = devices.replicate(TrainData(images, labels, jax.random.key(0)))
    state = devices.replicate(compute_once(lambda: init_state(network, optimizer, (size, size, 1))))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    steps = make_train_steps(network, optimizer, config.augment)
    batches = make_batches(rng.integers(0, 1000, (STEPS_A_CALL, config.schedule.batch_size)).astype(np.int32))

    def run():
        nonlocal state
        state, metrics = steps(state, data, batches)
        jax.block_until_ready(metrics)

    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return Prepared(
        run, config, parameters, seconds[0] - seconds[1], lambda: steps.lower(state, data, batches).compile().as_text()
    )


def step_flops(config: Config) -> float:
    """Direct arithmetic of a step on one grey image, FLOP: 6 for each product, less the gradient of the image.

    A kernel counts at each of its places, and routing with its votes written out.
    """
    network, size = config.network, config.data.image_size
    image = jnp.zeros((1, size, size, 1))
    output, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image))
    geometry = network.geometry(size)
    if geometry is None:  # the CNN's convolutions are padded, so that features keep the image's size
        places = dict.fromkeys(("conv1", "conv2", "conv3"), size**2)
    else:
        conv1 = network.network.primary.conv1_kernel
        places = {"conv1": output_size(size, conv1, 1) ** 2, "primary": geometry.grid**2}
    products = image_gradient = 0
    for path, leaf in jax.tree.leaves_with_path(variables["params"]):
        *_, module, name = [entry.key for entry in path]
        if "kernel" in name:
            count = leaf.size * places.get(module, 1)
            products += count
            image_gradient += count if module == "conv1" else 0
    if hasattr(output, "coupling"):  # s = sum c u_hat in every iteration, the agreement u_hat v in all but the last
        votes = output.coupling.size * output.pose.shape[-1]
        products += (2 * network.network.routing.routing_iterations - 1) * votes
    return 6.0 * products - 2.0 * image_gradient


def peak_memory_gib() -> float:
    """The most memory that this process has had, GiB."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Not ru_maxrss, because Linux counts in it the memory of the process that started this one.
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def show(cases: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a Markdown table of measured numbers, by case and by what was measured."""
    names = dict.fromkeys(name for case in cases.values() for name in case)
    cells = [[case.get(name) for name in names] for case in cases.values()]
    shown = [
        ["" if cell is None else f"{cell:.4g}" if type(cell) is float else str(cell) for cell in row] for row in cells
    ]
    print(table(["case", *names], [[name, *row] for name, row in zip(cases, shown)]), flush=True)


def alone(module: str, options: Sequence[str], seconds: float | None = None, **environment: str) -> Any:
    """Runs a benchmark in a process of its own, and returns the JSON of its last line.

    Raises:
      subprocess.CalledProcessError, subprocess.TimeoutExpired: It failed, or took longer than ``seconds``.
    """
    command, root = [sys.executable, "-m", module, *options], pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run(
        command, cwd=root, env=os.environ | environment, capture_output=True, text=True, timeout=seconds, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def write(path: str | pathlib.Path, metrics: dict, part: str | None = None) -> None:
    """Writes metrics as JSON, with their machine and version of JAX; ``part`` replaces one key of the file alone."""
    about = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    path, measured = pathlib.Path(path), {**about, **metrics}
    if part is not None:
        measured = {**(json.loads(path.read_text()) if path.exists() else {}), part: measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=2) + "\n")
