"""The pictures hold what they should; how they look is for people."""

from matplotlib.patches import Circle, Polygon
import numpy as np
from PIL import Image
import pytest

from lcaps_jax.data import Split
from lcaps_jax.networks import NetworkOutput
from lcaps_jax.networks.base import geometry
from lcaps_jax.training import Evaluation
from lcaps_jax.views import plots
import workloads


def _evaluation(split, wrong):
    predicted = split.labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    margin = np.zeros(len(split))
    margin[wrong] = np.linspace(0.1, 0.9, len(wrong))
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (split.labels, predicted), 1)
    activity = np.linspace(0, 1, 72)
    return Evaluation(len(split), 0.1, confusion, activity, activity > 0.9, predicted, margin)


def test_all_are_written(tmp_path):
    split = workloads.random_split(40)
    run = workloads.untrained_run("abcdefghij")
    plots.write_all(run, tmp_path, {"made": _evaluation(split, [3, 5])}, {"made": split})
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        "training_curve.png", "confusion_made.png", "activity_made.png", "mistakes_made.png", "capsules_made.png",
    }  # fmt: skip
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 200


@pytest.mark.parametrize(
    "model, drawn", [("lcapsnet", {"capsules"}), ("capsnet", {"reconstructions", "perturbations"})]
)
def test_a_network_with_a_frame_is_drawn_on_images_of_another_size(tmp_path, model, drawn):
    split = workloads.random_split(9, size=40)
    run = workloads.untrained_run(model=model, frame="affine", frame_size=20, conv1_kernel=5)
    plots.write_all(run, tmp_path, {"made": _evaluation(split, [3])}, {"made": split})
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names >= {f"{name}_made.png" for name in drawn}


def test_poses_are_marked_right_or_wrong_and_framed():
    images = workloads.random_split(2, size=28).images
    run = workloads.untrained_run(frame="affine")
    activities = {"plain": np.eye(3)[[2, 0]], "framed": np.eye(3)[[2, 2]]}
    errors = {"plain": [12.5, 40], "framed": [1, 2]}
    figure = plots.poses(images, run(images), activities, errors, ["up", "down"], label=2)
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert [column[:2] for column in texts] == [
        ["2 \N{CHECK MARK}", "errs 12.5 %"], ["0 \N{BALLOT X}", "errs 40.0 %"],
        ["2 \N{CHECK MARK}", "errs 1.0 %"], ["2 \N{CHECK MARK}", "errs 2.0 %"],
    ]  # fmt: skip
    assert [sum(isinstance(patch, Polygon) for patch in axes.patches) for axes in figure.axes] == [1, 1, 0, 0]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["up", "down"]


def test_the_frame_is_drawn_over_the_image_and_the_capsules_lie_in_it():
    images = np.zeros((1, 40, 40, 1), np.uint8)
    images[0, 5:25, 20:30] = 255
    split = Split(images, np.zeros(1, np.int32))
    run = workloads.untrained_run(frame="affine")
    output = run(images)
    axes = plots.kept_capsules(split, output, run.geometry, list("abcdefghij"), "made").axes[0]
    (outline,) = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    assert outline.contains_point(outline.get_transform().transform((24.5, 14.5)))  # the middle of the bar, x first
    dots = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert dots and all(outline.contains_point(outline.get_transform().transform(dot.center)) for dot in dots)


@pytest.mark.parametrize("channels", [1, 3])
def test_worst_mistakes_come_first_by_margin(channels):
    split = workloads.random_split(80, channels=channels)
    wrong = list(range(0, 60, 2))
    figure = plots.worst_mistakes(_evaluation(split, wrong), split, list("abcdefghij"), "made")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 25 and titles[0].endswith("margin 0.90")
    worst = wrong[-1]
    assert titles[0].startswith(f"{'abcdefghij'[split.labels[worst]]} taken for")
    np.testing.assert_array_equal(np.squeeze(figure.axes[0].images[0].get_array()), np.squeeze(split.images[worst]))
    assert figure._suptitle.get_text() == "made: the 25 worst of 30 mistakes"


def test_no_mistakes_is_a_picture_too():
    split = workloads.random_split(10)
    figure = plots.worst_mistakes(_evaluation(split, []), split, list("abcdefghij"), "made")
    assert figure._suptitle.get_text() == "made: the 0 worst of 0 mistakes"


def test_confusion_counts_and_profile_ranks():
    split = workloads.random_split(40)
    evaluation = _evaluation(split, [3, 5])
    axes = plots.confusion_matrix(evaluation, list("abcdefghij"), "made").axes[0]
    assert sum(int(text.get_text()) for text in axes.texts) == 40
    assert np.trace(np.asarray(axes.images[0].get_array())) == 0
    bars = [bar.get_height() for bar in plots.activity_profile(evaluation, "made").axes[0].patches]
    np.testing.assert_allclose(bars, np.sort(evaluation.primary_activity)[::-1])


def test_kept_capsules_sit_where_they_look():
    sizes = geometry(28, 9, 9, capsule_types=2)
    split = workloads.random_split(1)
    index = np.array([[0, 1, 2 * (6 * 2 + 5)]])  # both types at row 0, column 0; one at row 2, column 5
    output = NetworkOutput(*(np.zeros((1, 10)),) * 4, index, None, None, None)
    dots = plots.kept_capsules(split, output, sizes, list("abcdefghij"), "made").axes[0].patches
    assert [dot.center for dot in dots] == [(8, 8), (18, 12)]  # x, y of what each sees, 17 pixels wide
    np.testing.assert_allclose([dot.radius for dot in dots], [1, 0.5**0.5])  # the area by the number kept


def test_names_with_slashes_and_many_classes(tmp_path):
    plots.save(plots.training_curve([]), tmp_path, "confusion_emnist/balanced")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["confusion_emnist_balanced.png"]
    evaluation = Evaluation(1, 0.0, np.eye(1000, dtype=int), np.ones(3), np.ones(3), np.zeros(1, int), np.zeros(1))
    assert max(plots.confusion_matrix(evaluation, [str(i) for i in range(1000)], "made").get_size_inches()) <= 14


def test_what_stands_between_dollars_is_no_formula(tmp_path):
    split = workloads.random_split(10)
    names = [r"$\no formula$", "5 $", *"cdefghij"]
    run = workloads.untrained_run(names)
    plots.write_all(run, tmp_path, {"$_$": _evaluation(split, range(10))}, {"$_$": split})  # a formula would raise
    axes = plots.confusion_matrix(_evaluation(split, [1]), names, "made").axes[0]
    axes.figure.draw_without_rendering()
    assert [label.get_text().replace("\\$", "$") for label in axes.get_yticklabels()] == names


def test_training_curve_has_a_line_for_each_split():
    lines = [
        {"step": i, "epoch": i / 10, "split": split, "loss": 1 / i, "error": 10.0 / i}
        for i in range(1, 20)
        for split in ("train", "sample")
    ]
    figure = plots.training_curve(lines)
    assert [line.get_label() for line in figure.axes[1].lines] == ["train", "sample"]
    np.testing.assert_allclose(figure.axes[1].lines[1].get_ydata()[-1], 10 / 19)
