"""The small sets that the recipe for own images is tried on, and the table of what came out."""

import collections
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import own_images, own_sets
from lcaps_jax import data
from lcaps_jax.training import read_metrics
import workloads


def _digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_set_is_the_same_each_time_and_grows_by_what_is_added(tmp_path):
    for name, per_class in (("few", 2), ("many", 4)):
        assert own_sets.write("shapes", tmp_path / name, per_class) == 3
    few, many = (_digests(tmp_path / name) for name in ("few", "many"))
    assert few.items() <= many.items() and len(many) == len(few) + 3 * 2
    assert len(set(many.values())) == len(many)  # no image is in both parts
    source = data.load("folder", str(tmp_path / "few"), 32)
    assert (len(source.train), len(source.test), source.channels) == (6, 300, 3)


def test_a_class_with_too_few_images_leaves_the_set_out(tmp_path):
    assert own_sets.write("shapes", tmp_path / "none", 1000) == 0
    assert not (tmp_path / "none").exists()


def test_a_missing_repository_is_named_with_the_place_that_it_belongs_in(tmp_path):
    with pytest.raises(own_sets.MissingSetError, match=f"Shenggan/BCCD_Dataset from GitHub into {tmp_path}"):
        own_sets.write("cells", tmp_path / "set", 10, copies=tmp_path)


def test_the_page_describes_every_set():
    text = (workloads.REPOSITORY / "docs" / "own_images.md").read_text()
    (described,) = re.findall(r"\| set \| what it is \|\n\| --- \| --- \|\n((?:\|.*\n)+)", text)
    assert re.findall(r"^\| (\w+) \|", described, re.MULTILINE) == list(own_sets.SETS)


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
    own_sets.write("shapes", tmp_path / "shapes", 60)
    recipe = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'shapes'}", "--image_size=32"]
    environment = {**os.environ, "XLA_FLAGS": ""}  # not those of the tests, which make steps slow
    command = [sys.executable, "train.py", *recipe, "--eval_every=100"]  # evaluations are not what is tested
    subprocess.run(command, cwd=workloads.REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)
    log = [line for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    assert np.mean([line["error"] for line in log[-5:]]) < 5  # chance is 67
