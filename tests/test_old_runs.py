"""Runs of before the package was rearranged are read, evaluated and continued as they were then."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import lcaps_jax
from lcaps_jax import commands, data
from lcaps_jax.config import read_config
from lcaps_jax.training import read_metrics
import workloads

_OLD = workloads.REPOSITORY / "tests" / "old_runs"


@pytest.mark.parametrize("name", ["lcapsnet", "capsnet"])
@pytest.mark.parametrize("checkpoint, step", [("last", 20), ("best", 10)])
def test_an_old_run_evaluates_to_what_its_log_says(tmp_path, name, checkpoint, step):
    workdir = shutil.copytree(_OLD / name, tmp_path / name)
    run = lcaps_jax.load_run(workdir, checkpoint)
    assert run.step == step and run.config.model == name
    logged = next(line["error"] for line in read_metrics(workdir) if line["split"] == "sample" and line["step"] == step)
    (evaluation,) = commands.evaluate_run(run, ["sample"], workdir).values()
    assert evaluation.error == pytest.approx(logged, abs=0.2)  # percent; rounding may tip an image or two
    results = json.loads((workdir / "results.json").read_text())
    assert ("sample (best)" in results) == (checkpoint == "best")


def test_an_old_run_goes_on_as_it_would_have(tmp_path):
    """The metrics of a third epoch are those that the code of then came to."""
    workdir = shutil.copytree(_OLD / "lcapsnet", tmp_path / "run")
    config, _ = read_config(workdir)
    commands.train(dataclasses.replace(config, epochs=3), workdir)
    losses = {line["split"]: line["loss"] for line in read_metrics(workdir) if line["step"] == 30}
    assert losses == pytest.approx({"train": 0.72357, "sample": 0.709355, "validation": 0.707148}, rel=2e-3)


def test_the_shipped_network_says_what_it_said():
    """Activities that the code of before computed of three digits of the sample."""
    activity = lcaps_jax.load_pretrained()(data.load("sample").test.images[:3]).activity
    np.testing.assert_allclose(activity, json.loads((_OLD / "mnist_small.json").read_text()), atol=1e-4)
