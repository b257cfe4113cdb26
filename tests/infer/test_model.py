"""A model is callable: images of any number, bytes or floats, to what the network computes of them."""

import dataclasses

import jax
import numpy as np
import pytest

from lcaps_jax.data import DataError
import workloads


@pytest.mark.parametrize(
    "count, settings",
    [(1, {}), (130, {}), (3, {"model": "capsnet"}), (3, {"model": "cnn"}), (3, {"regression": False})],
)
def test_a_model_gives_the_network_s_output_whatever_the_number(count, settings):
    model, images = workloads.untrained_model(**settings), workloads.random_split(count).images
    output = model(images)
    expected = jax.jit(model.network.apply)({"params": model.params}, images / np.float32(255))
    assert jax.tree.structure(output) == jax.tree.structure(expected)
    np.testing.assert_allclose(output.activity, expected.activity, atol=1e-5)
    assert all(isinstance(leaf, np.ndarray) and len(leaf) == count for leaf in jax.tree.leaves(output))
    parts = [part.activity for part in model.batches(images)]
    assert max(map(len, parts)) <= 64  # so that many images take no more memory than some
    np.testing.assert_array_equal(np.concatenate(parts), output.activity)


@pytest.mark.parametrize("settings", [{}, {"model": "cnn"}])
@pytest.mark.parametrize("count", [0, 1, 70])
def test_predictions_are_names_activities_and_poses(settings, count):
    model = workloads.untrained_model(class_names=[f"class {i}" for i in range(10)], **settings)
    images = workloads.random_split(70).images
    output = model(images)
    floats = images[:count].astype(np.float32) / 255
    for given in (images[:count], images[:count, ..., 0], floats, floats.astype(np.float64)):
        predictions = model.predict(given)
        np.testing.assert_allclose(predictions.activity, output.activity[:count], atol=1e-5)
        assert predictions.labels == tuple(f"class {j}" for j in predictions.activity.argmax(axis=1))
        assert predictions.frame is None and predictions.angle is None
        if output.pose is None:
            assert predictions.pose is None
        else:
            np.testing.assert_allclose(predictions.pose, output.pose[:count], atol=1e-5)


def test_predictions_of_a_network_with_a_frame_have_the_frame_and_the_angle():
    model, images = workloads.untrained_model(frame="affine"), workloads.random_split(3, size=20).images
    searching, frame = model.with_rotation_search([-20, 20]), model(images).view.frame
    for count in (0, 3):
        predictions = model.predict(images[:count])
        for name, value in dataclasses.asdict(frame).items():
            np.testing.assert_allclose(getattr(predictions.frame, name), value[:count], atol=1e-4)
        assert predictions.angle is None
        angle = searching.predict(images[:count]).angle
        assert angle.shape == (count,) and set(angle) <= {-20, 20}


@pytest.mark.parametrize(
    "images, accepted",
    [
        (np.zeros((2, 20, 20, 1), np.uint8), r"\[N, 28, 28, 1\]"),
        (np.zeros((0, 20, 20, 1), np.uint8), r"\[N, 28, 28, 1\]"),
        (np.zeros((28, 28, 1), np.uint8), r"\[N, 28, 28, 1\]"),
        (7, r"\[N, 28, 28, 1\]"),
        ([np.zeros((28, 28)), np.zeros((20, 20))], "one size"),
        (np.full((1, 28, 28, 1), 255.0), "float from 0 to 1"),
        (np.full((1, 28, 28, 1), np.nan), "float from 0 to 1"),
        (np.zeros((1, 28, 28, 1), np.int64), "uint8"),
    ],
)
def test_other_images_are_refused_with_what_is_accepted(images, accepted):
    model = workloads.untrained_model()
    with pytest.raises(DataError, match=f"^images: .*must be .*{accepted}"):
        model.predict(images)
    with pytest.raises(DataError, match="^images: .*N of at least 1"):
        model(np.zeros((0, 28, 28, 1), np.uint8))
