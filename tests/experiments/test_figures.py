"""Figures of the experiments and what is computed for them, on poses and made-up cases."""

from matplotlib.patches import Polygon
import numpy as np

from experiments import figures
from lcaps_jax import data
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.nn import Geometry
from lcaps_jax.viz import style
from lcaps_jax.viz.transforms import SHIFT
import workloads

_GRID = Geometry(grid=6, capsules=72, stride=2, receptive_field=17)  # two types


def test_overlap_against_every_pair():
    rng = np.random.default_rng(0)
    index = np.stack([rng.choice(np.arange(0, 60, 2), 5, replace=False) for _ in range(12)])  # of the first type alone
    labels = np.arange(12) % 3
    found = figures.overlap(index, labels, _GRID)
    shares = {(i, j): len(set(index[i]) & set(index[j])) / 5 for i in range(12) for j in range(12) if i != j}
    alike = {pair: share for pair, share in shares.items() if labels[pair[0]] == labels[pair[1]]}
    np.testing.assert_allclose(found["in_common"], np.mean(list(shares.values())))
    np.testing.assert_allclose(found["in_common_of_class"], np.mean(list(alike.values())))
    others = [share for pair, share in shares.items() if pair not in alike]
    np.testing.assert_allclose(found["in_common_of_others"], np.mean(others))
    assert (found["k"], found["capsules"], found["types"], found["types_ever"]) == (5, 72, 2, 1)
    assert found["ever"] == len(set(index.ravel()))


def test_overlap_is_nan_without_pairs():
    found = figures.overlap(np.array([[0, 1], [0, 2]]), np.array([3, 4]), _GRID)
    assert np.isnan(found["in_common_of_class"]) and found["in_common_of_others"] == 0.5
    alone = figures.overlap(np.array([[0, 1]]), np.array([3]), _GRID)
    assert np.isnan(alone["in_common"]) and np.isnan(alone["in_common_of_others"])


def test_pose_changes_of_poses_made_for_it():
    amounts = np.linspace(-2, 2, 5)
    labels = np.array([0, 0, 1, 1])
    start = np.broadcast_to([1.0, 0, 0], (4, 5, 3))

    def change(slopes, bent=0.0):
        slopes = np.array(slopes)[:, None, None] * [0, 1, 0]
        return figures.pose_change(amounts, start + amounts[:, None] * slopes + bent * amounts[:, None] ** 2, labels)

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
    amounts, poses = figures.MODERATE[SHIFT], figures.true_poses(model, split)[SHIFT]
    assert poses.shape[:2] == (3, len(amounts)) and amounts[len(amounts) // 2] == 0
    moved = np.zeros_like(split.images)
    moved[:, :, 4:] = split.images[:, :, :-4]
    pose = model(moved).pose
    expected = [pose[i, label] for i, label in enumerate(split.labels)]
    np.testing.assert_allclose(poses[:, list(amounts).index(4)], expected, atol=1e-4)


def test_binned_errors_count_every_image_once():
    values, edges = np.array([0, 6, 7, 8, 9]), np.array([0, 3, 7, 9, 10])
    bins = figures.binned_errors(values, edges, {"a": np.array([0, 1, 1, 1, 0])})
    assert [(each.low, each.high, each.count) for each in bins] == [(0, 3, 1), (3, 7, 1), (7, 9, 2), (9, 10, 1)]
    assert [each.errors["a"] for each in bins] == [0, 100, 100, 0] and bins[2].mean == 7.5
    (line,) = figures.binned_error_curves({"shift": bins}, [1000]).axes[0].lines[:1]
    np.testing.assert_array_equal(line.get_xydata(), [(0, 0), (6, 100), (7.5, 100), (9, 0)])


def test_poses_are_marked_right_or_wrong_and_framed():
    images = workloads.random_split(2, size=28).images
    output = workloads.untrained_model(frame="affine")(images)
    activities = {"plain": np.eye(3)[[2, 0]], "framed": np.eye(3)[[2, 2]]}
    errors = {"plain": [12.5, 40], "framed": [1, 2]}
    figure = figures.poses(images, output, activities, errors, ["up", "down"], label=2)
    predictions = [(axes.texts[0].get_text()[0], axes.texts[0].get_color()) for axes in figure.axes]
    assert predictions == [("2", style.TRUE), ("0", style.WRONG), ("2", style.TRUE), ("2", style.TRUE)]
    assert [axes.texts[1].get_text()[:4] for axes in figure.axes] == ["12.5", "40.0", "1.0 ", "2.0 "]
    assert [sum(isinstance(patch, Polygon) for patch in axes.patches) for axes in figure.axes] == [1, 1, 0, 0]
