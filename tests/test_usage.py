"""Help by what flags are about, and hints for the flags of other programs."""

import dataclasses
import re
import subprocess
import sys

from absl import flags
import pytest

from lcaps_jax import config, data, set_names, usage
from lcaps_jax.config import Config
import workloads


@pytest.fixture
def values():
    values = flags.FlagValues()
    config.define_flags(values)
    for name in ("workdir", *usage.groups()["Several processes"]):
        flags.DEFINE_string(name, None, "A flag of train.py alone.", flag_values=values)
    return values


def test_every_setting_has_one_place_in_the_help():
    names = [name for group in usage.groups().values() for name in group]
    assert len(names) == len(set(names)) and {field.name for field in dataclasses.fields(Config)} <= set(names)
    assert "k" in usage.groups()["Network"] and "batch_size" in usage.groups()["Training"]
    assert "keep_going" in usage.groups()["Data"]


@pytest.mark.parametrize("flag", ["-h", "--help", "-?"])
def test_help_is_grouped_and_ends_well(values, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        usage.print_help_if_wanted(["train.py", flag], values, "Trains.")
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and printed.startswith("Trains.\n")
    titles = re.findall(r"^(\w[\w ]+):$", printed, re.MULTILINE)
    assert titles == list(usage.groups()) and printed.index("--max_rotation") < printed.index("--batch_size")


@pytest.mark.parametrize(
    "program, first",
    [
        ("train.py", "Trains a capsule network."),
        ("eval.py", "Evaluates a trained network on test sets"),
        ("-m lcaps_jax.views.demo", "A page in the browser to draw a digit on"),
        ("-m experiments", "The paper's tables and figures"),
    ],
)
def test_every_entry_point_has_help(program, first):
    command = [sys.executable, *program.split(), "-h"]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(first)
    assert "\n  --workdir: Folder of " in done.stdout and "--logtostderr" not in done.stdout


def _refusal(arguments, hints):
    with pytest.raises(SystemExit) as stop:
        usage.check_names(["program", *arguments], hints)
    return stop.value.code


@pytest.mark.parametrize(
    "argument, hint",
    [
        ("--lr=0.1", "--lr: no such flag. Did you mean --learning_rate?"),
        ("-bs", "--bs: no such flag. Did you mean --batch_size?"),
        ("--output_dir=x", "--output_dir: no such flag. Did you mean --workdir?"),
        ("--resume", "--resume: no such flag. The same command again continues the run"),
        ("--gpu=0", "--gpu: no such flag. JAX takes the devices that it was installed for"),
    ],
)
def test_flags_of_other_programs_get_a_hint(tmp_path, argument, hint):
    assert _refusal(["--k=5", argument], usage.TRAINING).startswith(f"Error: {hint}")
    (tmp_path / "my.flags").write_text(f"# mine\n{argument}\n")
    assert _refusal([f"--flagfile={tmp_path}/my.flags"], usage.TRAINING).startswith(f"Error: {hint}")


@pytest.mark.parametrize(
    "argument, hint",
    [
        ("--dataset=sample", "--dataset: no such flag. Did you mean --eval_datasets?"),
        ("--output=x", "--output: no such flag. Did you mean --output_dir?"),
        ("--lr=0.1", "--lr: no such flag. It is a matter of training, which train.py does"),
        ("--model=cnn", "--model: no such flag. It is a matter of training, which train.py does"),
    ],
)
def test_hints_of_eval_are_its_own(argument, hint):
    assert _refusal([argument], usage.EVALUATION).startswith(f"Error: {hint}")


def _flags_of_eval():
    defined = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (workloads.REPOSITORY / "eval.py").read_text())
    return {*defined, *usage.groups()["Several processes"]}


def test_hints_lead_to_flags_that_exist_and_hide_none(values):
    for hints, flags_of_it in ((usage.TRAINING, set(values)), (usage.EVALUATION, _flags_of_eval())):
        known, names = {*flags_of_it, "flagfile"}, hints.names()
        for text in map(hints.hint_for, names):
            assert text and set(re.findall(r"--(\w+)", text)) <= known, text
        assert "batch_size" in known and not known & set(names) and len(names) == len(set(names))


def test_known_flags_and_unknown_ones_without_a_hint_are_left_to_absl(values):
    given = ["train.py", "--k=5", "--routing_iteration=3", "--", "--lr", "--help"]
    usage.check_names(given, usage.TRAINING)
    usage.check_names(["train.py", "--flagfile=none", "--lr"], usage.TRAINING)  # so is a flagfile that is not there
    usage.print_help_if_wanted(given, values, "")


def test_names_of_sets_that_are_right_or_of_others_are_left_alone(tmp_path):
    assert {*set_names.TRAINING_SETS, *set_names.TEST_SETS} == {*data.SETS, *data.TEST_SETS}
    for name in (*data.SETS, *data.TEST_SETS, "mnist", "cifar10"):
        usage.check_sets(["train.py", f"--dataset={name}", f"--eval_datasets=mnist,{name}"])
    usage.check_sets(["train.py", "--flagfile=none", "--dataset=smaple"])  # what else is wrong is left to the parser
    usage.check_sets(["train.py", "--", "--dataset=smaple"])


@pytest.mark.parametrize(
    "script, arguments, refusal",
    [
        ("train.py", "--dataset=smaple", "--dataset=smaple: no such set. Did you mean sample?"),
        ("train.py", "--k 5 --dataset smaple", "--dataset=smaple: no such set. Did you mean sample?"),
        ("train.py", "--flagfile=FILE", "--dataset=foldre: no such set. Did you mean folder?"),
        ("train.py", "--lr=0.1", "--lr: no such flag. Did you mean --learning_rate?"),
        ("eval.py", "--bs=5", "--bs: no such flag. Did you mean --batch_size?"),
        ("eval.py", "--eval_datasets=mnist,afnist", "--eval_datasets=afnist: no such set. Did you mean affnist?"),
    ],
)
def test_what_is_misspelt_is_refused_before_jax_is_imported(tmp_path, script, arguments, refusal):
    (tmp_path / "my.flags").write_text("# mine\n--k=5\n--dataset='foldre'\n")
    code = """
import runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    print(stop.code, {"jax", "numpy", "matplotlib"} & set(sys.modules))
"""
    given = arguments.replace("FILE", str(tmp_path / "my.flags")).split()
    command = [sys.executable, "-c", f"import sys; sys.argv[:] = sys.argv[1:]{code}", script, "--workdir=none", *given]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.stdout == f"Error: {refusal} set()\n", done.stdout + done.stderr
