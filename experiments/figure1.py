"""The paper's Figure 1: how long CapsNet's capsules are, and how strongly they couple to the class."""

import itertools

import numpy as np

from experiments import zeros
from experiments.output import save_plot, write_table
from experiments.plan import Plan
from lcaps_jax.views import plots


def run(plan: Plan) -> None:
    """Draws mean length and mean coupling of CapsNet's most active capsules over all training zeros."""
    for means in zeros.means(plan, "figure1", ["mnist_capsnet"]).values():
        activity, coupling = np.array(means["activity"]), np.array(means["coupling"])
        save_plot(plan.workdir, "figure1", plots.lengths_and_couplings(activity, coupling))
        write_table(plan.workdir, "figure1", couplings_by_rank(activity, coupling))


def couplings_by_rank(activity: np.ndarray, coupling: np.ndarray) -> list[dict]:
    """The figure in numbers, including the capsules that it does not show; both arrays are ``[n]``."""
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
