"""Networks that see images in their frames: trained on MNIST's upright digits, tested on affNIST.

This is another protocol than the paper's, which trains on shifted digits without a frame; its rows stand apart.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from experiments.cells import Cell
from experiments.measurements import Measurement, collect, rounded
from experiments.output import parameters, save_plot, write_table
from experiments.plan import CLASSES, Plan
from lcaps_jax import data, parallel, runs
from lcaps_jax.data import Split, affnist
from lcaps_jax.data.resize import fit_size
from lcaps_jax.networks import framed
from lcaps_jax.runtime import say
from lcaps_jax.training import evaluate, make_eval_steps, on_devices
from lcaps_jax.views import plots, robustness

CELLS = (
    Cell("L-CapsNet, own operators, K=192", "affNIST", "affnist_framed", None, seeds=3),
    Cell("CapsNet, r=3, as many convolutions", "affNIST", "affnist_framed_capsnet", None, seeds=3),
    Cell("small CapsNet, r=3", "affNIST", "affnist_framed_capsnet_small", None, seeds=3),
    Cell("CNN of 32 channels", "affNIST", "affnist_framed_cnn32", None, seeds=3),
)
# Degrees by which each image is turned; the classes are weighed over all of them.
SEARCHES: tuple[tuple[float, ...], ...] = ((), (-10, 0, 10), (-20, -10, 0, 10, 20))
_TURNED_DIGITS = 1000
# The way in which a search combines its angles, so that what was measured with another is measured anew.
_COMBINATION = {"power": framed.POWER}


def run(plan: Plan) -> None:
    """Trains each network and prints its errors on MNIST and affNIST, with and without a search over angles."""
    folders = {cell.row: plan.run(cell) for cell in CELLS}
    if missing := [row for row, found in folders.items() if not found]:
        say(f"frames: without {', '.join(missing)}, not trained yet.")
    seeds = {f"{row}#{i}": [folder] for row, found in folders.items() for i, folder in enumerate(found)}
    if not seeds:
        return
    digits = data.load("mnist", plan.data_dir).test
    distorted = data.load_test(affnist.NAME, plan.data_dir, affnist.CANVAS)
    measured = collect("frames", seeds, _searches({"mnist": digits, affnist.NAME: distorted}), _rotations(digits))
    rows, curves = [], {}
    for cell in CELLS:
        found = [numbers for name, numbers in measured.items() if name.split("#")[0] == cell.row]
        if not found:
            continue
        rows += [_row(plan, cell, [errors for errors, _ in found], angles) for angles in SEARCHES]
        for angles in (SEARCHES[0], SEARCHES[-1]):
            name = cell.row + (", search" if angles else "")
            errors = np.mean([turned[_name(angles)] for _, turned in found], axis=0)
            curves[name] = {robustness.ROTATION: (robustness.AMOUNTS[robustness.ROTATION], errors)}
    write_table(plan.workdir, "frames", rows)
    save_plot(plan.workdir, "frames", plots.errors_under(curves, [CLASSES]))


def _name(angles: Sequence[float]) -> str:
    return ", ".join(f"{angle:g}" for angle in angles) or "none"


def _row(plan: Plan, cell: Cell, found: Sequence[dict], angles: Sequence[float]) -> dict:
    """A line of the table: the mean of the seeds' errors with its interval, and the error of each."""
    row = {"network": cell.row, "parameters": parameters(plan.settings(cell, seed=0)), "search": _name(angles)}
    for name, title in (("mnist", "MNIST, %"), (affnist.NAME, "affNIST, %")):
        row[title] = _mean([numbers[_name(angles)][name] for numbers in found])
    return row | {"seeds": len(found)}


def _mean(errors: Sequence[float]) -> str:
    """The mean of the seeds' errors, half its 95 % interval by Student's t, and each error; of one seed its error."""
    if len(errors) == 1:
        return f"{errors[0]:.2f}"
    half = stats.t.ppf(0.975, len(errors) - 1) * stats.sem(errors)
    return f"{np.mean(errors):.2f} ± {half:.2f} ({', '.join(f'{error:.2f}' for error in errors)})"


def _searches(splits: Mapping[str, data.TestSet]) -> Measurement:
    """Errors in percent on each set, by search."""

    def measure(run: runs.Run) -> dict:
        measured = {}
        for angles in SEARCHES:
            network = run.searching(angles).network if angles else run.network
            steps = make_eval_steps(network)
            measured[_name(angles)] = {
                name: round(evaluate(steps, run.params, on_devices(split), parallel.round_up(100)).error, 4)
                for name, split in splits.items()
            }
        return measured

    return Measurement("searches", {name: len(split) for name, split in splits.items()} | _COMBINATION, measure)


def _rotations(digits: Split) -> Measurement:
    """Errors in percent on digits that are turned by up to 90 degrees each way, without and with the widest search."""
    digits = digits.take(np.arange(min(_TURNED_DIGITS, len(digits))))
    digits = Split(fit_size(digits.images, affnist.CANVAS), digits.labels)

    def measure(run: runs.Run) -> dict:
        searched = {(): run, SEARCHES[-1]: run.searching(SEARCHES[-1])}
        return {
            _name(angles): rounded(robustness.errors(each, digits, [robustness.ROTATION])[robustness.ROTATION][1])
            for angles, each in searched.items()
        }

    return Measurement("rotations", {"digits": len(digits)} | _COMBINATION, measure)
