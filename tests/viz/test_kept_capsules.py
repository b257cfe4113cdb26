"""Statistics of kept capsules against slow versions and made-up cases, and the figures of capsules and poses."""

import matplotlib.colors
import numpy as np
import pytest

from lcaps_jax.data import Split
from lcaps_jax.nn.outputs import Geometry, LadderCapsNetOutput
from lcaps_jax.viz import capsules, style
import workloads

_GRID = Geometry(grid=6, capsules=72, stride=2, receptive_field=17)  # two types, for images of 28 pixels
_NAMES = list("abcdefghij")


def _output(kept_index, activity=None):
    count = len(kept_index)
    unused = {name: np.zeros((count, 72)) for name in ("primary_activity", "code", "kept_capsules")}
    activity = np.zeros((count, 10)) if activity is None else activity
    return LadderCapsNetOutput(activity=activity, kept_index=np.array(kept_index), **unused)


def _bars(columns):
    """Images with an upright bar at each of these columns, three pixels wide."""
    images = np.zeros((len(columns), 28, 28, 1), np.uint8)
    for image, column in zip(images, columns):
        image[8:20, column - 1 : column + 2] = 255
    return images


def _at(column, kind=0):
    """Indices of one type of capsules at all rows of a column of the grid."""
    return [(row * 6 + column) * 2 + kind for row in range(6)]


@pytest.mark.parametrize("columns, slope", [((0, 2, 4), 1), ((1, 2, 3), 0.5), ((2, 2, 2), 0)])
def test_following_is_the_slope_of_the_kept_capsules_against_the_object(columns, slope):
    found = capsules.following(_bars([9, 13, 17]), _output([_at(column) for column in columns]), _GRID)
    np.testing.assert_allclose(found, slope, atol=1e-5)


def test_following_is_nan_where_objects_hardly_move_or_images_are_empty():
    for images in (_bars([13, 14, 13]), np.zeros((3, 28, 28, 1), np.uint8)):
        assert np.isnan(capsules.following(images, _output([_at(0), _at(2), _at(4)]), _GRID))


def test_kept_capsules_follow_in_a_canonical_frame():
    model, images = workloads.untrained_model(frame="affine"), _bars([5, 13, 22])
    assert 0.8 < capsules.following(images, model(images), model.geometry) < 1.2


def test_description_has_a_remark_for_each_shortcoming():
    split = Split(_bars([9, 13, 17]), np.array([1, 2, 3]))
    good = [[*_at(column), *_at(column, 1)] for column in (0, 2, 4)]
    assert capsules.describe(split, _output(good), _GRID).count(". ") == 1  # what is kept, and what is shared
    stays = capsules.describe(split, _output([_at(2)] * 3), _GRID)
    assert "1 of 2 types" in stays and "100 %" in stays and "0.0 pixels" in stays and stays.count(". ") == 2
    one = capsules.describe(split.take([0]), _output([_at(0)]), _GRID)
    assert "1 of 2 types" in one and one.count(".") == 1
    many = Geometry(grid=6, capsules=288, stride=2, receptive_field=17)
    few_types = capsules.describe(split.take([0]), _output([[0, 8, 16]]), many)
    assert "1 of 8 types" in few_types and few_types.count(".") == 2


def test_dots_are_where_kept_capsules_look():
    index = [[0, 1, 2 * (6 * 2 + 5)]]  # both types at row 0, column 0; one at row 2, column 5
    figure = capsules.kept_capsules(workloads.random_split(1), _output(index), _GRID, _NAMES, "made")
    dots = figure.axes[0].patches
    assert [dot.center for dot in dots] == [(8, 8), (18, 12)]  # x, y of what each sees, 17 pixels wide
    np.testing.assert_allclose([dot.radius for dot in dots], [1, 0.5**0.5])  # the area by the number kept


def test_dots_lie_inside_the_frame_around_the_object():
    images = np.zeros((1, 40, 40, 1), np.uint8)
    images[0, 5:25, 20:30] = 255
    model = workloads.untrained_model(frame="affine")
    split = Split(images, np.zeros(1, np.int32))
    axes = capsules.kept_capsules(split, model(images), model.geometry, _NAMES, "made").axes[0]
    outline, *dots = axes.patches
    assert dots
    for point in ((24.5, 14.5), *(dot.center for dot in dots)):  # the middle of the bar, x first
        assert outline.contains_point(outline.get_transform().transform(point))


def _colours(axes):
    return [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in axes.patches]


def test_the_true_class_is_green_and_a_wrong_prediction_is_not():
    activity = np.array([[0.1, 0.9, 0.2], [0.8, 0.1, 0.3]])
    split = Split(np.zeros((2, 28, 28, 1), np.uint8), np.array([1, 2]))
    figure = capsules.kept_capsules(split, _output([[0, 5], [3, 4]], activity), _GRID, list("abc"), "made")
    right, wrong = (axes for axes in figure.axes if not axes.images)
    assert _colours(right) == [style.OTHER, style.TRUE, style.OTHER]
    assert _colours(wrong) == [style.WRONG, style.OTHER, style.TRUE]


def test_images_are_in_rows_of_four_above_the_description():
    split, model = workloads.random_split(6), workloads.untrained_model()
    output = model(split.images)
    figure = capsules.kept_capsules(split, output, model.geometry, model.class_names, "made")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6 and figure.get_figwidth() < 7
    np.testing.assert_array_equal(np.squeeze(shown[5].images[0].get_array()), np.squeeze(split.images[5]))
    words = figure._supxlabel.get_text().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert words == capsules.describe(split, output, model.geometry)
