"""The small sets that the recipe for your own images is tried on, and the table of the results."""

import collections
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import own_images
from lcaps_jax.data import api
from lcaps_jax.train.log import read_metrics
import workloads


def _files(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_drawn_sets_grow_by_what_is_added(tmp_path):
    for name, per_class in (("few", 2), ("many", 4)):
        assert own_images.draw_shapes(tmp_path / name, per_class, tests=5) == 3
    few, many = _files(tmp_path / "few"), _files(tmp_path / "many")
    assert few.items() <= many.items() and len(many) == len(few) + 3 * 2
    assert len(set(many.values())) == len(many)  # no image is in both parts
    source = api.load("folder", str(tmp_path / "few"), 32)
    assert (len(source.train), len(source.test), source.channels) == (6, 15, 3)


def test_images_of_each_class_are_chosen_by_the_seed(tmp_path):
    own_images.draw_shapes(tmp_path / "all", 6, tests=2)
    for name, seed in (("one", 0), ("two", 1)):
        assert own_images.choose(tmp_path / "all", tmp_path / name, 3, seed) == 3
    one, two = _files(tmp_path / "one"), _files(tmp_path / "two")
    assert len(one) == len(two) == 3 * (3 + 2) and one != two


def test_the_table_has_means_over_seeds_and_a_gap_where_nothing_was_trained():
    line = {"set": "shapes", "per_class": 10, "classes": 3}
    trainings = [
        {**line, "network": "ladder", "seed": 0, "error": 20.0},
        {**line, "network": "ladder", "seed": 1, "error": 30.0},
        {**line, "per_class": 30, "network": "CNN", "seed": 0, "error": 12.5},
    ]
    assert own_images.table(trainings).split("\n") == [
        "| set | images a class | chance, % | ladder, % | CNN, % |",
        "| --- | --- | --- | --- | --- |",
        "| shapes | 10 | 67 | 25.0 |  |",
        "| shapes | 30 | 67 |  | 12.5 |",
    ]


def test_the_recipe_halves_the_error_of_guessing_on_three_sets_within_five_minutes():
    measured = json.loads((workloads.REPOSITORY / "benchmarks" / "results" / "own_images.json").read_text())
    lines = collections.defaultdict(list)  # by set, one for each seed; those without minutes were paused
    for line in measured["trainings"]:
        if line["network"] == "ladder" and line["per_class"] == 30 and "minutes" in line:
            lines[line["set"]].append(line)

    def keeps_the_promise(seeds):
        chance = 100 - 100 / seeds[0]["classes"]
        return np.mean([line["error"] for line in seeds]) <= chance / 2 and max(line["minutes"] for line in seeds) <= 5

    assert sum(map(keeps_the_promise, lines.values())) >= 3


@pytest.mark.slow
def test_the_recipe_s_ladder_fits_a_small_set(tmp_path):
    own_images.draw_shapes(tmp_path / "shapes", 60)
    recipe = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'shapes'}", "--image_size=32"]
    environment = {**os.environ, "XLA_FLAGS": ""}  # not those of the tests, which make steps slow
    command = [sys.executable, "train.py", *recipe, "--eval_every=100"]  # evaluations are not what is tested
    subprocess.run(command, cwd=workloads.REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)
    log = [line for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    assert np.mean([line["error"] for line in log[-5:]]) < 5  # chance is 67
