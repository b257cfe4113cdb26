"""Which capsules a network keeps and what they hold: statistics in numbers and sentences, and figures.

Axes: ``B`` or ``N`` images, ``n`` primary capsules, ``K`` kept ones, ``J`` classes, ``D`` dimensions of a pose.
"""

from collections.abc import Iterator, Mapping, Sequence
import math

import jax
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
import numpy as np

from lcaps_jax.data.augment import Array, to_unit_range
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.nn import Geometry
from lcaps_jax.nn.outputs import LadderCapsNetOutput, Output
from lcaps_jax.ops import frames
from lcaps_jax.viz import style
from lcaps_jax.viz.style import plain

# Beyond these limits the description says that the network does not do what capsules are meant to do.
_FEW_TYPES = 1 / 4  # share of all types
_ALIKE = 1 / 2  # share of the kept capsules that images of different classes have in common
_FOLLOWING = 1 / 2  # pixels by which the kept capsules move for each pixel of the object
_LEAST_SPREAD = 2.0  # root mean square distance, in pixels, of objects from their mean
_IN_A_ROW = 4  # images, so that they are large enough on a phone too
_OFFSETS = np.linspace(-0.25, 0.25, 11)  # added to each dimension of a pose, as in Sabour's Figure 4


def by_position(kept_index: Array, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the grid where capsules ``[K]`` are kept, row by row, and how many are kept at each."""
    return np.unique(np.asarray(kept_index) // geometry.types, return_counts=True)


def centres(output: LadderCapsNetOutput, i: int, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Centres ``[P, 2]``, row and column in pixels, of what the kept capsules of image ``i`` see, and counts ``[P]``.

    The centres are points of the original image, whether or not the network saw it in a canonical frame.
    """
    positions, counts = by_position(output.kept_index[i], geometry)
    grid = np.stack(np.divmod(positions, geometry.grid), axis=1)
    points = geometry.stride * grid + (geometry.receptive_field - 1) / 2
    if output.view is not None:
        frame = jax.tree.map(lambda x: x[i], output.view.frame)
        points = np.asarray(frames.to_image(frame, points, output.view.picture.shape[1]))
    return points, counts


def overlap(kept_index: np.ndarray, labels: np.ndarray, geometry: Geometry) -> dict[str, float]:
    """How many of their kept capsules different images have in common.

    Args:
      kept_index: Indices of the capsules that each image keeps, ``[N, K]``.
      labels: Class of each image, ``[N]``.
      geometry: Grid of the primary capsules.

    Returns:
      Counts: ``k``, ``capsules``, ``types``; ``ever``, the capsules that any image keeps, and ``types_ever``, their
      types. Mean shares of the K capsules that two images have in common: ``in_common`` for any two images,
      ``in_common_of_class`` for two of one class, ``in_common_of_others`` for two of different classes, NaN where there
      are no such two. If each image kept K of the ``ever`` capsules at random, the shares would be ``k / ever``.
    """
    count, k = kept_index.shape
    is_kept = np.zeros((count, geometry.capsules), np.float32)
    np.put_along_axis(is_kept, kept_index, 1, axis=1)
    ever = np.flatnonzero(is_kept.any(axis=0))
    common = (is_kept @ is_kept.T).astype(float) / k  # [N, N]
    different, of_class = ~np.eye(count, dtype=bool), labels[:, None] == labels

    def mean(pairs: np.ndarray) -> float:
        return float(common[pairs].mean()) if pairs.any() else math.nan

    return {
        "k": k,
        "capsules": geometry.capsules,
        "types": geometry.types,
        "ever": len(ever),
        "types_ever": len(np.unique(ever % geometry.types)),
        "in_common": mean(different),
        "in_common_of_class": mean(different & of_class),
        "in_common_of_others": mean(~of_class),
    }


def following(images: np.ndarray, output: LadderCapsNetOutput, geometry: Geometry) -> float:
    """Pixels by which the mean position of the kept capsules moves for each pixel by which the object moves.

    It is 1 where the kept capsules follow the object, and 0 where they stay in place: the slope of the mean positions
    against the centres of the objects in the images ``[B, I, I, C]``, by least squares. It is NaN where the objects are
    too close together to tell.
    """
    objects = frames.frame_of(to_unit_range(images), frames.CENTRE)
    found = [centres(output, i, geometry) for i in range(len(images))]
    means = np.array([np.average(points, axis=0, weights=counts) for points, counts in found])
    seen = ~np.asarray(objects.empty)
    if not seen.any():
        return math.nan
    moved, means = np.asarray(objects.centre)[seen], means[seen]
    moved, means = moved - moved.mean(axis=0), means - means.mean(axis=0)
    square = float(np.sum(moved**2))
    return float(np.sum(moved * means)) / square if square >= len(moved) * _LEAST_SPREAD**2 else math.nan


def describe(split: Split, output: LadderCapsNetOutput, geometry: Geometry) -> str:
    """Sentences on what the kept capsules of some images show, and where they fall short of the idea of capsules."""
    found = overlap(np.asarray(output.kept_index), split.labels, geometry)
    types, ever, others = found["types"], found["types_ever"], found["in_common_of_others"]
    what = f"capsules of {ever} of {types} types" if types > 1 else f"{found['k']} of {found['capsules']} capsules"
    sentences = [f"These {len(split)} images keep {what}." if len(split) > 1 else f"This image keeps {what}."]
    if types > 1 and ever <= _FEW_TYPES * types:
        sentences.append("Capsules of the other types are never among the most active.")
    if not math.isnan(others):
        consequence = (
            "so the code vector says little about the image, and the values in the kept capsules make the difference"
            if others >= _ALIKE
            else "so the code vector distinguishes images"
        )
        sentences.append(
            f"Two images of different classes share {100 * others:.0f} % of their kept capsules "
            f"({100 * found['k'] / found['capsules']:.0f} % by chance), {consequence}."
        )
    if (slope := following(split.images, output, geometry)) < _FOLLOWING:  # false for NaN
        sentences.append(
            f"When an object moves by 10 pixels, the mean position of the kept capsules moves by {10 * slope:.1f} "
            "pixels: they stay in place instead of following the object."
        )
    return " ".join(sentences)


def show_kept(axes, output: LadderCapsNetOutput, i: int, geometry: Geometry, most: int | None = None) -> None:
    """Draws a dot where capsules of image ``i`` are kept, its area by their number; dots of ``most`` capsules touch."""
    points, counts = centres(output, i, geometry)
    diameters = geometry.stride * np.sqrt(counts / (most or counts.max()))
    if output.view is not None:
        diameters = diameters * np.sqrt(abs(np.linalg.det(output.view.frame.matrix[i])))
    for (y, x), diameter in zip(points, diameters):
        axes.add_patch(Circle((x, y), diameter / 2, color=style.KEPT, alpha=0.75, linewidth=0))


def show_view(axes, output: Output, i: int) -> None:
    """Draws the canonical frame of image ``i``, where the network uses one."""
    if output.view is not None:
        style.show_frame(axes, jax.tree.map(lambda x: x[i], output.view.frame), output.view.picture.shape[1])


def kept_capsules(
    split: Split, output: LadderCapsNetOutput, geometry: Geometry, class_names: Sequence[str], name: str
) -> Figure:
    """Images of the set ``name`` with their kept capsules, class activities, and the sentences of ``describe``."""
    class_names = list(map(plain, class_names))
    figure = Figure(layout="constrained")
    most = max(by_position(index, geometry)[1].max() for index in output.kept_index)
    for i, above, below in _pairs(figure, len(split), width=1.6, height=2.8, ratio=1.5):
        style.show_image(above, split.images[i])
        show_view(above, output, i)
        show_kept(above, output, i, geometry, most)
        _show_activity(below, output.activity[i], int(split.labels[i]), class_names)
        below.set_yticks([] if i % _IN_A_ROW else [0, 1])
        below.set_ylabel("" if i % _IN_A_ROW else "class\nactivity", fontsize=8)
    handles: list[Artist] = [Line2D([], [], color=style.KEPT, marker="o", linestyle="", label="kept capsules")]
    if output.view is not None:
        handles.append(Line2D([], [], color=style.FRAME, label="canonical frame"))
    meanings = ((style.TRUE, "true class"), (style.WRONG, "wrong prediction"), (style.OTHER, "other classes"))
    handles += [Patch(color=colour, label=meaning) for colour, meaning in meanings]
    title = f"{plain(name)}: the {output.kept_index.shape[1]} kept of {geometry.capsules} primary capsules"
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False, title=title, title_fontsize=11
    )
    style.write_below(figure, describe(split, output, geometry))
    return figure


