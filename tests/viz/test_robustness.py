"""Errors and poses under transformations, on networks and poses made for it, and their curves."""

import types

import numpy as np

from lcaps_jax import data
from lcaps_jax.infer.pretrained import load_model
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


def test_pose_changes_of_poses_made_for_it():
    amounts = np.linspace(-2, 2, 5)
    labels = np.array([0, 0, 1, 1])
    start = np.broadcast_to([1.0, 0, 0], (4, 5, 3))

    def change(slopes, bent=0.0):
        slopes = np.array(slopes)[:, None, None] * [0, 1, 0]
        return robustness.pose_change(amounts, start + amounts[:, None] * slopes + bent * amounts[:, None] ** 2, labels)

    constant = change([0, 0, 0, 0])
    assert constant.turned == 0 and np.isnan([constant.straight, constant.shared]).all()
    np.testing.assert_allclose(change([0.5, 0.5, -0.5, -0.5]), [45, 1, 1])  # to (1, ±1, 0): half a right angle
    # Straight each, but the other of the class goes the other way: worse than a constant.
    np.testing.assert_allclose(change([0.5, -0.5, 0.5, -0.5]), [45, 1, -3], atol=1e-6)
    halved = change([0.5, 0.5, 0.5, 0])  # nothing is explained of the third; the fourth is predicted to move
    np.testing.assert_allclose([halved.straight, halved.shared], [1, (0.5 - 0.25 - 0.25 + 0.25) / 0.75], atol=1e-6)
    # A parabola beside the line: its variance over these amounts is 2.8 in each of three dimensions, the line's 0.5.
    bent = change([0.5] * 4, bent=1.0)
    np.testing.assert_allclose([bent.straight, bent.shared], 0.5 / (0.5 + 3 * 2.8), atol=1e-6)


def test_poses_are_those_of_the_true_class_of_the_moved_images():
    model = load_model("mnist_small")
    split = data.load("sample").test.take(np.arange(3))
    amounts, poses = robustness.MODERATE[SHIFT], robustness.true_poses(model, split)[SHIFT]
    assert poses.shape[:2] == (3, len(amounts)) and amounts[len(amounts) // 2] == 0
    moved = np.zeros_like(split.images)
    moved[:, :, 4:] = split.images[:, :, :-4]
    pose = model(moved).pose
    expected = [pose[i, label] for i, label in enumerate(split.labels)]
    np.testing.assert_allclose(poses[:, list(amounts).index(4)], expected, atol=1e-4)


def test_binned_errors_count_every_image_once():
    values, edges = np.array([0, 6, 7, 8, 9]), np.array([0, 3, 7, 9, 10])
    bins = robustness.binned_errors(values, edges, {"a": np.array([0, 1, 1, 1, 0])})
    assert [(each.low, each.high, each.count) for each in bins] == [(0, 3, 1), (3, 7, 1), (7, 9, 2), (9, 10, 1)]
    assert [each.errors["a"] for each in bins] == [0, 100, 100, 0] and bins[2].mean == 7.5
    (line,) = robustness.binned_error_curves({"shift": bins}, [1000]).axes[0].lines[:1]
    np.testing.assert_array_equal(line.get_xydata(), [(0, 0), (6, 100), (7.5, 100), (9, 0)])


def test_networks_with_different_classes_have_a_line_at_chance_each():
    by_kind = {kind: (np.arange(3), np.array([1, 20, 60])) for kind in ("rotation", "shear", "scale")}
    figure = robustness.error_curves({"one": by_kind, "other": by_kind}, {3, 10})
    assert len(figure.axes[0].texts) == 2
    for axes in figure.axes:
        assert len(axes.lines) == 4 and axes.get_ylim()[0] == 0 < 90 < axes.get_ylim()[1]
    low = {"one": {"rotation": (np.arange(3), np.array([1, 2, 3]))}}
    assert len(robustness.error_curves(low, [10]).axes[0].lines) == 1
