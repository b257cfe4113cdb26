"""Which images a training and an evaluation get."""

import numpy as np
from PIL import Image
import pytest

from lcaps_jax import data
from lcaps_jax.cli import train as command
from lcaps_jax.cli.evaluate import evaluate_model
from lcaps_jax.data import DataError, Split
from lcaps_jax.data.brightness import MNIST
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.sets import compare_brightness, load_test_set
from lcaps_jax.util.errors import ConfigError
import workloads

_DIGITS = tuple("0123456789")


def _folder(root, *parts, channels=1, invert=False):
    """Image files of three classes, four of each in each part."""
    for part in parts:
        split = workloads.random_split(12, 3, channels=channels)
        for i, image in enumerate(split.images):
            place = root / part / ("cat", "dog", "emu")[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            image = 255 - image if invert else image
            Image.fromarray(image.squeeze()).save(place / f"{i}.png")
    return root


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """Begins a training as the command does, up to its first step: what is stored, and the number of images by part."""

    def fit(config, train, validation, *rest):
        raise KeyboardInterrupt({"train": len(train), "validation": len(validation or ())})

    monkeypatch.setattr(command, "fit", fit)

    def begin(name, **given):
        with pytest.raises(KeyboardInterrupt) as stop:
            command.train({**workloads.TINY, "batch_size": 4, **given}, tmp_path / name)
        return folders.read_run(tmp_path / name), stop.value.args[0]

    return begin


def test_a_data_dir_of_images_alone_selects_the_data_set_folder(tmp_path, monkeypatch, begin):
    _folder(tmp_path / "animals", "train", "test")
    monkeypatch.chdir(tmp_path)
    stored, _ = begin("run", data_dir="animals")
    assert stored.settings["dataset"] == "folder" and stored.settings["data_dir"] == str(tmp_path / "animals")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="data_dir="):
        command.train({"data_dir": "empty"}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_validation_images_are_those_of_the_set_or_held_out(tmp_path, capsys, begin):
    root = _folder(tmp_path / "animals", "train", "test")
    given = {"dataset": "folder", "data_dir": str(root)}
    with pytest.raises(ConfigError, match="patience=2.*validation_size"):
        command.train({**workloads.TINY, **given, "batch_size": 4, "patience": 2}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert begin("held_out", **given, patience=2, validation_size=3)[1] == {"train": 9, "validation": 3}
    _folder(root, "val")
    assert begin("own", **given, patience=2)[1] == {"train": 12, "validation": 12}
    capsys.readouterr()
    assert begin("both", **given, validation_size=3, train_size=8)[1] == {"train": 8, "validation": 3}
    assert "not used" in capsys.readouterr().out


def test_test_images_get_the_channels_of_the_network(tmp_path, capsys):
    config = workloads.tiny_config()
    coloured = load_test_set("sample", config, _DIGITS, 3)
    np.testing.assert_array_equal(coloured.images[..., 2], data.load("sample").test.images[..., 0])
    assert "sample" in capsys.readouterr().out
    root = _folder(tmp_path, "test", channels=3)
    grey = load_test_set("folder", config, ("cat", "dog", "emu"), 1, data_dir=str(root))
    assert grey.channels == 1 and len(grey) == 12 and "folder" in capsys.readouterr().out


def test_labels_are_matched_by_the_names_of_the_classes():
    """As of a network that was trained on folders in another order than the set's."""
    config = workloads.tiny_config()
    plain, other = (load_test_set("sample", config, names, 1) for names in (_DIGITS, _DIGITS[::-1]))
    np.testing.assert_array_equal(other.labels, 9 - plain.labels)
    np.testing.assert_array_equal(other.images, plain.images)
    with pytest.raises(DataError, match="dataset=sample.*a, b, c"):
        load_test_set("sample", config, tuple("abc"), 1)


def test_inverted_images_are_a_result_of_their_own(tmp_path):
    """Ink on paper, for a network that was trained on light on dark."""
    names = ("cat", "dog", "emu")
    dark, paper = _folder(tmp_path / "dark", "test"), _folder(tmp_path / "paper", "test", invert=True)
    model = workloads.untrained_model(names)
    as_trained = load_test_set("folder", model.config, names, 1, data_dir=str(dark))
    inverted = load_test_set("folder", model.config, names, 1, data_dir=str(paper), invert=True)
    np.testing.assert_array_equal(inverted.images, as_trained.images)
    (entry,) = evaluate_model(model, ["folder"], data_dir=str(paper), invert=True)
    assert entry == f"folder of {paper} (inverted)"
    with pytest.raises(DataError, match="affnist"):
        load_test_set("affnist", workloads.tiny_config(image_size=40), _DIGITS, 1, invert=True)


def test_test_sets_on_another_background_are_pointed_out(capsys):
    sample = data.load("sample").test.take(np.arange(50))
    inverted = Split(255 - sample.images, sample.labels)
    compare_brightness(MNIST, {"sample": sample, "paper": inverted})
    assert capsys.readouterr().out.startswith("paper: ")
    compare_brightness(None, {"paper": inverted})
    assert capsys.readouterr().out == ""
