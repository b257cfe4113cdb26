"""Folders of image files as data."""

import os
import pathlib
import unicodedata

import numpy as np
from PIL import Image
import pytest

from lcaps_jax import data
from lcaps_jax.data import DataError
import workloads


def _save(path: pathlib.Path, pixels: np.ndarray, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _cut(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def _folder(root: pathlib.Path, classes=("cat", "dog", "emu"), parts=("train", "test"), count=4, size=20, colour=True):
    """A made data set, each class with a bright bar of its own."""
    split = workloads.random_split(count * len(classes), len(classes), size, 3 if colour else 1)
    split = split.take(np.argsort(split.labels, kind="stable"))
    for part in parts:
        for i, label in enumerate(split.labels):
            image = split.images[i] if colour else split.images[i, ..., 0]
            _save(root / part / classes[label] / f"{i}.png", image)
    return split


def _contents(part):
    return {(int(label), image.tobytes()) for image, label in zip(part.images, part.labels)}


def test_a_folder_is_read_whole_and_mixed_always_alike(tmp_path):
    split = _folder(tmp_path)
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    source = data.load("folder", str(tmp_path))
    assert source.class_names == ("cat", "dog", "emu") and source.image_size == 20 and source.channels == 3
    assert _contents(source.train) == _contents(source.test) == _contents(split) and len(source.train) == len(split)
    assert (np.diff(source.train.labels) < 0).any()  # not class by class
    np.testing.assert_array_equal(source.train.images, data.load("folder", str(tmp_path)).train.images)


def test_without_a_test_folder_about_a_fifth_is_held_out(tmp_path, capsys):
    _folder(tmp_path, parts=("train",), count=40, colour=False)
    source = data.load("folder", str(tmp_path), image_size=24)
    held = len(source.test)
    assert 12 <= held <= 36 and source.train.images.shape == (120 - held, 24, 24, 1)
    assert f"{held} of its 120 images" in capsys.readouterr().out
    # Neither a new file nor a new name moves another from one part to the other.
    first, second, *_ = sorted(next((tmp_path / "train").iterdir()).iterdir())
    second.rename(second.with_name("renamed" + second.suffix))
    Image.effect_noise((24, 24), 64).save(first.with_name("a_new.png"))
    again = data.load("folder", str(tmp_path), image_size=24)
    assert len(again.train) + len(again.test) == 121
    assert not _contents(source.train) & _contents(again.test) | _contents(source.test) & _contents(again.train)


def test_classes_may_stand_in_the_folder_itself(tmp_path):
    for root, part in ((tmp_path / "a", ""), (tmp_path / "b", "train")):
        _folder(root, parts=(part,), count=40, colour=False)
    one, two = (data.load("folder", str(tmp_path / root), image_size=24) for root in "ab")
    assert one.class_names == ("cat", "dog", "emu") and len(one.test) > 0
    np.testing.assert_array_equal(one.train.images, two.train.images)
    notes = tmp_path / "a" / "notes"  # beside classes, and no image in it
    notes.mkdir()
    (notes / "read.me").write_text("no image")
    for name, load in (("train", data.load), ("test", data.load_test)):
        with pytest.raises(DataError, match=f"{notes} .*{tmp_path}/a/{name}/CLASS/FILE or {tmp_path}/a/CLASS/FILE"):
            load("folder", str(tmp_path / "a"), 24)


def test_of_a_class_with_one_image_none_is_held_out(tmp_path):
    for name in "abcdefghijkl":
        _save(tmp_path / "train" / name / "1.png", np.full((24, 24), ord(name), np.uint8))
    with pytest.raises(DataError, match=str(tmp_path / "test")):
        data.load("folder", str(tmp_path), image_size=24)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "train" / "gnu").mkdir(), "train/gnu has no image"),
        (lambda root: (root / "train" / "cat" / "more").mkdir(), "train/cat/more"),
        (lambda root: (root / "train" / "cat" / "x.png").write_text("no"), "x.png"),
        (lambda root: _save(root / "train" / "cat" / "x.tif", np.ones((20, 20), np.float32)), "x.tif.*32 bits"),
        (lambda root: _save(root / "test" / "cat" / "x.tif", np.ones((20, 20), np.int32)), "x.tif.*32 bits"),
        (lambda root: _cut(root / "train" / "cat" / "0.png"), "0.png"),
        (lambda root: _save(root / "test" / "dog" / "x.png", np.zeros((9, 20, 3), np.uint8)),
         "image_size: .*20x20: .*test/dog/x.png has 20x9"),
        (lambda root: _save(root / "test" / "gnu" / "x.png", np.zeros((20, 20, 3), np.uint8)),
         "test/gnu.*cat, dog, emu"),
        (lambda root: (root / "train").rename(root / "learn"), "train is not there.*CLASS/FILE"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path, spoil, message):
    _folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        data.load("folder", str(tmp_path))


