"""Image files through a network: what is said of each."""

import csv
import dataclasses
import json
import os
import pathlib
import re

import jax
import numpy as np
from PIL import Image
import pytest

from lcaps_jax import commands, data, frames, runtime
from lcaps_jax.config import ConfigError
from lcaps_jax.data import DataError, ground
from lcaps_jax.views import classify
import workloads


def _file(folder):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:15, 12:22] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


def test_a_line_names_the_file_the_label_and_three_activities(tmp_path):
    run = workloads.untrained_run()
    (classified,) = classify.classify(run, [_file(tmp_path)])
    line = classified.line(run.class_names)
    best = np.argsort(-classified.output.activity[0])[:3]
    named = ", ".join(f"{j} {classified.output.activity[0, j]:.3f}" for j in best)
    assert line == f"{tmp_path / 'a.png'}: {best[0]}   ({named})"


def test_a_line_of_a_network_with_a_frame_says_where_it_is_and_the_angle(tmp_path):
    run = workloads.untrained_run(frame="affine")
    (classified,) = classify.classify(run, [_file(tmp_path)])
    said = r"\)   frame at row 9\.5, column 16\.5, matrix \[0\.6\d 0\.00; 0\.00 0\.8\d\]$"
    assert re.search(said, classified.line(run.class_names))
    (searched,) = classify.classify(run.searching([-30, 30]), [_file(tmp_path)])
    assert re.search(r"column 16\.5, matrix .*\], turned by -?30 degrees$", searched.line(run.class_names))
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(tmp_path / "b.png")
    (empty,) = classify.classify(run, [tmp_path / "b.png"])
    assert "frame at row 4.5, column 9.5" in empty.line(run.class_names)
    assert empty.line(run.class_names).endswith("(the image is empty)")
    assert classify.draw(run, classified, tmp_path, 0) == tmp_path / "000_a.png"
    with Image.open(tmp_path / "000_a.png") as picture:
        caption = picture.text["Description"]
    label = run.class_names[int(np.argmax(classified.output.activity[0]))]
    assert caption.startswith(f"a.png is taken for {label}, ") and "kept capsules sit. Blue lines bound" in caption


def _corners(frame):
    return np.asarray(frames.outline(frame, 28))


