"""One digit in many poses, through the two small networks of the package: with a canonical frame and without one."""

from collections.abc import Sequence
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments import figures as drawn
from experiments.output import Rows, save_figure
from lcaps_jax.data import affnist, api
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.viz import style, transforms

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


def run(figures: pathlib.Path, data_dir: str) -> Rows:
    """Draws the digit in each pose, its frame and the predicted classes; the rows are the errors in each pose."""
    del data_dir
    digits = api.load("sample").test
    shown = digits.take(np.array([_DIGIT]))
    framed = load_model("mnist_framed")
    networks = {"without a frame": load_model("mnist_small"), "in its frame": framed.with_rotation_search(_SEARCH)}
    images = np.concatenate([_posed(shown, pose) for pose in _POSES.values()])
    seen = framed(images)  # before a search turns the pictures
    activities = {name: network(images).activity for name, network in networks.items()}
    errors = {name: [_error(network, digits, pose) for pose in _POSES.values()] for name, network in networks.items()}
    label = int(shown.labels[0])
    figure = drawn.poses(style.as_uint8(images), seen, activities, errors, list(_POSES), label)
    save_figure(figure, figures, "poses")
    return [
        {"pose": pose, **{f"{name}, %": f"{errors[name][i]:.2f}" for name in networks}} for i, pose in enumerate(_POSES)
    ]


def _posed(digits: Split, pose: Sequence[float]) -> np.ndarray:
    """Digits in a pose, ``[N, 28, 28, 1]`` in [0, 1]."""
    rotation, shear, *rest = np.repeat(np.array([pose], np.float32), len(digits), axis=0).T
    done = affnist.Transformation(
        rotation=jnp.deg2rad(rotation),
        shear=jnp.asarray(shear),
        scale=jnp.stack(rest[:2], axis=1),
        shift=jnp.stack(rest[2:], axis=1).astype(jnp.int32),
    )
    return np.asarray(transforms.warp(digits.images / np.float32(255), done))


def _error(model: Model, digits: Split, pose: Sequence[float]) -> float:
    """Error in percent on digits in a pose."""
    predicted = [output.activity.argmax(axis=-1) for output in model.batches(_posed(digits, pose))]
    return 100 * float(np.mean(np.concatenate(predicted) != digits.labels))
