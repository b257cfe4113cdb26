"""The means of figures 1 and 4, and the plot and table that are made of them."""

import jax
import numpy as np

from experiments import figure1, zeros
from lcaps_jax.views import plots
import workloads


def test_mean_activity_and_coupling_are_means_over_all_images():
    run = workloads.untrained_run(model="capsnet")
    # Far from the start, where all classes are coupled alike.
    run.params["routing"] = jax.tree.map(lambda x: 30 * x, run.params["routing"])
    images = workloads.random_split(130).images
    activity, coupling = zeros.primary_means(run, images, 3)
    output = jax.jit(run.network.apply)({"params": run.params}, images / np.float32(255))
    np.testing.assert_allclose(activity, output.primary_activity.mean(axis=0), atol=1e-5)
    coupled = np.asarray(output.coupling.mean(axis=0))
    np.testing.assert_allclose(coupling, coupled[:, 3], atol=1e-5)
    assert np.abs(coupled[:, 3:4] - np.delete(coupled, 3, axis=1)).max(axis=0).min() > 1e-4
    drawn = plots.lengths_and_couplings(activity, coupling).axes
    ranked = np.argsort(-activity, kind="stable")[:100]
    first, rest = figure1.couplings_by_rank(activity, coupling)
    assert first["capsules, by mean length"] == "1 to 50" and rest["capsules, by mean length"] == "51 to 72"
    assert first["largest coupling"] == f"{coupling[ranked[:50]].max():.3f}"
    for axes, values in zip(drawn, (activity, coupling), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], values[ranked])
