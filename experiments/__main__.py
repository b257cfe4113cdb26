"""The paper's tables and figures, and what belongs beside them, by one command each.

    python -m experiments table2 --workdir=runs/paper

Run it from the repository, because the settings of every run are the flagfiles in ``configs/``. Finished runs are not
trained again, and interrupted ones go on. ``--notrain`` shows the results so far; ``--quick`` tries a run of each kind
with small networks, in minutes. What the figures need of a network is kept as text beside its results, so that
``--workdir=docs/results --notrain`` shows the tables of the runs that this repository reports.
"""

from collections.abc import Callable, Sequence
import pathlib
import signal

# Ctrl-C during the imports below, which take seconds, would print a traceback.
_ON_INTERRUPT = signal.signal(signal.SIGINT, signal.SIG_DFL) if __name__ == "__main__" else None

from absl import flags

from experiments import ablations, figure1, figure4, frames, kept, lengths, poses, robustness, table2, table3
from experiments.plan import Plan
from lcaps_jax import cli
from lcaps_jax.config import ConfigError

_EXPERIMENTS: dict[str, Callable[[Plan], None]] = {
    "table2": table2.run,
    "table3": table3.run,
    "figure1": figure1.run,
    "figure4": figure4.run,
    "kept": kept.run,
    "robustness": robustness.run,
    "questions": ablations.run_questions,
    "lengths": lengths.run,
    "ablations": ablations.run,
    "frames": frames.run,
    "poses": poses.run,
}


def run(names: Sequence[str], plan: Plan) -> None:
    """Runs the named experiments, or ``all`` of them.

    Raises:
      ConfigError: There is no experiment of that name.
    """
    unknown = [name for name in names if name not in (*_EXPERIMENTS, "all")]
    if unknown or not names:
        raise ConfigError(
            f"Name one or more of {', '.join(_EXPERIMENTS)}, all" + (f"; got {', '.join(unknown)}." if unknown else ".")
        )
    for name in _EXPERIMENTS if "all" in names else names:
        _EXPERIMENTS[name](plan)


def main() -> None:
    """Runs the command line."""
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder of the experiments and their runs. Default: runs/paper or, for --quick, runs/quick."
    )
    quick = flags.DEFINE_boolean("quick", False, "Small networks, one epoch each: minutes, but numbers say little.")
    train = flags.DEFINE_boolean("train", True, "Train what is not trained yet; --notrain shows the results so far.")
    data_dir = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets. Default: their own.")

    def parsed(argv):
        folder = workdir.value or ("runs/quick" if quick.value else "runs/paper")
        run(argv[1:], Plan(pathlib.Path(folder), quick.value, data_dir.value, train.value))

    cli.run(parsed, positional=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _ON_INTERRUPT)
    main()
