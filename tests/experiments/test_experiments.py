"""The recorded results, the tables and figures made of them, and what is measured of a network for them."""

import shutil
import statistics
import types

import jax
import numpy as np
import pytest

from experiments import __main__ as command
from experiments import ablations, frames, kept, lengths, poses, results, robustness, table2, train, zeros
from lcaps_jax.data import affnist, api
from lcaps_jax.data.splits import Source
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.ops import frames as canonical
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.train.workdir import read_results
from lcaps_jax.util.errors import ConfigError
import workloads


def test_the_recorded_results_fit_together():
    table, curves, measured = results.read_table(), results.read_curves(), results.read_measured()
    assert len(table) == 146 and {row.run for row in table} == set(curves) and set(measured) <= set(curves)
    for row in table:
        assert row.low <= row.error <= row.high and row.count >= 2000
        assert row.epochs in [line["epoch"] for line in curves[row.run] if line["step"] == row.step]
        assert row.run.endswith(f"_seed{row.seed}") or row.seed == 0
        tested = [line for line in curves[row.run] if (line["split"], line["step"]) == (row.test_set, row.step)]
        assert [line["error"] for line in tested] in ([], [row.error])  # some were tested after their training
    assert sum(path.stat().st_size for path in results.FOLDER.iterdir()) < 1e6


def test_table_2_has_the_errors_of_all_seeds_beside_the_paper_s():
    rows = {row["network"] + row["test set"]: row for row in table2.rows()}
    assert len(rows) == len(table2.CELLS) == 20
    row = rows["L-CapsNet 15x15, K=70affnist"]
    assert (row["error, %"], row["paper, %"], row["seeds"]) == ("20.41 and 21.30 and 19.27", "12.2", 3)
    assert row["parameters"] == "52.3 M" and row["95 % interval"].startswith("19.63 to 21.21 and ")
    assert rows["CapsNet, r=3, stopped at 0.77 %affnist"]["epochs"] == "8"
    untrained = [row for row in rows.values() if not row["seeds"]]
    assert [row["error, %"] for row in untrained] == ["", ""]


def test_rows_of_the_other_tables():
    rows = ablations.rows(ablations.ABLATIONS, ("expanded_mnist", "affnist"))
    assert len(rows) == len(ablations.ABLATIONS)
    assert rows[0]["affnist, % (95 % interval)"] == "25.93 (25.08 to 26.80)"
    per_capsule = ablations.rows(["mnist_per_capsule_k70"], ("mnist", "affnist"))
    assert per_capsule[0]["mnist, % (95 % interval)"].count("(") == 3
    assert per_capsule[0]["affnist, % (95 % interval)"] == ""
    assert {row["kept for a digit"] for row in kept.rows()} >= {"70 of 1152", "32 of 576"}
    first = frames.rows()[0]
    assert first["affNIST, %"].startswith("1.44 ± 0.60 (1.65, 1.18, 1.50)") and first["seeds"] == 3


def test_each_network_of_the_experiments_can_be_trained():
    runs = {**ablations.ABLATIONS, **ablations.QUESTIONS}
    trainable = [name for name, (_, changes) in runs.items() if changes is not None]
    for name in [*(path.stem for path in train.CONFIGS.glob("*.flags")), *trainable, *table2.CELLS]:
        given = train.settings(name, seed=1)
        size, shift = (40, 6) if given["dataset"] == "expanded_mnist" else (28, 0)
        config, _ = resolve(given, Facts(given["dataset"], 60_000, size, shift), classes=10)
        assert config.schedule.seed == 1
        assert train.settings(name, quick=True).items() >= {"epochs": 1, "filters": 8}.items()
    for name in ("ablation_random", "tabel2"):
        with pytest.raises(ConfigError):
            train.settings(name)