def test_with_skip_unreadable_the_rest_is_read_and_the_others_are_listed(tmp_path, capsys):
    _folder(tmp_path)
    (tmp_path / "train" / "cat" / "x.png").write_text("no")
    cut = sorted((tmp_path / "test" / "dog").iterdir())[0]
    _cut(cut)
    source = data.load("folder", str(tmp_path), skip_unreadable=True)
    assert len(source.train) == 12 and len(source.test) == 11
    printed = capsys.readouterr().out
    assert "2 of 25 " in printed and "x.png" in printed and str(cut) in printed
    for file in (tmp_path / "train" / "emu").iterdir():
        file.write_text("no")
    with pytest.raises(DataError, match="train/emu"):
        data.load("folder", str(tmp_path), skip_unreadable=True)


def test_the_file_that_makes_a_grey_set_coloured_is_named(tmp_path, capsys):
    _folder(tmp_path, colour=False)
    assert data.load("folder", str(tmp_path)).channels == 1
    assert capsys.readouterr().out == ""
    coloured = _save(tmp_path / "test" / "emu" / "x.png", np.full((20, 20, 3), (9, 0, 0), np.uint8))
    assert data.load("folder", str(tmp_path)).channels == 3
    assert f"1 of the 25 images in {tmp_path} are in colour, as {coloured}" in capsys.readouterr().out


def test_training_images_that_cannot_be_told_apart_are_refused(tmp_path, capsys):
    _folder(tmp_path, colour=False)
    files = list((tmp_path / "train").glob("*/*"))
    for file in files:
        _save(file, np.eye(20, dtype=np.uint8))
    with pytest.raises(DataError, match="12 images are the same"):
        data.load("folder", str(tmp_path))
    for i, file in enumerate(files):
        _save(file, np.eye(20, dtype=np.uint8) * (i + 1))
    data.load("folder", str(tmp_path))
    assert "0 to 12 of 0 to 255" in capsys.readouterr().out


def test_names_of_classes_are_utf_8_in_one_normal_form(tmp_path, capsys):
    whole, apart = (unicodedata.normalize(form, "\u00e9mu") for form in ("NFC", "NFD"))
    _folder(tmp_path, classes=("cat", apart), parts=("train",))
    _folder(tmp_path, classes=("cat", whole), parts=("test",))
    assert data.load("folder", str(tmp_path)).class_names == ("cat", whole)
    test = data.load_test("folder", str(tmp_path), 20, class_names=(apart, "cat"))
    assert len(test) == 8 and set(test.labels) == {0, 1}
    (tmp_path / "train" / os.fsdecode(b"\xe9mu")).mkdir()
    with pytest.raises(DataError, match=r"train/.udce9mu': .*UTF-8"):
        data.load("folder", str(tmp_path))


@pytest.mark.parametrize("part", ["val", "validation"])
def test_a_folder_beside_train_is_the_validation_part(tmp_path, capsys, part):
    _folder(tmp_path, colour=False)
    _folder(tmp_path, parts=(part, "raw"), count=2, colour=False)
    assert len(data.load("folder", str(tmp_path)).validation) == 6
    assert "raw" in capsys.readouterr().out  # is not used
    _folder(tmp_path, parts=("valid",))
    with pytest.raises(DataError, match=f"{part} and valid"):
        data.load("folder", str(tmp_path))


def test_a_test_part_needs_no_other(tmp_path):
    split = _folder(tmp_path / "a", parts=("test",))
    test = data.load_test("folder", str(tmp_path / "a"), 20, class_names=["emu", "dog", "cat", "fox"])
    np.testing.assert_array_equal(np.bincount(test.labels), np.bincount(2 - split.labels))
    _folder(tmp_path / "b", parts=("train",), count=30)
    held_out = data.load_test("folder", str(tmp_path / "b"), 20)
    np.testing.assert_array_equal(held_out.images, data.load("folder", str(tmp_path / "b")).test.images)
    with pytest.raises(DataError, match="c is not there.*c/test/CLASS/FILE or .*c/CLASS/FILE"):
        data.load_test("folder", str(tmp_path / "c"), 20)


def test_images_are_inverted_before_they_get_their_borders(tmp_path):
    _folder(tmp_path / "dark", parts=("test",), colour=False)
    for path in (tmp_path / "dark" / "test").glob("*/*"):
        _save(tmp_path / "paper" / path.relative_to(tmp_path / "dark"), 255 - np.asarray(Image.open(path)))
    dark = data.load_test("folder", str(tmp_path / "dark"), 28)
    light = data.load_test("folder", str(tmp_path / "paper"), 28, invert=True)
    np.testing.assert_array_equal(light.images, dark.images)
    digits = data.load_test("sample", image_size=28).images
    np.testing.assert_array_equal(data.load_test("sample", image_size=28, invert=True).images, 255 - digits)


def test_one_class_and_no_folder_are_refused(tmp_path):
    _folder(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match=f"{tmp_path}.*cat"):
        data.load("folder", str(tmp_path))
    for nothing in (None, ""):
        with pytest.raises(DataError, match="data_dir: .*CLASS/FILE"):
            data.load("folder", nothing)
