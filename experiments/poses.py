"""One digit in many poses, through the two small networks of the package: with a frame and without one."""

import jax.numpy as jnp
import numpy as np

from experiments.output import save_plot, write_table
from experiments.plan import Plan
from lcaps_jax import data, load_pretrained
from lcaps_jax.data import Split, affnist
from lcaps_jax.pretrained import MNIST_FRAMED
from lcaps_jax.runs import Run
from lcaps_jax.views import plots, robustness

_DIGIT = 7  # of the test part of the sample, a 5
_SEARCH = (-20, -10, 0, 10, 20)
# What is done to the digit, by title: degrees, shear, scale down and right, pixels down and right.
_POSES = {
    "as it is": (0, 0, 1, 1, 0, 0),
    "moved": (0, 0, 0.8, 0.8, 4, -5),
    "small": (0, 0, 0.5, 0.5, -4, 5),
    "turned": (25, 0, 0.9, 0.9, 0, 0),
    "sheared": (0, 0.7, 0.85, 0.85, 0, 0),
    "flat": (0, 0, 0.45, 1.15, 2, 0),
    "narrow": (0, 0, 1.1, 0.4, 0, 4),
    "all of it": (-20, 0.3, 0.55, 0.8, -4, -4),
}


def run(plan: Plan) -> None:
    """Draws the digit in each pose, its frame, what the networks take it for, and how often they err in that pose."""
    digits = data.load("sample").test
    shown = digits.take(np.array([_DIGIT]))
    framed = load_pretrained(MNIST_FRAMED)
    networks = {"without a frame": load_pretrained(), "in its frame": framed.searching(_SEARCH)}
    activities, errors = {}, {}
    for name, network in networks.items():
        activities[name] = np.concatenate([network(_posed(shown, pose)).activity for pose in _POSES.values()])
        errors[name] = [_error(network, digits, pose) for pose in _POSES.values()]
    images = np.concatenate([_posed(shown, pose) for pose in _POSES.values()])
    seen = framed(images)  # before a search turns them
    write_table(
        plan.workdir,
        "poses",
        [
            {"pose": pose, **{f"{name}, %": f"{errors[name][i]:.2f}" for name in networks}}
            for i, pose in enumerate(_POSES)
        ],
    )
    figure = plots.poses(
        np.rint(255 * images).astype(np.uint8), seen, activities, errors, list(_POSES), int(shown.labels[0])
    )
    save_plot(plan.workdir, "poses", figure)


def _posed(digits: Split, pose: tuple[float, ...]) -> np.ndarray:
    """Digits in a pose, ``[N, 28, 28, 1]`` in [0, 1]."""
    rotation, shear, *rest = np.repeat(np.array([pose], np.float32), len(digits), axis=0).T
    done = affnist.Transformation(
        rotation=jnp.deg2rad(rotation),
        shear=jnp.asarray(shear),
        scale=jnp.stack(rest[:2], axis=1),
        shift=jnp.stack(rest[2:], axis=1).astype(jnp.int32),
    )
    return np.asarray(robustness.warp(digits.images / np.float32(255), done))


def _error(run: Run, digits: Split, pose: tuple[float, ...]) -> float:
    """Error in percent on digits in a pose."""
    predicted = [output.activity.argmax(axis=-1) for output in run.batches(_posed(digits, pose))]
    return 100 * float(np.mean(np.concatenate(predicted) != digits.labels))
