"""train.py and eval.py as users run them: from end to end, killed, stopped, misused."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types

import chex
from PIL import Image
import pytest

import lcaps_jax
from lcaps_jax import commands, config, data, runs
from lcaps_jax.training import read_metrics
from lcaps_jax.training.checkpoints import Checkpoints
import workloads


def test_a_run_s_folder_is_as_designed(tiny_run):
    workdir, printed = tiny_run
    assert {path.name for path in workdir.iterdir()} >= {
        "config.json", "metrics.jsonl", "checkpoints", "results.json", "figures", "tb",
    }  # fmt: skip
    about = json.loads((workdir / "config.json").read_text())
    assert about["settings"]["k"] == 5 and about["settings"]["eval_datasets"] == ["sample"]
    assert about["class_names"] == list("0123456789") and len(about["sessions"]) == 1
    assert about["sessions"][0]["packages"]["jax"] and "2 x cpu" in about["sessions"][0]["devices"]
    result = json.loads((workdir / "results.json").read_text())["sample"]
    assert result["count"] == 2000 and result["step"] == 160
    assert result["ci95"][0] < result["error"] < result["ci95"][1]
    assert result["error"] < 60  # chance is 90
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines if line["split"] == "sample"] == [80, 160]
    assert {path.name for path in (workdir / "figures").iterdir()} == {
        "training_curve.png", "confusion_sample.png", "activity_sample.png", "mistakes_sample.png",
        "capsules_sample.png",
    }  # fmt: skip
    for path in (workdir / "figures").iterdir():
        Image.open(path).verify()
    assert any(path.name.startswith("events") for path in (workdir / "tb").iterdir())
    assert Checkpoints(workdir, read_only=True).steps() == [160]
    given = re.search(r"^Settings other than the defaults: (.*)\.$", printed, re.MULTILINE)[1]
    assert set(given.split(", ")) == {f"{name}={value}" for name, value in workloads.TINY.items()}
    assert "step 160/160" in printed and "images/s" in printed and f"error {result['error']:.2f} % of 2000" in printed


def test_eval_prints_a_table_and_adds_to_the_results(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / "run")
    before = json.loads((workdir / "results.json").read_text())
    (workdir / "results.json").write_text(json.dumps({"other": {"step": 1}}))
    done = workloads.evaluate(workdir, batch_size=64)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"sample: error {before['sample']['error']:.2f} % of 2000 images (95 % interval")
    assert lines[1].split()[:3] == ["class", "images", "errors"] and lines[12].split()[:2] == ["all", "2000"]
    assert sum(int(line.split()[1]) for line in lines[2:12]) == 2000
    assert json.loads((workdir / "results.json").read_text()) == {"other": {"step": 1}, **before}


def test_a_finished_run_says_so_and_does_nothing(tiny_run):
    workdir, _ = tiny_run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    done = workloads.train(workdir)
    assert "is finished: 2 epochs." in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def test_load_run_gives_model_parameters_and_config(tiny_run, caplog):
    workdir, _ = tiny_run
    run = lcaps_jax.load_run(workdir)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert run.step == 160 and run.config.k == 5 and run.class_names == tuple("0123456789")
    assert run.network.k == 5 and run.params["ladder"]["propagation_bias"].shape == (10, 5 * 4, 4)


def _same_parameters(one, other):
    chex.assert_trees_all_equal(lcaps_jax.load_run(one).params, lcaps_jax.load_run(other).params)


def _logged(workdir: pathlib.Path, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(workdir))


def _is_saving(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is half written beside a whole one, from which the run can go on."""
    folder = workdir / "checkpoints" / "last"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name.isdigit() for name in names) and any("tmp" in name for name in names)


@pytest.mark.slow
def test_a_run_killed_in_a_save_and_again_in_training_goes_on_to_the_same_numbers(tiny_run, tmp_path):
    whole, _ = tiny_run
    workdir = tmp_path / "killed"
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
    done = workloads.train(workdir)
    assert "Continuing from step" in done.stdout
    _same_parameters(whole, workdir)
    figures = [
        [(line["step"], line["split"], line["loss"], line["error"]) for line in read_metrics(folder)]
        for folder in (whole, workdir)
    ]
    assert figures[0] == figures[1]
    assert not any("tmp" in path.name for path in (workdir / "checkpoints" / "last").iterdir())


