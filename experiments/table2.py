"""The paper's Table 2: test errors on MNIST and affNIST."""

from collections.abc import Mapping, Sequence
import pathlib

from experiments.cells import Cell
from experiments.output import interval, parameters, write_table
from experiments.plan import Plan
from experiments.time_left import median_seconds, say_what_is_left
from lcaps_jax import runs, training
from lcaps_jax.config import Config, read_config
from lcaps_jax.data import affnist


def run(plan: Plan) -> None:
    """Trains every cell of Table 2 and prints errors beside the paper's."""
    rows = []
    cells = plan.cells()
    for place, cell in enumerate(cells):
        if plan.train:
            say_what_is_left(plan, cells[place:])
        rows.append(row_of(plan.settings(cell, seed=0), cell, plan.run(cell)))
    write_table(plan.workdir, "table2", rows)


def row_of(config: Config, cell: Cell, folders: Sequence[pathlib.Path]) -> dict:
    """A line of Table 2 from the finished runs of a cell, with these settings: errors of the last epoch.

    Each seed has its own interval. All seeds are tested on the same images, so that one interval for all would promise
    too much.
    """
    row = {
        "network": cell.row,
        "test set": cell.column,
        "parameters": parameters(config),
        "error, %": "",
        "95 % interval": "",
        "paper, %": "" if cell.paper is None else f"{cell.paper:g}",
        "seeds": len(folders),
        "epochs": str(config.epochs),
        "minutes": "",
    }
    if not folders:
        return row
    results = [runs.read_results(folder)[cell.test_set] for folder in folders]
    epochs = dict.fromkeys(_epochs(folder, result) for folder, result in zip(folders, results, strict=True))
    logs = [training.read_metrics(folder) for folder in folders]
    if cell.test_set == affnist.NAME:
        tested = dict.fromkeys(f"{result['images']}, {result['variants']} each" for result in results)
        row["test set"] = f"affNIST ({' and '.join(tested)})"
    return row | {
        "error, %": " and ".join(f"{result['error']:.2f}" for result in results),
        "epochs": " and ".join(epochs),
        "95 % interval": " and ".join(interval(result) for result in results),
        "minutes": " and ".join(f"{_minutes(log):.0f}" for log in logs),
    }


def _epochs(folder: pathlib.Path, result: Mapping) -> str:
    """Epochs that were trained before a result: with ``--stop_at_error`` fewer than were allowed."""
    config, about = read_config(folder)
    return f"{result['step'] / training.plan_of(config, about['train_images']).steps_per_epoch:g}"


def _minutes(log: Sequence[dict]) -> float:
    """Minutes of training by the median time of a step, so that pauses of a run do not count."""
    steps = [line for line in log if line["split"] == "train"]
    return median_seconds(steps) * steps[-1]["step"] / 60
