"""How the networks trained on expanded MNIST respond to digits that are transformed."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any, cast

import numpy as np

from experiments import figures as drawn
from experiments.output import CLASSES, Rows, markdown, rounded, save_figure
from experiments.results import measured_of, read_measured
from lcaps_jax.data import affnist, api, mnist
from lcaps_jax.infer.model import Model
from lcaps_jax.viz import transforms

_POSED_DIGITS = 300
_BINS = 8
# Networks by run, as the table and the figures name them.
_NETWORKS = {
    "affnist_15x15_k70": "L-CapsNet 15x15, K=70",
    "affnist_9x9_k70": "L-CapsNet 9x9, K=70",
    "affnist_capsnet": "CapsNet, r=3",
    "affnist_cnn32": "CNN, an eighth of the filters",
    "ablation_capsnet_full_size": "CapsNet, 5 epochs",
    "ablation_full_size": "L-CapsNet 9x9, 5 epochs",
    "ablation_full_size_shift10": "L-CapsNet 9x9, 5 epochs, 10 pixels",
    "ablation_longer": "narrow L-CapsNet",
    "ablation_capsnet_longer": "narrow CapsNet",
}
# Amounts by which one digit is transformed, far beyond affNIST's.
_SWEEPS = {
    transforms.ROTATION: np.linspace(-90, 90, 41),
    transforms.SHEAR: np.linspace(-0.8, 0.8, 41),
    transforms.SCALE: np.linspace(0.5, 1.5, 41),
    transforms.SHIFT: np.arange(-20.0, 21),
}


def measure(model: Model, data_dir: str) -> dict[str, Any]:
    """Predictions on affNIST; activity and pose of one digit under transformations; how poses of digits change."""
    test_set = cast(affnist.Affnist, api.load_test("affnist", data_dir, affnist.CANVAS))
    predicted = [output.activity.argmax(axis=1) for output in model.batches(test_set.images)]
    digits = test_set.digits.take(np.arange(min(_POSED_DIGITS, len(test_set.digits))))
    border = (affnist.CANVAS - digits.images.shape[1]) // 2
    padded = np.pad(digits.images, ((0, 0), (border, border), (border, border), (0, 0)))
    digits = dataclasses.replace(digits, images=padded)
    return {
        "predicted": "".join(map(str, np.concatenate(predicted))),
        "transformed": _transformed(model, digits.images[:1], int(digits.labels[0])),
        "poses": _pose_changes(model, digits),
    }


def _transformed(model: Model, image: np.ndarray, label: int) -> dict[str, dict]:
    """Activity and pose of an image's class as it is rotated, sheared, scaled and shifted."""
    measured = {}
    for kind, amounts in _SWEEPS.items():
        copies = np.repeat(image / np.float32(255), len(amounts), axis=0)
        output = model(np.asarray(transforms.transform(copies, kind, amounts)))
        pose = None if output.pose is None else output.pose[:, label]
        measured[kind] = {"activity": rounded(output.activity[:, label]), "pose": rounded(pose)}
    return measured


def _pose_changes(model: Model, digits) -> dict[str, dict]:
    """How class poses respond to moderate transformations; empty for networks without poses."""
    if model(digits.images[:1]).pose is None:
        return {}
    return {
        kind: drawn.pose_change(drawn.MODERATE[kind], poses, digits.labels)._asdict()
        for kind, poses in drawn.true_poses(model, digits).items()
    }


def run(figures: pathlib.Path, data_dir: str) -> Rows:
    """Draws where the errors on affNIST lie, and how activities and poses change; the rows are the errors by range."""
    measured = read_measured()
    found = {
        name: {shown: each[0] for run_, shown in _NETWORKS.items() if (each := measured_of(run_, name, measured))}
        for name in ("predicted", "transformed", "poses")
    }
    test_set = cast(affnist.Affnist, api.load_test("affnist", data_dir, affnist.CANVAS))
    wrong = {name: np.array(list(digits), int) != test_set.labels for name, digits in found["predicted"].items()}
    bins = {name: drawn.binned_errors(*each, wrong) for name, each in _amounts(test_set).items()}
    save_figure(drawn.binned_error_curves(bins, [CLASSES]), figures, "affnist_errors")
    label = int(test_set.labels[0])
    save_figure(drawn.activity_curves(label, _SWEEPS, found["transformed"]), figures, "transformed_digit")
    print(markdown(_pose_rows(found["poses"])))
    return [
        {"quantity": name, "from": f"{one.low:.2f}", "below": f"{one.high:.2f}", "images": one.count, **one.errors}
        for name, each in bins.items()
        for one in each
    ]


def _amounts(test_set: affnist.Affnist) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The amount of each kind of transformation ``[N]`` in the images of the set, and edges of ranges of it."""
    done = test_set.transformations()
    continuous = {
        "rotation (degrees)": np.rad2deg(done.rotation),
        "shear": np.asarray(done.shear),
        "vertical scale": np.asarray(done.scale[:, 0]),
        "horizontal scale": np.asarray(done.scale[:, 1]),
    }
    amounts = {name: (each, np.linspace(each.min(), each.max(), _BINS + 1)) for name, each in continuous.items()}
    farthest = np.abs(done.shift).max(axis=1)
    # Up to the shifts of training, then by two pixels, then all of the few that are left.
    edges = [0, *range(mnist.MAX_SHIFT + 1, 2 * mnist.MAX_SHIFT + 2, 2)]
    edges.append(max(*edges, farthest.max()) + 1)
    return amounts | {"shift from the middle (pixels)": (farthest, np.array(edges))}


def _pose_rows(poses: Mapping[str, Mapping]) -> Rows:
    """The table of pose changes."""
    return [
        {
            "network": name,
            "transformation": kind,
            "pose turned, degrees": f"{each[kind]['turned']:.0f}",
            "straight, %": f"{100 * each[kind]['straight']:.0f}",
            "by the class's line, %": f"{100 * each[kind]['shared']:.0f}",
        }
        for name, each in poses.items()
        for kind in transforms.KINDS
        if kind in each
    ]
