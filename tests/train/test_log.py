"""The log of a run: what is timed and written, when, and what survives a kill."""

import json
import struct
import types

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from lcaps_jax.train import log as module
from lcaps_jax.train.evaluate import wilson_interval
from lcaps_jax.train.log import METRICS_FILE, DivergenceError, MetricLog, read_metrics
from lcaps_jax.train.plan import ScheduleConfig, StepPlan


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until ``clock.now`` is set."""
    clock = types.SimpleNamespace(now=1000.0, time=lambda: clock.now, monotonic=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    return clock


def _plan(**settings):
    return StepPlan(100, ScheduleConfig(**{"batch_size": 10, "epochs": 4, "log_every": 10, **settings}))


def _add(log, call, loss=0.5):
    log.add(call, {"loss": np.full(call.steps, loss, np.float32), "errors": np.ones(call.steps, int)}, lambda: "Try.")


def _write(log, *steps):
    for step in steps:
        metrics = {"loss": 0.5, "error": 10.0, "images_per_second": 1.0, "seconds_per_step": 1.0, "seconds": step}
        log._steps = step
        log.write("train", step, metrics)


def test_a_call_is_logged_while_the_next_one_runs(tmp_path, clock):
    log, calls = MetricLog(tmp_path, 0, _plan(log_every=4)), list(_plan(log_every=4).calls(0))
    _add(log, calls[0])
    assert read_metrics(tmp_path) == []
    clock.now += 8.0
    _add(log, calls[1], loss=0.25)
    (line,) = read_metrics(tmp_path)
    assert line == {
        "step": 4, "epoch": 0.4, "split": "train", "loss": 0.5, "error": 10.0, "images_per_second": 5.0,
        "seconds_per_step": 2.0, "seconds": 8.0,
    }  # fmt: skip
    clock.now += 4.0
    for _ in range(2):  # nothing is written twice
        log.flush(lambda: "")
    assert [line["seconds_per_step"] for line in read_metrics(tmp_path)] == [2.0, 1.0]
    log.close()


def test_pauses_count_in_the_time_left_and_not_in_the_steps(tmp_path, clock, capsys):
    log = MetricLog(tmp_path, 0, _plan())
    log.restart()
    for call in _plan().calls(0):
        _add(log, call)
        clock.now += 10.0
        log.flush(lambda: "")
        clock.now += 30.0  # an evaluation
        log.restart()
    log.close()
    assert [line["seconds_per_step"] for line in read_metrics(tmp_path)] == [1.0] * 4
    left = [line.split(", ")[-1] for line in capsys.readouterr().out.splitlines()]
    assert left == ["00:30 left", "00:50 left", "00:30 left", "00:00 left"]  # 20 steps of 1 + 30/20 seconds


def test_a_loss_that_is_not_finite_is_refused_by_its_step_and_not_logged(tmp_path):
    log, call = MetricLog(tmp_path, 0, _plan()), list(_plan(log_every=4).calls(0))[1]
    log.add(call, {"loss": np.array([0.5, 0.5, np.inf, np.nan]), "errors": np.zeros(4)}, lambda: "Try.")
    with pytest.raises(DivergenceError, match=r"step 7 .*inf.*Try"):
        log.flush(lambda: "Try.")
    log.flush(lambda: "")  # what was refused is gone
    log.close()
    assert read_metrics(tmp_path) == []


def test_wilson_interval_of_known_cases():
    """Values of Wilson's formula as Brown, Cai and DasGupta (2001) and common calculators give them."""
    assert wilson_interval(0, 10) == pytest.approx((0, 27.753), abs=1e-3)
    assert wilson_interval(50, 10000) == pytest.approx((0.37946, 0.65858), abs=1e-4)
    assert wilson_interval(10, 10)[1] == 100


def test_a_continued_log_drops_what_will_come_again(tmp_path, capsys):
    log = MetricLog(tmp_path, 0, _plan())
    _write(log, 10, 20, 30)
    log.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 40, "spl')  # cut off by a kill
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]

    log = MetricLog(tmp_path, 20, _plan())
    assert 20 <= log.elapsed() < 25
    log.write("sample", 30, {"loss": 0.25, "error": 5.0, "seconds": 33.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(10, "train"), (20, "train"), (30, "sample")]
    assert lines[-1] == {"step": 30, "epoch": 3.0, "split": "sample", "loss": 0.25, "error": 5.0, "seconds": 33.0}
    printed = capsys.readouterr().out
    assert "step 10/40" in printed and "00:30 left" in printed and "sample error 5.00 %" in printed


def test_the_terminal_shows_some_lines_and_the_file_all(tmp_path, capsys):
    log = MetricLog(tmp_path, 0, _plan(epochs=2))
    _write(log, 4, 8, 12, 16, 18, 20)
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 8, 12, 16, 18, 20]
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["step 12/20", "step 20/20"]


def test_a_quiet_log_writes_nothing(tmp_path, capsys):
    log = MetricLog(tmp_path, 0, _plan(), quiet=True)
    _write(log, 10)
    log.say("hello")
    log.close()
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def _events(workdir):
    """TensorBoard's (split/metric, step) on disk, in order; a record is length, checksum, content, checksum."""
    found = []
    for path in sorted((workdir / "tb").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_tensorboard_has_what_the_log_has_when_a_killed_run_goes_on(tmp_path):
    killed = MetricLog(tmp_path, 0, _plan())
    _write(killed, 10, 20, 30)
    killed.close()
    (events,) = (tmp_path / "tb").iterdir()
    events.write_bytes(events.read_bytes()[:100])
    log = MetricLog(tmp_path, 20, _plan())
    _write(log, 30)
    log.close()
    assert [step for name, step in _events(tmp_path) if name == "train/loss"] == [10, 20, 30]
    assert len({name for name, _ in _events(tmp_path)}) == 5


def test_a_log_does_not_import_pytorch_and_leaves_it_to_be_imported(tmp_path, run_python):
    (tmp_path / "torch.py").write_text("print('imported')\n")
    code = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from lcaps_jax.train.log import MetricLog
from lcaps_jax.train.plan import ScheduleConfig, StepPlan
log = MetricLog(pathlib.Path(sys.argv[1]), 0, StepPlan(100, ScheduleConfig()))
log.write("sample", 1, {"loss": 0.5, "error": 5.0, "seconds": 1.0})
log.close()
import torch
"""
    assert run_python(code, str(tmp_path), devices=1).split()[-2:] == ["0.5000", "imported"]
