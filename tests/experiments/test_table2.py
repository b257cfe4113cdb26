"""The rows of Table 2, of a run that is finished and of none."""

import dataclasses
import json
import shutil

import jax

from experiments import table2
from experiments.cells import CELLS
from lcaps_jax import config, runs


def test_a_row_of_table_2_is_what_the_runs_say(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    cell = dataclasses.replace(CELLS[1], flagfile="tiny")
    result = runs.read_results(workdir)["sample"]
    (workdir / "results.json").write_text(json.dumps({**runs.read_results(workdir), "mnist": result}))
    settings, _ = config.read_config(workdir)
    row = table2.row_of(settings, cell, [workdir, workdir])
    assert row["error, %"] == f"{result['error']:.2f} and {result['error']:.2f}"
    interval = "{:.2f} to {:.2f}".format(*result["ci95"])
    assert row["95 % interval"] == f"{interval} and {interval}"  # the images are the same: pooled they say no more
    assert row["seeds"] == 2 and row["paper, %"] == "0.5" and row["epochs"] == "2"
    early = shutil.copytree(workdir, tmp_path / "early")  # of the last but one epoch, as a run stopped there has it
    (early / "results.json").write_text(json.dumps({"mnist": {**result, "step": result["step"] // 2}}))
    assert table2.row_of(settings, cell, [early])["epochs"] == "1"
    assert table2.row_of(settings, cell, [workdir, early])["epochs"] == "2 and 1"
    empty = table2.row_of(settings, cell, [])
    assert list(empty) == list(row) and empty["error, %"] == "" and empty["parameters"] == row["parameters"]
    params = runs.load_run(workdir).params
    assert row["parameters"] == f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.1f} M"
