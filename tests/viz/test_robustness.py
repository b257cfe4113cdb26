"""Errors under transformations, on a network made for it, and their curves."""

import types

import numpy as np

from lcaps_jax import data
from lcaps_jax.viz import robustness
from lcaps_jax.viz.transforms import SHIFT


def test_errors_are_computed_batch_by_batch():
    """By a model that cannot be called with all images, whose network says which half is the brighter one."""
    labels = np.random.default_rng(0).integers(0, 2, 50)
    images = np.zeros((50, 20, 20, 1), np.uint8)
    images[np.arange(50), :, 6 + 5 * labels] = 255

    def batches(moved):
        for start in range(0, len(moved), 20):
            part = moved[start : start + 20]
            halves = np.stack([part[:, :, :10].sum(axis=(1, 2, 3)), part[:, :, 10:].sum(axis=(1, 2, 3))], axis=1)
            yield types.SimpleNamespace(activity=halves)

    model = types.SimpleNamespace(batches=batches)
    amounts, errors = robustness.errors(model, data.Split(images, labels.astype(np.int32)), kinds=[SHIFT])[SHIFT]
    expected = [100 * np.mean((6 + 5 * labels + amount >= 10) != labels) for amount in amounts]
    np.testing.assert_allclose(errors, expected)


def test_networks_with_different_classes_have_a_line_at_chance_each():
    by_kind = {kind: (np.arange(3), np.array([1, 20, 60])) for kind in ("rotation", "shear", "scale")}
    figure = robustness.error_curves({"one": by_kind, "other": by_kind}, {3, 10})
    assert len(figure.axes[0].texts) == 2
    for axes in figure.axes:
        assert len(axes.lines) == 4 and axes.get_ylim()[0] == 0 < 90 < axes.get_ylim()[1]
    low = {"one": {"rotation": (np.arange(3), np.array([1, 2, 3]))}}
    assert len(robustness.error_curves(low, [10]).axes[0].lines) == 1
