"""Which capsules a network keeps and what they hold: statistics in numbers and sentences, and figures.

Axes: ``B`` or ``N`` images, ``n`` primary capsules, ``K`` kept ones, ``J`` classes, ``D`` dimensions of a pose.
"""

from collections.abc import Sequence
import itertools
import math
import textwrap

import jax
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
import numpy as np

from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.data.splits import Split
from lcaps_jax.nn import Geometry, Output
from lcaps_jax.nn.outputs import CapsNetOutput, LadderCapsNetOutput
from lcaps_jax.ops import frames
from lcaps_jax.viz import style

# Beyond these limits the description says that the network does not do what capsules are meant to do.
_FEW_TYPES = 1 / 4  # share of all types
_ALIKE = 1 / 2  # share of the kept capsules that images of different classes have in common
_FOLLOWING = 1 / 2  # pixels by which the kept capsules move for each pixel of the object
_LEAST_SPREAD = 2.0  # root mean square distance, in pixels, of objects from their mean
_IN_A_ROW = 4  # images, so that they are large enough on a phone too


def centres(output: LadderCapsNetOutput, i: int, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[P, 2]`` of image ``i``, row and column, in the middle of what kept capsules see; how many see it."""
    positions, counts = np.unique(np.asarray(output.kept_index[i]) // geometry.types, return_counts=True)
    grid = np.stack(np.divmod(positions, geometry.grid), axis=1)
    points = geometry.stride * grid + (geometry.receptive_field - 1) / 2
    if output.view is not None:
        points = np.asarray(frames.to_image(_frame(output, i), points, output.view.picture.shape[1]))
    return points, counts


def _frame(output: Output, i: int) -> frames.Frame:
    return jax.tree.map(lambda x: x[i], output.view.frame)


def following(images: np.ndarray, output: LadderCapsNetOutput, geometry: Geometry) -> float:
    """Pixels by which the mean position of the kept capsules moves for each pixel by which the object moves.

    It is the slope, by least squares, of the mean positions against the centres of the objects in the images
    ``[B, I, I, C]``: 1 where the kept capsules follow the object, 0 where they stay in place, and NaN where the objects
    are too close together to tell.
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
    index = np.asarray(output.kept_index)
    (count, k), types, ever = index.shape, geometry.types, len(np.unique(index % geometry.types))
    what = f"capsules of {ever} of {types} types" if types > 1 else f"{k} of {geometry.capsules} capsules"
    sentences = [f"These {count} images keep {what}." if count > 1 else f"This image keeps {what}."]
    if types > 1 and ever <= _FEW_TYPES * types:
        sentences.append("Capsules of the other types are never among the most active.")
    different = split.labels[:, None] != split.labels
    if different.any():
        share = common(index, geometry)[different].mean()
        little = "says little about the image, and the values in the kept capsules make the difference"
        sentences.append(
            f"Two images of different classes share {100 * share:.0f} % of their kept capsules "
            f"({100 * k / geometry.capsules:.0f} % by chance), "
            f"so the code vector {little if share >= _ALIKE else 'distinguishes images'}."
        )
    if (slope := following(split.images, output, geometry)) < _FOLLOWING:  # false for NaN
        sentences.append(
            f"When an object moves by 10 pixels, the mean position of the kept capsules moves by {10 * slope:.1f} "
            "pixels: they stay in place instead of following the object."
        )
    return " ".join(sentences)


def common(kept_index: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Share of their kept capsules ``[N, K]`` that each two images have in common, ``[N, N]``."""
    is_kept = np.zeros((len(kept_index), geometry.capsules), np.float32)
    np.put_along_axis(is_kept, kept_index, 1, axis=1)
    return (is_kept @ is_kept.T).astype(float) / kept_index.shape[1]


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
        style.show_frame(axes, _frame(output, i), output.view.picture.shape[1])


def kept_capsules(
    split: Split, output: LadderCapsNetOutput, geometry: Geometry, class_names: Sequence[str], name: str
) -> Figure:
    """Images of the set ``name`` with their kept capsules, class activities, and the sentences of ``describe``."""
    class_names = list(map(style.plain, class_names))
    figure = Figure(layout="constrained")
    most = max(centres(output, i, geometry)[1].max() for i in range(len(split)))
    for i, (above, below) in enumerate(_pairs(figure, len(split), width=1.6, height=2.8, ratio=1.5)):
        style.show_image(above, split.images[i])
        show_view(above, output, i)
        show_kept(above, output, i, geometry, most)
        true, predicted = int(split.labels[i]), int(np.argmax(output.activity[i]))
        colours = np.full(len(class_names), style.OTHER)
        colours[predicted] = style.WRONG
        colours[true] = style.TRUE
        below.bar(np.arange(len(class_names)), output.activity[i], color=colours)
        if len(class_names) <= 10 and max(map(len, class_names)) <= 2:
            below.set_xticks(range(len(class_names)), class_names, fontsize=7)
        else:
            below.set(xticks=[], xlabel=f"{class_names[true]} as {class_names[predicted]}")
        below.set(ylim=(0, 1), yticks=[] if i % _IN_A_ROW else [0, 1])
        below.set_ylabel("" if i % _IN_A_ROW else "class\nactivity", fontsize=8)
    meanings = ((style.TRUE, "true class"), (style.WRONG, "wrong prediction"), (style.OTHER, "other classes"))
    lines = [Line2D([], [], color=style.KEPT, marker="o", linestyle="", label="kept capsules")]
    if output.view is not None:
        lines.append(Line2D([], [], color=style.FRAME, label="canonical frame"))
    handles = [*lines, *(Patch(color=colour, label=meaning) for colour, meaning in meanings)]
    title = f"{style.plain(name)}: the {output.kept_index.shape[1]} kept of {geometry.capsules} primary capsules"
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False, title=title, title_fontsize=11
    )
    text = describe(split, output, geometry).replace(" %", "\N{NO-BREAK SPACE}%")
    figure.supxlabel(textwrap.fill(text, round(13 * figure.get_figwidth())), fontsize=8.5, color=style.LINE)
    return figure


def _pairs(figure: Figure, count: int, width: float, height: float, ratio: float = 1.0) -> list[tuple]:
    """Axes for so many images, each with those below it, in rows of at most four."""
    columns = min(_IN_A_ROW, count)
    blocks = -(-count // columns)
    figure.set_size_inches(max(width * columns, 5), height * blocks + 0.6)
    grid = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=(ratio, 1) * blocks)
    pairs = list(zip(grid[::2].ravel(), grid[1::2].ravel()))
    for axes in itertools.chain(*pairs[count:]):
        axes.axis("off")
    return pairs[:count]


def reconstructions(split: Split, output: CapsNetOutput, class_names: Sequence[str], name: str) -> Figure:
    """Images, and below each what the decoder draws from the pose of the predicted class."""
    class_names = list(map(style.plain, class_names))
    figure = Figure(layout="constrained")
    images = split.images if output.view is None else style.as_uint8(np.asarray(output.view.picture))
    decoded = style.as_uint8(np.asarray(output.reconstruction).reshape(images.shape))
    for i, (above, below) in enumerate(_pairs(figure, len(split), width=1.4, height=3.4)):
        true, predicted = int(split.labels[i]), int(np.argmax(output.activity[i]))
        style.show_image(above, images[i])
        style.show_image(below, decoded[i])
        style.write_above(above, (class_names[true], style.TRUE))
        style.write_above(below, (f"as {class_names[predicted]}", style.TRUE if predicted == true else style.WRONG))
    figure.suptitle(f"{style.plain(name)}: images, and reconstructions\nfrom the poses of the predicted classes")
    return figure
