"""The recorded results: a table of test errors, the learning curves, and measurements of trained networks.

* ``results/table.csv``: one row for each run and test set, with the fields of ``Result``.
* ``results/curves.csv.gz``: loss and error of each evaluation and of the logged training steps.
* ``results/measured.json.gz``: what the experiments measured of a network, by run and by name of the measurement, so
  that tables and figures need no checkpoints.
"""

from collections.abc import Iterable, Mapping
import csv
import dataclasses
import gzip
import io
import json
import pathlib
from typing import Any

import jax
import numpy as np

from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.train.config import Config
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.workdir import read_results, read_run

FOLDER = pathlib.Path(__file__).parent / "results"
_TABLE, _CURVES, _MEASURED = "table.csv", "curves.csv.gz", "measured.json.gz"
_LOGGED = ("split", "step", "epoch", "loss", "error")
# Settings that have a column, or that do not change what is learnt.
_NOT_LISTED = {"dataset", "image_size", "data_dir", "seed", "epochs", "eval_datasets"}
_NOT_LISTED |= {"eval_every", "log_every", "checkpoint_every"}


@dataclasses.dataclass(frozen=True)
class Result:
    """The test error of a trained network.

    Attributes:
      run: Name of the run; runs that differ only in the seed end in ``_seedN``.
      network: The network in words, as tables print it.
      dataset: Training set.
      test_set: Test set.
      seed: Seed of the training.
      epochs: Epochs trained.
      step: Training steps before the test.
      error: Test error, percent.
      low: Lower end of its 95 % Wilson interval.
      high: Upper end of the interval.
      count: Test images.
      parameters: Parameters of the network.
      minutes: Training time, as the median time of a step times their number.
      device: Device that the network was trained on.
      commit: Revisions of the code, joined by ``+``; "" where unknown.
      settings: Settings other than the defaults, by the names of the flags.
    """

    run: str
    network: str
    dataset: str
    test_set: str
    seed: int
    epochs: float
    step: int
    error: float
    low: float
    high: float
    count: int
    parameters: int
    minutes: float
    device: str
    commit: str
    settings: dict[str, Any]

    @property
    def interval(self) -> str:
        """The interval as tables print it."""
        return f"{self.low:.2f} to {self.high:.2f}"

    @property
    def millions(self) -> str:
        """The number of parameters as tables print it."""
        return f"{self.parameters / 1e6:.1f} M"


def read_table(folder: pathlib.Path = FOLDER) -> list[Result]:
    """All rows of the table."""
    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Result)}
    types["settings"] = json.loads
    with (folder / _TABLE).open(newline="") as file:
        return [Result(**{name: types[name](text) for name, text in line.items()}) for line in csv.DictReader(file)]


def read_curves(folder: pathlib.Path = FOLDER) -> dict[str, list[dict[str, Any]]]:
    """Lines of the curves, each with ``split``, ``step``, ``epoch``, ``loss`` and ``error``, by run."""
    curves: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(folder / _CURVES, "rt", newline="") as file:
        for line in csv.DictReader(file):
            numbers = {name: float(line[name]) for name in ("epoch", "loss", "error")}
            curves.setdefault(line["run"], []).append({"split": line["split"], "step": int(line["step"]), **numbers})
    return curves


def read_measured(folder: pathlib.Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Measurements by name, by run."""
    return json.loads(gzip.decompress((folder / _MEASURED).read_bytes()))


def seeds(runs: Iterable[str], name: str) -> list[str]:
    """The runs that differ from the run of this name only in the seed, and that run itself, by seed."""
    return sorted({run for run in runs if run.partition("_seed")[0] == name})


def results_of(name: str, test_set: str, rows: Iterable[Result]) -> list[Result]:
    """Results of all seeds of a run on a test set, by seed."""
    rows = [row for row in rows if row.test_set == test_set]
    return sorted((row for row in rows if row.run in seeds([row.run], name)), key=lambda row: row.seed)


def measured_of(name: str, measurement: str, measured: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """A measurement of all seeds of a run that have it, by seed."""
    return [measured[run][measurement] for run in seeds(measured, name) if measurement in measured[run]]


def add(
    workdir: pathlib.Path,
    network: str | None = None,
    measured: Mapping[str, Any] | None = None,
    folder: pathlib.Path = FOLDER,
) -> None:
    """Adds a finished run to the results, in place of what they have of a run of its name.

    Args:
      workdir: Folder of the run, which gives the run its name.
      network: The network in words; by default those of the run's other seeds, or else the name of the run.
      measured: Measurements by name, beside those that the results have of the run.
      folder: Folder of the results.
    """
    rows, curves, run = read_table(folder), read_curves(folder), workdir.name
    same = [row.network for row in rows if row.run in seeds([row.run], run.partition("_seed")[0])]
    made = _rows(workdir, network or next(iter(same), run))
    _write_csv(folder / _TABLE, (field.name for field in dataclasses.fields(Result)), [
        dataclasses.asdict(row) | {"settings": _json(row.settings)}
        for row in [*(row for row in rows if row.run != run), *made]
    ])  # fmt: skip
    curves[run] = read_metrics(workdir)
    lines = [{"run": name, **{key: line[key] for key in _LOGGED}} for name, each in curves.items() for line in each]
    _write_csv(folder / _CURVES, ("run", *_LOGGED), lines)
    if measured:
        everything = read_measured(folder)
        everything[run] = everything.get(run, {}) | dict(measured)
        (folder / _MEASURED).write_bytes(_compressed(_json(everything)))


def _rows(workdir: pathlib.Path, network: str) -> list[Result]:
    """Rows of the table for the test sets of a finished run."""
    stored = read_run(workdir)
    settings = stored.settings
    log = read_metrics(workdir)
    train = [line for line in log if line["split"] == "train"]
    defaults = Config.from_settings({"model": settings["model"]}).settings
    given = {k: v for k, v in settings.items() if k not in _NOT_LISTED and v != defaults.get(k)}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(load_model(workdir).params))
    minutes = float(np.median([line["seconds_per_step"] for line in train])) * train[-1]["step"] / 60
    return [
        Result(
            run=workdir.name,
            network=network,
            dataset=settings["dataset"],
            test_set=test_set,
            seed=settings["seed"],
            epochs=next(line["epoch"] for line in log if line["step"] == result["step"]),
            step=result["step"],
            error=result["error"],
            low=result["ci95"][0],
            high=result["ci95"][1],
            count=result["count"],
            parameters=parameters,
            minutes=round(minutes, 2),
            device=" + ".join(
                dict.fromkeys(session["devices"].split(" (")[0].removeprefix("1 x ") for session in stored.sessions)
            ),
            commit="+".join(dict.fromkeys(filter(None, (session["git_revision"] for session in stored.sessions)))),
            settings={"model": settings["model"]} | given,
        )
        for test_set, result in read_results(workdir).items()
    ]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _compressed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)  # so that equal results are equal files


def _write_csv(path: pathlib.Path, header: Iterable[str], lines: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(header), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    path.write_bytes(_compressed(text.getvalue()) if path.suffix == ".gz" else text.getvalue().encode())
