"""What entry points say of their flags: help by what they are about, and hints for what is misspelt or of others.

Importing JAX and what stands on it takes seconds. What can be said of a command line without it is said before.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import sys

from absl import flags

from lcaps_jax import set_names
from lcaps_jax.errors import ConfigError
from lcaps_jax.flagfiles import read_flagfiles

_HELP = ("-h", "--h", "-help", "--help", "-?", "--?")
_ABLATIONS = ("variant", "activity", "selection", "placement")
_ABOUT_DATA = (
    "dataset", "data_dir", "image_size", "max_shift", "flip", "max_rotation", "max_scale", "max_brightness",
    "validation_size", "train_size", "shuffle",
)  # fmt: skip
_ABOUT_EVALUATION = ("eval_datasets", "eval_every", "affnist_variants", "stop_at_error", "patience")
_ABOUT_NETWORKS = ("model", "layers", "channels", "convolution", "precision", "ground", "frame", "frame_size")
_ABOUT_PROCESSES = ("distributed", "coordinator_address", "num_processes", "process_id")
_ABOUT_RUNS = ("workdir",)

_SETS = ("dataset", "eval_datasets")  # flags that name data sets

# Flags by the names that other programs give them.
_OTHER_NAMES = {
    "workdir": ("out", "output", "output_dir", "out_dir", "save_dir", "log_dir", "logdir", "run_dir", "checkpoint_dir"),
    "learning_rate": ("lr", "rate"),
    "batch_size": ("bs", "b", "batch", "batchsize", "minibatch"),
    "epochs": ("e", "num_epochs", "n_epochs", "max_epochs"),
    "data_dir": ("data", "data_path", "data_root", "input", "input_dir", "train_dir", "images"),
    "dataset": ("data_set", "dataset_name"),
    "image_size": ("size", "img_size", "input_size", "resolution", "imsize"),
    "model": ("arch", "network", "net"),
    "max_rotation": ("rotation", "rotate", "degrees"),
    "patience": ("early_stopping", "early_stop"),
    "validation_size": ("val_size", "val_split", "validation_split", "valid_size"),
    "eval_datasets": ("test_dataset", "test_set", "eval_dataset"),
    "num_processes": ("world_size", "nnodes"),
    "flagfile": ("config", "cfg", "config_file"),
}
_DEVICES = "JAX takes the devices that it was installed for, all of them; JAX_PLATFORMS=cpu keeps to the CPU."
_RESUMED = "The same command again continues the run in --workdir; for a new run give a new folder."
_ADVICE = {
    **dict.fromkeys(("gpu", "gpus", "cuda", "device", "devices", "cpu", "tpu", "accelerator"), _DEVICES),
    **dict.fromkeys(("resume", "continue", "restart", "overwrite", "force", "load", "ckpt"), _RESUMED),
    **dict.fromkeys(("fp16", "bf16", "amp", "half"), "--precision=bfloat16 computes with half as many bits."),
    **dict.fromkeys(("steps", "max_steps", "num_steps"), "Steps follow from --epochs and --batch_size."),
    **dict.fromkeys(("workers", "num_workers"), "The images lie on the devices, so no worker loads them."),
    **dict.fromkeys(("eval", "test", "predict"), "eval.py evaluates a run and classifies image files."),
    **dict.fromkeys(("augment", "augmentation"), "--flip, --max_rotation, --max_scale, --max_brightness, --max_shift."),
}


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


def check_names(arguments: Sequence[str]) -> None:
    """Ends the program where the command line of train.py has a flag of another program; else does nothing."""
    for argument in _flags_of(arguments):
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("-") and (hint := hint_for(name)):
            sys.exit(f"Error: --{name}: no such flag. {hint}")


def print_help_if_wanted(arguments: Sequence[str], values: flags.FlagValues, about: str) -> None:
    """Ends the program where the command line asks for help; else does nothing.

    Args:
      arguments: The command line, the program first.
      values: Flags of the entry point, before they are parsed.
      about: What the entry point does, for the help.
    """
    if set(_flags_of(arguments)) & set(_HELP):
        print(f"{about.strip()}\n\n{grouped(values)}")
        sys.exit(0)


def _flags_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that may be flags, which are those before a double dash."""
    given = list(arguments[1:])
    return given[: given.index("--")] if "--" in given else given


def other_names() -> list[str]:
    """Names of flags of other programs that are known here."""
    return [*(name for names in _OTHER_NAMES.values() for name in names), *_ADVICE]


def hint_for(name: str) -> str | None:
    """What to give instead of a flag of another program; None for a name that is not known."""
    meant = [flag for flag, names in _OTHER_NAMES.items() if name in names]
    return f"Did you mean --{meant[0]}?" if meant else _ADVICE.get(name)


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


def grouped(values: Mapping | flags.FlagValues) -> str:
    """The help of flags, as absl writes it, by what they are about."""
    parts = []
    for title, names in groups().items():
        group = flags.FlagValues()
        for name in names:
            group[name] = values[name]
        parts.append(f"{title}:\n\n{group.get_help('  ', include_special_flags=False)}")
    parts.append("--flagfile=FILE reads flags from a file, one a line; --helpfull lists those of all libraries too.")
    return "\n\n".join(parts)
