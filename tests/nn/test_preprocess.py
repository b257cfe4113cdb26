"""Networks behind their preprocessing: the network inside, the background, moved images, and the rotation search."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import data
from lcaps_jax.data import affnist
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.nn.preprocess import combined
from lcaps_jax.ops import frames
from lcaps_jax.util.errors import ConfigError
import workloads

_NETWORKS = [{}, {"model": "capsnet"}, {"model": "cnn"}]


def _images(count=6, size=40):
    """Bars in the middle of a canvas, with nothing near its border."""
    inside = workloads.random_split(count, size=20).images.astype(np.float32) / 255
    inside = np.where(inside > 0.4, inside, 0)
    return np.pad(inside, ((0, 0), *((size // 2 - 10,) * 2,) * 2, (0, 0)))


@pytest.mark.parametrize("settings", _NETWORKS)
def test_it_is_the_network_inside_on_the_picture_with_the_same_parameters(settings):
    framed, bare = workloads.untrained_model(frame="affine", **settings), workloads.untrained_model(**settings)
    assert jax.tree.map(jnp.shape, framed.params) == jax.tree.map(jnp.shape, bare.params)
    images = _images()
    output = framed(images)
    frame = frames.frame_of(images)
    picture = frames.resample(images, frame, 28)
    np.testing.assert_allclose(output.view.picture, picture, atol=1e-5)
    np.testing.assert_allclose(output.view.frame.centre, frame.centre, atol=1e-4)
    expected = dataclasses.replace(bare, params=framed.params)(np.clip(picture, 0, 1))
    np.testing.assert_allclose(output.activity, expected.activity, atol=1e-5)
    labels = np.arange(len(images), dtype=np.int32)
    loss = framed.network.loss(output, labels, images)  # of the picture, where there is a decoder
    np.testing.assert_allclose(loss, bare.network.loss(expected, labels, picture), rtol=1e-3)
    assert framed.geometry == bare.geometry


@pytest.mark.parametrize("settings", _NETWORKS)
def test_with_its_background_subtracted_an_image_is_the_same_on_any_background(settings):
    subtracted, kept = (workloads.untrained_model(background=each, **settings) for each in ("subtracted", "kept"))
    images, light = _images(size=28) / 2, _images(size=28) / 2 + np.float32(0.4)
    on_black = subtracted(images).activity
    np.testing.assert_array_equal(on_black, kept(images).activity)  # where there is none to subtract
    without, with_ = (np.abs(model(light).activity - on_black).max() for model in (subtracted, kept))
    assert with_ > 20 * without


@pytest.mark.parametrize("settings", _NETWORKS)
def test_by_the_distance_from_its_background_an_image_is_the_same_in_other_colours(settings):
    see = workloads.untrained_model(background="distance", channels=3, **settings)
    grey = _images(size=28) / 2
    red_on_black = np.concatenate([grey, 0 * grey, 0 * grey], axis=-1)
    dark_on_colour = np.float32([0.3, 0.9, 0.6]) - red_on_black[..., [1, 0, 2]]
    expected = see(red_on_black).activity
    recoloured, fainter = (np.abs(see(each).activity - expected).max() for each in (dark_on_colour, red_on_black / 2))
    assert recoloured < 1e-5 and fainter > 20 * recoloured


@pytest.mark.parametrize("settings", _NETWORKS)
def test_whole_pixel_shifts_change_nothing_but_the_frame(settings):
    model, images = workloads.untrained_model(frame="affine", **settings), _images()
    output = model(images)
    for shift in ((4, -7), (-9, 9)):
        other = model(np.roll(images, shift, axis=(1, 2)))
        np.testing.assert_allclose(other.activity, output.activity, atol=1e-5)
        np.testing.assert_allclose(other.view.frame.centre, output.view.frame.centre + np.array(shift), atol=1e-4)
    # A larger canvas is the same image, moved.
    larger = model(np.pad(images, ((0, 0), (3, 9), (0, 12), (0, 0))))
    np.testing.assert_allclose(larger.activity, output.activity, atol=1e-5)


def test_shear_and_scale_change_the_shipped_network_far_less_than_another_digit_does():
    """Digits, and the same ones sheared by up to 0.2 and scaled by up to a fifth along each axis."""
    model = load_model("mnist_framed")
    digits = data.load("sample").test.images[:20].astype(np.float32) / 255
    digits = np.pad(digits, ((0, 0), (6, 6), (6, 6), (0, 0)))
    done = affnist.Transformation(
        rotation=jnp.zeros(20), shear=jnp.linspace(-0.2, 0.2, 20),
        scale=jnp.stack([jnp.linspace(0.8, 1.2, 20), jnp.linspace(1.2, 0.8, 20)], axis=1),
        shift=jnp.zeros((20, 2), jnp.int32),
    )  # fmt: skip
    warped = np.clip(affnist.warp(digits[..., 0], done, 40)[..., None], 0, 1)
    before, after = model(digits), model(warped)

    def relative(images, others):
        return np.abs(others - images).mean() / np.abs(np.diff(images, axis=0)).mean()

    change = relative(before.view.picture, after.view.picture)
    assert change < 0.3 and relative(digits, warped) > 1.3 * change
    predicted = before.activity.argmax(axis=1)
    np.testing.assert_array_equal(after.activity.argmax(axis=1), predicted)
    change = np.abs(after.activity - before.activity)
    assert change[np.arange(len(change)), predicted].max() <= 0.15 and change.mean() <= 0.01


def test_a_search_weighs_the_classes_over_all_angles():
    model = workloads.untrained_model(frame="affine")
    images, angles = _images(), (-20.0, 0.0, 35.0)
    found = model.with_rotation_search(angles)(images)
    single = [model.with_rotation_search([angle])(images) for angle in angles]
    chosen = set()
    for i in range(len(images)):
        shares = np.array([output.activity[i] / output.activity[i].sum() for output in single])
        activity = np.mean(shares**8, axis=0) ** (1 / 8)
        np.testing.assert_allclose(found.activity[i], activity, rtol=1e-4)
        which = np.argmax(shares[:, np.argmax(activity)])
        assert found.view.angle[i] == angles[which]
        np.testing.assert_allclose(found.view.picture[i], single[which].view.picture[i], atol=1e-5)
        chosen.add(which)
    assert len(chosen) > 1


def test_a_class_that_stands_out_at_one_angle_wins_over_one_that_is_active_beside_others():
    activity = np.array([[[0.8, 0.7, 0.7]], [[0.1, 0.1, 0.6]]], np.float32)  # two angles of one image
    together, best = combined(activity)
    assert np.argmax(together) == 2 and best == 1
    together, _ = combined(np.zeros((2, 1, 3), np.float32))  # of which no class is active
    np.testing.assert_array_equal(together, np.zeros((1, 3)))


def test_training_pictures_are_moved_in_their_frame_by_their_keys():
    model = workloads.untrained_model(frame="affine", max_shift=2)
    images, keys = np.repeat(_images(1), 200, axis=0), jax.random.split(jax.random.key(0), 200)
    apply = jax.jit(lambda params, *batch: model.network.apply({"params": params}, *batch, train=True))
    frame = apply(model.params, images, jnp.zeros(200, int), keys).view.frame
    offset = (frames.frame_of(images[:1]).centre - frame.centre) @ np.linalg.inv(frame.matrix[0]).T
    np.testing.assert_allclose(offset, np.rint(offset), atol=1e-3)
    assert {tuple(row) for row in np.rint(offset).astype(int)} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_rotation_searches_that_cannot_be_are_refused():
    for frame, angle in (("none", 0), ("centre", 200), ("centre", float("nan"))):
        with pytest.raises(ConfigError, match=f"^search_angles={angle}: "):
            workloads.untrained_model(frame=frame).with_rotation_search([angle])