def test_sigterm_saves_leaves_cleanly_and_the_lock_keeps_others_out(tmp_path):
    workdir = tmp_path / "stopped"
    refusals = []

    def when():
        if not _logged(workdir, 20):
            return False
        refusals.append(workloads.train(workdir, check=False, epochs=20))  # while the first trains
        return True

    code, output = workloads.train_until(workdir, when, signal.SIGTERM, epochs=20)
    assert refusals[0].returncode == 1 and "another process is training in this folder" in refusals[0].stderr
    assert code == 128 + signal.SIGTERM and "Traceback" not in output
    assert "Stopped by SIGTERM at step" in output and "The same command continues" in output
    step = lcaps_jax.load_run(workdir).step
    assert f"at step {step} of 1600" in output and step % 10 == 0


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 101}, "--batch_size=101 does not divide among 2 devices; the nearest that does: 100 or 102"),
        ({"learning_rat": 1}, "Did you mean: learning_rate"),
        ({"epochs": "many"}, "--epochs=many"),
        ({"distributed": True, "process_id": 0}, "--num_processes and --process_id: give all three, or none"),
    ],
)
def test_refusals_are_one_line(tmp_path, settings, message):
    done = workloads.train(tmp_path / "run", check=False, **settings)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_train_without_a_folder_says_what_it_is_for():
    command = [sys.executable, "train.py"]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: --workdir=: the settings, checkpoints, results and pictures of a run go into")
    assert "as --workdir=runs/mine," in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k": 73}, "k=73 of n=72 capsules: k must be between 1 and 72"),
        ({"batch_size": 9000}, "batch_size=9000: there are 8000 training images"),
        ({"image_size": 12}, "too small for kernels of 9x9 and 9x9: image_size must be at least 17"),
        ({"validation_size": 8000}, "validation_size=8000: the training part has 8000 images, so at most 7999"),
        ({"stop_at_error": 100.0}, "stop_at_error=100.0: must be a percentage, from 0 to below 100"),
        ({"stop_at_error": 1.0, "eval_datasets": ("mnist",)}, "stop_at_error=1.0: eval_datasets must name sample"),
        ({"variant": "released", "activity": "length"}, "activity=length: is an ablation of variant=paper"),
        ({"dataset": "folder"}, "needs the folder that holds train/CLASS/FILE: give it as data_dir"),
        ({"keep_going": True}, "keep_going: does nothing to sample; it leaves out image files of the set folder"),
    ],
)
def test_refusals_come_before_any_work(tmp_path, settings, message):
    with pytest.raises((config.ConfigError, data.DataError), match=re.escape(message)):
        commands.train(config.Config(**{**workloads.TINY, **settings}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stop_at_error_ends_a_run_and_without_it_the_run_goes_on(tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    settings = {"epochs": 2, "stop_at_error": 99.5, "placement": "fixed", "max_shift": 1}

    def train(**changed):
        commands.train(config.Config(**{**workloads.TINY, **settings, **changed}), workdir)
        return capsys.readouterr().out

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(runs, "add_results", stopped)
        train()
    assert not (workdir / "results.json").exists()  # the run is not finished, and its pictures are drawn after all:
    assert "after 80 steps" in train() and (workdir / "figures" / "capsules_sample.png").exists()
    result = json.loads((workdir / "results.json").read_text())["sample"]
    assert result["step"] == 80 and result["stop_at_error"] == 99.5
    assert "is finished: 2 epochs, or an error of at most 99.5 %" in train()
    measured = workdir / runs.MEASURED / "zeros.json"
    measured.parent.mkdir()
    measured.write_text("{}")
    printed = train(stop_at_error=0.0)
    assert "Continuing from step 80 to 160" in printed and "after 160 steps" in printed
    assert not measured.exists()  # it was of the network as it was
    assert "stop_at_error" not in json.loads((workdir / "results.json").read_text())["sample"]


def test_pictures_are_drawn_once_a_minute_and_at_the_end(tmp_path, monkeypatch):
    clock, drawn = {"now": 0.0}, []

    def write_all(run, *rest):
        drawn.append(run.step)

    def add_results(*arguments, **options):  # 40 seconds an epoch
        clock["now"] += 40.0

    monkeypatch.setattr(commands, "time", types.SimpleNamespace(monotonic=lambda: clock["now"]))
    monkeypatch.setattr(commands.plots, "write_all", write_all)
    monkeypatch.setattr(runs, "add_results", add_results)
    settings = {**workloads.TINY, "train_size": 100, "epochs": 7, "checkpoint_every": None}
    commands.train(config.Config(**settings), tmp_path / "run")
    assert drawn == [3, 5, 7]


def test_a_run_s_end_says_what_its_folder_takes_and_how_to_see_its_curves(tiny_run):
    workdir, printed = tiny_run
    place = f"{workdir}/checkpoints"
    assert re.search(
        rf"{workdir} takes \d+ MB, \d+ of them in {place}\. Two thirds of the last checkpoint are", printed
    )
    assert f" need. {place} may be deleted: the run can neither go on nor be evaluated then, so keep" in printed
    assert f"tensorboard --logdir={workdir}\n" in printed


def test_patience_ends_a_run_for_good_and_evaluates_its_best_checkpoint(tmp_path, capsys):
    workdir = tmp_path / "run"
    settings = {**workloads.TINY, "train_size": 100, "epochs": 40, "checkpoint_every": None, "learning_rate": 1e-9}
    given = config.Config(**settings, validation_size=100, patience=2)
    commands.train(given, workdir)  # which learns nothing, so that no epoch is better than the first but by chance
    printed = capsys.readouterr().out
    assert "No lower validation error for 2 epochs: training ends." in printed
    best = max(Checkpoints(workdir, read_only=True).steps("best"))
    assert f"The lowest validation error was at step {best}: eval.py evaluates it." in printed
    commands.train(given, workdir)
    assert "is finished: 40 epochs, or 2 epochs without a lower validation error" in capsys.readouterr().out
    run = lcaps_jax.load_run(workdir)
    assert (run.step, run.checkpoint) == (best, "best") and lcaps_jax.load_run(workdir, "last").step == best + 2
    last = workdir / "checkpoints" / "last"
    assert f"{last} may be deleted: the run cannot go on then, but --checkpoint=best still evaluates it." in printed
    shutil.rmtree(last)
    assert lcaps_jax.load_run(workdir, "best").step == best
    with pytest.raises(config.ConfigError, match="whose checkpoints are gone: it cannot go on"):
        commands.train(given, workdir)


@pytest.mark.parametrize("program", ["train.py", "eval.py", "-m experiments", "-m lcaps_jax.views.demo"])
def test_ctrl_c_during_the_imports_ends_without_a_traceback(program):
    command = [sys.executable, "-X", "importtime", *program.split(), "--workdir=none"]
    with subprocess.Popen(command, cwd=workloads.REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.endswith(" absl.flags\n"):  # the first of the imports, long before the last
                break
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(timeout=100) == -signal.SIGINT


def test_settings_that_would_change_the_mathematics_are_refused(tiny_run):
    workdir, _ = tiny_run
    done = workloads.train(workdir, check=False, k=6)
    assert done.returncode == 1
    assert f"--k=6: the run in {workdir} was begun with k=5" in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    done = workloads.train(tmp_path, check=False)
    assert done.returncode == 1 and "holds something else and no run" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    done = workloads.evaluate(tmp_path, check=False)
    assert done.returncode == 1 and "is not a run of lcaps_jax" in done.stderr


def test_paths_that_cannot_be_used_are_named_and_a_tilde_is_the_home(tiny_run, tmp_path, monkeypatch):
    done = workloads.evaluate("", check=False, report=tmp_path / "report.html")
    assert done.returncode == 1 and done.stderr.strip().endswith("several with commas between.")
    done = workloads.evaluate(tiny_run[0], check=False, report=tmp_path)
    assert done.returncode == 1 and f"Is a directory: '{tmp_path}'" in done.stderr and "Traceback" not in done.stderr
    done = workloads.evaluate(tiny_run[0], check=False, centre=True)
    assert done.returncode == 1 and "--centre=True: does nothing without --images" in done.stderr
    monkeypatch.setenv("HOME", str(tmp_path))
    done = workloads.evaluate(pathlib.Path("~") / "nothing", check=False)
    assert done.returncode == 1 and f"{tmp_path}/nothing is not a run" in done.stderr


def test_a_full_memory_is_said_in_a_line(run_python):
    code = """
import sys
from lcaps_jax import cli
import jax.numpy as jnp
sys.stderr = sys.stdout
try:
    cli.run(lambda argv: jnp.zeros(2**46).block_until_ready())
except SystemExit as stop:
    print(stop.code)
"""
    printed = run_python(code, devices=1)
    assert "Error: a device's memory is full (RESOURCE_EXHAUSTED" in printed and "Traceback" not in printed


def test_eval_refuses_a_checkpoint_that_is_not_there(tiny_run):
    workdir, _ = tiny_run
    done = workloads.evaluate(workdir, check=False, checkpoint="best")
    assert done.returncode == 1 and "has no best checkpoint yet. One is kept where validation_size was" in done.stderr


def test_a_newcomer_classifies_a_file_with_the_packaged_network(tmp_path):
    image = data.load("sample").test.images[0, ..., 0]
    Image.fromarray(image).save(tmp_path / "digit.png")
    before = sorted((workloads.REPOSITORY / "lcaps_jax").iterdir())
    done = workloads.evaluate("mnist_small", images=tmp_path / "digit.png", format="json")
    (record,) = map(json.loads, done.stdout.splitlines())
    assert record["label"] == str(data.load("sample").test.labels[0]) and record["file"] == f"{tmp_path}/digit.png"
    assert sorted((workloads.REPOSITORY / "lcaps_jax").iterdir()) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "in runs there are runs/one, runs/two/inner. --workdir=mnist_small is a network that comes"),
        (["--workdir=runs/one", "--format=csv"], "--format=csv: does nothing without --images"),
        (["--workdir=runs/one", "--images=x", "--export=y"], "--images and --export: one at a time"),
        (["--workdir=runs/one", "--export=x", "--data_dir=y"], "--data_dir=y: does nothing with --export"),
        (["--workdir=mnist_small", "--keep_going"], "--keep_going: does nothing to mnist"),
        (["--flagfile=marked.flags"], "runs/one is not a run of lcaps_jax"),
        (["--workdir=mnist_small", "--checkpoint=best"], "--checkpoint=best: a network of the package has one"),
    ],
)
def test_what_eval_says_of_its_flags(tmp_path, arguments, message):
    for folder in ("one", "two/inner"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / "config.json").write_text("{}")
    (tmp_path / "marked.flags").write_text("--workdir='runs/one'\n", encoding="utf-8-sig")
    command = [sys.executable, str(workloads.REPOSITORY / "eval.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
