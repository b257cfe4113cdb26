"""Loading, fitting, holding out and shifting images, and every refusal of data."""

import pathlib
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from lcaps_jax import data, networks
from lcaps_jax.config import Config
from lcaps_jax.data import DataError, Split, augment, resize, sample
from lcaps_jax.data import tfds as tfds_sets
import reference
import workloads


def test_sample_is_what_it_says():
    source = data.load("sample")
    assert source.train.images.shape == (8000, 28, 28, 1) and source.test.images.shape == (2000, 28, 28, 1)
    assert source.train.images.dtype == np.uint8 and source.train.labels.dtype == np.int32
    assert source.class_names == tuple("0123456789") and source.image_size == 28
    assert (np.bincount(source.train.labels) > 700).all()
    assert sample._FILE.stat().st_size < 2_000_000


def test_mnist_and_expanded_mnist():
    folder = reference.mnist()
    mnist, expanded = (data.load(name, folder) for name in ("mnist", "expanded_mnist"))
    assert len(mnist.train) == 60000 and len(mnist.test) == 10000
    assert np.sum(mnist.train.labels == 0) == 5923
    assert expanded.test.images.shape == (10000, 40, 40, 1) and expanded.max_shift == 6
    np.testing.assert_array_equal(expanded.train.images[:, 6:34, 6:34], mnist.train.images)
    assert not expanded.train.images[:, :6].any()
    with pytest.raises(ValueError, match="read-only"):  # for it is handed out again
        mnist.train.images[0] = 0
    # Each test digit stands somewhere, whole; all places are taken, and a second loading gives the same.
    np.testing.assert_array_equal(
        expanded.test.images.sum((1, 2, 3)), mnist.test.images.sum((1, 2, 3), dtype=np.uint64)
    )
    shifts = _shifts(mnist.test.images[..., 0], expanded.test.images[..., 0])
    assert {tuple(shift) for shift in shifts} == {(i, j) for i in range(-6, 7) for j in range(-6, 7)}
    again = augment.place(resize.fit_size(mnist.test.images, 40), 6)
    np.testing.assert_array_equal(expanded.test.images, again)
    tests = {image.tobytes() for image in mnist.test.images}
    assert all(image.tobytes() in tests for image in data.load("sample").test.images[:200])


def _shifts(small, large):
    """Places of the 28x28 digits on their canvases, from the middle, by their first inked row and column."""
    first = [np.argmax(images.any(axis), axis=1) for images in (small, large) for axis in (2, 1)]
    return np.stack([first[2] - first[0] - 6, first[3] - first[1] - 6], axis=1)


class _Made(tfds.core.GeneratorBasedBuilder):
    """A made colour set of 100 classes, images of several sizes."""

    VERSION = tfds.core.Version("1.0.0")
    name = "made_colours"
    pkg_dir_path = pathlib.Path(__file__).parent

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=100),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(200, 20), "test": self._generate_examples(50, 40)}

    def _generate_examples(self, count, side):
        for i in range(count):
            yield i, {"image": np.full((side + i % 3, side + 4, 3), i, np.uint8), "label": i % 100}


class _MadeWithoutTest(_Made):
    """The same, of one size, and no test part."""

    name = "made_without_test"

    def _info(self):
        features = {"image": tfds.features.Image(shape=(24, 24, 3)), "label": tfds.features.ClassLabel(num_classes=100)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": ((i, {"image": np.full((24, 24, 3), i, np.uint8), "label": i % 100}) for i in range(200))}


@pytest.fixture
def made_colours(tmp_path):
    for kind in (_Made, _MadeWithoutTest):
        kind(data_dir=str(tmp_path)).download_and_prepare()
    return str(tmp_path)


def test_any_tfds_set_colour_many_classes_sizes_that_differ(made_colours):
    with pytest.raises(DataError, match=r"name=made_colours: its images differ in size: give image_size"):
        data.load("made_colours", made_colours)
    settings = {"dataset": "made_colours", "data_dir": made_colours, "batch_size": 50, "image_size": 24}
    config = Config(**{**workloads.TINY, **settings})
    source = data.load(config.dataset, config.data_dir, config.image_size)
    config = config.resolved(source.image_size, source.max_shift)
    assert source.train.images.shape == (200, 24, 24, 3) and source.test.images.shape == (50, 24, 24, 3)
    assert len(source.class_names) == 100 and config.image_size == 24
    # Each is fitted by itself: 20x24 is padded, 40x44 scaled down to fill the width.
    assert (source.train.images[:, 12, 0] == source.train.images[:, 12, 12]).all()
    np.testing.assert_array_equal(np.sort(source.test.images[:, 12, 2, 0]), np.arange(50))
    model = networks.from_config(config, 100)
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), source.train.images[:2] / 255)
    assert output.activity.shape == (2, 100)


