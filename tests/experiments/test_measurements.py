"""What experiments keep of networks: found again, made anew where it is of something else, never under a wrong name."""

import json
import shutil
import types

import pytest

from experiments import measurements
from experiments.measurements import Measurement, collect
from lcaps_jax import runs


def _means(of=None, measure=lambda run: {"of run": run.name}):
    return Measurement("means", {"digit": 0} if of is None else of, measure)


@pytest.fixture
def seeds(tmp_path, monkeypatch):
    """Two finished runs of a network, with checkpoints that are of their names."""
    folders = [tmp_path / "one", tmp_path / "one_seed1"]
    for folder in folders:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "results.json").write_text('{"mnist": {"step": 40}, "affnist": {"step": 60}}')
    monkeypatch.setattr(runs, "load_run", lambda folder: types.SimpleNamespace(name=folder.name, step=60))
    return folders


def test_what_was_measured_is_not_measured_again(seeds, monkeypatch):
    expected = {"one": ({"step": 60, "of": {"digit": 0}, "of run": "one"},)}
    assert collect("figure4", {"one": seeds}, _means()) == expected
    assert json.loads((seeds[0] / "experiments" / "means.json").read_text()) == expected["one"][0]
    shutil.rmtree(seeds[0] / "checkpoints")
    monkeypatch.setattr(runs, "load_run", None)
    assert collect("figure4", {"one": seeds}, _means()) == expected


def test_what_is_of_another_step_or_of_something_else_is_measured_anew(seeds):
    collect("figure4", {"one": seeds}, _means(measure=lambda run: {"old": True}))
    ((other,),) = collect("figure4", {"one": seeds}, _means(of={"digit": 1})).values()
    assert other == {"step": 60, "of": {"digit": 1}, "of run": "one"}
    (seeds[0] / "results.json").write_text('{"mnist": {"step": 80}}')
    shutil.rmtree(seeds[0] / "checkpoints")
    ((other,),) = collect("figure4", {"one": seeds}, _means(of={"digit": 1})).values()
    assert other["of run"] == "one_seed1"


def test_all_of_a_network_s_measurements_are_of_one_of_its_runs(seeds, capsys):
    means, predictions = _means(), Measurement("predictions", {}, lambda run: {"of run": run.name})
    collect("figure4", {"one": seeds}, means)
    shutil.rmtree(seeds[0] / "checkpoints")
    ((of_means, of_predictions),) = collect("robustness", {"one": seeds}, means, predictions).values()
    assert of_means["of run"] == of_predictions["of run"] == "one_seed1"
    assert "robustness: one_seed1 in place of one, whose checkpoints are gone." in capsys.readouterr().out


def test_networks_that_are_gone_or_damaged_are_left_out_with_a_word(seeds, monkeypatch, capsys):
    for folder in seeds:
        shutil.rmtree(folder / "checkpoints")
    assert collect("figure4", {"one": seeds}, _means()) == {}
    assert "figure4: without one, whose checkpoints are gone." in capsys.readouterr().out
    (seeds[1] / "checkpoints").mkdir()
    monkeypatch.setattr(runs, "load_run", lambda folder: types.SimpleNamespace(step=40))
    assert collect("figure4", {"one": seeds}, _means()) == {}
    assert "figure4: without one_seed1, whose last checkpoint is of step 40." in capsys.readouterr().out
    assert not (seeds[1] / "experiments").exists()


def test_arrays_are_rounded_for_people():
    assert measurements.rounded(None) is None and measurements.rounded([[1 / 3, 2]]) == [[0.3333, 2.0]]