def _pairs(figure: Figure, count: int, width: float, height: float, ratio: float = 1.0) -> Iterator[tuple]:
    """The numbers of so many images, each with its axes and those below it, in rows of at most four."""
    columns = min(_IN_A_ROW, count)
    blocks = -(-count // columns)
    figure.set_size_inches(max(width * columns, 5), height * blocks + 0.6)
    grid = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=(ratio, 1) * blocks)
    for i, (above, below) in enumerate(zip(grid[::2].ravel(), grid[1::2].ravel())):
        if i < count:
            yield i, above, below
        else:
            above.axis("off")
            below.axis("off")


def _show_activity(axes, activity: Array, true: int, class_names: Sequence[str]) -> None:
    """Draws the activity of each class ``[J]``."""
    predicted = int(np.argmax(activity))
    colours = [
        style.TRUE if j == true else style.WRONG if j == predicted else style.OTHER for j in range(len(activity))
    ]
    axes.bar(np.arange(len(activity)), activity, color=colours)
    axes.set_ylim(0, 1)
    if len(class_names) <= 10 and max(map(len, class_names)) <= 2:
        axes.set_xticks(range(len(class_names)), class_names, fontsize=7)
    else:
        axes.set(xticks=[], xlabel=f"{class_names[true]} as {class_names[predicted]}")