@pytest.mark.parametrize("shape", [(90, 60), (40, 200), (20, 24)])
@pytest.mark.parametrize("centre", [False, True])
def test_the_frame_is_given_in_the_file_s_own_pixels(tmp_path, shape, centre):
    """Its centre is that of the ink in the file, and it is as much larger as the ink is in the file."""
    pixels = np.zeros(shape, np.uint8)
    rows, columns = slice(shape[0] // 4, shape[0] // 2), slice(shape[1] // 2, shape[1] - 3)
    pixels[rows, columns] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (found,) = classify.classify(workloads.untrained_run(frame="affine"), [tmp_path / "a.png"], centre=centre)
    middle = [(side.start + side.stop - 1) / 2 for side in (rows, columns)]
    np.testing.assert_allclose(found.frame.centre, middle, atol=0.02 * max(shape))
    seen = jax.tree.map(lambda x: x[0], found.output.frame)
    scale = (_corners(found.frame) - found.frame.centre) / (_corners(seen) - seen.centre)
    ink = [np.ptp(np.flatnonzero((found.image[..., 0] > 127).any(axis=axis))) + 1 for axis in (1, 0)]
    sides = [side.stop - side.start for side in (rows, columns)]
    np.testing.assert_allclose(scale * ink, np.broadcast_to(sides, (4, 2)), atol=1.01 * np.max(scale))


def test_files_on_another_ground_are_pointed_out_unless_they_are_inverted(tmp_path, capsys):
    run = dataclasses.replace(workloads.untrained_run(), ground=ground.MNIST)
    (digit,), file = data.load("sample").test.images[:1, ..., 0], tmp_path / "a.png"
    Image.fromarray(255 - np.pad(digit, 20)).save(file)
    list(classify.classify(run, [file]))
    assert "images: the ground of 1 of 1 images is unlike the training data's" in capsys.readouterr().out
    (classified,) = classify.classify(run, [file], invert=True, centre=True)
    assert capsys.readouterr().out == ""
    assert np.ptp(np.argwhere(classified.image[..., 0]), axis=0).max() == 19  # as large as MNIST's digits
    elsewhere = dataclasses.replace(run, config=dataclasses.replace(run.config, dataset="cifar10"))
    with pytest.raises(DataError, match="centre: the network was trained on cifar10"):
        list(classify.classify(elsewhere, [file], centre=True))


def test_a_file_whose_name_is_not_utf_8_is_named_and_drawn(tmp_path, capsys):
    run, file = workloads.untrained_run(), tmp_path / os.fsdecode(b"\xe9.png")
    _file(tmp_path).rename(file)
    (classified,) = classify.classify(run, [file])
    runtime.say(classified.line(run.class_names))
    assert r"/\udce9.png: " in capsys.readouterr().out
    assert classify.draw(run, classified, tmp_path, 0).exists()


def test_with_keep_going_files_that_cannot_be_read_are_listed(tmp_path, capsys):
    run, file = workloads.untrained_run(keep_going=True), _file(tmp_path)
    (tmp_path / "text.png").write_text("no")
    (tmp_path / "cut.png").write_bytes(file.read_bytes()[:60])
    found = classify.classify(run, [tmp_path / "cut.png", tmp_path / "text.png", file])
    assert [classified.file for classified in found] == [file]
    printed = capsys.readouterr().out
    assert "2 of 3 image files cannot be read and are left out:" in printed and "cut.png cannot be read" in printed


def _classified(capsys, *arguments, **options):
    commands.classify_files(*arguments, **options)
    return capsys.readouterr().out


def test_programs_get_one_record_a_file(tmp_path, capsys):
    file = _file(tmp_path)
    file.rename(tmp_path / 'a, "b".png')
    _file(tmp_path)
    run = workloads.untrained_run(class_names=["ä", *"123456789"], frame="affine")
    lines = _classified(capsys, run, f"{tmp_path}/*.png", tmp_path, form="json").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["file"] for record in records] == [f'{tmp_path}/a, "b".png', f"{tmp_path}/a.png"]
    assert all(record["label"] == max(record["activity"], key=record["activity"].get) for record in records)
    assert list(records[0]["activity"]) == list(run.class_names)
    frame = records[0]["frame"]
    assert (frame["row"], frame["column"], frame["empty"]) == (9.5, 16.5, False) and "angle" not in records[0]
    rows = list(csv.DictReader(_classified(capsys, run, f"{tmp_path}/*.png", tmp_path, form="csv").splitlines()))
    assert [row["file"] for row in rows] == [record["file"] for record in records]
    assert [float(row["activity_ä"]) for row in rows] == [record["activity"]["ä"] for record in records]
    assert {row["label"] for row in rows} == {record["label"] for record in records} and rows[0]["frame_row"] == "9.5"
    assert [float(rows[0][f"frame_matrix_{i}_{j}"]) for i in (0, 1) for j in (0, 1)] == [*np.ravel(frame["matrix"])]
    assert not (tmp_path / "figures").exists()  # programs look at no pictures
    _classified(capsys, run, str(tmp_path / "a.png"), tmp_path, form="json", output_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000_a.png"]


def test_the_run_s_folder_holds_the_pictures_of_the_latest_files(tmp_path, capsys, monkeypatch):
    place = tmp_path / "run" / "figures" / "classified"
    place.mkdir(parents=True)
    for name in ("000_old.png", "007_old.png", "mine.png"):
        (place / name).touch()
    run, file = workloads.untrained_run(), str(_file(tmp_path))
    assert f"Their pictures are in {place}." in _classified(capsys, run, file, tmp_path / "run")
    assert {path.name for path in place.iterdir()} == {"000_a.png", "mine.png"}
    monkeypatch.chdir(tmp_path)
    printed = _classified(capsys, run, file, None)  # a network without a folder of its own
    assert printed.endswith("Their pictures are in classified.\n") and pathlib.Path("classified/000_a.png").exists()


def test_labels_do_not_wait_for_pictures_that_cannot_be_written(tmp_path, capsys):
    _file(tmp_path).rename(tmp_path / "b.png")
    _file(tmp_path)
    (tmp_path / "figures").touch()  # a file where the folder of pictures should be
    with pytest.raises(ConfigError, match=r"The pictures cannot be written: .*figures.*Another output_dir takes"):
        commands.classify_files(workloads.untrained_run(), f"{tmp_path}/*.png", tmp_path)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{tmp_path}/a.png", f"{tmp_path}/b.png"
    ]  # fmt: skip
