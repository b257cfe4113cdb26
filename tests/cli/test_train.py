"""train.py as users run it: from end to end, killed, stopped, misused."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import chex
from PIL import Image
import pytest

import lcaps_jax
from lcaps_jax.cli import train as cli
from lcaps_jax.cli.flags import read_flagfile
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.checkpoint import Checkpoints
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.util.errors import UserError
import workloads


def test_a_run_s_folder_is_as_designed(tiny_run):
    workdir, printed = tiny_run
    assert {path.name for path in workdir.iterdir()} >= {
        "config.json", "metrics.jsonl", "checkpoints", "results.json", "figures", "tb",
    }  # fmt: skip
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["settings"]["k"] == 5 and stored["chosen"]["eval_datasets"] == ["sample"]
    assert stored["class_names"] == list("0123456789") and len(stored["sessions"]) == 1
    assert stored["sessions"][0]["packages"]["jax"] and "2 x cpu" in stored["sessions"][0]["devices"]
    result = json.loads((workdir / "results.json").read_text())["sample"]
    assert result["count"] == 2000 and result["step"] == 160
    assert result["ci95"][0] < result["error"] < result["ci95"][1]
    assert result["error"] < 60  # chance is 90
    assert [line["step"] for line in read_metrics(workdir) if line["split"] == "sample"] == [80, 160]
    assert {path.name for path in (workdir / "figures").iterdir()} == {
        "training_curve.png", "confusion_sample.png", "activity_sample.png", "mistakes_sample.png",
        "capsules_sample.png",
    }  # fmt: skip
    for path in (workdir / "figures").iterdir():
        Image.open(path).verify()
    assert any(path.name.startswith("events") for path in (workdir / "tb").iterdir())
    assert Checkpoints(workdir, read_only=True).steps() == [160]
    given, chosen = printed.splitlines()[:2]
    assert all(f"{name}={value}" in given for name, value in workloads.TINY.items()) and "preset=paper" in chosen
    assert "step 160/160" in printed and f"error {result['error']:.2f} % of 2000" in printed


def test_a_finished_run_says_so_and_does_nothing(tiny_run):
    workdir, _ = tiny_run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert "finished" in workloads.train(workdir).stdout
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def test_load_model_gives_network_parameters_and_config(tiny_run):
    model = lcaps_jax.load_model(tiny_run[0])
    assert model.step == 160 and model.config.settings["k"] == 5 and model.class_names == tuple("0123456789")
    assert model.params["ladder"]["propagation_bias"].shape == (10, 5 * 4, 4)


def test_every_flagfile_is_a_run_that_could_begin():
    paths = sorted((workloads.REPOSITORY / "configs").glob("*.flags"))
    assert len(paths) > 20
    for path in paths:
        given, workdir = read_flagfile(path)
        size, shift = (40, 6) if given.get("dataset") == "expanded_mnist" else (28, 0)
        config, _ = resolve(given, Facts(given["dataset"], 60_000, size, shift), 10)
        assert workdir == f"runs/{path.stem}" and config.schedule.epochs == given["epochs"], path


def _logged(workdir: pathlib.Path, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(workdir))


def _is_saving(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is half written beside a whole one, from which the run can go on."""
    folder = workdir / "checkpoints" / "last"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name.isdigit() for name in names) and any("tmp" in name for name in names)


@pytest.mark.slow
def test_a_run_killed_in_a_save_and_again_in_training_goes_on_to_the_same_numbers(tiny_run, tmp_path):
    whole, workdir = tiny_run[0], tmp_path / "killed"
    half_written = False
    for _ in range(3):  # a save may end between the look and the kill
        shutil.rmtree(workdir, ignore_errors=True)
        code, _ = workloads.train_until(workdir, lambda: _is_saving(workdir), signal.SIGKILL)
        half_written = any("tmp" in path.name for path in (workdir / "checkpoints" / "last").iterdir())
        if half_written:
            break
    assert half_written and code == -signal.SIGKILL
    code, output = workloads.train_until(workdir, lambda: _logged(workdir, 110), signal.SIGKILL)
    assert code == -signal.SIGKILL and "Continuing from step" in output
    assert "Continuing from step" in workloads.train(workdir).stdout
    chex.assert_trees_all_equal(lcaps_jax.load_model(whole).params, lcaps_jax.load_model(workdir).params)
    figures = [
        [(line["step"], line["split"], line["loss"], line["error"]) for line in read_metrics(folder)]
        for folder in (whole, workdir)
    ]
    assert figures[0] == figures[1]
    assert not any("tmp" in path.name for path in (workdir / "checkpoints" / "last").iterdir())


def test_sigterm_saves_leaves_cleanly_and_the_lock_keeps_others_out(tmp_path):
    workdir, refusals = tmp_path / "stopped", []

    def when():
        if not _logged(workdir, 20):
            return False
        refusals.append(workloads.train(workdir, check=False, epochs=20))  # while the first trains
        return True

    code, output = workloads.train_until(workdir, when, signal.SIGTERM, epochs=20)
    assert refusals[0].returncode == 1 and "another process" in refusals[0].stderr
    assert code == 128 + signal.SIGTERM and "Traceback" not in output
    step = lcaps_jax.load_model(workdir).step
    assert f"at step {step} of 1600" in output and step % 10 == 0


_REFUSED = [
    ({"batch_size": 101}, ["batch_size=101", "100 or 102"]),
    ({"learning_rat": 1}, ["learning_rate"]),
    ({"epochs": "many"}, ["--epochs=many"]),
    ({"model": "lcapnet"}, ["model=lcapnet", "lcapsnet"]),
    ({"flagfile": "missing.flags"}, ["missing.flags"]),
    ({"flagfile": "binary.flags"}, ["flagfile", "UTF-8"]),
    ({"distributed": True, "process_id": 0}, ["num_processes", "process_id"]),
]


