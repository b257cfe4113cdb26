"""Image files through a network: labels, records, and the canonical frame in the pixels of the file."""

import csv
import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
from PIL import Image
import pytest

from lcaps_jax import data
from lcaps_jax.data import DataError, brightness
from lcaps_jax.infer import image_files
from lcaps_jax.ops import frames
from lcaps_jax.util.process import say
from lcaps_jax.viz import style, transforms
import workloads


def _file(folder, name="a.png"):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:15, 12:22] = 255
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_a_line_names_the_file_the_label_and_the_highest_activities(tmp_path):
    (found,) = image_files.classify(workloads.untrained_model(), [_file(tmp_path)])
    best = np.argsort(-found.output.activity[0])[:3]
    named = ", ".join(f"{j} {found.output.activity[0, j]:.3f}" for j in best)
    assert found.label == str(best[0]) and found.line() == f"{tmp_path / 'a.png'}: {best[0]}   ({named})"


def test_the_frame_is_given_where_the_network_uses_one(tmp_path):
    model = workloads.untrained_model(frame="affine")
    (found,) = image_files.classify(model, [_file(tmp_path)])
    np.testing.assert_allclose(found.frame.centre, [9.5, 16.5], atol=0.01)
    frame = found.record()["frame"]
    assert (frame["row"], frame["column"], frame["empty"]) == (9.5, 16.5, False) and "angle" not in found.record()
    (searched,) = image_files.classify(model.with_rotation_search([-30, 30]), [_file(tmp_path)])
    assert searched.record()["angle"] in (-30, 30) and "30 degrees" in searched.line()
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(tmp_path / "b.png")
    (empty,) = image_files.classify(model, [tmp_path / "b.png"])
    assert empty.frame.empty and empty.frame.centre.tolist() == [4.5, 9.5]
    assert empty.line() != empty.line().removesuffix("(the image is empty)")


