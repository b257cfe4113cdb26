"""Flags: those of training follow from the settings that each part of the package declares."""

from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

from absl import app, flags

from lcaps_jax.infer import image_files
from lcaps_jax.nn import load_network
from lcaps_jax.train.config import declared_settings
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import Setting, declared

_OF_TYPE: dict[type, Any] = {
    bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}  # fmt: skip


def define_training(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines --workdir and one flag for each setting."""
    help_ = "Folder of the run: settings, checkpoints, results, figures."
    flags.DEFINE_string("workdir", None, help_, flag_values=values)
    for each in declared_settings().values():
        _define(each[0], values)
    flags.DEFINE_alias("lr", "learning_rate", flag_values=values)


def _define(setting: Setting, values: flags.FlagValues) -> None:
    name, default, help_ = setting.name, setting.default, setting.metadata["help"]
    if setting.metadata["choices"] and name != "model":  # which may be a class of the user's own
        flags.DEFINE_enum(name, default, list(setting.metadata["choices"]), help_, flag_values=values)
        return
    _OF_TYPE[type(default)](name, default, help_, flag_values=values)


def define_own_network(arguments: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of a network that ``--model=FILE.py:CLASS`` names on the command line ``arguments``.

    Raises ConfigError where there is no such network, or a setting of it has the name of a flag of another type.
    """
    probe = flags.FlagValues()
    flags.DEFINE_string("model", "", "", flag_values=probe)
    probe(list(arguments), known_only=True)
    if ":" not in probe.model:
        return
    for each in declared(load_network(probe.model)):
        if each.name not in values:
            _define(each, values)
        elif type(values[each.name].default) is not type(each.default):
            raise ConfigError(f"{each.name}={each.default}: {probe.model} needs another name, which is a flag already.")


def given(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """The settings that a command line or its flagfiles give, by name."""
    return {name: values[name].value for name in declared_settings() if values[name].present}


def read_flagfile(path: str | pathlib.Path) -> tuple[dict[str, Any], str | None]:
    """The settings that a flagfile gives, and its --workdir; a line that is no such flag raises absl.flags.Error."""
    values = flags.FlagValues()
    define_training(values)
    values(["", f"--flagfile={path}"])
    return given(values), values.workdir


_EVALUATION: tuple[tuple, ...] = (  # functions of absl, and their arguments: name, default, help, values or limits
    (flags.DEFINE_list, "workdir", None, "Folder of the run, several for --report; or mnist_small or mnist_framed."),
    (flags.DEFINE_list, "eval_datasets", None, "Test sets, as for train.py. Default: those of the run."),
    (flags.DEFINE_string, "data_dir", None, "Folder of prepared TensorFlow Datasets. Default: that of the run."),
    (flags.DEFINE_enum, "checkpoint", None, ["last", "best"], "The last checkpoint, or the best by validation error. "
     "Default: the best of a run with --patience, else the last."),
    (flags.DEFINE_integer, "affnist_variants", None, "Variants of each digit in the set 'affnist'.", 1, 32),
    (flags.DEFINE_string, "images", None, "Image files to classify instead of test sets, such as 'photos/*.png'."),
    (flags.DEFINE_boolean, "invert", False, "Swap black and white in the images, as for ink on paper."),
    (flags.DEFINE_boolean, "centre", False, "With --images: cut out and centre each digit as MNIST's digits are."),
    (flags.DEFINE_boolean, "skip_unreadable", None, "Leave out and list image files that cannot be read."),
    (flags.DEFINE_enum, "format", image_files.TEXT, list(image_files.FORMATS), "With --images: lines to read and a "
     "picture of each file; or for programs one JSON object or CSV line a file."),
    (flags.DEFINE_string, "output_dir", None, "With --images: folder of the pictures. Default: in the run's folder."),
    (flags.DEFINE_string, "report", None, "HTML page to write about one or more runs, instead of evaluating."),
    (flags.DEFINE_string, "export", None, "File to write the network to as one program of jax.export."),
    (flags.DEFINE_list, "search_angles", None, "Degrees by which each image is turned, as -10,0,10; needs a network "
     "with a frame."),
    (flags.DEFINE_integer, "batch_size", None, "Images of a step, over all devices. Default: the run's.", 1),
)  # fmt: skip
_DISTRIBUTED: tuple[tuple, ...] = (
    (flags.DEFINE_boolean, "distributed", False, "This is one of several processes that train together; see "
     "docs/how_to/several_hosts.md."),
    (flags.DEFINE_string, "coordinator_address", None, "With --distributed: HOST:PORT of process 0."),
    (flags.DEFINE_integer, "num_processes", None, "With --distributed: number of processes.", 1),
    (flags.DEFINE_integer, "process_id", None, "With --distributed: number of this process, from 0.", 0),
)  # fmt: skip


def define_evaluation() -> None:
    """Defines the flags of eval.py."""
    for define, *arguments in _EVALUATION:
        define(*arguments)


def define_distributed() -> None:
    """Defines the flags of an entry point that several processes run together."""
    for define, *arguments in _DISTRIBUTED:
        define(*arguments)


def parse(arguments: list[str]) -> list[str]:
    """Parses a command line, and returns what is not a flag; for absl's ``app.run``."""
    try:
        if "learning_rate" in flags.FLAGS:
            with contextlib.suppress(flags.Error):  # which the parser below says, with the usage
                define_own_network(arguments)
        return app.parse_flags_with_usage(arguments)
    except UnicodeDecodeError as error:
        raise ConfigError(f"flagfile: must be text in UTF-8 ({error}).") from None
