"""Tables, and which test sets a network can be evaluated on; the rest of a run is in test_entry_points.py."""

import dataclasses
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from lcaps_jax import commands, data, runs
from lcaps_jax.config import Config, ConfigError, read_config
from lcaps_jax.training import CheckpointError, Evaluation
import workloads


def test_results_without_checkpoints_are_not_written_over(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run[0], tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    log = (run / "metrics.jsonl").read_text()
    config, _ = read_config(run)
    with pytest.raises(ConfigError, match=f"workdir={run} holds .* whose checkpoints are gone"):
        commands.train(dataclasses.replace(config, epochs=config.epochs + 1), run)
    assert (run / "metrics.jsonl").read_text() == log
    # With results of its first epoch alone it was killed, and begins anew: past this check, to the next.
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({name: entry | {"step": 80} for name, entry in results.items()}))
    with pytest.raises(data.DataError, match="eval_datasets=no_such_set"):
        commands.train(dataclasses.replace(config, eval_datasets=("no_such_set",)), run)


def test_every_archived_run_can_be_read_and_begun_from(tmp_path):
    """Those of earlier versions hold less of how they were begun."""
    source = data.Source(workloads.random_split(10), workloads.random_split(10), tuple("0123456789"), 28)
    for folder in (workloads.REPOSITORY / "docs" / "results").iterdir():
        assert runs.describe(folder, source, 10)["sessions"][-1]["devices"]


def test_table_by_class():
    confusion = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    evaluation = Evaluation(20, 0.1, confusion, np.ones(3), np.ones(3), np.zeros(20, int), np.zeros(20))
    assert commands.format_table(evaluation, ("ant", "bee", "caterpillar")).splitlines() == [
        "class        images  errors  error %  most often taken for",
        "ant              10       2    20.00  bee (2)",
        "bee              10       0     0.00",
        "caterpillar       0       0        -",
        "all              20       2    10.00",
    ]


def test_result_in_words():
    result = {"error": 0.5, "count": 10000, "ci95": [0.3795, 0.6586], "step": 6000}
    assert commands.format_result(result) == "error 0.50 % of 10000 images (95 % interval 0.38 to 0.66 %)"


def test_figures_of_a_later_step_stay(tmp_path):
    """As where training ends an epoch while eval.py is at the checkpoint before."""
    evaluation = Evaluation(20, 0.1, 10 * np.eye(2, dtype=int), None, None, np.zeros(20, int), np.zeros(20))
    splits = {"made": workloads.random_split(20)}
    for step, kept in ((80, 80), (160, 160), (80, 160)):
        runs.add_results(tmp_path, workloads.tiny_config(), {"made": evaluation}, splits, step)
        assert runs.read_results(tmp_path)["made"]["step"] == kept
    # Training that is at an earlier step has lost the network of the later one.
    runs.add_results(tmp_path, workloads.tiny_config(), {"other": evaluation}, {"other": splits["made"]}, 80, False)
    assert list(runs.read_results(tmp_path)) == ["other"]