def test_refusals_are_one_line(tmp_path):
    (tmp_path / "binary.flags").write_bytes(b"\xff\xfe\x00--k=3")
    commands = [workloads.command("train.py", tmp_path / "run", workloads.TINY | given)[2:] for given, _ in _REFUSED]
    for (_, said), (code, text) in zip(_REFUSED, workloads.refusals("train.py", commands, tmp_path), strict=True):
        assert code == 1 and "Traceback" not in text and all(each in text for each in said), text
    assert not (tmp_path / "run").exists()


def test_train_without_a_folder_says_what_it_is_for():
    command = [sys.executable, "train.py"]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stdout == ""
    assert "workdir=" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"k": 73}, ["k=73", "72"]),
        ({"k": 5, "model": "capsnet"}, ["k=5", "TopK"]),
        ({"batch_size": 9000}, ["batch_size=9000", "8000"]),
        ({"image_size": 12}, ["image_size=12", "17"]),
        ({"validation_size": 8000}, ["validation_size=8000", "7999"]),
        ({"stop_at_error": 100.0}, ["stop_at_error=100.0", "below 100"]),
        ({"stop_at_error": 1.0, "eval_datasets": ["mnist"]}, ["stop_at_error=1", "sample"]),
        ({"max_rotation": float("nan")}, ["max_rotation=nan", "finite"]),
        ({"dataset": "folder"}, ["data_dir"]),
        ({"skip_unreadable": True}, ["skip_unreadable", "sample"]),
    ],
)
def test_refusals_come_before_any_work(tmp_path, settings, said):
    given = {name: value for name, value in workloads.TINY.items() if name in ("batch_size", "epochs")}
    if settings.get("model") != "capsnet":
        given = workloads.TINY
    with pytest.raises(UserError) as refused:
        cli.train({**given, **settings}, tmp_path / "run")
    assert all(each in str(refused.value) for each in said) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stop_at_error_ends_a_run_and_without_it_the_run_goes_on(tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    settings = {**workloads.TINY, "epochs": 2, "stop_at_error": 99.5}

    def train(**changed):
        cli.train({**settings, **changed}, workdir)
        return capsys.readouterr().out

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(folders, "add_results", stopped)
        train()
    assert not (workdir / "results.json").exists()  # the run is not finished, and its pictures are drawn after all:
    assert "after 80 steps" in train() and (workdir / "figures" / "capsules_sample.png").exists()
    result = json.loads((workdir / "results.json").read_text())["sample"]
    assert result["step"] == 80 and result["stop_at_error"] == 99.5
    assert "finished" in train()
    printed = train(stop_at_error=0.0)
    assert "Continuing from step 80 to 160" in printed and "after 160 steps" in printed
    assert "stop_at_error" not in json.loads((workdir / "results.json").read_text())["sample"]


def test_pictures_are_drawn_once_a_minute_and_at_the_end(tmp_path, monkeypatch):
    clock, drawn = {"now": 0.0}, []

    def add_results(*arguments, **options):  # 40 seconds an epoch
        clock["now"] += 40.0

    monkeypatch.setattr(cli, "time", types.SimpleNamespace(monotonic=lambda: clock["now"]))
    monkeypatch.setattr(cli.training, "write_figures", lambda model, *rest: drawn.append(model.step))
    monkeypatch.setattr(folders, "add_results", add_results)
    cli.train({**workloads.TINY, "train_size": 100, "epochs": 7, "checkpoint_every": 0}, tmp_path / "run")
    assert drawn == [2, 4, 6, 7]


@pytest.mark.slow
def test_patience_ends_a_run_for_good_and_evaluates_its_best_checkpoint(tmp_path, capsys):
    workdir = tmp_path / "run"
    given = {
        **workloads.TINY, "train_size": 100, "epochs": 40, "checkpoint_every": 0, "validation_size": 100, "patience": 2,
        "learning_rate": 1e-9,
    }  # fmt: skip
    cli.train(given, workdir)  # which learns nothing, so that no epoch is better than the first but by chance
    printed = capsys.readouterr().out
    best = max(Checkpoints(workdir, read_only=True).steps("best"))
    assert f"The lowest validation error was at step {best}" in printed
    cli.train(given, workdir)
    assert "finished" in capsys.readouterr().out
    model = lcaps_jax.load_model(workdir)
    assert (model.step, model.checkpoint) == (best, "best")
    assert lcaps_jax.load_model(workdir, "last").step == best + 2
    shutil.rmtree(workdir / "checkpoints" / "last")
    assert lcaps_jax.load_model(workdir, "best").step == best


def test_a_finished_run_whose_checkpoints_are_gone_is_not_trained_over(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="checkpoints"):
        cli.train(workloads.TINY, workdir)


def test_settings_that_would_change_the_mathematics_are_refused(tiny_run):
    done = workloads.train(tiny_run[0], check=False, k=6)
    assert done.returncode == 1 and "k=6" in done.stderr and "k=5" in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    done = workloads.train(tmp_path, check=False)
    assert done.returncode == 1 and f"workdir={tmp_path}" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_memory_is_said_in_a_line(run_python):
    code = """
import sys
from lcaps_jax.cli import main
import jax.numpy as jnp
sys.stderr = sys.stdout
try:
    main.run(lambda: jnp.zeros(2**46).block_until_ready())
except SystemExit as stop:
    print(stop.code)
"""
    printed = run_python(code, devices=1)
    assert "memory is full (RESOURCE_EXHAUSTED" in printed and "Traceback" not in printed
