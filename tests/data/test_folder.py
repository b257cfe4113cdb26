"""Image files as data, and files through a trained network."""

import dataclasses
import json
import os
import pathlib
import shutil
import unicodedata

import numpy as np
from PIL import Image
import pytest

from lcaps_jax import commands, data, runs
from lcaps_jax.config import Config, ConfigError
from lcaps_jax.data import DataError, pictures
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


def test_classes_may_stand_in_the_folder_itself(tmp_path):
    _folder(tmp_path, parts=("",), count=40, colour=False)
    _folder(tmp_path / "other", parts=("train",), count=40, colour=False)
    shutil.move(tmp_path / "other", tmp_path.with_name("other"))
    one, two = (data.load("folder", str(root), image_size=24) for root in (tmp_path, tmp_path.with_name("other")))
    assert one.class_names == ("cat", "dog", "emu") and len(one.test) > 0
    np.testing.assert_array_equal(one.train.images, two.train.images)


def test_a_folder_without_images_beside_classes_is_named_with_both_forms(tmp_path):
    _folder(tmp_path, parts=("",))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("no image")
    fault = f"{tmp_path}/notes has no image file in it: put some there, or take it out of {tmp_path}. Images are "
    for name, load in (("train", data.load), ("test", data.load_test)):
        with pytest.raises(
            DataError, match=f"{fault}expected as {tmp_path}/{name}/CLASS/FILE or {tmp_path}/CLASS/FILE"
        ):
            load("folder", str(tmp_path), 24)
    given = Config(**workloads.TINY, data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=f"is no folder of images. {fault}"):
        commands.train(given, tmp_path / "run")


def test_image_folders_given_without_a_data_set_are_taken_and_other_folders_refused(tmp_path, monkeypatch, capsys):
    _folder(tmp_path / "animals", parts=("",))
    (tmp_path / "sets" / "mnist" / "3.0.1").mkdir(parents=True)

    def load(name, *arguments, **options):
        raise DataError(f"{name} is loaded")

    monkeypatch.setattr(commands.data, "load", load)
    given = Config(**workloads.TINY, data_dir=str(tmp_path / "animals"))
    with pytest.raises(DataError, match="folder is loaded"):
        commands.train(given, tmp_path / "run")
    assert "animals holds folders of images: --dataset=folder is taken" in capsys.readouterr().out
    for place in (tmp_path / "sets", tmp_path / "nothing"):
        given = dataclasses.replace(given, data_dir=str(place))
        with pytest.raises(ConfigError, match="does nothing to the bundled sample, and is no folder of images"):
            commands.train(given, tmp_path / "run")
    with pytest.raises(DataError, match="sample is loaded"):  # the other set may be read there
        commands.train(dataclasses.replace(given, eval_datasets=("sample", "mnist")), tmp_path / "run")


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
    files = {
        "a.bmp": grey, "b.gif": grey, "c.webp": grey.convert("RGB"),
        "d.tif": Image.fromarray(half.astype(np.uint16) * 257), "e.png": Image.fromarray(clear),
        "f.jpg": grey.resize((20, 10)), "g.png": grey.convert("1"), "h.png": grey.convert("P"),
        "i.pgm": Image.fromarray(half.astype(np.uint16) * 257),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name, **({"quality": 100} if name == "f.jpg" else {}))
        for channels in (1, 3):
            pixels = pictures.read(tmp_path / name, channels)
            assert pixels.shape == (10, 20, channels) and pixels.dtype == np.uint8
            assert (pixels[:, :8] > 240).all() and (pixels[:, 12:] < 15).all(), name
    assert pictures.survey([tmp_path / name for name in ("a.bmp", "d.tif", "f.jpg", "g.png", "i.pgm")]).channels == 1
    assert pictures.survey([tmp_path / "a.bmp", tmp_path / "c.webp"]).channels == 3


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