def test_a_set_without_a_test_part_has_one_held_out_and_says_so(made_colours, capsys):
    source = data.load("made_without_test", made_colours)
    assert "40 of its 200 images, always the same, are held out" in capsys.readouterr().out
    assert len(source.train) == 160 and len(source.test) == 40
    values = np.concatenate([source.train.images, source.test.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(values), np.arange(200))
    tfds_sets._load.cache_clear()
    np.testing.assert_array_equal(data.load("made_without_test", made_colours).test.images, source.test.images)


class _MadeForTests(_MadeWithoutTest):
    """The same with a test part alone."""

    name = "made_for_tests"

    def _split_generators(self, dl_manager):
        return {"test": super()._split_generators(dl_manager)["train"]}


def test_a_test_part_needs_no_training_part(tmp_path):
    _MadeForTests(data_dir=str(tmp_path)).download_and_prepare()
    test = data.load_test("made_for_tests", str(tmp_path), 28)
    assert test.images.shape == (200, 28, 28, 3)
    with pytest.raises(DataError, match=r"has no train part, only \['test'\]"):
        data.load("made_for_tests", str(tmp_path))


def test_a_set_too_large_is_refused_before_it_is_read(made_colours, monkeypatch):
    monkeypatch.setattr(
        tfds_sets.parallel, "check_fits", lambda nbytes, what: (_ for _ in ()).throw(DataError(f"{what}: {nbytes}"))
    )
    with pytest.raises(DataError, match=f"The set made_without_test: {200 * 24 * 24 * 3}"):
        data.load("made_without_test", made_colours)


def test_the_sample_needs_no_tensorflow(run_python):
    code = "import sys; import lcaps_jax.data as data; data.load('sample'); print('tensorflow' in sys.modules)"
    assert run_python(code, devices=1).strip() == "False"


def test_fit_size_pads_and_scales():
    images = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5, 1)
    padded = resize.fit_size(images, 7)
    assert padded.shape == (2, 7, 7, 1)
    np.testing.assert_array_equal(padded[:, 2:5, 1:6], images)
    assert padded.sum() == images.sum()
    flat = np.full((2, 30, 20, 3), 90, np.uint8)
    scaled = resize.fit_size(flat, 10)
    assert scaled.shape == (2, 10, 10, 3) and scaled.dtype == np.uint8
    np.testing.assert_array_equal(scaled[:, 4:6, 4:6], 90)  # the middle; the sides are the black borders
    np.testing.assert_array_equal(resize.fit_size(padded, 7), padded)


def test_borders_have_the_colour_of_a_light_ground_and_are_black_else():
    light, dark = np.full((3, 5, 3), (250, 200, 180), np.uint8), np.full((3, 5, 3), (10, 200, 80), np.uint8)
    light[1, 2] = 0  # an object in the middle, and a spot on the border
    light[0, 0] = 0
    fitted = resize.fit_size(np.stack([light, dark]), 7)
    np.testing.assert_array_equal(fitted[0, [0, 6]], np.full((2, 7, 3), (250, 200, 180)))
    np.testing.assert_array_equal(fitted[1, [0, 6]], 0)
    np.testing.assert_array_equal(fitted[:, 2:5, 1:6], [light, dark])


def test_a_strip_is_scaled_before_it_gets_its_borders():
    strip = np.full((1, 65000, 100, 1), 100, np.uint8)
    fitted = resize.fit_size(strip, 32)
    assert fitted.shape == (1, 32, 32, 1)
    assert set(np.unique(fitted)) == {0, 100}  # no halo beside it
    assert (fitted[0, :, :, 0] == 100).any(axis=1).all() and (fitted[0, 0] == 100).sum() == 1


def test_hold_out_divides_without_loss():
    split = workloads.random_split(50)
    left, held = data.hold_out(split, 20, seed=1)
    assert len(left) == 30 and len(held) == 20
    both = np.concatenate([left.images, held.images]).reshape(50, -1)
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(split.images.reshape(50, -1), 0))
    np.testing.assert_array_equal(data.hold_out(split, 20, seed=1)[1].images, held.images)
    assert not np.array_equal(data.hold_out(split, 20, seed=2)[1].images, held.images)
    with pytest.raises(DataError, match=r"validation_size=50.*50 images, so at most 49"):
        data.hold_out(split, 50, seed=1)


def test_a_part_of_the_training_images_is_drawn_by_the_seed():
    split = workloads.random_split(50)
    part = data.draw(split, 20, seed=1)
    kept = {image.tobytes(): label for image, label in zip(split.images, split.labels)}
    assert len({image.tobytes() for image in part.images}) == 20
    assert [kept[image.tobytes()] for image in part.images] == list(part.labels)
    np.testing.assert_array_equal(data.draw(split, 20, seed=1).images, part.images)
    assert not np.array_equal(data.draw(split, 20, seed=2).images, part.images)
    with pytest.raises(DataError, match=r"train_size=51.*50 images, so at most 50"):
        data.draw(split, 51, seed=1)


