"""Messages name arguments in the library and flags at the command line."""

import pytest

from lcaps_jax import data
from lcaps_jax.config import Config, ConfigError
from lcaps_jax.errors import UserError, arg, renamed
import workloads


def test_a_message_names_arguments_or_flags():
    error = UserError(f"{arg('name')}=x: no such set. Give {arg('data_dir')}; a -- or <name> of a value stays.")
    assert str(error) == "name=x: no such set. Give data_dir; a -- or <name> of a value stays."
    assert (
        error.as_flags({"name", "data_dir"})
        == "--name=x: no such set. Give --data_dir; a -- or <name> of a value stays."
    )


def test_arguments_that_are_no_flags_stay_arguments():
    assert UserError(f"{arg('name')}=x: give {arg('data_dir')}").as_flags({"data_dir"}) == "name=x: give --data_dir"


def test_arguments_are_renamed_on_their_way_out():
    with pytest.raises(UserError) as caught, renamed(name="dataset"):
        raise UserError(f"{arg('name')}=x and {arg('k')}=3")
    assert (
        str(caught.value) == "dataset=x and k=3" and caught.value.as_flags({"dataset", "k"}) == "--dataset=x and --k=3"
    )


def test_the_library_speaks_of_its_arguments(tmp_path):
    with pytest.raises(data.DataError, match="^name=nope: no such set"):
        data.load("nope", str(tmp_path))
    with pytest.raises(ConfigError, match="^k=0: must be at least 1"):
        Config(k=0)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dataset": "nope", "data_dir": "/nowhere"}, "Error: --dataset=nope: no such set"),
        ({"eval_datasets": "nope", "data_dir": "/nowhere"}, "Error: --eval_datasets=nope: no such set"),
        ({"image_size": 12}, "--image_size must be at least 17"),
        ({"k": 73}, "Cannot keep --k=73 of n=72 capsules: --k must be between 1 and 72."),
        (
            {"model": "cnn"},
            "--capsule_types=2: does nothing to the network cnn; it is a setting of lcapsnet and capsnet (--model).",
        ),
    ],
)
def test_the_command_line_speaks_of_flags(tmp_path, settings, message):
    done = workloads.train(tmp_path / "run", check=False, **settings)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
