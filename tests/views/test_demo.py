"""What the browser page computes, and what it refuses."""

import dataclasses
import socket

import jax
from matplotlib.patches import Polygon
import numpy as np
import pytest

from lcaps_jax import data
from lcaps_jax.config import ConfigError
from lcaps_jax.data import Ground, resize
from lcaps_jax.views import demo
import workloads


def _seven() -> np.ndarray:
    field = np.zeros((280, 280), np.uint8)
    field[40:60, 60:200] = 255
    for row in range(60, 220):
        field[row, 200 - (row - 60) // 2 - 20 : 200 - (row - 60) // 2] = 255
    return field


def test_a_drawing_is_centred_as_mnist_s_digits_are():
    image = resize.centred(_seven(), 28)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 <= 20
    ink = image / image.sum()
    centre = (np.arange(28) + 0.5) @ ink.sum(axis=1), (np.arange(28) + 0.5) @ ink.sum(axis=0)
    assert max(abs(c - 14) for c in centre) <= 0.55  # whole pixels
    np.testing.assert_array_equal(resize.centred(np.roll(_seven(), (30, 40), (0, 1)), 28), image)
    assert not resize.centred(np.zeros((280, 280), np.uint8), 28).any()
    faint = np.zeros((400, 400), np.uint8)
    faint[[0, -1], [0, -1]] = 1
    assert not resize.centred(faint, 28).any()
    assert resize.centred(np.full((5, 300), 255, np.uint8), 28).any()  # a line
    assert resize.centred(_seven(), 12).shape == (12, 12)


def test_a_drawing_becomes_what_the_run_s_own_images_are():
    run = workloads.untrained_run()
    np.testing.assert_array_equal(demo.prepared(_seven(), run), resize.centred(_seven(), 28))
    assert "centred as MNIST's digits are" in demo.explanation(run)
    small = dataclasses.replace(run, config=dataclasses.replace(run.config, image_size=20))
    assert np.ptp(np.flatnonzero(demo.prepared(_seven(), small).any(axis=1))) < 18  # scaled down with its border
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, dataset="folder"))
    expected = resize.fit_size(_seven()[None, ..., None], 28)[0, ..., 0]
    np.testing.assert_array_equal(demo.prepared(_seven(), other), expected)
    assert "the set folder, so a drawing is not centred" in demo.explanation(other)
    output = other(expected[None, ..., None])
    activities = demo.explainer(other)(_seven(), 0, 1, 0, 0, 0).activities
    np.testing.assert_allclose(list(activities.values()), output.activity[0], atol=1e-5)


def test_a_drawing_is_dark_on_light_where_the_run_s_images_are():
    run = workloads.untrained_run()
    light = dataclasses.replace(
        run, config=dataclasses.replace(run.config, dataset="folder"), ground=Ground((0.9, 1.0), (0.1, 0.0))
    )
    activities = demo.explainer(light)(_seven(), 0, 1, 0, 0, 0).activities
    image = 255 - resize.fit_size(_seven()[None, ..., None], 28)
    np.testing.assert_allclose(list(activities.values()), light(image).activity[0], atol=1e-5)
    assert "dark strokes on white" in demo.explanation(light)
    dark = dataclasses.replace(light, ground=Ground((0.1, 0.0), (0.1, 0.0)))
    assert demo.explainer(dark)(_seven(), 0, 1, 0, 0, 0).activities != activities


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros((3000, 10), np.uint8), r"1 to 2000 pixels along a side, got \(3000, 10\)"),
        (np.zeros((0, 10), np.uint8), "1 to 2000 pixels"),
        (np.zeros((10, 10)), "array .* of bytes"),
        ("picture", "array .* of bytes"),
    ],
)
def test_malformed_pictures_are_refused(picture, message):
    with pytest.raises(data.DataError, match=message):
        resize.centred(picture, 28)