def test_epoch_order_is_a_new_permutation_each_epoch():
    key = jax.random.key(0)
    first, second = (np.asarray(augment.epoch_order(key, epoch, 100)) for epoch in (0, 1))
    for order in (first, second):
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, augment.epoch_order(key, 0, 100))


def test_shift_moves_whole_pixels_and_the_image_s_own_ground_comes_in():
    image = np.full((4, 4, 2), (200, 90), np.uint8)
    image[1:3, 1:3] = [[[1, 5], [2, 6]], [[3, 7], [4, 8]]]
    black = np.zeros_like(image)  # beside it, and it stays black
    moved, still_black = np.asarray(augment.shift(np.stack([image, black]), jnp.array([[1, -2], [1, 1]]), 2))
    assert not still_black.any()
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(moved[..., 0], [[200] * 4, [200] * 4, [2, 200, 200, 200], [4, 200, 200, 200]])
    np.testing.assert_array_equal(moved[..., 1], [[90] * 4, [90] * 4, [6, 90, 90, 90], [8, 90, 90, 90]])


def test_black_comes_into_digits_bit_for_bit():
    digits = data.load("sample").test.images[:50]
    padded = np.pad(digits, ((0, 0), (3, 3), (3, 3), (0, 0)))
    moved = augment.shift(digits, jnp.tile(jnp.array([3, -1]), (50, 1)), 3)
    np.testing.assert_array_equal(moved, padded[:, :28, 4:32])


def test_place_moves_each_image_once_and_for_all():
    images = np.zeros((300, 9, 9, 1), np.uint8)
    images[:, 4, 4], images[:, 0, 0] = 1, 2
    placed = augment.place(images, 2)
    places = np.argwhere(placed[..., 0] == 1)[:, 1:] - 4
    assert {tuple(place) for place in places} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    # What leaves at one side does not come back at the other.
    np.testing.assert_array_equal((placed == 2).sum(axis=(1, 2, 3)), (places >= 0).all(axis=1))
    np.testing.assert_array_equal(placed, augment.place(images, 2))
    assert (augment.place(images, 2, seed=1) != placed).any()
    np.testing.assert_array_equal(augment.place(255 - images, 2), 255 - placed)  # on a light ground too


def test_augment_draws_by_position_and_covers_every_shift():
    image = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
    images, positions = jnp.broadcast_to(image, (1000, 9, 9, 1)), jnp.arange(1000)
    moved = np.asarray(augment.augment(images, jax.random.key(0), positions, 2))
    places = np.argwhere(moved[..., 0])[:, 1:] - 4
    assert {tuple(place) for place in places} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    half = augment.augment(images[500:], jax.random.key(0), positions[500:], 2)
    np.testing.assert_array_equal(half, moved[500:])  # whatever else is in the batch
    assert augment.augment(images, jax.random.key(0), positions, 0) is images


@pytest.mark.parametrize(
    "split, message",
    [
        (Split(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32)), "The set has no images"),
        (Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([1, 10], np.int32)), "label 10: labels must be 0 to 9"),
        (Split(np.full((2, 4, 4, 1), np.nan, np.float32), np.array([1, 0], np.int32)), r"of the type float32: .*bytes"),
        (Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([-1, 0], np.int32)), "label -1"),
    ],
)
def test_refusals_of_images_and_labels(split, message):
    with pytest.raises(DataError, match=message):
        data.check_split(split, 10, "The set")


@pytest.mark.parametrize("name", ["mnistt", "mnist/foo", "mnist:9.9.9", "mn ist"])
def test_unknown_set_is_refused_with_what_is_accepted(tmp_path, name):
    with pytest.raises(DataError, match=rf"name={name}: no such set.*sample, folder, expanded_mnist") as caught:
        data.load(name, str(tmp_path))
    assert name != "mnistt" or "Did you mean" in str(caught.value)


def test_a_set_that_cannot_be_downloaded_says_so_in_seconds(tmp_path, monkeypatch):
    def unreachable(*address, **options):
        assert options["timeout"] <= 10
        raise requests.ConnectionError("network is unreachable")

    monkeypatch.setattr(requests, "head", unreachable)
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        data.load("fashion_mnist", str(tmp_path))
    assert time.monotonic() - began < 20
    for part in (
        "fashion_mnist",
        str(tmp_path),
        "network is unreachable",
        "data_dir",
        "The set 'sample' needs no network",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    # Servers that can be reached, but no place to put their files.
    monkeypatch.setattr(requests, "head", lambda *address, **options: None)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="fashion_mnist: could not be downloaded .* Not a directory.* as data_dir"):
        data.load("fashion_mnist", str(tmp_path / "file" / "folder"))


