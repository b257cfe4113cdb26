"""Figures of the experiments, and what is computed for them.

Axes: ``B`` or ``N`` images of ``I x I`` pixels with ``C`` channels, ``M`` amounts of a transformation, ``J`` classes,
``D`` dimensions of a pose, ``n`` primary capsules.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

import jax
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np
import numpy.typing as npt

from lcaps_jax.data import affnist, mnist
from lcaps_jax.data.augment import Array
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.nn import Geometry, Output
from lcaps_jax.viz import capsules, style
from lcaps_jax.viz.robustness import error_curves
from lcaps_jax.viz.style import plain
from lcaps_jax.viz.transforms import ROTATION, SCALE, SHEAR, SHIFT, transform

# Amounts at which poses are compared: affNIST's, and the shifts of expanded MNIST. The middle one changes nothing.
MODERATE = {
    ROTATION: np.linspace(-affnist.MAX_ROTATION, affnist.MAX_ROTATION, 9),
    SHEAR: np.linspace(-affnist.MAX_SHEAR, affnist.MAX_SHEAR, 9),
    SCALE: np.linspace(affnist.MIN_SCALE, affnist.MAX_SCALE, 9),
    SHIFT: np.arange(-mnist.MAX_SHIFT, mnist.MAX_SHIFT + 1, 2.0),
}
# From the first dimension of a pose to the last, without the lightest yellow, which is faint on white.
_DIMENSIONS = LinearSegmentedColormap.from_list("dimensions", colormaps["cividis"](np.linspace(0, 0.9, 256)))
_FILLED = 20 / 28  # of a picture's side that an object fills in its frame, as MNIST's digits do
_RIGHT, _WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


def overlap(kept_index: np.ndarray, labels: np.ndarray, geometry: Geometry) -> dict[str, float]:
    """How many of their kept capsules ``[N, K]`` different images, of classes ``[N]``, have in common.

    Returns:
      Counts: ``k``, ``capsules``, ``types``; ``ever``, the capsules that any image keeps, and ``types_ever``, their
      types. Mean shares of the K capsules that two images have in common: ``in_common`` for any two images,
      ``in_common_of_class`` for two of one class, ``in_common_of_others`` for two of different classes, NaN where there
      are no such two. If each image kept K of the ``ever`` capsules at random, the shares would be ``k / ever``.
    """
    ever, common = np.unique(kept_index), capsules.common(kept_index, geometry)
    different, of_class = ~np.eye(len(labels), dtype=bool), labels[:, None] == labels

    def mean(pairs: np.ndarray) -> float:
        return float(common[pairs].mean()) if pairs.any() else math.nan

    return {
        "k": kept_index.shape[1],
        "capsules": geometry.capsules,
        "types": geometry.types,
        "ever": len(ever),
        "types_ever": len(np.unique(ever % geometry.types)),
        "in_common": mean(different),
        "in_common_of_class": mean(different & of_class),
        "in_common_of_others": mean(~of_class),
    }


def true_poses(model: Model, split: Split) -> Mapping[str, np.ndarray]:
    """Poses ``[N, M, D]`` of the true class at the amounts ``MODERATE[kind] [M]``, by kind of transformation."""

    images = split.images.astype(np.float32) / 255

    def true_pose(kind, amount):
        moved = np.asarray(transform(images, kind, np.full(len(images), amount)))
        pose = np.concatenate([output.pose for output in model.batches(moved)])
        return pose[np.arange(len(pose)), split.labels]

    return {kind: np.stack([true_pose(kind, a) for a in amounts], axis=1) for kind, amounts in MODERATE.items()}


class PoseChange(NamedTuple):
    """How poses respond to a transformation: not at all (invariant), or in step with it (equivariant).

    Attributes:
      turned: Mean angle in degrees between the pose of an unchanged image and its pose at the two extremes.
      straight: Share, 0 to 1, of the poses' variance over the amounts that a straight line for each image explains.
      shared: Share that the mean line of the other images of the class explains. It is large where one direction of
        the pose represents the transformation, and negative where a constant pose explains more.
    """

    turned: float
    straight: float
    shared: float


def pose_change(amounts: np.ndarray, poses: np.ndarray, labels: np.ndarray) -> PoseChange:
    """How poses ``[N, M, D]`` of images of classes ``[N]`` change over amounts ``[M]``, the middle one neutral.

    Each class needs at least two images. Both shares are NaN where poses do not change.
    """
    extremes, neutral = poses[:, [0, -1]], poses[:, len(amounts) // 2, None]
    lengths = np.linalg.norm(extremes, axis=-1) * np.linalg.norm(neutral, axis=-1)
    cosine = np.sum(extremes * neutral, axis=-1) / np.maximum(lengths, 1e-12)
    changes = poses - poses.mean(axis=1, keepdims=True)
    by = (amounts - amounts.mean())[:, None]
    slopes = np.sum(changes * by, axis=1) / np.sum(by**2)  # [N, D], least squares
    alike = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    others = alike @ slopes / alike.sum(axis=1, keepdims=True)
    variance = np.sum(changes**2)

    def explained(slopes):
        return 1 - np.sum((changes - by * slopes[:, None]) ** 2) / variance if variance > 0 else np.nan

    turned = np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).mean()
    return PoseChange(float(turned), float(explained(slopes)), float(explained(others)))


@dataclasses.dataclass(frozen=True)
class Bin:
    """A range of a quantity: its edges, the number of images in it, their mean, and the errors in percent by name."""

    low: float
    high: float
    count: int
    mean: float
    errors: dict[str, float]


def binned_errors(values: np.ndarray, edges: np.ndarray, wrong: Mapping[str, np.ndarray]) -> list[Bin]:
    """Errors by ranges of a quantity, without ranges that hold no image.

    Args:
      values: The quantity for each image, ``[N]``.
      edges: Edges of the ranges.
      wrong: Which images each network gets wrong, ``[N]`` bool by name.
    """
    place = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    bins = []
    for i in np.unique(place):
        inside = place == i
        errors = {name: round(100 * float(mistakes[inside].mean()), 2) for name, mistakes in wrong.items()}
        bins.append(Bin(float(edges[i]), float(edges[i + 1]), int(inside.sum()), float(values[inside].mean()), errors))
    return bins


def binned_error_curves(bins: Mapping[str, Sequence[Bin]], classes: Collection[int]) -> Figure:
    """Error against quantities, from the bins of each by its name; ``classes`` is as for ``error_curves``."""
    names = next(iter(bins.values()))[0].errors
    curves = {
        name: {
            quantity: (np.array([each.mean for each in found]), np.array([each.errors[name] for each in found]))
            for quantity, found in bins.items()
        }
        for name in names
    }
    return error_curves(curves, classes)


def activity_curves(
    label: int,
    sweeps: Mapping[str, np.ndarray],
    results: Mapping[str, Mapping[str, Mapping[str, npt.ArrayLike | None]]],
) -> Figure:
    """Activity of an image's class above its pose, a line for each dimension, as the image is transformed.

    Args:
      label: Class of the image.
      sweeps: Amounts ``[M]`` by name of the transformation.
      results: By network and transformation, ``"activity"`` ``[M]`` and ``"pose"`` ``[M, D]``, None without capsules.
    """
    posed = [name for name, by_sweep in results.items() if by_sweep[next(iter(sweeps))]["pose"] is not None]
    figure = Figure(figsize=(3.4 * len(sweeps), 2.4 * (1 + len(posed))), layout="constrained")
    grid = figure.subplots(1 + len(posed), len(sweeps), squeeze=False, sharex="col")
    for column, (sweep, values) in zip(grid.T, sweeps.items()):
        column[0].set_prop_cycle(style.SERIES)
        for name, by_sweep in results.items():
            column[0].plot(values, by_sweep[sweep]["activity"], label=plain(name), marker="")
        column[0].set(title=sweep, ylim=(0, 1.02))
        for axes, name in zip(column[1:], posed):
            pose = np.asarray(results[name][sweep]["pose"])
            axes.set_prop_cycle(color=_DIMENSIONS(np.linspace(0, 1, pose.shape[1])))
            axes.plot(values, pose, linewidth=0.8)
        column[-1].set_xlabel(sweep)
    grid[0, 0].set_ylabel(f"activity of class {label}")
    for axes, name in zip(grid[1:, 0], posed):
        axes.set_ylabel(f"pose of class {label}\n{plain(name)}", fontsize=8)
    if posed:
        colours = ScalarMappable(cmap=_DIMENSIONS)
        bar = figure.colorbar(colours, ax=grid[1:], location="top", ticks=(0, 1), pad=0.01, aspect=60, shrink=0.5)
        bar.ax.set_xticklabels(["first", "last"])
        bar.set_label("dimension of the pose")
    style.legend_above(figure)
    return figure


def poses(
    images: np.ndarray,
    output: Output,
    activities: Mapping[str, Array],
    errors: Mapping[str, Sequence[float]],
    titles: Sequence[str],
    label: int,
) -> Figure:
    """One object in several poses: each image with its frame above its picture in the frame, and the predictions.

    The middle of the frame is drawn, which the object fills.

    Args:
      images: Images, ``[B, I, I, C]`` uint8.
      output: Output for them of a network with a canonical frame.
      activities: Class activities ``[B, J]`` by name of the network, at most two; a class is named by its number.
      errors: Error in percent in each pose by name of the network.
      titles: Title of each pose.
      label: Class of the object.
    """
    count, size = len(images), output.view.picture.shape[1]
    figure = Figure(figsize=(1.25 * count, 3.5), layout="constrained")
    for i, (above, below) in enumerate(figure.subplots(2, count, squeeze=False).T):
        style.show_image(above, images[i])
        style.show_frame(above, jax.tree.map(lambda x, i=i: x[i], output.view.frame), round(_FILLED * size))
        low, high = -0.5, images.shape[1] - 0.5
        above.set(xlim=(low, high), ylim=(high, low))
        above.set_title(titles[i], fontsize=10)
        style.show_image(below, style.as_uint8(np.asarray(output.view.picture[i])))
        for axes, (name, activity) in zip((above, below), activities.items()):
            predicted = int(np.argmax(activity[i]))
            mark, colour = (_RIGHT, style.TRUE) if predicted == label else (_WRONG, style.WRONG)
            place = {"transform": axes.transAxes, "ha": "center"}
            axes.text(
                0.5, -0.05, f"{predicted} {mark}", va="top", fontsize=12, fontweight="bold", color=colour, **place
            )
            axes.text(0.5, -0.24, f"{errors[name][i]:.1f} % error", va="top", fontsize=8, color=style.LINE, **place)
            if i == 0:
                axes.text(-0.1, 0.5, name, rotation=90, va="center", fontsize=10, **place)
    return figure


def lengths_and_couplings(activity: np.ndarray, coupling: np.ndarray, shown: int = 100) -> Figure:
    """Mean length and mean coupling coefficient ``[n]`` of the most active capsules of a CapsNet (paper, Figure 1)."""
    ranked = np.argsort(-activity, kind="stable")[:shown]
    figure = Figure(figsize=(7, 3.4), layout="tight")
    left = figure.subplots()
    left.bar(np.arange(len(ranked)), activity[ranked], width=1, color=style.AMOUNT, alpha=0.7)
    left.set(xlabel=f"the {len(ranked)} most active of {len(activity)} primary capsules", ylim=(0, 1))
    left.set_ylabel("mean length", color=style.AMOUNT)
    right = left.twinx()
    right.bar(np.arange(len(ranked)), coupling[ranked], width=0.5, color=style.SECOND)
    right.set_ylabel("mean coupling coefficient to the class", color=style.SECOND)
    return figure


def activity_levels(activities: Mapping[int, np.ndarray], shown: int = 300) -> Figure:
    """Mean activity ``[n]`` of the most active capsules, for several K (paper, Figure 4)."""
    figure = Figure(figsize=(3.6 * len(activities), 3), layout="tight")
    row = figure.subplots(1, len(activities), sharey=True, squeeze=False)[0]
    for axes, (k, activity) in zip(row, activities.items()):
        ranked = np.sort(activity)[::-1][:shown]
        bars = np.arange(len(ranked))
        axes.bar(bars, ranked, width=1, color=[style.KEPT if i < k else style.AMOUNT for i in bars])
        axes.set(title=f"K={k}", ylim=(0, 1), xlabel=f"the {len(ranked)} most active of {len(activity)}")
    row[0].set_ylabel("mean activity")
    meanings = ((style.KEPT, "the K most active"), (style.AMOUNT, "the others"))
    row[-1].legend(handles=[Patch(color=colour, label=meaning) for colour, meaning in meanings])
    return figure
