"""The pictures hold what they should; how they look is for people."""

import re

import matplotlib
from matplotlib.patches import Circle, Polygon
import numpy as np
from PIL import Image
import pytest

from lcaps_jax.data import Split
from lcaps_jax.networks import NETWORKS, NetworkOutput
from lcaps_jax.networks.base import geometry
from lcaps_jax.training import Evaluation
from lcaps_jax.views import kept, plots
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


def test_each_image_of_a_row_has_its_own_frame():
    images = np.zeros((3, 28, 28, 1), np.float32)
    for i, image in enumerate(images):
        image[5:15, 4 + 5 * i : 8 + 5 * i] = 1
    figure = plots.in_frames(images, workloads.untrained_run(frame="affine")(images), ["a", "b", "c"])
    middles = [patch.get_xy()[:4].mean(axis=0) for axes in figure.axes for patch in axes.patches]
    np.testing.assert_allclose(middles, [(5.5 + 5 * i, 9.5) for i in range(3)], atol=1e-3)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_s_frame_is_drawn_over_the_one_image_that_is_looked_into(model):
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[0, 5:20, 12:20] = 255
    for settings, count in (({"frame": "affine"}, 1), ({}, 0)):
        run = workloads.untrained_run(model=model, **settings)
        output = run(images)
        for figure in (
            plots.classified(images[0], output, run.geometry, run.class_names, "file"),
            plots.explained(images[0], output, run.geometry, run.class_names),
        ):
            outlines = [patch for patch in figure.axes[0].patches if isinstance(patch, Polygon)]
            assert len(outlines) == count
            if outlines:  # around the middle of the bar, x first
                assert outlines[0].contains_point(outlines[0].get_transform().transform((15.5, 12)))


@pytest.mark.parametrize("channels", [1, 3])
def test_worst_mistakes_come_first_by_margin(channels):
    split = workloads.random_split(80, channels=channels)
    wrong = list(range(0, 60, 2))
    figure = plots.worst_mistakes(_evaluation(split, wrong), split, list("abcdefghij"), "made")
    above = [[(text.get_text(), text.get_color()) for text in axes.texts] for axes in figure.axes if axes.texts]
    worst = wrong[-1]
    true = split.labels[worst]
    assert len(above) == 25 and [words for words, _ in above[0]] == [
        "margin 0.90", f"as {'abcdefghij'[(true + 1) % 10]}", "abcdefghij"[true],
    ]  # fmt: skip
    assert [colour for _, colour in above[0][1:]] == [plots.WRONG, plots.TRUE]
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
    right = sum(int(text.get_text()) for text in axes.texts if text.get_color() == plots.TRUE)
    assert right == np.trace(evaluation.confusion) == 38
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
    plots.save(plots.training_curve([], 10), tmp_path, "confusion_emnist/balanced")
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


def _lines(first_error):
    return [
        {"step": i, "epoch": i / 10, "split": split, "loss": 1 / i, "error": first_error / i}
        for i in range(1, 20)
        for split in ("train", "sample")
    ]


def test_training_curve_has_a_line_for_each_split_and_one_at_chance():
    figure = plots.training_curve(_lines(85.0), classes=10)
    errors, losses = figure.axes
    train, sample, chance = errors.lines
    assert [train.get_label(), sample.get_label()] == ["train", "sample"]
    np.testing.assert_allclose(sample.get_ydata()[-1], 85 / 19)
    np.testing.assert_allclose(chance.get_ydata(), 90)
    (label,) = errors.texts
    assert label.get_text() == "chance, 90 %" and _hex(label.get_bbox_patch()) == "#FFFFFF"
    assert label.zorder > max(line.zorder for line in errors.lines)
    assert len(losses.lines) == 2 and not losses.texts


def test_no_line_at_chance_flattens_curves_that_are_far_below():
    assert not plots.training_curve(_lines(10.0), classes=10).axes[0].texts
    errors = {"one": {"rotation": (np.arange(3), np.array([1, 2, 3]))}}
    assert not plots.errors_under(errors, [10]).axes[0].texts


def test_curves_of_networks_with_other_classes_have_a_line_at_chance_for_each():
    by_kind = {kind: (np.arange(3), np.array([1, 20, 60])) for kind in ("rotation", "shear", "scale")}
    figure = plots.errors_under({"one": by_kind, "other": by_kind}, {3, 10})
    assert [text.get_text() for text in figure.axes[0].texts] == ["chance, 66.7 %", "chance, 90 %"]
    for axes in figure.axes:
        assert len(axes.lines) == 4 and axes.get_ylim()[0] == 0 < 90 < axes.get_ylim()[1]


_SIGNS = (plots.TRUE, plots.WRONG, plots.KEPT, plots.FRAME, plots.PREDICTED, plots.OTHER)


def _rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


# Machado, Oliveira and Fernandes (2009), for linear RGB and full severity.
_BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("matrix", _BLIND.values(), ids=_BLIND)
def test_right_and_wrong_differ_for_colour_blind_people_too(matrix):
    def seen(colour):
        return np.clip(np.array(matrix) @ _rgb(colour) ** 2.2, 0, 1) ** (1 / 2.2)

    def apart(one, other):
        return np.linalg.norm(seen(one) - seen(other))

    assert apart(plots.TRUE, plots.WRONG) > 0.35
    for sign in (plots.TRUE, plots.WRONG, plots.PREDICTED):
        assert apart(sign, plots.OTHER) > 0.25, sign