def test_a_set_that_another_process_prepares_is_waited_for(tmp_path, capsys):
    held = f"""import fcntl, time
with open({str(tmp_path / ".made.lock")!r}, "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print(flush=True)
    time.sleep(1)
"""
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with tfds_sets._preparing(types.SimpleNamespace(name="made", data_dir_root=tmp_path)):
            assert other.wait(5) == 0
    assert f"Another process prepares made in {tmp_path}; waiting for it." in capsys.readouterr().out


def test_a_set_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image classification set"):
        data.load("imdb_reviews", str(tmp_path))


@pytest.mark.parametrize("name, meant", [("Folder", "folder"), ("expandedmnist", "expanded_mnist")])
def test_a_misspelt_set_of_the_package_is_named(name, meant):
    with pytest.raises(DataError, match=rf"name={name}: no such set. Did you mean {meant}\?"):
        data.load(name)


def test_a_misspelt_set_of_the_package_needs_no_tensorflow(run_python):
    code = """
import sys
import lcaps_jax.data as data
try:
    data.load("smaple")
except data.DataError as error:
    print(error, "tensorflow" in sys.modules)
"""
    assert run_python(code, devices=1).strip() == "name=smaple: no such set. Did you mean sample? False"


_augment = jax.jit(augment.augment, static_argnums=(3, 4))


def _marked(size=9):
    """An image with a mark up on the left, on a light ground, 200 times."""
    image = jnp.full((size, size, 1), 0.75).at[1, 2].set(0.0)
    return jnp.broadcast_to(image, (200, size, size, 1)), jnp.arange(200)


def _marks(images):
    return {tuple(np.unravel_index(np.argmin(image), image.shape[:2])) for image in np.asarray(images)}


@pytest.mark.parametrize(
    "flip, places",
    [
        ("horizontal", {(1, 2), (1, 6)}),
        ("vertical", {(1, 2), (7, 2)}),
        ("both", {(1, 2), (1, 6), (7, 2), (7, 6)}),
    ],
)
def test_flips(flip, places):
    images, positions = _marked()
    assert _marks(_augment(images, jax.random.key(0), positions, 0, augment.Distortion(flip))) == places


def test_rotations_and_scales_keep_to_their_limits_and_the_ground_comes_in():
    images, positions = _marked(33)
    images = jnp.full_like(images, 0.75).at[:, 6, 16].set(0.0)  # ten pixels above the middle
    turned = _augment(images, jax.random.key(0), positions, 0, augment.Distortion(max_rotation=90.0))
    scaled = _augment(images, jax.random.key(0), positions, 0, augment.Distortion(max_scale=1.5))
    marks = np.array(sorted(_marks(turned))) - 16
    assert np.abs(np.hypot(*marks.T) - 10).max() < 1 and marks[:, 0].max() <= 1
    assert marks[:, 1].min() <= -8 and marks[:, 1].max() >= 8
    rows = np.array(sorted(_marks(scaled)))
    assert set(rows[:, 1]) == {16} and {1, 9} <= set(rows[:, 0]) <= set(range(1, 11))
    for images in (turned, scaled):
        np.testing.assert_allclose(images[:, 0, 0], 0.75, atol=1e-6)


def test_brightness_is_a_factor_and_white_stays_white():
    images, positions = _marked()
    lit = np.asarray(_augment(images, jax.random.key(0), positions, 0, augment.Distortion(max_brightness=0.5)))
    assert lit.max() == 1.0 and 0.375 <= lit[:, 0, 0].min() < 0.45
    np.testing.assert_array_equal(lit[:, 1, 2], 0.0)


def test_each_image_is_distorted_by_its_own_key_and_then_shifted_as_without():
    images, positions = _marked()
    distorted = _augment(images, jax.random.key(0), positions, 1, augment.Distortion(flip="horizontal"))
    turned = _augment(images, jax.random.key(0), positions[::-1], 1, augment.Distortion(flip="horizontal"))
    np.testing.assert_array_equal(turned, distorted[::-1])
    # The mark is moved in the same way, whether it was flipped from column 2 to 6 before or not.
    places = [
        np.argwhere(np.asarray(batch)[..., 0] == 0)[:, 1:]
        for batch in (distorted, _augment(images, jax.random.key(0), positions, 1))
    ]
    flipped = places[0][:, 1] >= 5
    places[0][flipped, 1] -= 4
    np.testing.assert_array_equal(*places)
    assert 20 < flipped.sum() < 180 and len({tuple(place) for place in places[1]}) == 9
