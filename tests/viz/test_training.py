"""The figures of a run hold what they should; how they look is for people."""

import matplotlib
import numpy as np
from PIL import Image
import pytest

from experiments import figures
from lcaps_jax.train.evaluate import Evaluation
from lcaps_jax.viz import capsules, robustness, style, training
import workloads

_NAMES = list("abcdefghij")


def _evaluation(split, wrong):
    predicted = split.labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    margin = np.zeros(len(split))
    margin[wrong] = np.linspace(0.1, 0.9, len(wrong))
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (split.labels, predicted), 1)
    activity = np.linspace(0, 1, 72)
    return Evaluation(len(split), 0.1, confusion, activity, activity > 0.9, predicted, margin)


@pytest.mark.parametrize("frame", [{}, {"frame": "affine"}], ids=["whole", "framed"])
@pytest.mark.parametrize(
    "model, examples", [("lcapsnet", {"capsules"}), ("capsnet", {"reconstructions"}), ("cnn", set())]
)
def test_every_kind_is_written_with_its_caption(tmp_path, model, examples, frame):
    split = workloads.random_split(9, size=40 if frame else 28)
    model = workloads.untrained_model(model=model, **frame)
    training.write_figures(model, tmp_path, {"made": _evaluation(split, [3])}, {"made": split})
    paths = {path.stem.removesuffix("_made"): path for path in (tmp_path / "figures").iterdir()}
    assert set(paths) == {"training_curve", "confusion", "activity", "mistakes"} | examples
    for kind, path in paths.items():
        caption = style.caption_of(path)
        assert caption.startswith(training.CAPTIONS[kind].format(name="made"))
        if kind == "capsules":
            output = model(split.images[:8])
            assert caption.endswith(capsules.describe(split.take(np.arange(8)), output, model.geometry))
        with Image.open(path) as image:
            assert min(image.size) > 200
            image.convert("RGB").save(path)  # without metadata
        assert style.caption_of(path) == ""


def test_names_may_hold_slashes_and_dollar_signs(tmp_path):
    split = workloads.random_split(10)
    names = [r"$\no formula$", "5 $", *"cdefghij"]
    model = workloads.untrained_model(class_names=names)
    training.write_figures(model, tmp_path, {"a/$_$": _evaluation(split, range(10))}, {"a/$_$": split})  # or it raises
    assert (tmp_path / "figures" / "confusion_a___.png").exists()
    axes = training.confusion_matrix(_evaluation(split, [1]), names, "made").axes[0]
    axes.figure.draw_without_rendering()
    assert [label.get_text().replace("\\$", "$") for label in axes.get_yticklabels()] == names


@pytest.mark.parametrize("channels", [1, 3])
def test_worst_mistakes_come_first_by_margin(channels):
    split = workloads.random_split(80, channels=channels)
    wrong = list(range(0, 60, 2))
    figure = training.worst_mistakes(_evaluation(split, wrong), split, _NAMES, "made")
    above = [[(text.get_text(), text.get_color()) for text in axes.texts] for axes in figure.axes if axes.texts]
    worst, true = wrong[-1], split.labels[wrong[-1]]
    assert len(above) == 25
    margin, predicted, label = above[0]
    assert "0.90" in margin[0] and label == (_NAMES[true], style.TRUE)
    assert predicted[0].endswith(_NAMES[(true + 1) % 10]) and predicted[1] == style.WRONG
    np.testing.assert_array_equal(np.squeeze(figure.axes[0].images[0].get_array()), np.squeeze(split.images[worst]))
    training.worst_mistakes(_evaluation(split, []), split, _NAMES, "made")  # none is a figure too


def test_confusion_counts_and_profile_ranks():
    split = workloads.random_split(40)
    evaluation = _evaluation(split, [3, 5])
    axes = training.confusion_matrix(evaluation, _NAMES, "made").axes[0]
    assert sum(int(text.get_text()) for text in axes.texts) == 40
    assert sum(int(text.get_text()) for text in axes.texts if text.get_color() == style.TRUE) == 38
    assert np.trace(np.asarray(axes.images[0].get_array())) == 0
    bars = [bar.get_height() for bar in training.activity_profile(evaluation, "made").axes[0].patches]
    np.testing.assert_allclose(bars, np.sort(evaluation.primary_activity)[::-1])
    many = Evaluation(1, 0.0, np.eye(1000, dtype=int), np.ones(3), np.ones(3), np.zeros(1, int), np.zeros(1))
    assert max(training.confusion_matrix(many, list(map(str, range(1000))), "made").get_size_inches()) <= 14


def _lines(first_error):
    return [
        {"step": i, "epoch": i / 10, "split": split, "loss": 1 / i, "error": first_error / i}
        for i in range(1, 20)
        for split in ("train", "sample")
    ]


def test_training_curve_has_a_line_for_each_split_and_one_at_chance():
    errors, losses = training.training_curve(_lines(85.0), classes=10).axes
    train, sample, chance = errors.lines
    assert [train.get_label(), sample.get_label()] == ["train", "sample"]
    np.testing.assert_allclose(sample.get_ydata()[-1], 85 / 19)
    np.testing.assert_allclose(chance.get_ydata(), 90)
    (label,) = errors.texts
    assert "90 %" in label.get_text() and label.zorder > max(line.zorder for line in errors.lines)
    assert len(losses.lines) == 2 and not losses.texts
    assert not training.training_curve(_lines(10.0), classes=10).axes[0].texts  # chance is far above the curves


def test_no_curve_or_bar_has_matplotlib_s_own_colours():
    """Which would give networks the green of what is right."""
    evaluation = _evaluation(workloads.random_split(40), [3, 5])
    curves = {f"network {i}": {"rotation": (np.arange(3), np.arange(3))} for i in range(4)}
    posed = {name: {"rotation": {"activity": np.arange(3), "pose": np.ones((3, 4))}} for name in curves}
    strange = "#123456"
    with matplotlib.rc_context({"axes.prop_cycle": matplotlib.cycler(color=[strange])}):
        drawn_figures = [
            training.training_curve(_lines(85.0), 10), training.activity_profile(evaluation, "made"),
            robustness.error_curves(curves, [10]), figures.activity_levels({5: np.ones(9), 7: np.ones(9)}),
            figures.lengths_and_couplings(np.ones(9), np.ones(9)),
            figures.activity_curves(3, {"rotation": np.arange(3)}, posed),
        ]  # fmt: skip
    for figure in drawn_figures:
        for axes in (axes for axes in figure.axes if axes.get_label() != "<colorbar>"):
            drawn = [*(line.get_color() for line in axes.lines), *(bar.get_facecolor() for bar in axes.patches)]
            assert drawn and not any(matplotlib.colors.same_color(colour, strange) for colour in drawn)