def test_colours_are_named_in_one_place_and_those_with_a_meaning_are_not_used_for_curves():
    assert len(set(_SIGNS)) == len(_SIGNS)
    assert not set(_SIGNS) & {style["color"] for style in plots.SERIES}
    assert len({tuple(style.items()) for style in plots.SERIES}) == len(plots.SERIES) >= 9
    rooms = ("lcaps_jax", "experiments", "benchmarks", "scripts")
    files = [path for room in rooms for path in workloads.REPOSITORY.glob(f"{room}/**/*.py")]
    named = re.compile(r"tab:|[\"']C\d[\"']|\b(edge|face)?color=\[?[\"'](?!white|black)")
    by_number = re.compile(r"[\"']#(?!000000)[\da-fA-F]{3,8}[\"']")
    assert len(files) > 50
    assert [path.name for path in files if named.search(path.read_text())] == []
    assert [path.name for path in files if by_number.search(path.read_text())] == ["plots.py"]


def test_no_curve_or_bar_has_matplotlib_s_own_colours():
    """Which would give networks the green of what is right."""
    split = workloads.random_split(40)
    evaluation = _evaluation(split, [3, 5])
    curves = {f"network {i}": {"rotation": (np.arange(3), np.arange(3))} for i in range(4)}
    posed = {name: {"rotation": {"activity": np.arange(3), "pose": np.ones((3, 4))}} for name in curves}
    strange = "#123456"
    with matplotlib.rc_context({"axes.prop_cycle": matplotlib.cycler(color=[strange])}):
        figures = [
            plots.training_curve(_lines(85.0), 10), plots.activity_profile(evaluation, "made"),
            plots.errors_under(curves, [10]), plots.activity_levels({5: np.ones(9), 7: np.ones(9)}),
            plots.lengths_and_couplings(np.ones(9), np.ones(9)),
            plots.activity_under(3, {"rotation": np.arange(3)}, posed),
        ]  # fmt: skip
    for figure in figures:
        for axes in (axes for axes in figure.axes if axes.get_label() != "<colorbar>"):
            drawn = [*(line.get_color() for line in axes.lines), *(bar.get_facecolor() for bar in axes.patches)]
            assert drawn and not any(matplotlib.colors.same_color(colour, strange) for colour in drawn)


def test_a_bar_says_which_dimension_of_a_pose_a_line_is():
    swept = {"activity": np.arange(3), "pose": np.ones((3, 4))}
    figure = plots.activity_under(3, {"rotation": np.arange(3)}, {"one": {"rotation": swept}})
    *_, lines, bar = figure.axes
    assert bar.get_xlabel() == "dimension of the pose"
    assert [label.get_text() for label in bar.get_xticklabels()] == ["first", "last"]
    ends = bar.collections[-1].get_cmap()([0.0, 1.0])
    np.testing.assert_allclose([lines.lines[0].get_color(), lines.lines[-1].get_color()], ends, atol=1e-6)
    without = plots.activity_under(3, {"rotation": np.arange(3)}, {"CNN": {"rotation": {**swept, "pose": None}}})
    assert len(without.axes) == 1


def test_a_class_is_green_only_where_it_is_known_to_be_true():
    activity = np.array([[0.1, 0.9, 0.2], [0.8, 0.1, 0.3]])
    output = NetworkOutput(activity, *(np.zeros((2, 72)),) * 3, np.array([[0, 5], [3, 4]]))
    split = Split(np.zeros((2, 28, 28, 1), np.uint8), np.array([1, 2]))
    sizes = geometry(28, 9, 9, capsule_types=2)
    right, wrong = plots.kept_capsules(split, output, sizes, list("abc"), "made").axes[2:4]
    assert [_hex(bar) for bar in right.patches] == [plots.OTHER, plots.TRUE, plots.OTHER]
    assert [_hex(bar) for bar in wrong.patches] == [plots.WRONG, plots.OTHER, plots.TRUE]
    unknown = plots.classified(split.images[0], NetworkOutput(activity[:1]), None, list("abc"), "file").axes[1]
    assert [_hex(bar) for bar in unknown.patches] == [plots.OTHER, plots.PREDICTED, plots.OTHER]


def _hex(bar):
    return matplotlib.colors.to_hex(bar.get_facecolor()).upper()


def test_many_images_go_into_rows_of_four():
    split = workloads.random_split(6)
    run = workloads.untrained_run()
    figure = plots.kept_capsules(split, run(split.images), run.geometry, run.class_names, "made")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6 and figure.get_figwidth() < 7
    np.testing.assert_array_equal(np.squeeze(shown[5].images[0].get_array()), np.squeeze(split.images[5]))
    words = figure._supxlabel.get_text().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert words == kept.in_words(split, run(split.images), run.geometry)


def test_a_picture_carries_its_caption_and_without_one_has_that_of_its_kind(tmp_path):
    split = workloads.random_split(9)
    run = workloads.untrained_run()
    plots.write_all(run, tmp_path, {"made": _evaluation(split, [3])}, {"made": split})
    pictures = {path.stem.removesuffix("_made"): path for path in (tmp_path / "figures").iterdir()}
    assert set(pictures) <= set(plots.KINDS)
    measured = kept.in_words(split.take(np.arange(8)), run(split.images[:8]), run.geometry)
    for kind, path in pictures.items():
        expected = plots.KINDS[kind].caption.format(name="made")
        own = plots.caption_of(path, kind).removeprefix(expected).strip()
        assert own == measured if kind == "capsules" else bool(own) == (kind == "activity")
        with Image.open(path) as image:
            image.convert("RGB").save(path)  # as pictures of before are
        assert plots.caption_of(path, kind) == expected


@pytest.mark.parametrize("kind", plots.KINDS)
def test_captions_are_sentences(kind):
    caption = plots.KINDS[kind].caption.format(name="made")
    assert caption[0].isupper() and caption.endswith(".") and len(caption.split()) > 12
