"""The paper's Figures 1 and 4: what the primary capsules do over all training zeros of MNIST."""

import itertools
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.figures import activity_levels, lengths_and_couplings
from experiments.output import Rows, rounded, save_figure
from experiments.results import measured_of, read_measured
from lcaps_jax.data import api
from lcaps_jax.infer.model import Model

_ZERO = 0


def measure(model: Model, data_dir: str) -> dict[str, Any]:
    """Mean activity of each primary capsule, and its mean coupling coefficient to the class where there is routing.

    The means are over all 5,923 zeros of MNIST's training part. The paper's 5,444 cannot be picked out of them, because
    TFDS does not keep MNIST's order.
    """
    train = api.load("mnist", data_dir).train
    activity, coupling = means(model, train.images[train.labels == _ZERO], _ZERO)
    return {"zeros": {"activity": rounded(activity), "coupling": rounded(coupling)}}


def means(model: Model, images: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean activity of each primary capsule, ``[n]``, and its mean coupling to a class, None without routing."""

    def sums(output):
        coupling = getattr(output, "coupling", None)
        coupling = None if coupling is None else coupling[..., label]
        return jax.tree.map(lambda x: x.sum(axis=0, dtype=np.float64), (output.primary_activity, coupling))

    parts = [sums(output) for output in model.batches(images)]
    return jax.tree.map(lambda *each: sum(each) / len(images), *parts)


def figure1(figures: pathlib.Path, data_dir: str) -> Rows:
    """Draws mean length and mean coupling of CapsNet's most active capsules; the rows are the figure in numbers."""
    del data_dir
    if not (found := measured_of("mnist_capsnet", "zeros", read_measured())):
        print("figure1: not measured. Train mnist_capsnet, and add it with --measure=zeros.")
        return []
    activity, coupling = np.array(found[0]["activity"]), np.array(found[0]["coupling"])
    save_figure(lengths_and_couplings(activity, coupling), figures, "couplings_mnist")
    return couplings_by_rank(activity, coupling)


def couplings_by_rank(activity: np.ndarray, coupling: np.ndarray) -> Rows:
    """Mean lengths and couplings by rank, also of capsules that the figure does not show; both arrays are ``[n]``."""
    ranked = np.argsort(-activity, kind="stable")
    edges = [*(edge for edge in (0, 50, 100, 300, 600) if edge < len(ranked)), len(ranked)]
    return [
        {
            "capsules, by mean length": f"{low + 1} to {high}",
            "mean length": f"{activity[ranked[low:high]].mean():.2f}",
            "median coupling": f"{np.median(coupling[ranked[low:high]]):.3f}",
            "largest coupling": f"{coupling[ranked[low:high]].max():.3f}",
        }
        for low, high in itertools.pairwise(edges)
    ]


def figure4(figures: pathlib.Path, data_dir: str) -> Rows:
    """Draws the mean activity of the most active capsules for K = 50, 70 and 100."""
    del data_dir
    measured = read_measured()
    found = {k: measured_of(f"mnist_9x9_k{k}", "zeros", measured) for k in (50, 70, 100)}
    activities = {k: np.array(each[0]["activity"]) for k, each in found.items() if each}
    save_figure(activity_levels(activities), figures, "activity_levels_mnist")
    return []
