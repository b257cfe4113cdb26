"""eval.py as users run it."""

import json
import pathlib
import shutil
import subprocess
import sys

from PIL import Image
import pytest

from lcaps_jax import data
import workloads


def test_eval_prints_a_table_and_adds_to_the_results(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    before = json.loads((workdir / "results.json").read_text())
    (workdir / "results.json").write_text(json.dumps({"other": {"step": 1}}))
    lines = workloads.evaluate(workdir, batch_size=64).stdout.splitlines()
    assert lines[0].startswith(f"sample: error {before['sample']['error']:.2f} % of 2000 images")
    assert lines[1].split()[:3] == ["class", "images", "errors"] and lines[12].split()[:2] == ["all", "2000"]
    assert sum(int(line.split()[1]) for line in lines[2:12]) == 2000
    assert json.loads((workdir / "results.json").read_text()) == {"other": {"step": 1}, **before}


def test_paths_that_cannot_be_used_are_named_and_a_tilde_is_the_home(tiny_run, tmp_path, monkeypatch):
    done = workloads.evaluate(tiny_run[0], check=False, report=tmp_path)
    assert done.returncode == 1 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
    monkeypatch.setenv("HOME", str(tmp_path))
    done = workloads.evaluate(pathlib.Path("~") / "nothing", check=False)
    assert done.returncode == 1 and f"workdir={tmp_path}/nothing" in done.stderr


def test_eval_refuses_a_checkpoint_that_is_not_there(tiny_run):
    done = workloads.evaluate(tiny_run[0], check=False, checkpoint="best")
    assert done.returncode == 1 and "checkpoint=best" in done.stderr and "validation_size" in done.stderr


def test_a_newcomer_classifies_a_file_with_the_packaged_network(tmp_path):
    test = data.load("sample").test
    Image.fromarray(test.images[0, ..., 0]).save(tmp_path / "digit.png")
    weights = workloads.REPOSITORY / "lcaps_jax" / "infer" / "weights"
    before = sorted(weights.iterdir())
    done = workloads.evaluate("mnist_small", images=tmp_path / "digit.png", format="json")
    (record,) = map(json.loads, done.stdout.splitlines())
    assert record["label"] == str(test.labels[0]) and record["file"] == f"{tmp_path}/digit.png"
    assert sorted(weights.iterdir()) == before


_REFUSED = [
    ([], ["workdir=", "runs/one, runs/two/inner", "mnist_small"]),
    (["--workdir=runs/one", "--format=csv"], ["format=csv", "--images"]),
    (["--workdir=runs/one", "--centre"], ["centre", "--images"]),
    (["--workdir=runs/one", "--images=x", "--export=y"], ["--images and --export"]),
    (["--workdir=runs/one", "--export=x", "--data_dir=y"], ["data_dir=y", "--export"]),
    (["--workdir=mnist_small", "--skip_unreadable"], ["skip_unreadable", "mnist"]),
    (["--workdir=mnist_small", "--search_angles=10"], ["search_angles=10", "frame"]),
    (["--workdir=mnist_framed", "--search_angles=ten"], ["search_angles=ten", "degrees"]),
    (["--workdir=mnist_framed", "--search_angles=400"], ["search_angles=400", "180"]),
    (["--flagfile=some.flags"], ["workdir=runs/one"]),
    (["--workdir=mnist_small", "--checkpoint=best"], ["checkpoint=best", "last"]),
]


def test_refusals_are_one_line(tmp_path):
    for folder in ("one", "two/inner"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / "config.json").write_text("{}")
    (tmp_path / "some.flags").write_text("# a comment\n--workdir=runs/one\n")
    found = workloads.refusals("eval.py", [arguments for arguments, _ in _REFUSED], tmp_path)
    for (_, said), (code, text) in zip(_REFUSED, found, strict=True):
        assert code == 1 and "Traceback" not in text and all(each in text for each in said), text


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_lists_every_flag_with_its_default(script):
    command = [sys.executable, script, "--help"]
    text = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=100).stdout
    wanted = {
        "train.py": ["--k:", "(default: '70')", "--learning_rate:", "--lr:", "--distributed", "--[no]decoder"],
        "eval.py": ["--images:", "--search_angles:", "--export:"],
    }
    assert all(each in text.replace("--[no]distributed", "--distributed") for each in [*wanted[script], "--workdir:"])
