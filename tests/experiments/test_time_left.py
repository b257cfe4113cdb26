"""What is said of the time that the training of Table 2 will take."""

import dataclasses
import json

import pytest

from experiments import time_left
from experiments.cells import CELLS
from experiments.plan import Plan
from lcaps_jax.config import Config
import workloads


def test_the_time_that_is_left_is_of_the_log_or_of_a_few_steps(tmp_path, monkeypatch, capsys):
    settings = Config(**{**workloads.TINY, "dataset": "mnist", "validation_size": 10_000})
    monkeypatch.setattr(Plan, "settings_of", lambda self, flagfile, seed: dataclasses.replace(settings, seed=seed))
    plan = Plan(tmp_path, quick=False, data_dir=None)
    begun, *others = [cell for cell in CELLS if cell.seeds == 1][:3]
    plan.folder(begun, 0).mkdir()
    figures = {"epoch": 1.0, "loss": 0.5, "error": 5.0, "seconds": 10.0}
    lines = [
        {"step": 10 * (i + 1), "split": "train", "seconds_per_step": s, **figures}
        for i, s in enumerate((9.0, 0.5, 0.25))
    ]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 30, "split": "mnist", **figures}])
    (plan.folder(begun, 0) / "metrics.jsonl").write_text(text)
    # Two epochs of 500 steps, 30 of them done, by the median.
    assert time_left.seconds_left(plan, [begun]) == 0.5 * 970
    a_step = time_left.seconds_per_step(dataclasses.replace(settings, seed=0))
    assert 0 < a_step < 5
    assert time_left.seconds_left(plan, [begun, *others]) == pytest.approx(0.5 * 970 + 2 * 1000 * a_step)
    monkeypatch.setattr(time_left, "seconds_left", lambda plan, cells: 5400)
    time_left.say_what_is_left(plan, [begun, *others])
    time_left.say_what_is_left(dataclasses.replace(plan, quick=True), [begun])
    assert capsys.readouterr().out == "3 runs to train, about 1.5 hours.\n1 run to train.\n"
