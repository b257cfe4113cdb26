"""Sets by name: the bundled ones, those of TensorFlow Datasets, and every refusal of data."""

import pathlib
import threading
import types

import filelock
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from lcaps_jax import data
from lcaps_jax.data import DataError, Split, splits
from lcaps_jax.data import tfds as tfds_sets
import reference
import workloads


def test_sample_is_what_it_says():
    source = data.load("sample")
    assert source.train.images.shape == (8000, 28, 28, 1) and source.test.images.shape == (2000, 28, 28, 1)
    assert source.train.images.dtype == np.uint8 and source.train.labels.dtype == np.int32
    assert source.class_names == tuple("0123456789") and source.image_size == 28
    assert (np.bincount(source.train.labels) > 700).all()


@pytest.mark.slow
def test_mnist_and_expanded_mnist():
    folder = reference.mnist()
    digits, expanded = (data.load(name, folder) for name in ("mnist", "expanded_mnist"))
    assert len(digits.train) == 60000 and len(digits.test) == 10000
    assert np.sum(digits.train.labels == 0) == 5923
    assert expanded.test.images.shape == (10000, 40, 40, 1) and expanded.max_shift == 6
    np.testing.assert_array_equal(expanded.train.images[:, 6:34, 6:34], digits.train.images)
    assert not expanded.train.images[:, :6].any()
    with pytest.raises(ValueError, match="read-only"):  # for it is handed out again
        digits.train.images[0] = 0
    # Each test digit stands somewhere, whole, and all places are taken.
    np.testing.assert_array_equal(*(part.images.sum((1, 2, 3), dtype=int) for part in (expanded.test, digits.test)))
    first = [np.argmax(s.test.images[..., 0].any(axis), axis=1) for s in (digits, expanded) for axis in (2, 1)]
    shifts = np.stack([first[2] - first[0] - 6, first[3] - first[1] - 6], axis=1)
    np.testing.assert_array_equal(shifts, np.random.default_rng(0).integers(-6, 7, (10000, 2)))
    tests = {image.tobytes() for image in digits.test.images}
    assert all(image.tobytes() in tests for image in data.load("sample").test.images[:200])


class _Made(tfds.core.GeneratorBasedBuilder):
    """A made colour set of 100 classes: the number of images in each part, and their least size, which differs."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent
    name, shape, parts = "made_colours", (None, None, 3), {"train": (200, 20), "test": (50, 40)}

    def _info(self):
        image, label = tfds.features.Image(shape=self.shape), tfds.features.ClassLabel(num_classes=100)
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image, "label": label}))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {part: self._generate_examples(*each) for part, each in self.parts.items()}

    def _generate_examples(self, count, side):
        for i in range(count):
            shape = (side + i % 3, side + 4, 3) if None in self.shape else self.shape
            yield i, {"image": np.full(shape, i, np.uint8), "label": i % 100}


class _MadeWithoutTest(_Made):
    name, shape, parts = "made_without_test", (24, 24, 3), {"train": (200, 24)}


class _MadeForTests(_Made):
    name, shape, parts = "made_for_tests", (24, 24, 3), {"test": (200, 24)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("made"))
    for kind in (_Made, _MadeWithoutTest, _MadeForTests):
        kind(data_dir=folder).download_and_prepare()
    return folder


def test_any_tfds_set_colour_many_classes_sizes_that_differ(made):
    with pytest.raises(DataError, match=r"image_size: .*made_colours"):
        data.load("made_colours", made)
    source = data.load("made_colours", made, 24)
    assert source.train.images.shape == (200, 24, 24, 3) and source.test.images.shape == (50, 24, 24, 3)
    assert len(source.class_names) == 100 and source.image_size == 24
    # Each is fitted by itself: 20x24 is padded, 40x44 scaled down to fill the width.
    assert (source.train.images[:, 12, 0] == source.train.images[:, 12, 12]).all()
    np.testing.assert_array_equal(np.sort(source.test.images[:, 12, 2, 0]), np.arange(50))


def test_a_set_without_a_test_part_has_one_held_out(made, capsys):
    source = data.load("made_without_test", made)
    assert "40 of its 200 images" in capsys.readouterr().out
    assert len(source.train) == 160 and len(source.test) == 40
    values = np.concatenate([source.train.images, source.test.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(values), np.arange(200))
    tfds_sets.load.cache_clear()
    np.testing.assert_array_equal(data.load_test("made_without_test", made).images, source.test.images)
    # A test part needs no training part.
    assert data.load_test("made_for_tests", made, 28).images.shape == (200, 28, 28, 3)
    with pytest.raises(DataError, match="made_for_tests: has no train part"):
        data.load("made_for_tests", made)


def test_a_set_too_large_is_refused_before_it_is_read(made, monkeypatch):
    asked = []
    monkeypatch.setattr(tfds_sets.devices, "check_fits", lambda nbytes, what: asked.append(nbytes) or 1 / 0)
    tfds_sets.load.cache_clear()
    with pytest.raises(ZeroDivisionError):
        data.load("made_without_test", made)
    assert asked == [200 * 24 * 24 * 3]


def test_the_sample_and_a_misspelt_name_need_no_tensorflow(run_python):
    code = """
