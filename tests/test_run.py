"""A run is callable: images of any number, bytes or floats, to what the network computes of them."""

import dataclasses

import jax
import numpy as np
import pytest

import lcaps_jax
from lcaps_jax.data import DataError
import workloads


@pytest.mark.parametrize("settings", [{}, {"model": "capsnet"}, {"model": "cnn"}, {"activity": "length"}])
@pytest.mark.parametrize("count", [1, 3, 130])
def test_a_run_gives_the_network_s_output_whatever_the_number(settings, count):
    run = workloads.untrained_run(**settings)
    images = workloads.random_split(count).images
    output = run(images)
    expected = jax.jit(run.network.apply)({"params": run.params}, images / np.float32(255))
    assert jax.tree.structure(output) == jax.tree.structure(expected)
    np.testing.assert_allclose(output.activity, expected.activity, atol=1e-5)
    assert all(isinstance(leaf, np.ndarray) and len(leaf) == count for leaf in jax.tree.leaves(output))
    parts = list(run.batches(images))
    assert sum(len(part.activity) for part in parts) == count
    assert max(len(part.activity) for part in parts) <= 64  # so that many images take no more memory than some
    np.testing.assert_array_equal(np.concatenate([part.activity for part in parts]), output.activity)


def test_floats_are_taken_as_they_are():
    run = workloads.untrained_run()
    images = workloads.random_split(5).images
    for dtype in (np.float32, np.float64):
        np.testing.assert_allclose(run(images.astype(dtype) / 255).activity, run(images).activity, atol=1e-5)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 28, 28), np.uint8), r"images have the shape \(2, 28, 28\): this network takes \[N, 28, 28, 1\]"),
        (np.zeros((2, 20, 20, 1), np.uint8), r"the shape \(2, 20, 20, 1\)"),
        (np.zeros((0, 28, 28, 1), np.uint8), "N of at least 1"),
        (np.full((1, 28, 28, 1), 255.0), "images are float64 from 255 to 255: they must be bytes .* or floats from 0"),
        (np.full((1, 28, 28, 1), np.nan), "from nan to nan"),
        (np.zeros((1, 28, 28, 1), np.int64), "images are int64"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        workloads.untrained_run()(images)


@pytest.mark.parametrize("count", [0, 3])
def test_predictions_of_a_network_with_a_frame_say_the_frame_and_the_angle(count):
    run, images = workloads.untrained_run(frame="affine"), workloads.random_split(4, size=20).images
    predictions, output = lcaps_jax.predict(run, images[:count]), run(images)
    for name, value in dataclasses.asdict(output.frame).items():
        np.testing.assert_allclose(getattr(predictions.frame, name), value[:count], atol=1e-4)
    assert predictions.angle is None
    searched = lcaps_jax.predict(run.searching([-20, 20]), images[:count])
    assert searched.angle.shape == (count,) and set(searched.angle) <= {-20, 20}
    plain = lcaps_jax.predict(workloads.untrained_run(), workloads.random_split(1).images)
    assert plain.frame is None and plain.angle is None


@pytest.mark.parametrize("settings", [{}, {"model": "cnn"}])
@pytest.mark.parametrize("count", [0, 1, 70])
def test_predictions_are_names_activities_and_poses(settings, count):
    run = workloads.untrained_run(class_names=[f"class {i}" for i in range(10)], **settings)
    images = workloads.random_split(70).images
    output = run(images)
    for given in (images[:count], images[:count, ..., 0], images[:count].astype(np.float32) / 255):
        predictions = lcaps_jax.predict(run, given)
        np.testing.assert_allclose(predictions.activity, output.activity[:count], atol=1e-5)
        assert predictions.labels == tuple(f"class {j}" for j in predictions.activity.argmax(axis=1))
        if output.pose is None:
            assert predictions.pose is None
        else:
            np.testing.assert_allclose(predictions.pose, output.pose[:count], atol=1e-5)


@pytest.mark.parametrize(
    "images, message",
    [
        ([np.zeros((28, 28)), np.zeros((20, 20))], "images are not one array of images of one size"),
        (np.zeros((0, 20, 20, 1), np.uint8), r"this network takes \[N, 28, 28, 1\]"),
        (np.zeros((28, 28, 1), np.uint8), r"\(28, 28, 1, 1\): this network takes"),
        (7, r"the shape \(\)"),
        (np.full((2, 28, 28), 2.0), "floats from 0 to 1"),
    ],
)
def test_images_that_cannot_be_predicted_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        lcaps_jax.predict(workloads.untrained_run(), images)