def reconstructions(split: Split, output: Output, class_names: Sequence[str], name: str) -> Figure:
    """Images, and below each what the decoder draws from the pose of the predicted class."""
    class_names = list(map(plain, class_names))
    figure = Figure(layout="constrained")
    images = split.images if output.view is None else style.as_uint8(np.asarray(output.view.picture))
    decoded = style.as_uint8(np.asarray(output.reconstruction).reshape(images.shape))
    for i, above, below in _pairs(figure, len(split), width=1.4, height=3.4):
        true, predicted = int(split.labels[i]), int(np.argmax(output.activity[i]))
        style.show_image(above, images[i])
        style.show_image(below, decoded[i])
        style.write_above(above, (class_names[true], style.TRUE))
        style.write_above(below, (f"as {class_names[predicted]}", style.TRUE if predicted == true else style.WRONG))
    figure.suptitle(f"{plain(name)}: images, and below each its reconstruction\nfrom the pose of the predicted class")
    return figure


def perturbations(model: Model, images: np.ndarray, label: int) -> Figure:
    """What the decoder draws from the pose of an image as one dimension at a time is changed, a row for each.

    The network needs a decoder; the image is ``[1, I, I, C]``, and the pose is that of the class ``label``.
    """
    output, count = model(images), len(_OFFSETS)
    shape = (images if output.view is None else output.view.picture).shape[1:]
    dims = output.pose.shape[-1]
    poses = np.tile(output.pose[:, None], (dims, count, 1, 1))
    poses[np.arange(dims), :, label, np.arange(dims)] += _OFFSETS
    poses = poses.reshape(-1, *output.pose.shape[1:])
    decoded = style.as_uint8(model.network.decode(model.params, poses, np.full(len(poses), label), shape))
    figure = Figure(figsize=(0.6 * count, 0.62 * dims))
    grid = figure.subplots(dims, count, squeeze=False)
    for axes, image in zip(grid.ravel(), decoded.reshape(-1, *shape)):
        style.show_image(axes, image)
    for axes, offset in zip(grid[0], _OFFSETS):
        axes.set_title(f"{offset:+.2f}", fontsize=7)
    for i, axes in enumerate(grid[:, 0], start=1):
        axes.text(-0.1, 0.5, str(i), transform=axes.transAxes, ha="right", va="center", fontsize=7)
    title = f"{plain(model.class_names[label])}: each of the {dims} dimensions of its pose (rows), changed (columns)"
    figure.suptitle(title, fontsize=9)
    figure.subplots_adjust(wspace=0.05, hspace=0.05, top=0.92, left=0.03, right=0.99, bottom=0.01)
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
