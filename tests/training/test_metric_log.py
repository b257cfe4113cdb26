"""Intervals by hand, and what a killed run's log is worth."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from lcaps_jax.training import wilson_interval
from lcaps_jax.training.metric_log import METRICS_FILE, MetricLog, read_metrics


def test_wilson_interval_of_known_cases():
    """Values of Wilson's formula as Brown, Cai and DasGupta (2001) and common calculators give them."""
    assert wilson_interval(0, 10) == pytest.approx((0, 27.753), abs=1e-3)
    assert wilson_interval(50, 10000) == pytest.approx((0.37946, 0.65858), abs=1e-4)
    assert wilson_interval(10, 10)[1] == 100


def _figures(seconds):
    return {"loss": 0.5, "error": 10.0, "images_per_second": 1.0, "seconds_per_step": 1.0, "seconds": seconds}


def test_a_continued_log_drops_what_will_come_again(tmp_path, capsys):
    log = MetricLog(tmp_path, 0, 40)
    for step in (10, 20, 30):
        log.write("train", step, step / 10, _figures(seconds=float(step)), seconds_left=40.0 - step)
    log.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 40, "spl')  # cut off by a kill
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]

    log = MetricLog(tmp_path, 20, 40)
    assert log.seconds_before == 20
    log.write("sample", 30, 3.0, {"loss": 0.25, "error": 5.0, "seconds": 33.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(10, "train"), (20, "train"), (30, "sample")]
    assert lines[-1] == {"step": 30, "epoch": 3.0, "split": "sample", "loss": 0.25, "error": 5.0, "seconds": 33.0}
    assert list((tmp_path / "tb").iterdir())
    printed = capsys.readouterr().out
    assert "step 10/40, epoch 1.00: loss 0.5000, error 10.00 %, 1 images/s, 00:30 left" in printed
    assert "epoch 3: sample error 5.00 %" in printed


def test_the_terminal_shows_some_lines_and_the_file_all(tmp_path, capsys):
    log = MetricLog(tmp_path, 0, 22, print_every=10)
    steps = [4, 8, 12, 16, 20, 22]
    for step in steps:
        log.write("train", step, step / 4, _figures(seconds=float(step)))
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == steps
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed] == ["step 12/22", "step 22/22"]


def test_a_quiet_log_writes_nothing(tmp_path, capsys):
    log = MetricLog(tmp_path, 0, 40, quiet=True)
    log.write("train", 10, 1.0, _figures(1.0))
    log.say("hello")
    log.close()
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def _events(workdir):
    """Values on the board's disk: (split/metric, step), in order; a record is length, checksum, content, checksum."""
    found = []
    for path in sorted((workdir / "tb").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_tensorboard_has_what_the_log_has_when_a_run_is_killed_and_when_it_goes_on(tmp_path):
    killed = MetricLog(tmp_path, 0, 40)
    for step in (10, 20, 30):
        killed.write("train", step, step / 10, _figures(float(step)))
    assert {step for _, step, _ in _events(tmp_path)} == {10, 20, 30}  # though nothing was closed
    (events,) = (tmp_path / "tb").iterdir()
    events.write_bytes(events.read_bytes()[:100])
    (tmp_path / "tb" / "notes.txt").touch()
    log = MetricLog(tmp_path, 20, 40)
    (tmp_path / "tb" / "notes.txt").unlink()
    losses = [(step, value) for name, step, value in _events(tmp_path) if name == "train/loss"]
    assert losses == [(10, 0.5), (20, 0.5)]
    log.write("train", 30, 3.0, _figures(30.0))
    assert [step for name, step, _ in _events(tmp_path) if name == "train/loss"] == [10, 20, 30]
    assert {name for name, _, _ in _events(tmp_path)} == {f"train/{name}" for name in _figures(0)}
    log.close()
    killed.close()


def test_a_log_does_not_import_pytorch_and_leaves_it_to_be_imported(tmp_path, run_python):
    (tmp_path / "torch.py").write_text("print('imported')\n")
    code = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from lcaps_jax.training.metric_log import MetricLog
MetricLog(pathlib.Path(sys.argv[1]), 0, 40).close()
print("logged")
import torch
"""
    assert run_python(code, str(tmp_path), devices=1).split() == ["logged", "imported"]