def test_what_is_shown_is_what_the_network_computes():
    run = workloads.untrained_run()
    explain = demo.explainer(run)
    activities, figure, _ = explain(_seven(), 0, 1, 0, 0, 0)
    image = resize.centred(_seven(), 28)[None, ..., None]
    output = run(image)
    np.testing.assert_allclose(list(activities.values()), output.activity[0], atol=1e-5)
    assert list(activities) == list(run.class_names)
    seen, kept, regressed, bar = figure.axes
    assert seen.get_position().y0 > max(axes.get_position().y1 for axes in (kept, regressed))  # for narrow screens
    assert (bar.get_xlim(), bar.get_xlabel()) == ((-1, 1), "value in a capsule")
    assert explain(_seven(), 90.0, 0.5, 0.2, 3, -3).activities != activities
    black = np.zeros((280, 280), np.uint8)
    assert explain(black, 0, 1, 0, 0, 0).activities == explain(black, 45, 1, 0, 0, 0).activities
    for amounts in ((1e9, 1, 0, 0, 0), (0, 0.0, 0, 0, 0), (0, 1, "x", 0, 0), (float("nan"), 1, 0, 0, 0)):
        with pytest.raises(data.DataError, match="must be a number from"):
            explain(_seven(), *amounts)


def test_the_networks_of_the_package_are_one_without_and_one_with_a_frame():
    plain, framed = demo.packaged().values()
    assert not plain.config.framed and framed.config.framed
    assert len(framed.network.search_angles) == 5
    for run in (plain, framed):
        activities = demo.explainer(run)(_seven(), 0, 1, 0, 0, 0).activities
        assert max(activities, key=activities.get) == "7"
    activities = demo.explainer(framed)(_seven(), 15, 0.6, 0.3, 5, -4).activities
    assert max(activities, key=activities.get) == "7"


def test_every_network_can_be_looked_into_but_one_of_colours():
    words = {"Orange dots", "Blue lines", "In the matrices", "the decoder draws", "as the network gets it"}
    for settings, panels, said in (
        ({"model": "capsnet"}, 2, {"the decoder draws"}),
        ({"model": "cnn"}, 1, {"as the network gets it"}),
        ({"activity": "length"}, 1, {"Orange dots"}),
        ({"frame": "affine"}, 4, {"Orange dots", "Blue lines", "In the matrices"}),
        ({"frame": "affine", "model": "capsnet"}, 2, {"Blue lines", "the decoder draws"}),
        ({"frame": "affine", "model": "cnn"}, 1, {"Blue lines"}),
    ):
        run = workloads.untrained_run(**settings)
        look = demo.explainer(run)(_seven(), 0, 1, 0, 0, 0)
        assert len(look.figure.axes) == panels
        outlines = [patch for patch in look.figure.axes[0].patches if isinstance(patch, Polygon)]
        assert len(outlines) == ("Blue lines" in said)
        caption = demo.caption(look.output, run.class_names)
        assert {each for each in words if each in caption} == said
        assert caption in demo.answer(look)
    with pytest.raises(ConfigError, match="coloured"):
        demo.explainer(dataclasses.replace(workloads.untrained_run(), channels=3))


def test_activities_are_numbers_that_need_not_add_up_to_one():
    said = demo.activity_table({"<b>": 0.628, "dog": 0.9, **{f"class {i}": 0.1 for i in range(9)}, "none": 0.0})
    assert "Taken for <b>dog</b>" in said and "need not add up to 1" in said
    assert '<th scope="row">&lt;b&gt;</th>' in said and "<td>0.63</td>" in said and "%</td>" not in said
    assert said.count("<tr") == 10 and "none" not in said and said.index("&lt;b&gt;</th>") < said.index("dog</th>")


def test_nothing_is_compiled_for_the_first_stroke():
    warm, cold = (demo.explainer(workloads.untrained_run(k=k)) for k in (4, 3))  # which no other test compiles
    demo.warm_up(warm)
    with jax.no_tracing(True):
        demo.answer(warm(_seven(), 20, 0.9, 0.1, 2, -1))
        with pytest.raises(RuntimeError, match="no_tracing"):
            cold(_seven(), 20, 0.9, 0.1, 2, -1)


def test_a_port_that_is_taken_is_named_with_the_flag_to_change():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port={port}: another program listens there.* another port") as raised:
            demo.check_address("127.0.0.1", port)
        assert f"--port={port}: another" in raised.value.as_flags({"port"})
    demo.check_address("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"host=192\.0\.2\.1: is no address of this machine"):
        demo.check_address("192.0.2.1", port)
