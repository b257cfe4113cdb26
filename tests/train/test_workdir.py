"""The folder of a run: its settings, what may change when it goes on, its results, and their text."""

import json
import math

import numpy as np
import pytest

from lcaps_jax.data import Source
from lcaps_jax.data.brightness import Brightness
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.evaluate import Evaluation
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.util.errors import ConfigError
import workloads


def _stored(**settings):
    given = {**workloads.TINY, **settings}
    source = Source(workloads.random_split(100), workloads.random_split(10), tuple("0123456789"), 28)
    return folders.Stored.of(*resolve(given, Facts("sample", 8000, 28), 10), source, 100)


def test_what_a_run_was_started_with_is_read_back_and_each_start_is_a_session(tmp_path):
    run = tmp_path / "mine"
    run.mkdir()
    assert folders.read(run) is None and folders.list_runs(tmp_path) == []
    stored = _stored()
    stored.write(run)
    read = folders.read_run(run)
    assert read.config == stored.config and read.settings == stored.settings and read.chosen == stored.chosen
    assert stored.chosen["decay_steps"] == 1000 and "k" not in stored.chosen
    assert read.brightness == Brightness.of(workloads.random_split(100).images)
    read.write(run)
    sessions = folders.read_run(run).sessions
    assert len(sessions) == 2 and sessions[0]["packages"]["jax"] and "2 x cpu" in sessions[0]["devices"]
    assert folders.list_runs(tmp_path) == [run]


@pytest.mark.parametrize("damage, named", [
    ({"channels": "1"}, "channels"), ({"train_images": None}, "train_images"), ({"settings": []}, "settings"),
    ({"class_names": ["a", 2]}, "class_names"), ({"brightness": {}}, "mean"), ({"extra": 1}, "extra"),
    ({"settings": {"k": "5"}}, "k=5"), ({"settings": {"routing_depth": 3}}, "routing_depth=3"), ([1], "config.json"),
])  # fmt: skip
def test_a_damaged_config_is_refused_by_what_is_wrong(tmp_path, damage, named):
    _stored().write(tmp_path)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | damage if isinstance(damage, dict) else damage))
    with pytest.raises(ConfigError, match=named):
        folders.read(tmp_path)


@pytest.mark.parametrize("changes", [
    {}, {"epochs": 3}, {"log_every": 5}, {"checkpoint_every": 7}, {"eval_datasets": ["mnist"]}, {"data_dir": "d"},
    {"patience": 2}, {"stop_at_error": 1.0}, {"skip_unreadable": True},
])  # fmt: skip
def test_what_may_change_when_a_run_goes_on(tmp_path, changes):
    stored = _stored()
    assert folders.continued(stored, {**workloads.TINY, **changes}, tmp_path) == {**stored.settings, **changes}


@pytest.mark.parametrize("name, value", [
    ("k", 6), ("seed", 1), ("learning_rate", 0.1), ("dataset", "mnist"), ("dtype", "bfloat16"), ("preset", "small"),
    ("decay_steps", 7), ("model", "cnn"), ("routing_iterations", 2), ("epochs", 1),
])  # fmt: skip
def test_a_setting_that_would_change_what_is_computed_is_refused_with_both_values(tmp_path, name, value):
    """Those that the recipe chose too, and those of another network; epochs only grow."""
    stored = _stored()
    with pytest.raises(ConfigError) as caught:
        folders.continued(stored, {name: value}, tmp_path)
    assert all(str(part) in str(caught.value) for part in (f"{name}={value}", stored.settings.get(name), tmp_path))


def test_a_run_goes_on_with_the_images_that_it_was_started_with_alone(tmp_path):
    def of(split, names="abc"):
        source = Source(split, split, tuple(names), 28)
        return folders.Stored.of(workloads.tiny_config(3), {}, source, len(split))

    split = workloads.random_split(30, 3)
    stored = of(split)
    stored.check_same_data(of(split.take(np.arange(30)[::-1])), tmp_path)
    split.images[np.argmax(split.labels == 1), 0, 0] += 1
    with pytest.raises(ConfigError, match=f"workdir={tmp_path}.* of b "):
        stored.check_same_data(of(split), tmp_path)
    for other, named in ((of(split.take(np.arange(29))), "29"), (of(split, "abd"), "a, b, d")):
        with pytest.raises(ConfigError, match=named):
            stored.check_same_data(other, tmp_path)


def test_results_without_checkpoints_are_kept_unless_the_run_was_killed_before_its_end(tmp_path):
    folders.write_json(tmp_path / "results.json", {"sample": {"step": 2}})
    _stored(epochs=2).write(tmp_path)  # of one step each
    with pytest.raises(ConfigError, match=f"workdir={tmp_path}"):
        folders.opened(tmp_path, {})
    _stored(epochs=3).write(tmp_path)
    assert not folders.opened(tmp_path, {})[2]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"sample": {}}', '{"sample": {"step": 1, "ci95": [1]}}'])
def test_damaged_results_are_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match="results.json"):
        folders.read_results(tmp_path)


def _evaluation(confusion, variants=1):
    count = int(np.sum(confusion))
    return Evaluation(count, 0.1, np.array(confusion), None, None, np.zeros(count, int), np.zeros(count), variants)


def test_figures_of_a_later_step_stay(tmp_path):
    """As where training ends an epoch while eval.py evaluates the checkpoint before."""
    config = workloads.tiny_config(stop_at_error=1.0)
    evaluation, splits = _evaluation([[10, 0], [0, 10]]), {"made": workloads.random_split(20)}
    for step, kept in ((80, 80), (160, 160), (80, 160)):
        folders.add_results(tmp_path, config, {"made": evaluation}, splits, step)
        assert folders.read_results(tmp_path)["made"]["step"] == kept
    assert folders.read_results(tmp_path)["made"]["stop_at_error"] == 1.0
    # Training that is at an earlier step has lost the network of the later one.
    folders.add_results(tmp_path, config, {"other": evaluation}, {"other": splits["made"]}, 80, later_too=False)
    assert list(folders.read_results(tmp_path)) == ["other"]


def test_an_evaluation_as_a_result_and_as_text():
    result = _evaluation([[9_950, 50], [0, 0]]).result(step=7)
    assert result == {"error": 0.5, "count": 10_000, "ci95": [0.3795, 0.6585], "step": 7}
    assert "error 0.50 % of 10000 images" in _evaluation([[9_950, 50], [0, 0]]).text()
    low, high = _evaluation([[9_950, 50], [0, 0]], variants=4).result(7)["ci95"]  # as of a fourth of the images
    assert math.isclose(high - low, 2 * (0.6585 - 0.3795), rel_tol=0.05)
    table = _evaluation([[8, 2, 0], [0, 10, 0], [0, 0, 0]]).table(("ant", "bee", "caterpillar"))
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["ant", "10", "2", "20.00", "bee", "(2)"],
        ["bee", "10", "0", "0.00"],
        ["caterpillar", "0", "0", "-"],
        ["all", "20", "2", "10.00"],
    ]
