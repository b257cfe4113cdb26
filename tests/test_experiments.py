"""The experiments' settings, tables and figures, on networks small enough to make in seconds."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from benchmarks import step_time
import golden
from lcaps_jax import config, data, experiments, figures, models, robustness, runs, training
from lcaps_jax.config import ConfigError
from lcaps_jax.experiments import CELLS, Plan
import workloads


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


def test_unknown_experiments_are_refused_with_the_known_ones(tmp_path):
    for names in (["tabel2"], []):
        with pytest.raises(ConfigError, match="table2, table3, figure1, figure4, kept, robustness, ablations, all"):
            experiments.run(names, Plan(tmp_path, quick=True, data_dir=None))


def test_a_flag_that_there_is_not_is_refused(tmp_path):
    path = tmp_path / "bad.flags"
    path.write_text("--k=5\n--learning_rat=1\n")
    with pytest.raises(Exception, match="learning_rat"):
        config.from_flagfile(path)
    path.write_text("# Comment.\n--k=5\n--workdir=somewhere\n--eval_datasets=mnist,affnist\n")
    assert config.from_flagfile(path) == config.Config(k=5, eval_datasets=("mnist", "affnist"))


def test_a_row_of_table_2_is_what_the_runs_say(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run[0], workdir)
    cell = dataclasses.replace(CELLS[1], flagfile="tiny")
    result = runs.read_results(workdir)["sample"]
    (workdir / "results.json").write_text(json.dumps({**runs.read_results(workdir), "mnist": result}))
    settings, _ = config.read_config(workdir)
    row = experiments.table2_row(settings, cell, [workdir, workdir])
    assert row["error, %"] == f"{result['error']:.2f} and {result['error']:.2f}"
    interval = "{:.2f} to {:.2f}".format(*result["ci95"])
    assert row["95 % interval"] == f"{interval} and {interval}"  # the images are the same: pooled they say no more
    assert row["seeds"] == 2 and row["paper, %"] == "0.5" and row["epochs"] == "2"
    early = shutil.copytree(workdir, tmp_path / "early")  # of the last but one epoch, as a run stopped there has it
    (early / "results.json").write_text(json.dumps({"mnist": {**result, "step": result["step"] // 2}}))
    assert experiments.table2_row(settings, cell, [early])["epochs"] == "1"
    assert experiments.table2_row(settings, cell, [workdir, early])["epochs"] == "2 and 1"
    model = runs.load_run(workdir)
    empty = experiments.table2_row(settings, cell, [])
    assert list(empty) == list(row) and empty["error, %"] == "" and empty["parameters"] == row["parameters"]
    assert row["parameters"] == f"{sum(x.size for x in jax.tree.leaves(model.params)) / 1e6:.1f} M"


def test_the_commands_on_the_runs_that_are_there(tiny_run, tmp_path, monkeypatch, capsys):
    for name in ("mnist_9x9_k50", "mnist_9x9_k70"):
        shutil.copytree(tiny_run[0], tmp_path / name)
        results = runs.read_results(tmp_path / name)
        (tmp_path / name / "results.json").write_text(json.dumps({**results, "mnist": results["sample"]}))
    settings = config.Config(**workloads.TINY)
    monkeypatch.setattr(Plan, "settings_of", lambda self, flagfile, seed: dataclasses.replace(settings, seed=seed))
    monkeypatch.setattr(experiments, "_zeros", lambda plan: workloads.random_split(20).images)
    plan = Plan(tmp_path, quick=False, data_dir=None, train=False)
    split = workloads.random_split(1000)
    monkeypatch.setattr(data, "load_test", lambda *arguments: split)
    experiments.run(["table2", "table3", "figure1", "figure4", "kept"], plan)
    printed = capsys.readouterr().out
    for missing in ("table3: not timed", "figure1: without mnist_capsnet", "figure4: without mnist_9x9_k100"):
        assert missing in printed
    assert (tmp_path / "figures" / "figure4.png").stat().st_size > 5000
    rows = json.loads((tmp_path / "table2.json").read_text())
    assert len(rows) == len(CELLS) and (tmp_path / "table2.md").read_text() in printed
    there = [cell.flagfile for cell, row in zip(CELLS, rows) if row["error, %"]]
    assert there == ["mnist_9x9_k70", "mnist_9x9_k50"]
    run = runs.load_run(tiny_run[0])
    index = run.model.apply({"params": run.params}, data.to_unit_range(split.images)).index
    selection = experiments.selection(np.asarray(index), split.labels, models.geometry(28, 9, 9, 2))
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert [row["network"] for row in kept] == [f"L-CapsNet 9x9, K={k}" for k in (50, 70)]
    assert {row["in common, two digits, %"] for row in kept} == {f"{100 * selection['in_common']:.0f}"}
    assert {row["their types"] for row in kept} == {f"{selection['types_ever']} of 2"}
    assert {row["by chance, %"] for row in kept} == {f"{100 * 5 / selection['ever']:.0f}"}
    # What was measured is kept as text, and is drawn again without the networks.
    kept = json.loads((tmp_path / "mnist_9x9_k50" / "experiments" / "zeros.json").read_text())
    assert len(kept["activity"]) == 72 and kept["coupling"] is None
    (tmp_path / "figures" / "figure4.png").unlink()
    shutil.rmtree(tmp_path / "mnist_9x9_k50" / "checkpoints")
    shutil.rmtree(tmp_path / "mnist_9x9_k70" / "checkpoints")
    (tmp_path / "mnist_9x9_k70" / "experiments" / "zeros.json").unlink()
    monkeypatch.setattr(runs, "load_run", None)
    experiments.run(["table2", "figure4"], plan)
    assert (tmp_path / "figures" / "figure4.png").exists() and json.loads(
        (tmp_path / "table2.json").read_text()
    ) == rows
    assert "figure4: without mnist_9x9_k70, whose checkpoints are gone." in capsys.readouterr().out
    settings = dataclasses.replace(settings, k=6)
    with pytest.raises(ConfigError, match="--k=6: the run in .*mnist_9x9_k70 was begun with k=5"):
        experiments.run(["table2"], plan)


def test_table_3_is_of_the_times_that_are_written_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(step_time, "CASES", {"MNIST 9x9, K=50": workloads.TINY})
    monkeypatch.setattr(step_time, "TABLE3", {name: step_time.TABLE3[name] for name in step_time.CASES})
    experiments.run(["table3"], Plan(tmp_path / "new", quick=True, data_dir=None))
    measured = json.loads((tmp_path / "new" / "step_time.json").read_text())["cases"]
    rows = json.loads((tmp_path / "new" / "table3.json").read_text())
    (row,), ((name, case),) = rows, measured.items()
    assert row["network"] == name == "MNIST 9x9, K=50" and row["paper, ms"] == "203"
    assert row["ms an iteration (s.e.)"].split()[0] == f"{1e3 * case['mean']:.0f}"
    assert case["iterations"] == 10 and 0 < case["seconds"] < 10 and case["compile_seconds"] > 0
    assert case["images_per_second"] == pytest.approx(100 / case["seconds"])


def test_the_tables_of_the_documents_are_those_of_the_raw_results(tmp_path):
    """Every line with a figure that the commands make of ``docs/results`` stands in ``docs/results.md``."""
    docs = pathlib.Path(__file__).parents[1] / "docs"
    workdir = shutil.copytree(docs / "results", tmp_path / "results")
    experiments.run(["table2", "ablations"], Plan(workdir, quick=False, data_dir=None, train=False))
    written = (docs / "results.md").read_text().splitlines()
    for table in ("table2", "ablations"):
        lines = (workdir / f"{table}.md").read_text().splitlines()
        lines = [line for line in lines if not re.search(r" M \|( \d+ \|)?  \|", line)]  # no error: not run
        assert len(lines) > 6 and [line for line in lines if line not in written] == []


def test_where_the_errors_lie_and_what_poses_do_is_what_the_documents_say(tmp_path):
    docs = pathlib.Path(__file__).parents[1] / "docs"
    workdir = shutil.copytree(docs / "results", tmp_path / "results")
    prepared = str(golden.path("tensorflow_datasets"))
    experiments.run(["robustness", "kept"], Plan(workdir, quick=False, data_dir=prepared, train=False))
    written = (docs / "results.md").read_text()
    poses = [line for line in (workdir / "poses.md").read_text().splitlines() if "CapsNet" in line]
    kept = (workdir / "kept.md").read_text().splitlines()
    assert len(kept) == 9 and [line for line in kept if line not in written.splitlines()] == []
    assert len(poses) == 28 and [line for line in poses if line not in written.splitlines()] == []
    rows = json.loads((workdir / "robustness.json").read_text())
    shifts = [row for row in rows if row["quantity"].startswith("shift")]
    assert len(shifts) == 5
    for row in shifts:
        (line,) = [line for line in written.splitlines() if re.match(rf"\| [^|]* \| {row['images']:,} \| ", line)]
        errors = [f"{error:.2f}" for error in list(row.values())[4:]]
        assert [error for error in re.findall(r"\d+\.\d+", line) if error in errors] == errors, line


def test_errors_on_affnist_are_counted_by_what_was_done_to_the_digit(tmp_path, monkeypatch):
    settings = config.Config(**workloads.TINY).resolved(40, 0)
    model = training.make_model(settings, 10)
    params = training.compute_once(lambda: training.init_params(model, settings, 1))
    run = runs.Run(model, params, settings, tuple("0123456789"), 1, 7)
    (tmp_path / "ablation_longer" / "checkpoints").mkdir(parents=True)
    (tmp_path / "ablation_longer" / "results.json").write_text('{"affnist": {"step": 7}}')
    split = data.Affnist(workloads.random_split(250))
    monkeypatch.setattr(experiments, "_finished", lambda *arguments: {})
    monkeypatch.setattr(runs, "is_finished", lambda config, folder, archived: folder.name == "ablation_longer")
    monkeypatch.setattr(data, "load_test", lambda *arguments: split)
    monkeypatch.setattr(runs, "load_run", lambda folder: run)
    plan = Plan(tmp_path, quick=False, data_dir=None, train=False)
    experiments.run(["robustness"], plan)
    (images,) = split.parts()
    output = jax.jit(model.apply)({"params": params}, data.to_unit_range(images.images))
    predicted = np.asarray(output.activity).argmax(axis=1)
    kept = json.loads((tmp_path / "ablation_longer" / "experiments" / "affnist.json").read_text())
    assert kept == {"step": 7, "of": {"images": 250}, "predicted": "".join(map(str, predicted))}
    table = (tmp_path / "robustness.json").read_text()
    for quantity in {row["quantity"] for row in json.loads(table)}:
        rows = [row for row in json.loads(table) if row["quantity"] == quantity]
        assert sum(row["images"] for row in rows) == 250
        wrong = sum(row["images"] * row["narrow L-CapsNet"] / 100 for row in rows)
        np.testing.assert_allclose(wrong, (predicted != split.labels).sum(), atol=0.1)
    poses = json.loads((tmp_path / "poses.json").read_text())
    assert [row["transformation"] for row in poses] == list(robustness.KINDS)
    for name in ("robustness", "transformed"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000
    shutil.rmtree(tmp_path / "ablation_longer" / "checkpoints")
    (tmp_path / "robustness.json").unlink()
    experiments.run(["robustness"], plan)
    assert (tmp_path / "robustness.json").read_text() == table


def test_the_time_that_is_left_is_of_the_log_or_of_a_few_steps(tmp_path, monkeypatch, capsys):
    settings = config.Config(**{**workloads.TINY, "dataset": "mnist", "validation_size": 10_000})
    monkeypatch.setattr(Plan, "settings_of", lambda self, flagfile, seed: dataclasses.replace(settings, seed=seed))
    plan = Plan(tmp_path, quick=False, data_dir=None)
    begun, *others = [cell for cell in CELLS if cell.seeds == 1][:3]
    plan.folder(begun, 0).mkdir()
    lines = [{"step": 10 * (i + 1), "split": "train", "seconds_per_step": s} for i, s in enumerate((9.0, 0.5, 0.25))]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 30, "split": "mnist", "error": 5.0}])
    (plan.folder(begun, 0) / "metrics.jsonl").write_text(text)
    # Two epochs of 500 steps, 30 of them done, by the median.
    assert experiments.seconds_left(plan, [begun]) == 0.5 * 970
    a_step = experiments._seconds_a_step(dataclasses.replace(settings, seed=0))
    assert 0 < a_step < 5
    assert experiments.seconds_left(plan, [begun, *others]) == pytest.approx(0.5 * 970 + 2 * 1000 * a_step)
    monkeypatch.setattr(experiments, "seconds_left", lambda plan, cells: 5400)
    experiments._say_what_is_left(plan, [begun, *others])
    experiments._say_what_is_left(dataclasses.replace(plan, quick=True), [begun])
    assert capsys.readouterr().out == "3 runs to train, about 1.5 hours.\n1 run to train.\n"


def test_figures_find_every_seed_and_train_the_first_alone(tmp_path, monkeypatch):
    trained = []
    plan = Plan(tmp_path, quick=False, data_dir=None)
    monkeypatch.setattr(runs, "train", lambda config, folder: trained.append(folder.name))
    monkeypatch.setattr(runs, "is_finished", lambda config, folder, archived: folder.name.endswith("_seed1"))
    found = experiments._finished(plan, "figure4", ["mnist_9x9_k50", "mnist_9x9_k100"])
    assert trained == ["mnist_9x9_k50", "mnist_9x9_k100"]
    assert found == {"mnist_9x9_k50": [tmp_path / "mnist_9x9_k50_seed1"]}


def test_what_is_archived_is_not_trained_again(tiny_run, tmp_path, monkeypatch):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    settings, _ = config.read_config(workdir)
    shutil.rmtree(workdir / "checkpoints")
    monkeypatch.setattr(runs, "train", None)
    assert Plan(tmp_path, quick=False, data_dir=None).finish(settings, workdir)
    assert not runs.is_finished(settings, workdir)
    longer = dataclasses.replace(settings, epochs=settings.epochs + 1)
    assert not runs.is_finished(longer, workdir, archived=True)


def test_a_run_that_diverges_leaves_its_cell_empty(tmp_path, monkeypatch, capsys):
    def diverge(*arguments):
        raise training.DivergenceError("The loss of step 3 is nan.")

    monkeypatch.setattr(runs, "train", diverge)
    plan = Plan(tmp_path, quick=True, data_dir=None)
    assert plan.run(CELLS[1]) == [] and "step 3 is nan. Its cell stays empty." in capsys.readouterr().out


def test_more_variants_of_affnist_are_evaluated_anew(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    results = runs.read_results(workdir)
    (workdir / "results.json").write_text(json.dumps({"sample": {**results["sample"], "variants": 2}}))
    settings, _ = config.read_config(workdir)
    assert runs.is_finished(dataclasses.replace(settings, affnist_variants=2), workdir)
    assert not runs.is_finished(dataclasses.replace(settings, affnist_variants=3), workdir)


def test_mean_activity_and_coupling_are_means_over_all_images(tmp_path):
    settings = workloads.tiny_config(model="capsnet")
    model = training.make_model(settings, 10)
    params = training.compute_once(lambda: training.init_params(model, settings, 1))
    # Far from the start, where all classes are coupled alike.
    params["routing"] = jax.tree.map(lambda x: 30 * x, params["routing"])
    images = workloads.random_split(130).images
    run = runs.Run(model, params, settings, tuple("0123456789"), 1, 0)
    activity, coupling = experiments.primary_means(run, images, 3)
    output = jax.jit(model.apply)({"params": params}, data.to_unit_range(images))
    np.testing.assert_allclose(activity, output.primary_activity.mean(axis=0), atol=1e-5)
    coupled = np.asarray(output.coupling.mean(axis=0))
    np.testing.assert_allclose(coupling, coupled[:, 3], atol=1e-5)
    assert np.abs(coupled[:, 3:4] - np.delete(coupled, 3, axis=1)).max(axis=0).min() > 1e-4
    drawn = figures.lengths_and_couplings(activity, coupling).axes
    ranked = np.argsort(-activity, kind="stable")[:100]
    first, rest = experiments._couplings_by_rank(activity, coupling)
    assert first["capsules, by mean length"] == "1 to 50" and rest["capsules, by mean length"] == "51 to 72"
    assert first["largest coupling"] == f"{coupling[ranked[:50]].max():.3f}"
    for axes, values in zip(drawn, (activity, coupling), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], values[ranked])


def test_how_alike_selections_are_against_every_pair():
    rng = np.random.default_rng(0)
    sizes = models.geometry(28, 9, 9, 2)
    index = np.stack([rng.choice(np.arange(0, 60, 2), 5, replace=False) for _ in range(12)])  # of the first type alone
    labels = np.arange(12) % 3
    found = experiments.selection(index, labels, sizes)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    shares = {(i, j): len(set(index[i]) & set(index[j])) / 5 for i, j in pairs}
    alike = [share for (i, j), share in shares.items() if labels[i] == labels[j]]
    np.testing.assert_allclose(found["in_common"], np.mean(list(shares.values())))
    np.testing.assert_allclose(found["in_common_of_class"], np.mean(alike))
    assert found["in_common_of_class"] != found["in_common"]
    assert (found["k"], found["capsules"], found["types"], found["types_ever"]) == (5, 72, 2, 1)
    assert found["ever"] == len(set(index.ravel()))


def test_each_ablation_changes_one_thing_and_fits_the_images(tmp_path):
    plan = Plan(tmp_path, quick=False, data_dir=None)
    settings = {name: changed.resolved(40, 6) for name, changed in experiments.ablated(plan).items()}
    whole = settings.pop("whole")
    assert whole == plan.settings_of("ablation", seed=0).resolved(40, 6)
    # At full size: one schedule, so that nothing else differs but the layers.
    full, capsnet = settings.pop("full_size"), settings.pop("capsnet_full_size")
    assert dataclasses.replace(settings.pop("full_size_shift10"), max_shift=6) == full
    assert dataclasses.replace(capsnet, model="lcapsnet") == full
    whole_schedule = plan.settings_of("affnist_9x9_k70", seed=0).resolved(40, 6)
    assert dataclasses.replace(whole_schedule, epochs=5, decay_steps=600) == full
    stopped = plan.settings_of("affnist_capsnet_stopped", seed=0)
    assert dataclasses.replace(stopped, stop_at_error=0.0) == plan.settings_of("affnist_capsnet", seed=0)
    differ = {
        name: {key for key, value in changed.to_json().items() if value != whole.to_json()[key]}
        for name, changed in settings.items()
    }
    routing = {"model", "decoder"}  # the decoder is of no meaning to the ladder
    assert differ.pop("capsnet") == routing and differ.pop("capsnet_shift10") == routing | {"max_shift"}
    assert differ.pop("capsnet_two_types") == routing | {"capsule_types"}
    schedule = {"epochs", "decay_steps"}
    assert differ.pop("longer") == schedule and differ.pop("capsnet_longer") == routing | schedule
    for longer, short in (("longer", whole), ("capsnet_longer", settings["capsnet"])):  # it ends at the same rate
        assert settings[longer].epochs / short.epochs == settings[longer].decay_steps / short.decay_steps == 2
    assert all(len(keys) == 1 for keys in differ.values()), differ
    assert settings["no_pruning"].k == 6 * 6 * 16


def test_binned_errors_by_hand():
    values = np.linspace(0, 8, 1600, endpoint=False)
    wrong = {"a": values < 1, "b": np.zeros(1600, bool)}
    edges = figures.equal_ranges(values)
    lines = figures.binned_errors(values, edges, wrong)
    assert [line[2] for line in lines] == [200] * 8
    assert [line[3]["a"] for line in lines] == [100, *[0] * 7] and all(line[3]["b"] == 0 for line in lines)
    # The second quantity has the greater error, and the picture room for it.
    drawn = figures.errors_by({"halves": (values, np.array([0, 2, 8])), "eighths": (values, edges)}, wrong)
    halves, eighths = (axes.lines[0].get_xydata() for axes in drawn.axes)
    np.testing.assert_allclose(halves, [(0.9975, 50), (4.9975, 0)])
    np.testing.assert_allclose(eighths, [(i + 0.4975, 100 * (i == 0)) for i in range(8)])
    assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 100 for axes in drawn.axes)
    unequal = figures.binned_errors(
        np.array([0, 6, 7, 8, 9]), np.array([0, 7, 9, 10]), {"a": np.array([0, 1, 1, 1, 0])}
    )
    assert [(*line[:3], line[3]["a"]) for line in unequal] == [(0, 7, 2, 50), (7, 9, 2, 100), (9, 10, 1, 0)]