def test_with_keep_going_the_rest_is_read_and_the_others_are_listed(tmp_path, capsys):
    _folder(tmp_path)
    (tmp_path / "train" / "cat" / "x.png").write_text("no")
    cut = sorted((tmp_path / "test" / "dog").iterdir())[0]
    _cut(cut)
    source = data.load("folder", str(tmp_path), keep_going=True)
    assert len(source.train) == 12 and len(source.test) == 11
    printed = capsys.readouterr().out
    assert "2 of 25 image files cannot be read and are left out:" in printed
    assert "x.png is not an image" in printed and f"{cut} cannot be read" in printed
    for file in (tmp_path / "train" / "emu").iterdir():
        file.write_text("no")
    with pytest.raises(DataError, match="train/emu has no image that can be read"):
        data.load("folder", str(tmp_path), keep_going=True)


def test_the_file_that_makes_a_grey_set_coloured_is_named(tmp_path, capsys):
    _folder(tmp_path, colour=False)
    assert data.load("folder", str(tmp_path)).channels == 1
    assert capsys.readouterr().out == ""
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0])
    palette.save(tmp_path / "test" / "emu" / "x.png")
    assert data.load("folder", str(tmp_path)).channels == 1  # the red is not used
    palette.putpixel((0, 0), 2)
    palette.save(tmp_path / "test" / "emu" / "x.png")
    assert data.load("folder", str(tmp_path)).channels == 3
    assert f"1 of the 25 images in {tmp_path} are in colour, as {tmp_path}/test/emu/x.png" in capsys.readouterr().out


def test_training_images_that_cannot_be_told_apart_are_refused(tmp_path, capsys):
    _folder(tmp_path, colour=False)
    files = list((tmp_path / "train").glob("*/*"))
    for value, what in ((0, "all 12 images have the value 0 in every pixel"), (1, "all 12 images are the same")):
        for file in files:
            _save(file, np.eye(20, dtype=np.uint8) * value)
        with pytest.raises(DataError, match=f"The train part of folder cannot be learned: {what}"):
            data.load("folder", str(tmp_path))
    for i, file in enumerate(files):
        _save(file, np.eye(20, dtype=np.uint8) * (i + 1))
    data.load("folder", str(tmp_path))
    assert "use a sliver of their range, the values 0 to 12 of 0 to 255" in capsys.readouterr().out


def test_names_of_classes_are_utf_8_in_one_normal_form(tmp_path, capsys):
    whole, apart = (unicodedata.normalize(form, "\u00e9mu") for form in ("NFC", "NFD"))
    _folder(tmp_path, classes=("cat", apart), parts=("train",))
    _folder(tmp_path, classes=("cat", whole), parts=("test",))
    assert data.load("folder", str(tmp_path)).class_names == ("cat", whole)
    test = data.load_test("folder", str(tmp_path), 20, class_names=(apart, "cat"))  # as an older network has it
    assert len(test) == 8 and set(test.labels) == {0, 1}
    (tmp_path / "train" / os.fsdecode(b"\xe9mu")).mkdir()
    with pytest.raises(DataError, match=r"train/.udce9mu': the name of a class must be UTF-8"):
        data.load("folder", str(tmp_path))


@pytest.mark.parametrize("part", ["val", "validation"])
def test_a_folder_beside_train_is_the_validation_part(tmp_path, capsys, monkeypatch, part):
    _folder(tmp_path, colour=False, size=28)
    _folder(tmp_path, parts=(part, "raw"), count=2, colour=False, size=28)
    assert len(data.load("folder", str(tmp_path)).validation) == 6
    assert f"Of the folders in {tmp_path}, these are not used: raw." in capsys.readouterr().out
    used = {}

    def fit(config, network, train_split, validation, *rest):
        used[config.validation_size] = len(train_split), len(validation)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "fit", fit)
    settings = Config(**workloads.TINY | {"dataset": "folder", "data_dir": str(tmp_path), "batch_size": 4})
    for validation_size in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            commands.train(
                dataclasses.replace(settings, validation_size=validation_size), tmp_path / str(validation_size)
            )
    assert used == {0: (12, 6), 3: (9, 3)}
    assert "3 training images are held out, so the validation part of folder is not used" in capsys.readouterr().out
    (tmp_path / "valid").mkdir()
    _folder(tmp_path, parts=("valid",))
    with pytest.raises(DataError, match=f"has the folders {part} and valid"):
        data.load("folder", str(tmp_path))


