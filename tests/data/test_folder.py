"""Image files as data, and files through a trained network."""

import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from lcaps_jax import commands, data
from lcaps_jax.config import Config, ConfigError
from lcaps_jax.data import DataError, folder
from lcaps_jax.views import classify
import workloads


def _save(path: pathlib.Path, pixels: np.ndarray, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _folder(root: pathlib.Path, classes=("cat", "dog", "emu"), parts=("train", "test"), count=4, size=20, colour=True):
    """A made data set, each class with a bright bar of its own."""
    split = workloads.random_split(count * len(classes), len(classes), size, 3 if colour else 1)
    split = split.take(np.argsort(split.labels, kind="stable"))
    for part in parts:
        for i, label in enumerate(split.labels):
            image = split.images[i] if colour else split.images[i, ..., 0]
            _save(root / part / classes[label] / f"{i}.png", image)
    return split


def test_a_folder_is_read_whole_and_mixed_always_alike(tmp_path):
    split = _folder(tmp_path)
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    source = data.load("folder", str(tmp_path))
    assert source.class_names == ("cat", "dog", "emu") and source.image_size == 20 and source.channels == 3

    def contents(part):
        return sorted((int(label), image.tobytes()) for image, label in zip(part.images, part.labels))

    assert contents(source.train) == contents(source.test) == contents(split)
    assert (np.diff(source.train.labels) < 0).any()  # not class by class
    np.testing.assert_array_equal(source.train.images, data.load("folder", str(tmp_path)).train.images)


def test_without_a_test_folder_about_a_fifth_is_held_out(tmp_path, capsys):
    def contents(part):
        return {image.tobytes() for image in part.images}

    _folder(tmp_path, parts=("train",), count=40, colour=False)
    source = data.load("folder", str(tmp_path), image_size=24)
    held = len(source.test)
    assert 12 <= held <= 36 and len(source.train) == 120 - held and source.channels == 1
    assert source.train.images.shape[1:] == (24, 24, 1)
    assert f"{held} of its 120 images, always the same, are held out" in capsys.readouterr().out
    # Neither a new file nor a new name moves another from one part to the other.
    first, second, *_ = sorted(next((tmp_path / "train").iterdir()).iterdir())
    second.rename(second.with_name("renamed" + second.suffix))
    Image.effect_noise((24, 24), 64).save(first.with_name("a_new.png"))
    again = data.load("folder", str(tmp_path), image_size=24)
    assert len(again.train) + len(again.test) == 121
    assert not contents(source.train) & contents(again.test) and not contents(source.test) & contents(again.train)


def test_a_folder_within_a_class_is_refused_by_name(tmp_path):
    _folder(tmp_path, parts=("train",), colour=False)
    (tmp_path / "train" / "cat" / "more").mkdir(parents=True)
    with pytest.raises(data.DataError, match="more"):
        data.load("folder", str(tmp_path), image_size=24)


def test_of_a_class_with_one_image_none_is_held_out(tmp_path):
    for name in "abcdefghijkl":
        _save(tmp_path / "train" / name / "1.png", np.full((24, 24), ord(name), np.uint8))
    with pytest.raises(data.DataError, match="too few images to hold some out"):
        data.load("folder", str(tmp_path), image_size=24)


def test_any_format_mode_and_size(tmp_path):
    """Each file shows a white left half on black."""
    half = np.zeros((10, 20), np.uint8)
    half[:, :10] = 255
    grey = Image.fromarray(half)
    clear = np.zeros((10, 20, 4), np.uint8)  # white where it is opaque
    clear[..., :3], clear[:, :10, 3] = 255, 255
    turned = Image.Exif()
    turned[0x0112] = 8  # to be turned by a quarter, anticlockwise, to be seen upright
    files = {
        "a.bmp": grey, "b.gif": grey, "c.webp": grey.convert("RGB"),
        "d.tif": Image.fromarray(half.astype(np.uint16) * 257), "e.png": Image.fromarray(clear),
        "f.jpg": grey.resize((20, 10)), "g.png": grey.convert("1"), "h.png": grey.convert("P"),
        "i.pgm": Image.fromarray(half.astype(np.uint16) * 257),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name, **({"quality": 100} if name == "f.jpg" else {}))
        for channels in (1, 3):
            pixels = folder.read(tmp_path / name, channels)
            assert pixels.shape == (10, 20, channels) and pixels.dtype == np.uint8
            assert (pixels[:, :8] > 240).all() and (pixels[:, 12:] < 15).all(), name
    grey.rotate(-90, expand=True).save(tmp_path / "i.jpg", exif=turned, quality=100)
    assert folder.read(tmp_path / "i.jpg", 1).shape == (10, 20, 1)
    assert folder.describe([tmp_path / "i.jpg"]) == (1, {(20, 10): tmp_path / "i.jpg"})
    assert folder.describe([tmp_path / "a.bmp", tmp_path / "c.webp"])[0] == 3


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "train" / "gnu").mkdir(), "gnu has no image: put some there, or remove the folder"),
        (lambda root: (root / "train" / "cat" / "x.png").write_text("no"),
         "x.png is not an image that Pillow can read"),
        (lambda root: _save(root / "train" / "cat" / "x.tif", np.ones((20, 20), np.float32)),
         "x.tif cannot be read: its pixels are signed or have 32 bits, of no known range; save it with 8 or 16"),
        (lambda root: _save(root / "test" / "cat" / "x.tif", np.ones((20, 20), np.int32)),
         "x.tif cannot be read: its pixels are signed or have 32 bits"),
        (lambda root: _cut(root / "train" / "cat" / "0.png"), "0.png cannot be read: "),
        (lambda root: _save(root / "test" / "dog" / "x.png", np.zeros((9, 20, 3), np.uint8)),
         r"of one size, or give image_size: 20x20 \(.*train/cat/0.png\), 20x9 \(.*test/dog/x.png\)"),
        (lambda root: _save(root / "test" / "gnu" / "x.png", np.zeros((20, 20, 3), np.uint8)),
         "test/gnu: no such class; there are cat, dog, emu"),
        (lambda root: (root / "train").rename(root / "learn"),
         "train is not there: images are expected as .*CLASS/FILE"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path, spoil, message):
    _folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        data.load("folder", str(tmp_path))


