"""The paper's Figure 4: how active the most active capsules are, for three K."""

import numpy as np

from experiments import zeros
from experiments.output import save_plot
from experiments.plan import Plan
from lcaps_jax.views import plots


def run(plan: Plan) -> None:
    """Draws the mean activity of the most active capsules for K = 50, 70, 100 over all training zeros."""
    if means := zeros.means(plan, "figure4", [f"mnist_9x9_k{k}" for k in (50, 70, 100)]):
        activities = {plan.settings_of(name, seed=0).k: np.array(each["activity"]) for name, each in means.items()}
        save_plot(plan.workdir, "figure4", plots.activity_levels(activities))