def test_patience_is_for_sets_with_images_to_validate_on(tmp_path, monkeypatch):
    def fit(config, network, train_split, validation, *rest):
        assert len(validation) == 6
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "fit", fit)
    _folder(tmp_path / "set", colour=False, size=28)
    settings = {**workloads.TINY, "dataset": "folder", "data_dir": str(tmp_path / "set"), "batch_size": 4}
    with pytest.raises(ConfigError, match="patience=2: folder has no image to .*; give validation_size,.* part val"):
        commands.train(Config(**settings, patience=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    _folder(tmp_path / "set", parts=("val",), count=2, colour=False, size=28)
    with pytest.raises(KeyboardInterrupt):
        commands.train(Config(**settings, patience=2), tmp_path / "run")


def test_a_test_part_needs_no_other(tmp_path, capsys):
    split = _folder(tmp_path / "a", parts=("test",), size=28)
    names = ["cat", "dog", "emu"]
    config = dataclasses.replace(workloads.tiny_config(), data_dir=str(tmp_path / "a"))
    test = runs.load_test("folder", config, names, 1)  # coloured, for a network that was trained on grey images
    assert np.bincount(test.labels).tolist() == np.bincount(split.labels).tolist() and test.channels == 1
    assert "folder: its images are in colour, and are made grey, as the network's are." in capsys.readouterr().out
    _folder(tmp_path / "b", parts=("train",), count=30)
    held_out = data.load_test("folder", str(tmp_path / "b"), 20)
    np.testing.assert_array_equal(held_out.images, data.load("folder", str(tmp_path / "b")).test.images)
    with pytest.raises(DataError, match="c is not there. Images are expected as .*c/test/CLASS/FILE or .*c/CLASS/FILE"):
        data.load_test("folder", str(tmp_path / "c"), 20)


def test_test_images_on_paper_are_inverted_and_counted_apart(tmp_path):
    _folder(tmp_path / "dark", parts=("test",), colour=False)
    paper = tmp_path / "paper"
    for path in (tmp_path / "dark" / "test").glob("*/*"):
        _save(paper / path.relative_to(tmp_path / "dark"), 255 - np.asarray(Image.open(path)))
    run, names = workloads.untrained_run(("cat", "dog", "emu")), ("cat", "dog", "emu")
    dark, light = (dataclasses.replace(run.config, data_dir=str(tmp_path / name)) for name in ("dark", "paper"))
    as_trained = runs.load_test("folder", dark, names, 1)
    np.testing.assert_array_equal(runs.load_test("folder", light, names, 1, invert=True).images, as_trained.images)
    (entry,) = commands.evaluate_run(run, ["folder"], None, data_dir=str(paper), invert=True)
    assert entry == f"folder of {paper} (inverted)"
    digits = data.load_test("sample", None, 28).images
    np.testing.assert_array_equal(data.load_test("sample", None, 28, invert=True).images, 255 - digits)
    with pytest.raises(DataError, match="eval_datasets=affnist: has white digits on black, which invert leaves alone"):
        runs.load_test("affnist", run.config, names, 1, invert=True)


def test_a_share_held_out_that_is_far_from_a_fifth_is_said(tmp_path, capsys):
    """A file's own content decides, here those of so many files of which one, none, or more is held out."""
    said = set()
    for value in range(20):
        for name, pixel in (("a", value), ("a", value + 20), ("b", value + 40), ("b", value + 60)):
            _save(tmp_path / str(value) / "train" / name / f"{pixel}.png", np.eye(8, dtype=np.uint8) * (pixel + 1))
        try:
            source = data.load("folder", str(tmp_path / str(value)))
        except DataError:
            continue  # none is held out
        far = " %, far from a fifth" in capsys.readouterr().out
        assert far == (len(source.test) > 1)
        said.add(far)
    assert said == {False, True}


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