def test_runs_are_trained_in_folders_by_name_and_seed(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(train.train, "train", lambda given, workdir: begun.update({workdir.name: given}))
    train.run(["ablation_capsnet", "mnist_9x9_k50"], tmp_path, seed=2, data_dir="sets")
    assert list(begun) == ["ablation_capsnet_seed2", "mnist_9x9_k50_seed2"]
    assert begun["ablation_capsnet_seed2"]["model"] == "capsnet" and "k" not in begun["ablation_capsnet_seed2"]
    assert begun["mnist_9x9_k50_seed2"].items() >= {"k": 50, "seed": 2, "data_dir": "sets"}.items()


def test_a_finished_run_is_added_in_place_of_an_earlier_one(tiny_run, tmp_path):
    folder = shutil.copytree(results.FOLDER, tmp_path / "results")
    workdir = shutil.copytree(tiny_run[0], tmp_path / "mnist_9x9_k50_seed7")
    before = results.read_table(folder)
    for _ in range(2):
        results.add(workdir, measured={"kept": {"k": 5}}, folder=folder)
    *others, row = results.read_table(folder)
    assert others == before
    ((test_set, result),) = read_results(workdir).items()
    assert (row.network, row.test_set, row.step) == ("L-CapsNet 9x9, K=50", test_set, result["step"])
    assert (row.error, [row.low, row.high], row.count) == (result["error"], result["ci95"], result["count"])
    params = load_model(workdir).params
    assert row.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    log = read_metrics(workdir)
    median = statistics.median(line["seconds_per_step"] for line in log if line["split"] == "train")
    assert row.minutes == round(median * row.step / 60, 2) and row.settings["filters"] == 8
    assert [line["loss"] for line in results.read_curves(folder)[row.run]] == [line["loss"] for line in log]
    measured = results.read_measured(folder)
    assert measured.pop(row.run) == {"kept": {"k": 5}} and measured == results.read_measured()


def test_mean_activity_and_coupling_are_means_over_all_images():
    model = workloads.untrained_model(model="capsnet", decoder=False)
    images = workloads.random_split(130).images
    activity, coupling = zeros.means(model, images, 3)
    output = model(images)
    np.testing.assert_allclose(activity, output.primary_activity.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(coupling, output.coupling[..., 3].mean(axis=0), atol=1e-5)
    first, rest = zeros.couplings_by_rank(activity, coupling)
    ranked = np.argsort(-activity, kind="stable")
    assert (first["capsules, by mean length"], rest["capsules, by mean length"]) == ("1 to 50", "51 to 72")
    assert first["largest coupling"] == f"{coupling[ranked[:50]].max():.3f}"


def test_what_is_measured_of_networks(monkeypatch):
    digits = workloads.random_split(250)
    test_set = affnist.Affnist(digits)
    monkeypatch.setattr(api, "load_test", lambda dataset, *_: test_set if dataset == "affnist" else digits)
    ladder = workloads.untrained_model(image_size=40)
    measured = robustness.measure(ladder, "")
    assert len(measured["predicted"]) == len(test_set) and set(measured["poses"]) == set(robustness.transforms.KINDS)
    alone = ladder(np.pad(digits.images[:1], ((0, 0), (6, 6), (6, 6), (0, 0))))
    monkeypatch.setattr(kept, "_DIGITS", 250)
    monkeypatch.setattr(api, "load_test", lambda *_: workloads.random_split(250, size=40))
    alike = kept.measure(ladder, "")["kept"]
    assert (alike["dataset"], alike["k"], alike["types"]) == ("sample", 5, 2)
    for kind in robustness.transforms.KINDS:  # the middle amount leaves the digit as it is
        seen = measured["transformed"][kind]
        np.testing.assert_allclose(seen["activity"][20], alone.activity[0, digits.labels[0]], atol=1e-3)
        np.testing.assert_allclose(seen["pose"][20], alone.pose[0, digits.labels[0]], atol=1e-3)


@pytest.mark.slow
def test_frames_are_measured_by_search_and_rotation(monkeypatch):
    digits = workloads.random_split(32)
    monkeypatch.setattr(frames, "SEARCHES", ((), (0.0,)))
    monkeypatch.setattr(
        api, "load_test", lambda dataset, *_: affnist.Affnist(digits) if dataset == "affnist" else digits
    )
    model = workloads.untrained_model(frame=canonical.AFFINE)
    measured = frames.measure(model, "")
    predicted = model(digits.images).activity.argmax(axis=1)
    assert measured["searches"]["none"]["mnist"] == round(100 * float(np.mean(predicted != digits.labels)), 4)
    assert set(measured["searches"]) == {"none", "0"} and {
        len(errors) for errors in measured["rotations"].values()
    } == {13}


def test_curves_of_runs_that_were_tested_after_each_epoch():
    panels = lengths.panels()
    six, ten = panels.values()
    assert len(six["L-CapsNet 15x15, the authors' steps"][0]) == 30 and len(ten["CapsNet, ten epochs"][0]) == 10
    drawn = lengths.draw(panels).axes[1]
    np.testing.assert_allclose(drawn.lines[-2].get_xydata(), ten["CapsNet, ten epochs"][0])


@pytest.mark.slow
def test_one_digit_in_many_poses(tmp_path, monkeypatch):
    sample = api.load("sample")
    few = Source(sample.train, sample.test.take(np.arange(16)), sample.class_names, 28)
    monkeypatch.setattr(poses.api, "load", lambda name: few)
    rows = {row["pose"]: row for row in poses.run(tmp_path, "")}
    error = 100 * np.mean(load_model("mnist_small")(few.test.images).activity.argmax(axis=1) != few.test.labels)
    assert rows["as it is"]["without a frame, %"] == f"{error:.2f}" and (tmp_path / "poses.png").exists()


def test_figures_and_tables_are_made_by_name(tmp_path, monkeypatch, capsys):
    for name, value in (("_FIGURES", tmp_path), ("_DATA_DIR", "")):
        monkeypatch.setattr(command, name, types.SimpleNamespace(value=value))
    command.run(["figure4", "lengths", "frames", "table2"])
    names = {"activity_levels_mnist", "affnist_by_epoch", "frames_rotation"}
    assert {path.stem for path in tmp_path.iterdir()} == names
    assert "| 20.90 | 20.11 to 21.71 | 21 |" in capsys.readouterr().out
    for arguments in (["tabel2"], []):
        with pytest.raises(ConfigError, match="table2"):
            command.run(arguments)
