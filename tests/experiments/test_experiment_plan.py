"""The cells of Table 2, and the plan of their runs: settings, folders, what is trained and what is left alone."""

import dataclasses
import json
import shutil

import jax
import pytest

from experiments import ablations
from experiments.cells import CELLS
from experiments.plan import Plan
from lcaps_jax import commands, config, runs, training


def test_every_cell_has_settings_of_its_own_and_a_set_to_be_judged_on(tmp_path):
    plan = Plan(tmp_path, quick=False, data_dir=None)
    settings = {cell: plan.settings(cell, seed=0) for cell in CELLS}
    assert len({json.dumps(one.to_json()) for one in settings.values()}) == len(CELLS)
    for cell, one in settings.items():
        assert cell.test_set in (one.eval_datasets or (one.dataset,))
        assert one.dataset == ("expanded_mnist" if cell.column == "affNIST" else "mnist")
        one.resolved(40 if cell.column == "affNIST" else 28, 0)  # it fits the images
        quick = dataclasses.replace(plan, quick=True).settings(cell, seed=1)
        quick.resolved(40 if cell.column == "affNIST" else 28, 0)
        assert quick.epochs == 1 and quick.seed == 1
    assert len({(cell.row, cell.column) for cell in CELLS}) == len(CELLS)
    assert len(dataclasses.replace(plan, quick=True).cells()) == 9 and plan.cells() == list(CELLS)
    assert len(plan.unfinished(CELLS)) == sum(cell.seeds for cell in CELLS)
    assert plan.folder(CELLS[0], 1) != plan.folder(CELLS[0], 0)


def test_a_flag_that_there_is_not_is_refused(tmp_path):
    path = tmp_path / "bad.flags"
    path.write_text("--k=5\n--learning_rat=1\n")
    with pytest.raises(Exception, match="learning_rat"):
        config.from_flagfile(path)
    path.write_text("# Comment.\n--k=5\n--workdir=somewhere\n--eval_datasets=mnist,affnist\n")
    assert config.from_flagfile(path) == config.Config(k=5, eval_datasets=("mnist", "affnist"))


@pytest.mark.parametrize("quick", [False, True])
def test_no_new_run_is_begun_with_a_setting_of_another_network(tmp_path, monkeypatch, quick):
    begun = {}
    monkeypatch.setattr(commands, "train", lambda config, folder: begun.update({folder.name: config}))
    plan = Plan(tmp_path, quick, data_dir=None)
    for cell in plan.cells():
        plan.run(cell)
    for name, settings in ablations.settings(plan).items():
        plan.finish(settings, tmp_path / name)
    assert len(begun) == len(ablations.ABLATIONS) + sum(len(plan.seeds(cell)) for cell in plan.cells())
    for settings in begun.values():
        settings.check_settings_are_used()  # as train.py does
    assert begun["mnist_9x9_k50"].k == (10 if quick else 50)


def test_a_run_counts_whatever_the_precision_of_its_products_and_goes_on_with_it(tiny_run, tmp_path, monkeypatch):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    settings, about = config.read_config(workdir)
    config.write_config(workdir, dataclasses.replace(settings, matmul_precision="default"), about)
    plan = Plan(tmp_path, quick=False, data_dir=None)
    assert settings.matmul_precision == "highest" and plan.is_finished(settings, workdir)
    begun = []
    monkeypatch.setattr(commands, "train", lambda config, folder: begun.append(config))
    assert not plan.finish(dataclasses.replace(settings, epochs=settings.epochs + 1), workdir)
    assert [one.matmul_precision for one in begun] == ["default"]


def test_the_programs_of_a_run_are_forgotten_before_the_next(tmp_path, monkeypatch):
    traced = []
    program = jax.jit(lambda x: traced.append("traced") or x)
    monkeypatch.setattr(commands, "train", lambda config, folder: program(1.0))
    plan = Plan(tmp_path, quick=False, data_dir=None)
    for name in ("one", "two"):
        plan.finish(config.Config(), tmp_path / name)
    assert len(traced) == 2


def test_a_run_that_was_begun_with_one_goes_on_with_it(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    settings, about = config.read_config(workdir)
    old = dataclasses.replace(settings, model="capsnet", k=32)
    config.write_config(workdir, old, about)
    plan = Plan(tmp_path, quick=False, data_dir=None, train=False)
    assert plan.finish(dataclasses.replace(old, k=32), workdir) and plan.finish(dataclasses.replace(old, k=70), workdir)


def test_figures_find_every_seed_and_train_the_first_alone(tmp_path, monkeypatch, capsys):
    trained = []
    plan = Plan(tmp_path, quick=False, data_dir=None)
    monkeypatch.setattr(commands, "train", lambda config, folder: trained.append(folder.name))
    monkeypatch.setattr(runs, "is_finished", lambda config, folder, archived: folder.name.endswith("_seed1"))
    found = plan.finished("figure4", ["mnist_9x9_k50", "mnist_9x9_k100"])
    assert trained == ["mnist_9x9_k50", "mnist_9x9_k100"]
    assert found == {"mnist_9x9_k50": [tmp_path / "mnist_9x9_k50_seed1"]}
    assert capsys.readouterr().out == "figure4: without mnist_9x9_k100, not trained yet.\n"


def test_what_is_archived_is_not_trained_again(tiny_run, tmp_path, monkeypatch):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    settings, _ = config.read_config(workdir)
    shutil.rmtree(workdir / "checkpoints")
    monkeypatch.setattr(commands, "train", None)
    assert Plan(tmp_path, quick=False, data_dir=None).finish(settings, workdir)
    assert not runs.is_finished(settings, workdir)
    longer = dataclasses.replace(settings, epochs=settings.epochs + 1)
    assert not runs.is_finished(longer, workdir, archived=True)


def test_a_run_that_diverges_leaves_its_cell_empty(tmp_path, monkeypatch, capsys):
    def diverge(*arguments):
        raise training.DivergenceError("The loss of step 3 is nan.")

    monkeypatch.setattr(commands, "train", diverge)
    plan = Plan(tmp_path, quick=True, data_dir=None)
    assert plan.run(CELLS[1]) == [] and "step 3 is nan. Its cell stays empty." in capsys.readouterr().out


def test_more_variants_of_affnist_are_evaluated_anew(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    results = runs.read_results(workdir)
    (workdir / "results.json").write_text(json.dumps({"sample": {**results["sample"], "variants": 2}}))
    settings, _ = config.read_config(workdir)
    assert runs.is_finished(dataclasses.replace(settings, affnist_variants=2), workdir)
    assert not runs.is_finished(dataclasses.replace(settings, affnist_variants=3), workdir)