@pytest.mark.parametrize("shape", [(90, 60), (40, 200), (20, 24)])
@pytest.mark.parametrize("centre", [False, True])
def test_the_frame_is_given_in_the_pixels_of_the_file(tmp_path, shape, centre):
    """Its centre is that of the ink in the file, and it is as much larger as the ink is in the file."""
    pixels = np.zeros(shape, np.uint8)
    rows, columns = slice(shape[0] // 4, shape[0] // 2), slice(shape[1] // 2, shape[1] - 3)
    pixels[rows, columns] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = workloads.untrained_model(frame="affine")
    (found,) = image_files.classify(model, [tmp_path / "a.png"], centre=centre)
    middle = [(side.start + side.stop - 1) / 2 for side in (rows, columns)]
    np.testing.assert_allclose(found.frame.centre, middle, atol=0.02 * max(shape))
    seen = jax.tree.map(lambda x: x[0], found.output.view.frame)
    corners, seen_corners = (np.asarray(frames.outline(frame, 28)) - frame.centre for frame in (found.frame, seen))
    scale = corners / seen_corners
    ink = [np.ptp(np.flatnonzero((found.image[..., 0] > 127).any(axis=axis))) + 1 for axis in (1, 0)]
    sides = [side.stop - side.start for side in (rows, columns)]
    np.testing.assert_allclose(scale * ink, np.broadcast_to(sides, (4, 2)), atol=1.01 * np.max(scale))


def test_unlike_brightness_is_pointed_out_unless_the_files_are_inverted(tmp_path, capsys):
    model = dataclasses.replace(workloads.untrained_model(), brightness=brightness.MNIST)
    (digit,), file = data.load("sample").test.images[:1, ..., 0], tmp_path / "a.png"
    Image.fromarray(255 - np.pad(digit, 20)).save(file)
    list(image_files.classify(model, [file]))
    assert capsys.readouterr().out.startswith("images: ")
    (found,) = image_files.classify(model, [file], invert=True, centre=True)
    assert capsys.readouterr().out == ""
    assert np.ptp(np.argwhere(found.image[..., 0]), axis=0).max() == 19  # as large as MNIST's digits


def test_only_networks_of_mnist_s_digits_centre_files(tmp_path):
    model = workloads.untrained_model(dataset="cifar10")
    with pytest.raises(DataError, match="centre=True.*cifar10"):
        list(image_files.classify(model, [_file(tmp_path)], centre=True))


def test_a_file_whose_name_is_not_utf_8_is_named_and_drawn_with_a_caption(tmp_path, capsys):
    file = _file(tmp_path).rename(tmp_path / os.fsdecode(b"\xe9" * 200 + b".png"))
    model = workloads.untrained_model(frame="affine")
    (found,) = image_files.classify(model, [file])
    say(found.line())
    assert r"/\udce9" in capsys.readouterr().out
    path = transforms.draw_classified(found, model.geometry, tmp_path / "new", 7)
    assert path.parent.name == "new" and path.name.startswith("007_") and len(path.name) < 80
    caption = style.caption_of(path)
    assert all(part in caption for part in (r"\udce9", found.label, *transforms.seen_caption(found.output)))


def test_unreadable_files_are_skipped_and_listed_where_that_is_wanted(tmp_path, capsys):
    model, file = workloads.untrained_model(), _file(tmp_path)
    (tmp_path / "text.png").write_text("no")
    (tmp_path / "cut.png").write_bytes(file.read_bytes()[:60])
    files = [tmp_path / "cut.png", tmp_path / "text.png", file]
    assert [found.file for found in image_files.classify(model, files, skip_unreadable=True)] == [file]
    printed = capsys.readouterr().out
    assert "cut.png" in printed and "text.png" in printed
    with pytest.raises(DataError, match=r"text\.png|cut\.png"):
        list(image_files.classify(model, files))


def test_programs_get_one_record_a_file(tmp_path):
    _file(tmp_path, 'a, "b".png')
    _file(tmp_path)
    model = workloads.untrained_model(class_names=["ä", *"123456789"], frame="affine")
    found = list(image_files.classify(model, image_files.find(f"{tmp_path}/*.png")))
    records = [json.loads(text) for text, _ in image_files.formatted(found, "json")]
    assert [record["file"] for record in records] == [f'{tmp_path}/a, "b".png', f"{tmp_path}/a.png"]
    assert all(record["label"] == max(record["activity"], key=record["activity"].get) for record in records)
    assert list(records[0]["activity"]) == list(model.class_names)
    text = "\n".join(text for text, _ in image_files.formatted(found, "csv"))
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["file"] for row in rows] == [str(each.file) for each in found]
    assert [float(row["activity_ä"]) for row in rows] == [record["activity"]["ä"] for record in records]
    assert rows[0]["label"] == records[0]["label"] and rows[0]["frame_row"] == "9.5"
    matrix = [float(rows[0][f"frame_matrix_{i}_{j}"]) for i in (0, 1) for j in (0, 1)]
    assert matrix == [*np.ravel(records[0]["frame"]["matrix"])]


@pytest.mark.parametrize("first", "=+-@")
def test_no_spreadsheet_runs_a_name_as_a_formula(tmp_path, monkeypatch, first):
    monkeypatch.chdir(tmp_path)
    file = _file(pathlib.Path(), f"{first}1.png")
    model = workloads.untrained_model(class_names=[f"{first}{i}" for i in range(10)])
    ((text, found),) = image_files.formatted(image_files.classify(model, [file]), "csv")
    (row,) = csv.DictReader(text.splitlines())
    assert row["file"] == f"'{first}1.png" and row["label"] == f"'{found.label}"
    assert all(float(value) >= 0 for name, value in row.items() if name.startswith("activity_"))  # numbers stay


def test_patterns_name_files(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    file, bracketed = _file(folder), _file(tmp_path, "[1].png")
    assert image_files.find(f"{tmp_path}/**/*.png") == [bracketed, file]
    assert image_files.find(str(bracketed)) == [bracketed]
    for pattern in (str(folder), f"{tmp_path}/*.jpg"):
        with pytest.raises(DataError, match="images="):
            image_files.find(pattern)