def _cut(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def test_one_class_and_no_folder_are_refused(tmp_path):
    _folder(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match="has the one class cat: to tell classes apart takes two"):
        data.load("folder", str(tmp_path))
    with pytest.raises(
        DataError, match="The set 'folder' needs the folder that holds train/CLASS/FILE: give it as data_dir"
    ):
        data.load("folder")


def test_own_images_from_training_to_classified_files(tmp_path):
    """As a user runs it: train, evaluate elsewhere with a class missing, classify files."""
    _folder(tmp_path / "animals", count=200, size=28)
    _folder(tmp_path / "elsewhere", classes=("cat", "dog"), count=5, size=28)
    run = tmp_path / "run"
    settings = Config(
        **{**workloads.TINY, "dataset": "folder", "data_dir": str(tmp_path / "animals"), "batch_size": 20},
        learning_rate=3e-3,
    )
    commands.train(settings, run)
    assert json.loads((run / "config.json").read_text())["class_names"] == ["cat", "dog", "emu"]
    assert json.loads((run / "results.json").read_text())["folder"]["error"] < 20

    done = workloads.evaluate(run, data_dir=tmp_path / "elsewhere", batch_size=10)
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["cat", "dog", "emu", "all"]
    results = json.loads((run / "results.json").read_text())  # those of other images beside the run's own
    assert {name: result["count"] for name, result in results.items()} == {
        "folder": 600, f"folder of {tmp_path / 'elsewhere'}": 10
    }  # fmt: skip

    done = workloads.evaluate(run, images=f"{tmp_path}/animals/test/dog/20?.png")
    lines = done.stdout.splitlines()
    assert [f"/20{i}.png: dog   (dog 0." in line for i, line in enumerate(lines[:-1])] == [True] * 10
    pictures = sorted((run / "figures" / "classified").iterdir())
    assert [path.name for path in pictures[:2]] == ["000_200.png", "001_201.png"] and len(pictures) == 10

    bracketed = tmp_path / "scan[1].png"
    bracketed.write_bytes(b"")
    assert classify.find(str(bracketed)) == [bracketed]
    done = workloads.evaluate(run, check=False, images=f"{tmp_path}/nothing/*.png")
    assert done.returncode == 1 and "nothing/*.png: no such file" in done.stderr
    _save(tmp_path / "animals" / "train" / "fox" / "0.png", np.zeros((28, 28, 3), np.uint8))
    message = "begun with 600 training images of the classes cat, dog, emu"
    with pytest.raises(ConfigError, match=message):
        commands.train(dataclasses.replace(settings, epochs=3), run)
