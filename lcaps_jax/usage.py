"""What entry points say of their flags: help by what they are about, and hints for what is misspelt or of others.

Importing JAX and what stands on it takes seconds. What can be said of a command line without it is said before.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
import sys

from absl import flags

from lcaps_jax import set_names
from lcaps_jax.errors import ConfigError
from lcaps_jax.flagfiles import read_flagfiles

_MORE = "--flagfile=FILE reads flags from a file, one a line; --helpfull lists those of all libraries too."
_HELP = ("-h", "--h", "-help", "--help", "-?", "--?")
_ABLATIONS = ("variant", "activity", "selection", "placement")
_ABOUT_DATA = (
    "dataset", "data_dir", "keep_going", "image_size", "max_shift", "flip", "max_rotation", "max_scale",
    "max_brightness", "validation_size", "train_size", "shuffle",
)  # fmt: skip
_ABOUT_EVALUATION = ("eval_datasets", "eval_every", "affnist_variants", "stop_at_error", "patience")
_ABOUT_NETWORKS = ("model", "layers", "channels", "convolution", "precision", "ground", "frame", "frame_size")
_ABOUT_PROCESSES = ("distributed", "coordinator_address", "num_processes", "process_id")
_ABOUT_RUNS = ("workdir",)

_SETS = ("dataset", "eval_datasets")  # flags that name data sets


@dataclasses.dataclass(frozen=True)
class Hints:
    """What to give instead of the flags of other programs.

    Attributes:
      meant: Names of such flags by the flag that does the same.
      advice: What to do instead, by name, where no flag does the same.
    """

    meant: Mapping[str, Sequence[str]]
    advice: Mapping[str, str]

    def names(self) -> list[str]:
        """Names that there is a hint for."""
        return [*(name for names in self.meant.values() for name in names), *self.advice]

    def hint_for(self, name: str) -> str | None:
        """What to give instead of a flag; None for a name that is not known."""
        flag = next((flag for flag, names in self.meant.items() if name in names), None)
        return f"Did you mean --{flag}?" if flag else self.advice.get(name)


_BATCH = ("bs", "b", "batch", "batchsize", "minibatch")
_DATA = ("data", "data_path", "data_root", "train_dir")
_FLAGFILE = ("config", "cfg", "config_file")
_FOLDERS = ("save_dir", "log_dir", "logdir", "run_dir", "checkpoint_dir")
_INPUT = ("input", "input_dir")
_OUTPUT = ("out", "output", "out_dir")
_PROCESSES = ("world_size", "nnodes")
_TEST_SETS = ("test_dataset", "test_set", "eval_dataset")
# Settings of a run by the names that other programs give them.
_SETTINGS = {
    "learning_rate": ("lr", "rate"),
    "epochs": ("e", "num_epochs", "n_epochs", "max_epochs"),
    "image_size": ("size", "img_size", "input_size", "resolution", "imsize"),
    "model": ("arch", "network", "net"),
    "max_rotation": ("rotation", "rotate", "degrees"),
    "patience": ("early_stopping", "early_stop"),
    "validation_size": ("val_size", "val_split", "validation_split", "valid_size"),
}
_AUGMENTATION = ("augment", "augmentation")
_PRECISION = ("fp16", "bf16", "amp", "half")
_RESUME = ("resume", "continue", "restart")
_STEPS = ("steps", "max_steps", "num_steps")
_EVERYWHERE = {
    **dict.fromkeys(
        ("gpu", "gpus", "cuda", "device", "devices", "cpu", "tpu", "accelerator"),
        "JAX takes the devices that it was installed for, all of them; JAX_PLATFORMS=cpu keeps to the CPU.",
    ),
    **dict.fromkeys(("workers", "num_workers"), "The images lie on the devices, so no worker loads them."),
}

TRAINING = Hints(
    {
        **_SETTINGS,
        "workdir": (*_OUTPUT, *_FOLDERS, "output_dir"),
        "batch_size": _BATCH,
        "data_dir": (*_DATA, *_INPUT, "images"),
        "dataset": ("data_set", "dataset_name"),
        "eval_datasets": _TEST_SETS,
        "num_processes": _PROCESSES,
        "flagfile": _FLAGFILE,
    },
    {
        **_EVERYWHERE,
        **dict.fromkeys(
            (*_RESUME, "overwrite", "force", "load", "ckpt"),
            "The same command again continues the run in --workdir; for a new run give a new folder.",
        ),
        **dict.fromkeys(_PRECISION, "--precision=bfloat16 computes with half as many bits."),
        **dict.fromkeys(_STEPS, "Steps follow from --epochs and --batch_size."),
        **dict.fromkeys(("eval", "test", "predict"), "eval.py evaluates a run and classifies image files."),
        **dict.fromkeys(_AUGMENTATION, "--flip, --max_rotation, --max_scale, --max_brightness, --max_shift."),
    },
)
EVALUATION = Hints(
    {
        "workdir": (*_FOLDERS, "run"),
        "batch_size": _BATCH,
        "checkpoint": ("load", "ckpt", "weights"),
        "data_dir": _DATA,
        "eval_datasets": (*_TEST_SETS, "dataset", "data_set", "dataset_name"),
        "images": (*_INPUT, "image", "file", "files", "predict"),
        "output_dir": _OUTPUT,
        "num_processes": _PROCESSES,
        "flagfile": _FLAGFILE,
    },
    {
        **_EVERYWHERE,
        **dict.fromkeys(
            (*_SETTINGS, *itertools.chain.from_iterable(_SETTINGS.values()), *_PRECISION, *_STEPS, *_AUGMENTATION),
            "It is a matter of training, which train.py does; eval.py takes the settings from the folder of the run.",
        ),
        **dict.fromkeys(_RESUME, "train.py continues a run, by the command that began it."),
    },
)


def check_sets(arguments: Sequence[str]) -> None:
    """Ends the program where the command line misspells a data set of this package; else does nothing.

    Args:
      arguments: The command line, the program first; what is wrong with it otherwise is left to its parser.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # so that parsing goes on behind a value that an unknown flag leaves
    for name in _SETS:
        flags.DEFINE_list(name, None, "Names of data sets.", flag_values=values)
    try:
        values([*arguments[:1], *read_flagfiles(arguments[1:])], known_only=True)
    except (flags.Error, ConfigError):
        return
    for name in _SETS:
        for given in values[name].value or ():
            if correction := set_names.correction(given):
                sys.exit(f"Error: --{name}={given}: {correction}")