import sys
from lcaps_jax import data
data.load("sample")
try:
    data.load("smaple")
except data.DataError as error:
    print(error, "tensorflow" in sys.modules)
"""
    printed = run_python(code, devices=1)
    assert "dataset=smaple" in printed and "Did you mean sample?" in printed and printed.strip().endswith("False")


_ACCEPTED = "sample, folder, expanded_mnist"


@pytest.mark.parametrize(
    "name, said",
    [
        ("Folder", "Did you mean folder"),
        ("expandedmnist", "Did you mean expanded_mnist"),
        ("mnistt", f"mean.*mnist.*{_ACCEPTED}"),
        ("mnist/foo", _ACCEPTED),
        ("mnist:9.9.9", _ACCEPTED),
        ("imdb_reviews", "image classification"),
    ],
)
def test_names_of_no_set_of_images_are_refused(tmp_path, name, said):
    with pytest.raises(DataError, match=f"dataset={name}: .*{said}"):
        data.load(name, str(tmp_path))


def test_a_set_that_cannot_be_downloaded_says_so_in_seconds(tmp_path, monkeypatch):
    def unreachable(*address, timeout):
        assert timeout <= 10
        raise requests.ConnectionError("network is unreachable")

    monkeypatch.setattr(requests, "head", unreachable)
    with pytest.raises(DataError, match=f"dataset=fashion_mnist: .*{tmp_path}.*network is unreachable.* data_dir"):
        data.load("fashion_mnist", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    # Servers that can be reached, but no place to put their files.
    monkeypatch.setattr(requests, "head", lambda *address, **options: None)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="dataset=fashion_mnist: .* Not a directory.* data_dir"):
        data.load("fashion_mnist", str(tmp_path / "file" / "folder"))


def test_a_set_that_another_process_prepares_is_waited_for(tmp_path):
    prepared = []
    builder = types.SimpleNamespace(
        name="made", data_dir_root=tmp_path, url_infos=None, download_and_prepare=lambda **_: prepared.append("made")
    )
    other = filelock.FileLock(tmp_path / ".made.lock", thread_local=False)
    other.acquire()
    threading.Timer(1, lambda: prepared.append("freed") or other.release()).start()
    tfds_sets._prepare(builder)
    assert prepared == ["freed", "made"]


def test_images_are_held_out_and_drawn_by_the_seed():
    split = workloads.random_split(50)
    left, held = splits.hold_out(split, 20, seed=1)
    kept = {image.tobytes(): label for image, label in zip(split.images, split.labels)}
    assert len(left) == 30 and {image.tobytes() for part in (left, held) for image in part.images} == set(kept)
    for take, most in ((lambda *each: splits.hold_out(*each)[1], "_size=50: .*49"), (splits.draw, "_size=51: .*50")):
        part = take(split, 20, 1)
        assert len({image.tobytes() for image in part.images}) == 20
        assert [kept[image.tobytes()] for image in part.images] == list(part.labels)
        np.testing.assert_array_equal(take(split, 20, 1).images, part.images)
        assert not np.array_equal(take(split, 20, 2).images, part.images)
        with pytest.raises(DataError, match=most):
            take(split, int(most[6:8]), 1)


def test_labels_follow_the_network_s_classes_by_name():
    split = Split(np.zeros((3, 4, 4, 1), np.uint8), np.array([0, 1, 1], np.int32))
    matched = splits.match_classes("pets", split, ["cat", "e\u0301mu"], ["\u00e9mu", "cat"])
    assert matched.labels.tolist() == [1, 0, 0] and matched.labels.dtype == np.int32
    with pytest.raises(DataError, match="dataset=pets: .*cat, dog.*cat, emu"):
        splits.match_classes("pets", split, ["cat", "emu"], ["cat", "dog"])


def test_fingerprints_change_with_the_content_of_a_class_and_not_with_the_order():
    split = workloads.random_split(30, classes=3)
    known = splits.fingerprint(split, "abc")
    assert splits.fingerprint(split.take(np.arange(30)[::-1]), "abc") == known
    split.images[np.argmax(split.labels == 1), 0, 0] ^= 1
    changed = splits.fingerprint(split, "abc")
    assert [changed[name] == known[name] for name in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    "split, message",
    [
        (Split(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32)), "no images"),
        (Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([1, 10], np.int32)), "10.* 0 to 9"),
        (Split(np.full((2, 4, 4, 1), np.nan, np.float32), np.array([1, 0], np.int32)), "float32.*uint8"),
        (Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([-1, 0], np.int32)), "-1"),
    ],
)
def test_refusals_of_images_and_labels(split, message):
    with pytest.raises(DataError, match=f"The set .*{message}"):
        splits.check_split(split, 10, "The set")
