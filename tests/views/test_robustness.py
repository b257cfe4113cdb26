"""Transformed images against slow obvious versions, and what poses do under them on poses made for it."""

import dataclasses
import types

import numpy as np
import pytest
from scipy import ndimage

from lcaps_jax import data, load_pretrained
from lcaps_jax.views import robustness
from lcaps_jax.views.robustness import ROTATION, SCALE, SHEAR, SHIFT


def test_a_kind_changes_that_alone():
    names = {ROTATION: "rotation", SHEAR: "shear", SCALE: "scale", SHIFT: "shift"}
    still = robustness.transformation(SHIFT, np.zeros(2))
    assert not any(np.asarray(value).any() for value in (still.rotation, still.shear, still.shift))
    np.testing.assert_array_equal(still.scale, np.ones((2, 2)))
    expected = {
        ROTATION: np.deg2rad([-30.0, 4]),
        SHEAR: [-30.0, 4],
        SCALE: [[-30.0, -30], [4, 4]],
        SHIFT: [[0, -30], [0, 4]],  # to the right, not down
    }
    for kind, name in names.items():
        done = robustness.transformation(kind, np.array([-30, 4]))
        np.testing.assert_allclose(getattr(done, name), expected[kind], rtol=1e-6)
        for other in set(names.values()) - {name}:
            np.testing.assert_array_equal(getattr(done, other), getattr(still, other))


@pytest.mark.parametrize(
    "kind, amount, inverse",
    [
        # Of (row, column) in the result to that in the image: scikit-image's and SciPy's way round.
        (ROTATION, 90.0, [[0, 1], [-1, 0]]),
        (ROTATION, 30.0, [[np.sqrt(0.75), 0.5], [-0.5, np.sqrt(0.75)]]),
        (SHEAR, 0.3, [[1, -0.3], [0, 1]]),
        (SCALE, 1.25, [[0.8, 0], [0, 0.8]]),
    ],
)
def test_images_are_transformed_about_their_middle(kind, amount, inverse):
    images = np.random.default_rng(0).uniform(size=(2, 9, 9, 3)).astype(np.float32)
    moved = robustness.transform(images, kind, np.full(2, amount))
    middle = np.array([4, 4])
    for image, result in zip(images, moved):
        for channel in range(3):
            black_around = np.pad(image[..., channel], 9)
            offset = middle + 9 - inverse @ middle
            expected = ndimage.affine_transform(black_around, inverse, offset, order=1, output_shape=(9, 9))
            np.testing.assert_allclose(result[..., channel], expected, atol=1e-5)


def test_errors_are_computed_batch_by_batch():
    """By a run that cannot be called with all the images, whose network says which half is the brighter one."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    images = np.zeros((50, 20, 20, 1), np.uint8)
    images[np.arange(50), :, 6 + 5 * labels] = 255

    def batches(moved):
        for start in range(0, len(moved), 20):
            part = moved[start : start + 20]
            halves = np.stack([part[:, :, :10].sum(axis=(1, 2, 3)), part[:, :, 10:].sum(axis=(1, 2, 3))], axis=1)
            yield types.SimpleNamespace(activity=halves)

    run = types.SimpleNamespace(batches=batches)
    found = robustness.errors(run, data.Split(images, labels.astype(np.int32)), kinds=[SHIFT])
    amounts, errors = found[SHIFT]
    expected = [100 * np.mean((6 + 5 * labels + amount >= 10) != labels) for amount in amounts]
    np.testing.assert_allclose(errors, expected)


def test_pose_changes_of_poses_made_for_it():
    amounts = np.linspace(-2, 2, 5)
    labels = np.array([0, 0, 1, 1])
    start = np.broadcast_to([1.0, 0, 0], (4, 5, 3))

    def change(slopes, bent=0.0):
        slopes = np.array(slopes)[:, None, None] * [0, 1, 0]
        return robustness.pose_change(amounts, start + amounts[:, None] * slopes + bent * amounts[:, None] ** 2, labels)

    kept = change([0, 0, 0, 0])
    assert kept.turned == 0 and np.isnan([kept.straight, kept.shared]).all()
    alike = change([0.5, 0.5, -0.5, -0.5])  # to (1, ±1, 0): half a right angle
    np.testing.assert_allclose(dataclasses.astuple(alike), [45, 1, 1])
    # Straight each, but the other of the class goes the other way: worse than to say that nothing changes.
    opposed = change([0.5, -0.5, 0.5, -0.5])
    np.testing.assert_allclose(dataclasses.astuple(opposed), [45, 1, -3], atol=1e-6)
    halved = change([0.5, 0.5, 0.5, 0])  # nothing is explained of the third; the fourth is said to move
    np.testing.assert_allclose([halved.straight, halved.shared], [1, (0.5 - 0.25 - 0.25 + 0.25) / 0.75], atol=1e-6)
    # A parabola beside the line: its variance over these amounts is 2.8 in each of three dimensions, the line's 0.5.
    bent = change([0.5] * 4, bent=1.0)
    np.testing.assert_allclose([bent.straight, bent.shared], 0.5 / (0.5 + 3 * 2.8), atol=1e-6)


def test_poses_are_those_of_the_true_class_of_the_moved_images():
    run = load_pretrained()
    split = data.load("sample").test.take(range(3))
    amounts, poses = robustness.MODERATE[robustness.SHIFT], robustness.poses(run, split)[robustness.SHIFT]
    assert poses.shape == (3, len(amounts), 8) and amounts[len(amounts) // 2] == 0
    moved = np.zeros_like(split.images)
    moved[:, :, 4:] = split.images[:, :, :-4]
    pose = run(moved).pose
    expected = [pose[i, label] for i, label in enumerate(split.labels)]
    np.testing.assert_allclose(poses[:, list(amounts).index(4)], expected, atol=1e-4)
