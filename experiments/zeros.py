"""What primary capsules do over all training zeros, for figures 1 and 4."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.measurements import Measurement, collect, rounded
from experiments.plan import Plan
from lcaps_jax import data
from lcaps_jax.runs import Run

_ZERO = 0


def means(plan: Plan, experiment: str, flagfiles: Sequence[str]) -> dict[str, dict]:
    """Mean ``activity`` and ``coupling`` of the primary capsules of cells that have been trained, by flagfile."""

    def measure(run):
        activity, coupling = primary_means(run, _zeros(plan), _ZERO)
        return {"activity": rounded(activity), "coupling": rounded(coupling)}

    measurement = Measurement("zeros", {"dataset": "mnist", "digit": _ZERO}, measure)
    found = collect(experiment, plan.finished(experiment, flagfiles), measurement)
    return {name: measured for name, (measured,) in found.items()}


def _zeros(plan: Plan) -> np.ndarray:
    """All 5,923 zeros of MNIST's training part.

    The paper's 5,444 cannot be picked out of them, because TFDS does not keep MNIST's order.
    """
    train = data.load("mnist", plan.data_dir).train
    return train.images[train.labels == _ZERO]


def primary_means(run: Run, images: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean activity of each primary capsule, ``[n]``, and its mean coupling to a class, None without routing."""

    def sums(output):
        coupling = None if output.coupling is None else output.coupling[..., label]
        return jax.tree.map(lambda x: x.sum(axis=0, dtype=np.float64), (output.primary_activity, coupling))

    parts = [sums(output) for output in run.batches(images)]
    return jax.tree.map(lambda *each: sum(each) / len(images), *parts)
