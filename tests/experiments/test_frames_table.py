"""The table of networks with a frame: what is measured of each seed, and what is printed."""

import json

import numpy as np
import pytest

from experiments import frames
from experiments.cells import Cell
from experiments.plan import Plan
from lcaps_jax import commands, data
from lcaps_jax.config import Config
from lcaps_jax.data import Affnist
import workloads


@pytest.mark.slow
def test_each_seed_is_searched_and_the_mean_is_printed(tmp_path, monkeypatch, capsys):
    cell = Cell("tiny", "affNIST", "affnist_framed_small", None, seeds=2)
    settings = {**workloads.TINY, "frame": "affine", "epochs": 1, "train_size": 400}
    for seed in (0, 1):
        commands.train(Config(**settings, seed=seed), Plan(tmp_path, False, None).folder(cell, seed))
    sample = data.load("sample")
    sample = data.Source(sample.train, sample.test.take(np.arange(60)), sample.class_names, 28)
    monkeypatch.setattr(frames, "CELLS", (cell,))
    monkeypatch.setattr(frames.data, "load", lambda name, data_dir: sample)
    monkeypatch.setattr(frames.data, "load_test", lambda name, data_dir, size: Affnist(sample.test))
    monkeypatch.setattr(Plan, "run", lambda self, cell: [self.folder(cell, seed) for seed in self.seeds(cell)])
    capsys.readouterr()
    frames.run(Plan(tmp_path, False, None))
    rows = json.loads((tmp_path / "frames.json").read_text())
    assert [row["search"] for row in rows] == ["none", "-10, 0, 10", "-20, -10, 0, 10, 20"]
    folder = tmp_path / "affnist_framed_small"
    kept = json.loads((folder / "experiments" / "searches.json").read_text())
    other = json.loads((tmp_path / "affnist_framed_small_seed1" / "experiments" / "searches.json").read_text())
    for row in rows:
        errors = [numbers[row["search"]]["affnist"] for numbers in (kept, other)]
        half = 12.706 * abs(errors[0] - errors[1]) / 2  # Student's t of two seeds, and the mean's standard error
        said = f"{np.mean(errors):.2f} ± {half:.2f} ({errors[0]:.2f}, {errors[1]:.2f})"
        assert row["affNIST, %"] == said and row["seeds"] == 2
    run = frames.runs.load_run(folder)
    predicted = run(Affnist(sample.test).take(np.arange(60)).images).activity.argmax(axis=1)
    assert kept["none"]["affnist"] == round(100 * float(np.mean(predicted != sample.test.labels)), 4)
    assert (tmp_path / "figures" / "frames.png").exists()
    before = capsys.readouterr().out
    frames.run(Plan(tmp_path, False, None))  # from what is kept
    assert capsys.readouterr().out == before