def check_names(arguments: Sequence[str], hints: Hints) -> None:
    """Ends the program where the command line has a flag of another program; else does nothing.

    Args:
      arguments: The command line, the program first; what is wrong with its flagfiles is left to its parser.
      hints: What the program has instead.
    """
    try:
        given = read_flagfiles(arguments[1:])
    except ConfigError:
        return
    for argument in _flags_of(given):
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("-") and (hint := hints.hint_for(name)):
            sys.exit(f"Error: --{name}: no such flag. {hint}")


def print_help_if_wanted(arguments: Sequence[str], values: flags.FlagValues, about: str) -> None:
    """Ends the program where the command line asks for help; else does nothing.

    Args:
      arguments: The command line, the program first.
      values: Flags of the entry point, before they are parsed.
      about: What the entry point does, for the help.
    """
    if set(_flags_of(arguments[1:])) & set(_HELP):
        has_all = all(name in values for names in groups().values() for name in names)
        print(f"{about.strip()}\n\n{grouped(values) if has_all else listed(arguments[0], values)}")
        sys.exit(0)


def _flags_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that may be flags, which are those before a double dash."""
    given = list(arguments)
    return given[: given.index("--")] if "--" in given else given


def groups() -> dict[str, tuple[str, ...]]:
    """Names of train.py's flags by what they are about; a setting that is listed nowhere is about training."""
    from lcaps_jax import networks  # imported here because they import JAX
    from lcaps_jax.config import Config

    settings = dict.fromkeys(name for network in networks.NETWORKS.values() for name in network.settings)
    about: dict[str, tuple[str, ...]] = {
        "The run": _ABOUT_RUNS,
        "Data": _ABOUT_DATA,
        "Network": (*_ABOUT_NETWORKS, *(name for name in settings if name not in _ABLATIONS)),
        "Evaluation": _ABOUT_EVALUATION,
        "Ablations": _ABLATIONS,
        "Several processes": _ABOUT_PROCESSES,
    }
    listed = {name for names in about.values() for name in names}
    training = tuple(field.name for field in dataclasses.fields(Config) if field.name not in listed)
    order = ("The run", "Data", "Network", "Training", "Evaluation", "Ablations", "Several processes")
    return {title: {**about, "Training": training}[title] for title in order}


def grouped(values: flags.FlagValues) -> str:
    """The help of train.py's flags, as absl writes it, by what they are about."""
    parts = [f"{title}:\n\n{_help_of(values[name] for name in names)}" for title, names in groups().items()]
    return "\n\n".join([*parts, _MORE])


def listed(program: str, values: flags.FlagValues) -> str:
    """The help of a program's own flags, as absl writes it, by their names."""
    return f"{_help_of(values.get_key_flags_for_module(program))}\n\n{_MORE}"


def _help_of(some: Iterable[flags.Flag]) -> str:
    group = flags.FlagValues()
    for flag in some:
        group[flag.name] = flag
    return group.get_help("  ", include_special_flags=False)
