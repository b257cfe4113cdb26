"""How long the training of Table 2 will still take."""

from collections.abc import Sequence
import functools
import time

import jax
import numpy as np

from experiments.cells import Cell
from experiments.plan import CLASSES, Plan, image_size
from lcaps_jax import networks, parallel, training
from lcaps_jax.config import Config
from lcaps_jax.runtime import say

_TRAINING_DIGITS = 60_000  # of MNIST
_STEPS = 3


def say_what_is_left(plan: Plan, cells: Sequence[Cell]) -> None:
    """Prints how many runs and hours are left; a quick plan shows no hours, which take as long to measure."""
    if left := plan.unfinished(cells):
        hours = "" if plan.quick else f", about {seconds_left(plan, cells) / 3600:.1f} hours"
        say(f"{len(left)} run{'s' if len(left) > 1 else ''} to train{hours}.")


def seconds_left(plan: Plan, cells: Sequence[Cell]) -> float:
    """How long the training of cells will take on this machine: from their logs, or from a few steps of each."""
    total = 0.0
    for cell, seed in plan.unfinished(cells):
        config = plan.settings(cell, seed)
        steps = [line for line in training.read_metrics(plan.folder(cell, seed)) if line["split"] == "train"]
        done = steps[-1]["step"] if steps else 0
        per_step = median_seconds(steps) if steps else seconds_per_step(config)
        images = config.train_size or _TRAINING_DIGITS - config.validation_size
        total += per_step * (training.plan_of(config, images).total_steps - done)
    return total


def median_seconds(steps: Sequence[dict]) -> float:
    """Median time of a step by the lines of the log, so that waiting for other programs does not count."""
    return float(np.median([line["seconds_per_step"] for line in steps]))


@functools.cache  # because what is left is said again before each run
def seconds_per_step(config: Config) -> float:
    """Time of a step without compilation, measured over a few steps on black images."""
    parallel.check_batch_size(config.batch_size)
    size = image_size(config)
    config = config.resolved(size, 0)
    network, optimizer = networks.from_config(config, CLASSES), training.make_optimizer(config)
    black = np.zeros((config.batch_size, size, size, 1), np.uint8)
    train_data = training.TrainData(black, np.zeros(len(black), np.int32), jax.random.key(0))
    state = training.compute_once(lambda: training.init_state(network, optimizer, config, 1))
    state, train_data = parallel.replicate((state, train_data))
    train_steps = training.make_train_steps(network, optimizer, config.max_shift)
    batches = training.make_batches(np.broadcast_to(np.arange(len(black), dtype=np.int32), (_STEPS, len(black))))
    for _ in range(2):  # the first call compiles
        began = time.monotonic()
        state, metrics = train_steps(state, train_data, batches)
        jax.block_until_ready(metrics)
    return (time.monotonic() - began) / _STEPS
