"""How a network responds to images that are rotated, sheared, scaled and shifted: measurements and their curves.

Axes: ``N`` images, ``M`` amounts of a transformation, ``D`` dimensions of a pose.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
import numpy as np
import numpy.typing as npt

from lcaps_jax.data import affnist, mnist
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.viz import style
from lcaps_jax.viz.style import plain
from lcaps_jax.viz.transforms import KINDS, ROTATION, SCALE, SHEAR, SHIFT, transform

# Amounts at which errors are measured.
AMOUNTS = {
    ROTATION: np.arange(-90.0, 91, 15),
    SHEAR: np.linspace(-0.8, 0.8, 9),
    SCALE: np.linspace(0.5, 1.5, 11),
    SHIFT: np.arange(-8.0, 9, 2),
}
# Amounts at which poses are compared: affNIST's, and the shifts of expanded MNIST. The middle one changes nothing.
MODERATE = {
    ROTATION: np.linspace(-affnist.MAX_ROTATION, affnist.MAX_ROTATION, 9),
    SHEAR: np.linspace(-affnist.MAX_SHEAR, affnist.MAX_SHEAR, 9),
    SCALE: np.linspace(affnist.MIN_SCALE, affnist.MAX_SCALE, 9),
    SHIFT: np.arange(-mnist.MAX_SHIFT, mnist.MAX_SHIFT + 1, 2.0),
}
# Amounts and errors in percent, by kind of transformation.
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def errors(model: Model, split: Split, kinds: Sequence[str] = KINDS) -> Curves:
    """The error on images of a set under each kind of transformation.

    The images must have the network's size; a few hundred are enough for a curve.
    """

    def error(kind, amount):
        outputs = model.batches(_transformed(split, kind, amount))
        predicted = np.concatenate([output.activity.argmax(axis=-1) for output in outputs])
        return 100 * float(np.mean(predicted != split.labels))

    return {kind: (AMOUNTS[kind], np.array([error(kind, amount) for amount in AMOUNTS[kind]])) for kind in kinds}


def true_poses(model: Model, split: Split) -> Mapping[str, np.ndarray]:
    """Poses ``[N, M, D]`` of the true class at the amounts ``MODERATE[kind] [M]``, by kind of transformation."""

    def true_pose(kind, amount):
        pose = np.concatenate([output.pose for output in model.batches(_transformed(split, kind, amount))])
        return pose[np.arange(len(pose)), split.labels]

    return {kind: np.stack([true_pose(kind, a) for a in amounts], axis=1) for kind, amounts in MODERATE.items()}


def _transformed(split: Split, kind: str, amount: float) -> np.ndarray:
    images = split.images.astype(np.float32) / 255
    return np.asarray(transform(images, kind, np.full(len(images), amount)))


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


class Bin(NamedTuple):
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


def error_curves(curves: Mapping[str, Curves], classes: Collection[int]) -> Figure:
    """Error in percent against the amount of each kind of transformation.

    Args:
      curves: Amounts and errors by kind, as ``errors`` returns them, by name of the network.
      classes: Numbers of classes of the networks, for the errors of guessing.
    """
    kinds = list(next(iter(curves.values())))
    columns = 1 if len(kinds) == 1 else 2 if len(kinds) <= 4 else 3
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(max(6, 3 * columns), 2.7 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    highest = max(float(np.max(values)) for by_kind in curves.values() for _, values in by_kind.values())
    for axes, kind in zip(grid, kinds):
        axes.set_prop_cycle(style.SERIES)
        for name, by_kind in curves.items():
            axes.plot(*by_kind[kind], markersize=3, label=plain(name))
        style.show_chance(axes, classes, highest, labelled=axes is grid[0])
        axes.set(xlabel=kind)
        axes.grid(alpha=0.3)
    for axes in grid[len(kinds) :]:
        axes.remove()
    for axes in grid[::columns]:
        axes.set_ylabel("error (%)")
    figure.axes[0].set_ylim(0, None)  # shared by all axes
    style.legend_above(figure)
    return figure


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
            axes.set_prop_cycle(color=style.DIMENSIONS(np.linspace(0, 1, pose.shape[1])))
            axes.plot(values, pose, linewidth=0.8)
        column[-1].set_xlabel(sweep)
    grid[0, 0].set_ylabel(f"activity of class {label}")
    for axes, name in zip(grid[1:, 0], posed):
        axes.set_ylabel(f"pose of class {label}\n{plain(name)}", fontsize=8)
    if posed:
        mappable, place = ScalarMappable(cmap=style.DIMENSIONS), {"location": "top", "aspect": 60, "shrink": 0.5}
        bar = figure.colorbar(mappable, ax=grid[1:], ticks=(0, 1), pad=0.01, **place)
        bar.ax.set_xticklabels(["first", "last"])
        bar.set_label("dimension of the pose")
    style.legend_above(figure)
    return figure
