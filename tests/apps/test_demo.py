"""What the demo page computes, and what it refuses."""

import dataclasses
import types
from unittest import mock

import jax
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
import numpy as np
import pytest

from lcaps_jax.apps import demo
from lcaps_jax.data import Brightness, DataError, image_io
from lcaps_jax.nn.outputs import Output
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.viz import style
import workloads


def _seven() -> np.ndarray:
    field = np.zeros((280, 280), np.uint8)
    field[40:60, 60:200] = 255
    for row in range(60, 220):
        field[row, 200 - (row - 60) // 2 - 20 : 200 - (row - 60) // 2] = 255
    return field


def test_a_drawing_is_prepared_as_the_training_images_are():
    model = workloads.untrained_model()
    np.testing.assert_array_equal(demo.prepared(_seven(), model), image_io.centred(_seven(), 28))
    small = workloads.untrained_model(image_size=20)
    assert np.ptp(np.flatnonzero(demo.prepared(_seven(), small).any(axis=1))) < 18  # scaled down with its border
    other = workloads.untrained_model(dataset="folder")
    expected = image_io.fit_size(_seven()[None, ..., None], 28)
    np.testing.assert_array_equal(demo.prepared(_seven(), other), expected[0, ..., 0])
    output, _ = demo.explain(other, _seven())
    np.testing.assert_allclose(output.activity, other(expected).activity, atol=1e-5)
    assert demo.preparation(model) != demo.preparation(other)


def test_a_drawing_is_dark_on_light_where_the_training_images_are():
    model = workloads.untrained_model(dataset="folder")
    light = dataclasses.replace(model, brightness=Brightness((0.9, 1.0), (0.1, 0.0)))
    dark = dataclasses.replace(model, brightness=Brightness((0.1, 0.0), (0.1, 0.0)))
    image = 255 - image_io.fit_size(_seven()[None, ..., None], 28)
    activity = demo.explain(light, _seven())[0].activity
    np.testing.assert_allclose(activity, light(image).activity, atol=1e-5)
    assert not np.array_equal(demo.explain(dark, _seven())[0].activity, activity)


def test_what_is_shown_is_what_the_network_computes():
    model = workloads.untrained_model()
    output, figure = demo.explain(model, _seven())
    expected = model(image_io.centred(_seven(), 28)[None, ..., None])
    np.testing.assert_allclose(output.activity, expected.activity, atol=1e-5)
    seen, kept, regressed, bar = figure.axes
    np.testing.assert_allclose(kept.images[0].get_array(), expected.kept_capsules[0], atol=1e-5)
    assert bar.get_xlim() == (-1, 1)
    figure.draw_without_rendering()
    assert seen.get_position().y0 > max(axes.get_position().y1 for axes in (kept, regressed))  # for narrow screens
    assert not np.array_equal(demo.explain(model, _seven(), 90.0, 0.5, 0.2, 3, -3)[0].activity, output.activity)


@pytest.mark.parametrize("size", [1, 2001])
def test_drawings_of_odd_shapes_are_refused(size):
    with pytest.raises(DataError):
        demo.explain(workloads.untrained_model(), np.zeros((size, 10, 4 * size), np.uint8))


def test_the_networks_of_the_package_are_one_without_and_one_with_a_frame():
    plain, framed = demo.packaged().values()
    assert plain.network.frame is None and framed.network.frame and len(framed.network.angles) == 5
    for model, amounts in ((plain, ()), (framed, ()), (framed, (15, 0.6, 0.3, 5, -4))):
        activity = demo.explain(model, _seven(), *amounts)[0].activity[0]
        assert model.class_names[int(activity.argmax())] == "7"


@pytest.mark.parametrize(
    "settings, panels",
    [
        ({"model": "capsnet"}, 2),
        ({"model": "cnn"}, 1),
        ({"regression": False}, 1),
        ({"frame": "affine"}, 4),
        ({"frame": "affine", "model": "capsnet"}, 2),
        ({"frame": "affine", "model": "cnn"}, 1),
    ],
)
def test_every_network_can_be_looked_into(settings, panels):
    model = workloads.untrained_model(**settings)
    _, figure = demo.explain(model, _seven())
    assert len(figure.axes) == panels
    outlines = [patch for patch in figure.axes[0].patches if isinstance(patch, Polygon)]
    text = demo.answer(model, _seven())
    assert len(outlines) == ("frame" in settings) == (style.FRAME_CAPTION in text)
    assert ("Orange dots" in text) == ("model" not in settings) and ("matrices" in text) == (panels == 4)
    assert ("decoder" in text) == (settings.get("model") == "capsnet")
    assert ("This is the image" in text) == (settings == {"model": "cnn"})


def test_a_network_of_colour_images_is_refused():
    with pytest.raises(ConfigError):
        demo.warm_up(dataclasses.replace(workloads.untrained_model(), channels=3))


def test_an_answer_has_the_ten_highest_activities_in_the_order_of_the_classes(monkeypatch):
    activities = {"<b>": 0.628, "dog": 0.9, **{f"class {i}": 0.1 for i in range(9)}, "none": 0.0}
    output = Output(activity=np.array([[*activities.values()]]))
    monkeypatch.setattr(demo, "explain", lambda *_: (output, Figure()))
    html = demo.answer(types.SimpleNamespace(class_names=list(activities)), None)
    assert "<b>dog</b>" in html and '<th scope="row">&lt;b&gt;</th>' in html and "<td>0.63</td>" in html
    assert html.count("<tr") == 10 and "none" not in html and html.index("&lt;b&gt;</th>") < html.index("dog</th>")


def test_nothing_is_compiled_for_the_first_stroke():
    warm, cold = (workloads.untrained_model(k=k) for k in (4, 3))  # which no other test compiles
    demo.warm_up(warm)
    with jax.no_tracing(True):
        demo.answer(warm, _seven(), 20, 0.9, 0.1, 2, -1)
        with pytest.raises(RuntimeError, match="no_tracing"):
            demo.answer(cold, _seven(), 20, 0.9, 0.1, 2, -1)


@pytest.mark.parametrize("error, said", [(OSError("busy"), "port=7860"), (ConfigError("no run"), "no run")])
def test_an_address_or_a_run_that_cannot_be_used_ends_the_demo_with_one_line(monkeypatch, error, said):
    given = {"workdir": "", "host": "192.0.2.1", "port": 7860}
    flags = {name: types.SimpleNamespace(value=value) for name, value in given.items()}
    monkeypatch.setattr(demo.flags, "FLAGS", flags)
    monkeypatch.setattr(demo, "page", mock.Mock(**{"return_value.launch.side_effect": error}))
    with pytest.raises(SystemExit, match=said):
        demo.main([])
