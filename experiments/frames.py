"""Networks that see images in their canonical frames: trained on MNIST's upright digits, tested on affNIST.

The protocol differs from the paper's, which trains on shifted digits and without a frame, so these rows stand apart.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np
from scipy import stats

from experiments.output import CLASSES, Rows, rounded, save_figure
from experiments.results import measured_of, read_measured, read_table, results_of
from lcaps_jax.data import affnist, api
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.viz import robustness, transforms

_RUNS = ("affnist_framed", "affnist_framed_capsnet", "affnist_framed_capsnet_small", "affnist_framed_cnn32")
# Degrees by which each image is turned in the search.
SEARCHES: tuple[tuple[float, ...], ...] = ((), (-10, 0, 10), (-20, -10, 0, 10, 20))
_TURNED_DIGITS = 1000


def measure(model: Model, data_dir: str) -> dict[str, Any]:
    """Errors by search on MNIST and affNIST, and on MNIST's digits that are turned, without and with a search."""
    digits = api.load_test("mnist", data_dir)
    sets = {"mnist": digits, "affnist": api.load_test("affnist", data_dir, affnist.CANVAS)}
    searched = {angles: model.with_rotation_search(angles) if angles else model for angles in SEARCHES}
    errors = {
        _name(angles): {name: error(each, test_set) for name, test_set in sets.items()}
        for angles, each in searched.items()
    }
    few = digits.take(np.arange(min(_TURNED_DIGITS, len(digits))))
    few = Split(np.pad(few.images, ((0, 0), (6, 6), (6, 6), (0, 0))), few.labels)
    turned = {
        _name(angles): rounded(robustness.errors(searched[angles], few, [transforms.ROTATION])[transforms.ROTATION][1])
        for angles in (SEARCHES[0], SEARCHES[-1])
    }
    return {"searches": errors, "rotations": turned}


def error(model: Model, test_set) -> float:
    """Error in percent on a test set."""
    predicted = [output.activity.argmax(axis=1) for output in model.batches(test_set.images)]
    return round(100 * float(np.mean(np.concatenate(predicted) != test_set.labels)), 4)


def rows() -> Rows:
    """A row for each network and search."""
    measured, table, found = read_measured(), read_table(), []
    for run in _RUNS:
        first, errors = results_of(run, "affnist", table)[0], measured_of(run, "searches", measured)
        for angles in map(_name, SEARCHES):
            row = {"network": first.network, "parameters": first.millions, "search": angles}
            for name, title in (("mnist", "MNIST, %"), ("affnist", "affNIST, %")):
                row[title] = _mean([each[angles][name] for each in errors])
            found.append(row | {"seeds": len(errors)})
    return found


def _mean(errors: Sequence[float]) -> str:
    """The mean of the seeds' errors, half its 95 % interval by Student's t, and each error; of one seed its error."""
    if len(errors) == 1:
        return f"{errors[0]:.2f}"
    half = stats.t.ppf(0.975, len(errors) - 1) * stats.sem(errors)
    return f"{np.mean(errors):.2f} ± {half:.2f} ({', '.join(f'{each:.2f}' for each in errors)})"


def _name(angles: Sequence[float]) -> str:
    return ", ".join(f"{angle:g}" for angle in angles) or "none"


def run(figures: pathlib.Path, data_dir: str) -> Rows:
    """Tabulates the errors with and without a rotation search, and draws them against the rotation of the digits."""
    del data_dir
    measured, table, curves = read_measured(), read_table(), {}
    for run_ in _RUNS:
        turned, network = measured_of(run_, "rotations", measured), results_of(run_, "affnist", table)[0].network
        for angles in (SEARCHES[0], SEARCHES[-1]):
            errors = np.mean([each[_name(angles)] for each in turned], axis=0)
            amounts = robustness.AMOUNTS[transforms.ROTATION]
            curves[network + (", search" if angles else "")] = {transforms.ROTATION: (amounts, errors)}
    save_figure(robustness.error_curves(curves, [CLASSES]), figures, "frames_rotation")
    return rows()
