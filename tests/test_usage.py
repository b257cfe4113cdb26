"""Help by what flags are about, and hints for the flags of other programs."""

import dataclasses
import re

from absl import flags
import pytest

from lcaps_jax import config, usage
from lcaps_jax.config import Config


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


@pytest.mark.parametrize("flag", ["-h", "--help", "-?"])
def test_help_is_grouped_and_ends_well(values, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        usage.check(["train.py", flag], values, "Trains.")
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and printed.startswith("Trains.\n")
    titles = re.findall(r"^(\w[\w ]+):$", printed, re.MULTILINE)
    assert titles == list(usage.groups()) and printed.index("--max_rotation") < printed.index("--batch_size")


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
def test_flags_of_other_programs_get_a_hint(values, argument, hint):
    with pytest.raises(SystemExit) as stop:
        usage.check(["train.py", "--k=5", argument], values, "")
    assert stop.value.code.startswith(f"Error: {hint}")


def test_hints_lead_to_flags_that_exist_and_hide_none(values):
    known = {*values, "flagfile"}
    for text in filter(None, (usage.hint_for(name) for name in usage.other_names())):
        assert set(re.findall(r"--(\w+)", text)) <= known, text
    assert not known & set(usage.other_names())


def test_known_flags_and_unknown_ones_without_a_hint_are_left_to_absl(values):
    usage.check(["train.py", "--k=5", "--routing_iteration=3", "--", "--lr"], values, "")
