"""The experiments by their names, on networks small enough to train in seconds, and on the results in the documents."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from experiments.__main__ import run
from experiments.cells import CELLS
from experiments.plan import Plan
from lcaps_jax import data, runs, training
from lcaps_jax.config import Config, ConfigError
from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.networks.base import geometry
from lcaps_jax.views.kept import selection
import workloads


def test_unknown_experiments_are_refused_with_the_known_ones(tmp_path):
    for names in (["tabel2"], []):
        with pytest.raises(ConfigError, match="table2, table3, .*, questions, lengths, ablations, frames, poses, all"):
            run(names, Plan(tmp_path, quick=True, data_dir=None))


def test_the_commands_on_the_runs_that_are_there(tiny_run, tmp_path, monkeypatch, capsys):
    for name in ("mnist_9x9_k50", "mnist_9x9_k70"):
        shutil.copytree(tiny_run[0], tmp_path / name)
        results = runs.read_results(tmp_path / name)
        (tmp_path / name / "results.json").write_text(json.dumps({**results, "mnist": results["sample"]}))
    settings = Config(**workloads.TINY)
    monkeypatch.setattr(Plan, "settings_of", lambda self, flagfile, seed: dataclasses.replace(settings, seed=seed))
    zeros = data.Split(workloads.random_split(20).images, np.zeros(20, np.int32))
    split = workloads.random_split(1000)
    monkeypatch.setattr(data, "load", lambda *arguments, **options: data.Source(zeros, split, tuple("0123456789"), 28))
    monkeypatch.setattr(data, "load_test", lambda *arguments: split)
    plan = Plan(tmp_path, quick=False, data_dir=None, train=False)
    run(["table2", "table3", "figure1", "figure4", "kept"], plan)
    printed = capsys.readouterr().out
    for missing in ("table3: not timed", "figure1: without mnist_capsnet", "figure4: without mnist_9x9_k100"):
        assert missing in printed
    assert (tmp_path / "figures" / "figure4.png").stat().st_size > 5000
    rows = json.loads((tmp_path / "table2.json").read_text())
    assert len(rows) == len(CELLS) and (tmp_path / "table2.md").read_text() in printed
    there = [cell.flagfile for cell, row in zip(CELLS, rows) if row["error, %"]]
    assert there == ["mnist_9x9_k70", "mnist_9x9_k50"]
    tiny = runs.load_run(tiny_run[0])
    index = tiny.network.apply({"params": tiny.params}, to_unit_range(split.images)).index
    alike = selection(np.asarray(index), split.labels, geometry(28, 9, 9, 2))
    kept_rows = json.loads((tmp_path / "kept.json").read_text())
    assert [row["network"] for row in kept_rows] == [f"L-CapsNet 9x9, K={k}" for k in (50, 70)]
    assert {row["two digits share, %"] for row in kept_rows} == {f"{100 * alike['in_common']:.0f}"}
    assert {row["types of these"] for row in kept_rows} == {f"{alike['types_ever']} of 2"}
    assert {row["by chance, %"] for row in kept_rows} == {f"{100 * 5 / alike['ever']:.0f}"}
    # What was measured is kept as text, and is drawn again without the networks.
    measured = json.loads((tmp_path / "mnist_9x9_k50" / "experiments" / "zeros.json").read_text())
    assert len(measured["activity"]) == 72 and measured["coupling"] is None
    (tmp_path / "figures" / "figure4.png").unlink()
    shutil.rmtree(tmp_path / "mnist_9x9_k50" / "checkpoints")
    shutil.rmtree(tmp_path / "mnist_9x9_k70" / "checkpoints")
    (tmp_path / "mnist_9x9_k70" / "experiments" / "zeros.json").unlink()
    monkeypatch.setattr(runs, "load_run", None)
    run(["table2", "figure4"], plan)
    assert (tmp_path / "figures" / "figure4.png").exists()
    assert json.loads((tmp_path / "table2.json").read_text()) == rows
    assert "figure4: without mnist_9x9_k70, whose checkpoints are gone." in capsys.readouterr().out
    settings = dataclasses.replace(settings, k=6)
    with pytest.raises(ConfigError, match="k=6: the run in .*mnist_9x9_k70 was begun with k=5"):
        run(["table2"], plan)


@pytest.mark.parametrize(
    "page, tables",
    [
        ("results_details.md", ("table2", "ablations")),
        ("open_questions.md", ("questions",)),
        ("frames.md", ("frames",)),
    ],
)
def test_the_tables_of_the_documents_are_those_of_the_raw_results(page, tables, tmp_path, monkeypatch):
    """Every line with a figure that the commands make of ``docs/results`` stands in the page."""
    docs = workloads.REPOSITORY / "docs"
    workdir = shutil.copytree(docs / "results", tmp_path / "results")
    black = data.Split(np.zeros((10_000, 28, 28, 1), np.uint8), np.zeros(10_000, np.int32))  # as many as were measured
    monkeypatch.setattr(data, "load", lambda *arguments: data.Source(black, black, tuple("0123456789"), 28))
    monkeypatch.setattr(data, "load_test", lambda *arguments: data.Affnist(black))
    run(tables, Plan(workdir, quick=False, data_dir=None, train=False))
    written = (docs / page).read_text().splitlines()
    for table in tables:
        lines = (workdir / f"{table}.md").read_text().splitlines()
        lines = [line for line in lines if " M |" not in line or re.search(r"\d\.\d\d", line)]  # the others: not run
        assert len(lines) > 6 and [line for line in lines if line not in written] == []


_CLAIMS = {  # rows of the first table of docs/results.md that are not named as in Table 2
    "CapsNet, r=3, stopped at 0.77 %": "CapsNet, stopped after eight epochs as by Sabour et al.",
    "CapsNet, r=3": "CapsNet",
}
_LONG = {  # rows of it that are not of Table 2, and their runs
    "released graph, shuffled, 30 epochs": "ablation_released_full_size_shuffled",
    "released graph, 30 epochs": "ablation_released_full_size",
    "30 epochs": "ablation_length",
    "the graph's code loss": "ablation_code_loss_full_size",
}
_PLACED = {  # rows of its second table: runs at 6 and at 10 pixels, and the paper's error
    "L-CapsNet 15x15, K=70": (
        ["affnist_15x15_k70", "affnist_15x15_k70_seed1", "affnist_15x15_k70_seed2"],
        ["ablation_large_kernels_shift10", "ablation_large_kernels_shift10_seed1"],
        "12.2",
    ),
    "CapsNet": (["affnist_capsnet"], ["ablation_capsnet_full_size_shift10"], "21.0"),
    "L-CapsNet 9x9, K=70": (["ablation_full_size"], ["ablation_full_size_shift10"], "12.5"),
    "narrow L-CapsNet": (["ablation_whole"], ["ablation_shift10"], ""),
    "narrow CapsNet": (["ablation_capsnet"], ["ablation_capsnet_shift10"], ""),
}
_EVERY_SIX_EPOCHS = {  # rows of the table of the open questions, and their runs
    "the paper's formulas": "ablation_length",
    "the released graph, as it stands": "ablation_released_full_size",
    "the released graph, shuffled": "ablation_released_full_size_shuffled",
}


def test_the_errors_on_the_pages_of_results_are_those_of_the_raw_results():
    docs = workloads.REPOSITORY / "docs"
    written = (docs / "results.md").read_text().replace("\N{MULTIPLICATION SIGN}", "x")
    plan = Plan(docs / "results", quick=False, data_dir=None, train=False)

    def errors(folders, test):
        results = [runs.read_results(docs / "results" / folder)[test] for folder in folders]
        low, high = zip(*(result["ci95"] for result in results))
        return ", ".join(f"{result['error']:.2f}" for result in results), f"{min(low):.2f} to {max(high):.2f}"

    claimed = 0
    for cell in CELLS:
        if folders := [plan.folder(cell, seed) for seed in plan.seeds(cell) if plan.folder(cell, seed).exists()]:
            paper = f"{cell.paper or 0:.{1 if cell.column == 'affNIST' else 2}f}"
            error, interval = errors(folders, cell.test_set)
            name = _CLAIMS.get(cell.row, cell.row)
            line = f"| {name} | {cell.column} | {paper} | {error} | {interval} | {len(folders)} |\n"
            assert (line in written) == (cell.paper is not None), line
            claimed += line in written
    for name, folder in _LONG.items():
        error, interval = errors([folder], "affnist")
        assert f"| L-CapsNet 15x15, K=70, {name} | affNIST | 12.2 | {error} | {interval} | 1 |\n" in written
        claimed += 1
    assert claimed == len(re.findall(r"^\| .* \| (?:aff|M)NIST \| [\d.]+ \| ", written, re.MULTILINE)) == 20
    for name, (six, ten, paper) in _PLACED.items():
        epochs = json.loads((docs / "results" / ten[0] / "config.json").read_text())["settings"]["epochs"]
        both = [errors(folders, "affnist") for folders in (six, ten)]
        cells = [error if "," in error else f"{error} ({interval})" for error, interval in both]
        assert re.search(rf"\| {re.escape(name)} \| {epochs} \| {re.escape(' | '.join(cells))} \| {paper} ?\|", written)
    questions = (docs / "open_questions.md").read_text()
    for name, folder in _EVERY_SIX_EPOCHS.items():
        lines = [line for line in training.read_metrics(docs / "results" / folder) if line["split"] == "affnist"]
        cells = [f"{line['error']:.2f}" for line in lines if line["epoch"] % 6 == 0]
        assert len(cells) == 5 and f"| {name} | {' | '.join(cells)} |\n" in questions