def test_an_evaluation_that_training_has_overtaken_changes_nothing(tmp_path, capsys):
    results = {"sample": {"error": 5.0, "count": 2000, "ci95": [4.0, 6.0], "step": 160}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    run = workloads.untrained_run(step=80)
    assert commands.evaluate_run(run, ["sample"], tmp_path)["sample"].count == 2000
    assert runs.read_results(tmp_path) == results
    assert not list(tmp_path.glob("figures/*sample*"))
    assert f"sample: {tmp_path} has results of step 160 by now; they stay." in capsys.readouterr().out


def test_a_test_set_that_does_not_fit_the_network_is_refused():
    config = workloads.tiny_config()
    assert len(runs.load_test("sample", config, list("0123456789"), 1)) == 2000
    message = "eval_datasets=sample: has the classes 0, 1, 2, .*; the network's are a, b, c. Labels are matched"
    with pytest.raises(data.DataError, match=message):
        runs.load_test("sample", config, list("abc"), 1)


def test_test_images_get_the_channels_of_the_network(capsys):
    coloured = runs.load_test("sample", workloads.tiny_config(), list("0123456789"), 3)
    np.testing.assert_array_equal(coloured.images[..., 2], data.load("sample").test.images[..., 0])
    assert "sample: its images are grey, and are made coloured, as the network's are." in capsys.readouterr().out


def test_labels_are_matched_by_the_names_of_the_classes():
    """As of a network that was trained on folders in another order than the set's."""
    config = workloads.tiny_config()
    plain = runs.load_test("sample", config, list("0123456789"), 1)
    other = runs.load_test("sample", config, list("9876543210"), 1)
    np.testing.assert_array_equal(other.labels, 9 - plain.labels)
    np.testing.assert_array_equal(other.images, plain.images)


@pytest.mark.parametrize("name", ["a[1]", "a*", "what?"])
def test_a_folder_that_orbax_would_take_for_a_pattern_is_refused_before_any_work(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"workdir=.*has [\[*?] in it.*Give a path without"):
        commands.train(workloads.tiny_config(), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_relative_folder_of_data_is_kept_as_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError, match=f"{tmp_path}/images is not there"):
        commands.train(dataclasses.replace(Config(**workloads.TINY), dataset="folder", data_dir="images"), "run")
    monkeypatch.setattr(commands, "fit", lambda config, *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(commands.data, "load", lambda *arguments, load=data.load, **options: load("sample"))
    with pytest.raises(KeyboardInterrupt):
        commands.train(dataclasses.replace(Config(**workloads.TINY), dataset="mnist", data_dir="sets"), "run")
    assert read_config(tmp_path / "run")[0].data_dir == str(tmp_path / "sets")


def test_a_run_goes_on_with_the_images_that_it_was_begun_with_alone(tmp_path, capsys, monkeypatch):
    images = workloads.random_split(12, 3).images[..., 0]
    root, run = tmp_path / "images", tmp_path / "run"
    for i, image in enumerate(images):
        for part in ("train", "test"):
            place = root / part / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    monkeypatch.setattr(commands, "fit", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    config = Config(**workloads.TINY | {"dataset": "folder", "data_dir": str(root), "batch_size": 4})

    def begin():
        with pytest.raises(KeyboardInterrupt):
            commands.train(config, run)
        return json.loads((run / "config.json").read_text())

    about = begin()
    assert about["training_data"].keys() == {"a", "b", "c"} and about["ground"]["mean"][0] > 0.05
    (root / "train" / "b" / "1.png").rename(root / "train" / "b" / "renamed.png")
    assert begin()["training_data"] == about["training_data"]
    Image.fromarray(255 - images[1]).save(root / "train" / "b" / "renamed.png")
    with pytest.raises(ConfigError, match="as many training images of the same classes, but those of b are others now"):
        commands.train(config, run)
    del about["training_data"]  # as in a run of before
    (run / "config.json").write_text(json.dumps(about))
    capsys.readouterr()
    begin()
    assert f"{run} keeps no fingerprint of its training data" in capsys.readouterr().out


def test_test_sets_on_another_ground_are_pointed_out(capsys):
    sample = data.load("sample").test.take(np.arange(50))
    inverted = data.Split(255 - sample.images, sample.labels)
    for kept in (None, {"mean": [0.13, 0.0], "deviation": [0.04, 0.0]}):
        known = data.ground_of("mnist", kept)
        runs.compare_ground(known, {"sample": sample, "paper": inverted})
        line = "paper: the ground of 50 of 50 images is unlike the training data's"
        assert capsys.readouterr().out.startswith(line)
    assert data.ground_of("cifar10", None) is None
    runs.compare_ground(None, {"paper": inverted})
    assert capsys.readouterr().out == ""
