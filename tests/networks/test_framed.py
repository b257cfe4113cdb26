"""Networks behind a frame: what they owe to the network inside, and what a moved image does to them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import data, frames, networks, pretrained
from lcaps_jax.data import affnist
from lcaps_jax.errors import ArgumentError
from lcaps_jax.networks import framed
from lcaps_jax.training.steps import compute_once, init_params
import workloads

_NETWORKS = [{}, {"model": "capsnet"}, {"model": "cnn"}]


def _images(count=6, size=40):
    """Bars in the middle of a canvas, with nothing near its border."""
    inside = workloads.random_split(count, size=20).images.astype(np.float32) / 255
    inside = np.where(inside > 0.4, inside, 0)
    return np.pad(inside, ((0, 0), *((size // 2 - 10,) * 2,) * 2, (0, 0)))


@pytest.mark.parametrize("settings", _NETWORKS)
def test_it_is_the_network_inside_on_the_picture_with_the_same_parameters(settings):
    framed, bare = workloads.untrained_run(frame="affine", **settings), workloads.untrained_run(**settings)
    assert jax.tree.map(jnp.shape, framed.params) == jax.tree.map(jnp.shape, bare.params)
    images = _images()
    output = framed(images)
    picture = frames.resample(images, frames.frame_of(images), 28)
    np.testing.assert_allclose(output.picture, picture, atol=1e-5)
    expected = dataclasses.replace(bare, params=framed.params)(np.clip(picture, 0, 1))
    np.testing.assert_allclose(output.activity, expected.activity, atol=1e-5)
    np.testing.assert_allclose(output.frame.centre, frames.frame_of(images).centre, atol=1e-4)
    labels = np.arange(len(images), dtype=np.int32)
    loss = framed.network.loss(output, labels, images)  # of the picture, where there is a decoder
    np.testing.assert_allclose(loss, bare.network.loss(expected, labels, picture), rtol=1e-3)
    assert framed.geometry == bare.geometry


@pytest.mark.parametrize("settings", _NETWORKS)
def test_without_its_ground_an_image_is_the_same_on_any_ground(settings):
    removed, kept = (workloads.untrained_run(ground=ground, **settings) for ground in ("removed", "kept"))
    images, light = _images(size=28) / 2, _images(size=28) / 2 + np.float32(0.4)
    on_black = removed(images).activity
    np.testing.assert_array_equal(on_black, kept(images).activity)  # where there is none to remove
    without, with_ = (np.abs(run(light).activity - on_black).max() for run in (removed, kept))
    assert with_ > 20 * without
    # The frame is read off the image as it is, and the network inside sees its picture without the ground.
    framed = workloads.untrained_run(ground="removed", frame="affine", **settings).network
    assert (framed.ground, framed.network.ground) == ("kept", "removed")


@pytest.mark.parametrize("settings", _NETWORKS)
def test_by_the_distance_from_its_ground_an_image_is_the_same_in_other_colours(settings):
    config = workloads.tiny_config(ground="distance", **settings)
    network = networks.from_config(config, 10)
    params = compute_once(lambda: init_params(network, config, 3))
    see = jax.jit(lambda images: network.apply({"params": params}, images).activity)
    grey = _images(size=28) / 2
    red_on_black = np.concatenate([grey, 0 * grey, 0 * grey], axis=-1)
    dark_on_colour = np.float32([0.3, 0.9, 0.6]) - red_on_black[..., [1, 0, 2]]
    expected = see(red_on_black)
    recoloured, fainter = (np.abs(see(images) - expected).max() for images in (dark_on_colour, red_on_black / 2))
    assert recoloured < 1e-5 and fainter > 20 * recoloured


@pytest.mark.parametrize("settings", _NETWORKS)
def test_whole_pixel_shifts_change_nothing_but_the_frame(settings):
    run = workloads.untrained_run(frame="affine", **settings)
    images = _images()
    output = run(images)
    for shift in ((4, -7), (-9, 9)):
        other = run(np.roll(images, shift, axis=(1, 2)))
        np.testing.assert_allclose(other.activity, output.activity, atol=1e-5)
        np.testing.assert_allclose(other.frame.centre, output.frame.centre + np.array(shift), atol=1e-4)
    # A larger canvas is the same image, moved.
    larger = run(np.pad(images, ((0, 0), (3, 9), (0, 12), (0, 0))))
    np.testing.assert_allclose(larger.activity, output.activity, atol=1e-5)


def _sheared_and_scaled():
    """Digits, and the same ones sheared by up to 0.2 and scaled by up to a fifth along each axis."""
    digits = data.load("sample").test.images[:20].astype(np.float32) / 255
    digits = np.pad(digits, ((0, 0), (6, 6), (6, 6), (0, 0)))
    done = affnist.Transformation(
        rotation=jnp.zeros(20), shear=jnp.linspace(-0.2, 0.2, 20),
        scale=jnp.stack([jnp.linspace(0.8, 1.2, 20), jnp.linspace(1.2, 0.8, 20)], axis=1),
        shift=jnp.zeros((20, 2), jnp.int32),
    )  # fmt: skip
    return digits, np.clip(affnist.warp(digits[..., 0], done, 40)[..., None], 0, 1)


def test_shear_and_scale_change_a_picture_far_less_than_another_digit_does():
    run = workloads.untrained_run(frame="affine")
    digits, warped = _sheared_and_scaled()
    pictures, others = run(digits).picture, run(warped).picture
    change, between = np.abs(others - pictures).mean(), np.abs(np.diff(pictures, axis=0)).mean()
    assert change < 0.3 * between
    assert np.abs(warped - digits).mean() / np.abs(np.diff(digits, axis=0)).mean() > 1.3 * change / between


def test_shear_and_scale_change_the_activities_of_the_shipped_network_within_the_tolerance_of_the_page():
    run = pretrained.load_pretrained("mnist_framed")
    digits, warped = _sheared_and_scaled()
    before, after = run(digits).activity, run(warped).activity
    predicted = before.argmax(axis=1)
    np.testing.assert_array_equal(after.argmax(axis=1), predicted)
    change = np.abs(after - before)
    assert change[np.arange(len(change)), predicted].max() <= 0.15 and change.mean() <= 0.01


def test_a_search_weighs_the_classes_over_all_angles():
    run = workloads.untrained_run(frame="affine")
    images, angles = _images(), (-20.0, 0.0, 35.0)
    found = run.searching(angles)(images)
    single = [run.searching([angle])(images) for angle in angles]
    chosen = set()
    for i in range(len(images)):
        shares = np.array([output.activity[i] / output.activity[i].sum() for output in single])
        activity = np.mean(shares**8, axis=0) ** (1 / 8)
        np.testing.assert_allclose(found.activity[i], activity, rtol=1e-4)
        which = np.argmax(shares[:, np.argmax(activity)])
        assert found.angle[i] == angles[which]
        np.testing.assert_allclose(found.picture[i], single[which].picture[i], atol=1e-5)
        chosen.add(which)
    assert len(chosen) > 1


def test_a_class_that_stands_out_at_one_angle_wins_over_one_that_is_active_beside_others():
    activity = np.array([[[0.8, 0.7, 0.7]], [[0.1, 0.1, 0.6]]], np.float32)  # two angles of one image
    together, best = framed.combined(activity)
    assert np.argmax(together) == 2 and best == 1
    together, _ = framed.combined(np.zeros((2, 1, 3), np.float32))  # of which no class is active
    np.testing.assert_array_equal(together, np.zeros((1, 3)))


def test_training_pictures_are_moved_in_their_frame_by_their_keys():
    network = workloads.untrained_run(frame="affine", max_shift=2).network
    params = workloads.untrained_run().params
    images = np.repeat(_images(1), 200, axis=0)
    output = network.apply({"params": params}, images, jnp.zeros(200, int), jax.random.split(jax.random.key(0), 200))
    offset = (frames.frame_of(images[:1]).centre - output.frame.centre) @ np.linalg.inv(output.frame.matrix[0]).T
    np.testing.assert_allclose(offset, np.rint(offset), atol=1e-3)
    assert {tuple(row) for row in np.rint(offset).astype(int)} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ArgumentError, match="search_angles: the network was trained without a frame to turn"):
        workloads.untrained_run().searching([0])
    with pytest.raises(ArgumentError, match="search_angles=200: must be numbers of degrees from -180 to 180"):
        workloads.untrained_run(frame="centre").searching([0, 200])
