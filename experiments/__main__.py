"""The paper's tables and figures, and further measurements, from recorded results.

    python -m experiments table2                                  # a table or figure; see below
    python -m experiments train mnist_9x9_k70 --seed=1            # trains a network of configs/ or of an ablation
    python -m experiments add runs/paper/mnist_9x9_k70_seed1      # adds a finished run to experiments/results

Tables are printed as Markdown; figures are drawn into --figures. With --measure, `add` also measures what some of the
experiments need of a network: kept, zeros, robustness or frames. Run it from the repository.
"""

from collections.abc import Callable, Sequence
import pathlib
import sys
from typing import Any

from absl import app, flags, logging

from experiments import ablations, frames, kept, lengths, poses, results, robustness, table2, train, zeros
from experiments.output import Rows, markdown
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.train.loop import Stopped
from lcaps_jax.util import process
from lcaps_jax.util.errors import ConfigError, UserError

EXPERIMENTS: dict[str, Callable[[pathlib.Path, str], Rows]] = {
    "table2": lambda *_: table2.rows(),
    "figure1": zeros.figure1,
    "figure4": zeros.figure4,
    "kept": lambda *_: kept.rows(),
    "robustness": robustness.run,
    "questions": lambda *_: ablations.rows(ablations.QUESTIONS, ("mnist", "expanded_mnist", "affnist")),
    "lengths": lengths.run,
    "ablations": lambda *_: ablations.rows(ablations.ABLATIONS, ("expanded_mnist", "affnist")),
    "frames": frames.run,
    "poses": poses.run,
}
_MEASURES: dict[str, Callable[[Model, str], dict[str, Any]]] = {
    "kept": kept.measure,
    "zeros": zeros.measure,
    "robustness": robustness.measure,
    "frames": frames.measure,
}

_SEED = flags.DEFINE_integer("seed", 0, "train: seed of the runs.", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", "runs/paper", "train: folder of the runs' folders.")
_QUICK = flags.DEFINE_boolean("quick", False, "train: tiny networks and few images, to see that all works.")
_MEASURE = flags.DEFINE_multi_enum("measure", [], list(_MEASURES), "add: what to measure; may be repeated.")
_NETWORK = flags.DEFINE_string("network", None, "add: the network in words, for tables.")
_FIGURES = flags.DEFINE_string("figures", "runs/figures", "Folder of the figures.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of prepared TensorFlow Datasets. Default: their own.")


def add(workdirs: Sequence[str], network: str | None, measures: Sequence[str], data_dir: str) -> None:
    """Adds finished runs to the results, with measurements of their networks."""
    for workdir in map(pathlib.Path, workdirs):
        model = load_model(workdir) if measures else None
        measured: dict[str, Any] = {}
        for name in measures:
            measured |= _MEASURES[name](model, data_dir)
        results.add(workdir, network, measured)


def run(arguments: Sequence[str]) -> None:
    """Runs a command with its flags parsed.

    Raises:
      ConfigError: There is no such command or experiment.
    """
    command, *names = arguments or [""]
    if command == "train":
        train.run(names, pathlib.Path(_WORKDIR.value), _SEED.value, _QUICK.value, _DATA_DIR.value)
    elif command == "add":
        add(names, _NETWORK.value, _MEASURE.value, _DATA_DIR.value)
    elif unknown := [name for name in arguments if name not in EXPERIMENTS] or not arguments:
        raise ConfigError(f"experiment={unknown if arguments else ''}: must be train, add, {', '.join(EXPERIMENTS)}.")
    else:
        for name in arguments:
            if rows := EXPERIMENTS[name](pathlib.Path(_FIGURES.value), _DATA_DIR.value):
                print(markdown(rows))


def main(argv: list[str]) -> None:
    """Runs the command line."""
    logging.set_verbosity(logging.ERROR)  # because Orbax and TFDS log each of their steps
    process.prepare()
    try:
        run(argv[1:])
    except UserError as error:
        sys.exit(f"Error: {error}")
    except Stopped as stop:
        print(stop)
        sys.exit(128 + stop.signal)


if __name__ == "__main__":
    app.run(main)
