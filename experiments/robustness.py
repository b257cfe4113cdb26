"""How the networks trained on expanded MNIST answer to digits that are transformed."""

from collections.abc import Mapping
import dataclasses
from typing import cast

import numpy as np

from experiments import ablations
from experiments.cells import cell_of
from experiments.measurements import Measurement, collect, rounded
from experiments.output import save_plot, write_table
from experiments.plan import CLASSES, Plan
from lcaps_jax import data, parallel
from lcaps_jax.data import Affnist, Split, affnist, expanded_mnist
from lcaps_jax.data.resize import fit_size
from lcaps_jax.training import evaluate, make_eval_steps, on_devices
from lcaps_jax.views import plots, robustness

_POSED_DIGITS = 300
# Amounts that one digit is transformed by, far beyond affNIST's.
_SWEEPS = {
    robustness.ROTATION: np.linspace(-90, 90, 41),
    robustness.SHEAR: np.linspace(-0.8, 0.8, 41),
    robustness.SCALE: np.linspace(0.5, 1.5, 41),
    robustness.SHIFT: np.arange(-20.0, 21),
}


def run(plan: Plan) -> None:
    """Draws where the errors on affNIST lie, and how activities and poses change as digits are transformed."""
    cells = ["affnist_15x15_k70", "affnist_9x9_k70", "affnist_capsnet", "affnist_cnn32"]
    networks = {cell_of(name).row: folders for name, folders in plan.finished("robustness", cells).items()}
    shown = ["capsnet_full_size", "full_size", "full_size_shift10", "longer", "capsnet_longer"]
    networks |= ablations.finished(plan, shown)
    if not networks:
        return
    split = cast(Affnist, data.load_test(affnist.NAME, plan.data_dir, affnist.CANVAS))
    digits = split.digits.take(np.arange(min(_POSED_DIGITS, len(split.digits))))
    digits = dataclasses.replace(digits, images=fit_size(digits.images, affnist.CANVAS))
    if not (found := collect("robustness", networks, _predictions(split), _one_digit(digits), _poses(digits))):
        return
    predicted = {name: np.array(list(predictions["predicted"]), int) for name, (predictions, _, _) in found.items()}
    _errors_by(plan, split, {name: each != split.labels for name, each in predicted.items()})
    results = {name: transformed for name, (_, transformed, _) in found.items()}
    save_plot(plan.workdir, "transformed", plots.activity_under(int(digits.labels[0]), _SWEEPS, results))
    if rows := _pose_rows({name: poses for name, (_, _, poses) in found.items()}):
        write_table(plan.workdir, "poses", rows)


def _predictions(split: Affnist) -> Measurement:
    """The predicted digits, in the order of the set."""

    def measure(run):
        evaluation = evaluate(make_eval_steps(run.network), run.params, on_devices(split), parallel.round_up(100))
        return {"predicted": "".join(map(str, evaluation.predicted))}

    return Measurement("affnist", {"images": len(split)}, measure)


def _errors_by(plan: Plan, split: Affnist, wrong: Mapping[str, np.ndarray]) -> None:
    """Draws and prints error by rotation, shear, scale and shift; ``wrong`` is ``[N]`` bool, by network."""
    done = split.transformations()
    continuous: dict[str, np.ndarray] = {
        "rotation (degrees)": np.rad2deg(done.rotation),
        "shear": np.asarray(done.shear),
        "vertical scale": np.asarray(done.scale[:, 0]),
        "horizontal scale": np.asarray(done.scale[:, 1]),
    }
    quantities = {name: (values, plots.equal_ranges(values)) for name, values in continuous.items()}
    farthest = np.abs(done.shift).max(axis=1)
    # Up to the shifts of training, then by two pixels, then all of the few that are left.
    edges = [0, *range(expanded_mnist.MAX_SHIFT + 1, 2 * expanded_mnist.MAX_SHIFT + 2, 2)]
    edges.append(max(*edges, farthest.max()) + 1)
    quantities["shift from the middle (pixels)"] = farthest, np.array(edges)
    save_plot(plan.workdir, "robustness", plots.errors_by(quantities, wrong, [CLASSES]))
    rows = [
        {"quantity": quantity, "from": f"{low:.2f}", "below": f"{high:.2f}", "images": count, **errors}
        for quantity, (values, edges) in quantities.items()
        for low, high, count, errors in plots.binned_errors(values, edges, wrong)
    ]
    write_table(plan.workdir, "robustness", rows)


def _one_digit(digits: Split) -> Measurement:
    """Activity and pose of the first digit's class as the digit is rotated, sheared, scaled and moved."""
    label = int(digits.labels[0])

    def measure(run):
        measured = {}
        for kind, amounts in _SWEEPS.items():
            copies = np.repeat(digits.images[:1] / np.float32(255), len(amounts), axis=0)
            output = run(np.asarray(robustness.transform(copies, kind, amounts)))
            pose = None if output.pose is None else output.pose[:, label]
            measured[kind] = {"activity": rounded(output.activity[:, label]), "pose": rounded(pose)}
        return measured

    amounts = {kind: rounded(amounts) for kind, amounts in _SWEEPS.items()}
    return Measurement("transformed_digit", {"label": label, "amounts": amounts}, measure)


def _poses(digits: Split) -> Measurement:
    """How class poses answer to moderate transformations of digits; empty for networks without poses."""

    def measure(run):
        if run(digits.images[:1]).pose is None:
            return {}
        return {
            kind: dataclasses.asdict(robustness.pose_change(robustness.MODERATE[kind], poses, digits.labels))
            for kind, poses in robustness.poses(run, digits).items()
        }

    amounts = {kind: rounded(amounts) for kind, amounts in robustness.MODERATE.items()}
    return Measurement("poses", {"digits": len(digits), "amounts": amounts, "line": "of the others"}, measure)


def _pose_rows(poses: Mapping[str, Mapping]) -> list[dict]:
    """The table of pose changes, by network."""
    return [
        {
            "network": name,
            "transformation": kind,
            "pose turned, degrees": f"{each[kind]['turned']:.0f}",
            "straight, %": f"{100 * each[kind]['straight']:.0f}",
            "by the class's line, %": f"{100 * each[kind]['shared']:.0f}",
        }
        for name, each in poses.items()
        for kind in robustness.KINDS
        if kind in each
    ]
