"""The plots of a run: curves, matrices, and images with what a network makes of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
import re
import textwrap

import jax
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, NullFormatter
import numpy as np
import numpy.typing as npt
from PIL import Image

from lcaps_jax import frames
from lcaps_jax.data import Split, TestSet
from lcaps_jax.data.augment import Array
from lcaps_jax.networks import Geometry, NetworkOutput
from lcaps_jax.runs import Run
from lcaps_jax.training import Evaluation, read_metrics
from lcaps_jax.views import kept

FOLDER = "figures"
_PROFILE_CAPSULES = 300  # as in the paper's Figure 4
_MISTAKES = 25
_IN_A_ROW = 4  # images, so that they are large enough on a phone too
_SHOWN = 8  # images of a set that are drawn with what the network makes of them
_OFFSETS = np.linspace(-0.25, 0.25, 11)  # by which each dimension of a pose is moved, as in Sabour's Figure 4
_DPI = 130

# What a colour means, in every picture. They are Okabe's and Ito's, which colour-blind people tell apart too.
TRUE = "#009E73"  # the true class, and what is right
WRONG = "#D55E00"  # a class that was predicted and is not the true one, and what is wrong
PREDICTED = "#333333"  # the predicted class where nobody has said which is true
OTHER = "#BBBBBB"  # every other class, and the rest of a whole
KEPT = "#E69F00"  # kept capsules
FRAME = "#56B4E9"  # the frame in which an image is seen
# How much there is of something, and of something else beside it.
AMOUNT, SECOND, THIRD = "#0072B2", "#CC79A7", "#F0E442"
CHANCE = "#777777"  # the error of guessing
# Several networks or sets, which differ in their dashes and marks where there are more of them than colours without
# another meaning.
SERIES = cycler(linestyle=["-", "--", ":"], marker=["o", "s", "^"]) * cycler(color=[AMOUNT, SECOND, "#000000"])
LINE = "#555555"  # small print, and the lines of drawings
BOX, OUTSIDE = "#E9EEF3", "#FFF3D6"  # parts of what is drawn, and those that one starts from outside
_MISTAKEN = LinearSegmentedColormap.from_list("mistaken", ["white", WRONG])
# The dimensions of a pose, from the first to the last; the lightest yellow is left out, which is faint on white.
_DIMENSIONS = LinearSegmentedColormap.from_list("dimensions", colormaps["cividis"](np.linspace(0, 0.9, 256)))

# What the frame means that is drawn over an image.
FRAME_CAPTION = "Blue lines bound the frame that is read off the image: the network sees what lies inside."

# The ladder network, drawn by scripts/draw_network.py, which puts a copy into docs/images; and what it shows.
NETWORK = pathlib.Path(__file__).with_name("network.png")
NETWORK_CAPTION = (
    "The ladder network in one drawing, which shows the idea and no trained network. Convolutions turn the image into "
    "primary capsules. The K most active of them are kept, and the code vector says which. On the way up each class "
    "makes one capsule of the kept ones, and on the way down it regresses the kept ones from that capsule. Where "
    "both agree, the class is active."
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of picture of a run.

    Attributes:
      title: Heading over such pictures.
      caption: What is seen and how to read it; ``{name}`` stands for the name of the set.
    """

    title: str
    caption: str


# By the beginning of the names of their files, in the order in which people look at them.
KINDS: Mapping[str, Kind] = {
    "training_curve": Kind(
        "Training",
        "Error and loss against epochs; both upright axes are logarithmic. The thin line is of batches of training "
        "images, the others are of whole sets. Where the errors come near it, a grey line is the error of guessing.",
    ),
    "confusion": Kind(
        "Confusion",
        "The images of {name} by true class (rows) and predicted class (columns). Those on the green diagonal are "
        "right. The darker another cell, the more often its row is taken for its column.",
    ),
    "mistakes": Kind(
        "Worst mistakes",
        "The mistakes on {name} of which the network was surest. Above each image stand its true class in green, the "
        "predicted one below it, and the margin: the activity of the predicted class less that of the true one.",
    ),
    "capsules": Kind(
        "Where the kept capsules sit",
        "The first images of {name}. An orange dot is the middle of what capsules at one place see, larger where more "
        "of them are kept. The bars below are the activities of the classes, with the true class in green.",
    ),
    "reconstructions": Kind(
        "Reconstructions",
        "The first images of {name}, and below each what the decoder draws of the pose of the predicted class.",
    ),
    "perturbations": Kind(
        "What the dimensions of a pose stand for",
        "What the decoder draws of the first image of {name} as one dimension of its pose is moved, a row for each. "
        "The middle column is the pose as it is. A row that changes in one way shows what its dimension stands for.",
    ),
    "activity": Kind(
        "Activity of the primary capsules",
        "The mean activity of the most active primary capsules over {name}, from the most active on. A steep edge says "
        "that the same capsules are active for all images.",
    ),
}
_HOW_OFTEN_KEPT = (
    "An orange dot says how often the capsule is kept. Where the dots fall from 1 to 0 at once, all images keep the "
    "same capsules."
)


def write_all(
    run: Run, workdir: pathlib.Path, evaluations: Mapping[str, Evaluation], splits: Mapping[str, TestSet]
) -> None:
    """Draws a run: its training curve, and for each set what was measured and what the network makes of some images."""
    names = run.class_names
    _save_kind(training_curve(read_metrics(workdir), len(names)), workdir, "training_curve")
    for name, evaluation in evaluations.items():
        _save_kind(confusion_matrix(evaluation, names, name), workdir, "confusion", name)
        if evaluation.primary_activity is not None:
            dots = "" if evaluation.kept is None else _HOW_OFTEN_KEPT
            _save_kind(activity_profile(evaluation, name), workdir, "activity", name, dots)
        _save_kind(worst_mistakes(evaluation, splits[name], names, name), workdir, "mistakes", name)
    for name in evaluations:
        _write_examples(run, workdir, splits[name], name)


def _write_examples(run: Run, workdir: pathlib.Path, split: TestSet, name: str) -> None:
    """Draws what the network has of the first images of a set: kept capsules, or reconstructions and poses."""
    shown = split.take(np.arange(min(_SHOWN, len(split))))
    output = run(shown.images)
    if output.index is not None:
        figure = kept_capsules(shown, output, run.geometry, run.class_names, name)
        _save_kind(figure, workdir, "capsules", name, kept.in_words(shown, output, run.geometry))
    if output.reconstruction is not None:
        _save_kind(reconstructions(shown, output, run.class_names, name), workdir, "reconstructions", name)
        seen = (shown.images if output.picture is None else output.picture).shape[1:]
        if (images := _perturbed(run, output.pose[0], shown.labels[0], seen)) is not None:
            picture = perturbations(images, _OFFSETS, run.class_names[shown.labels[0]])
            _save_kind(picture, workdir, "perturbations", name)


def _perturbed(run: Run, pose: Array, label: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Images ``[D, M, S, S, C]`` that a decoder draws as each dimension of a pose ``[J, D]`` is moved."""
    dim = pose.shape[1]
    moved = np.broadcast_to(pose, (dim, len(_OFFSETS), *pose.shape)).copy()
    for i in range(dim):
        moved[i, :, label, i] += _OFFSETS
    moved = moved.reshape(-1, *pose.shape)
    images = run.network.decode(run.params, moved, np.full(len(moved), label), shape)
    return None if images is None else images.reshape(dim, len(_OFFSETS), *shape)


def save(figure: Figure, workdir: pathlib.Path, name: str, caption: str = "") -> pathlib.Path:
    """Writes a plot of a run into the folder of its plots, and returns the path."""
    return save_in(workdir / FOLDER, figure, name, caption)


def save_in(place: pathlib.Path, figure: Figure, name: str, caption: str = "") -> pathlib.Path:
    """Writes a picture into a folder, which may be new, with its caption inside, and returns the path."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / (re.sub(r"[^\w.-]+", "_", name) + ".png")  # TFDS has names as emnist/balanced
    metadata = {"Description": _without_surrogates(caption)} if caption else {}
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", metadata=metadata)
    return path


def _save_kind(figure: Figure, workdir: pathlib.Path, kind: str, name: str = "", own: str = "") -> None:
    """Writes a picture of a kind, with the sentences of the kind and the picture's own ones as its caption."""
    caption = " ".join(filter(None, (KINDS[kind].caption.format(name=name), own)))
    save(figure, workdir, f"{kind}_{name}" if name else kind, caption)


def caption_of(path: pathlib.Path, kind: str) -> str:
    """The caption of a picture of a kind: the one in the file, and for pictures that were drawn without, the kind's."""
    with Image.open(path) as image:
        own = getattr(image, "text", {}).get("Description")
    return own or KINDS[kind].caption.format(name=path.stem.removeprefix(f"{kind}_"))


def _without_surrogates(name: str) -> str:
    """A name that can be written: the bytes of a file's name that are not UTF-8 become backslashes and numbers."""
    return name.encode("utf-8", "backslashreplace").decode()


def _plain(name: str) -> str:
    """A name for Matplotlib to show as it is, because text between dollar signs would become a formula."""
    return _without_surrogates(name).replace("$", r"\$")


def show_image(axes, image: np.ndarray) -> None:
    """Draws an image ``[I, I, C]``, uint8, grey or in colours."""
    axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.axis("off")


def training_curve(lines: Sequence[dict], classes: int) -> Figure:
    """Error above loss against epochs, from the lines of ``metrics.jsonl`` of a network with so many classes."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    for axes, quantity, unit in zip(figure.subplots(2, 1, sharex=True), ("error", "loss"), (" (%)", "")):
        axes.set_prop_cycle(SERIES)
        highest = 0.0
        for split in sorted({line["split"] for line in lines}, key=lambda split: (split != "train", split)):
            points = [
                (line["epoch"], line[quantity]) for line in lines if line["split"] == split and line[quantity] > 0
            ]
            style = {"linewidth": 0.8, "alpha": 0.7, "marker": ""} if split == "train" else {"markersize": 3}
            axes.plot(*zip(*points) if points else ((), ()), label=_plain(split), **style)
            highest = max((highest, *(value for _, value in points)))
        if quantity == "error":
            _show_chance(axes, [classes], highest)
        axes.set(ylabel=quantity + unit, yscale="log")
        axes.grid(alpha=0.3, which="both")
        if lines:
            axes.legend()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch")
    last = {line["split"]: line["error"] for line in lines if line["split"] != "train"}
    figure.suptitle(", ".join(f"{_plain(split)}: {error:.2f} % error" for split, error in last.items()))
    return figure


def _show_chance(axes, classes: Collection[int], highest: float, labelled: bool = True) -> None:
    """Draws a line at the error of guessing among each of these numbers of classes, in percent.

    It is left out where no error, of which the highest is given, comes near it: it would flatten the curves.
    """
    for chance in sorted({100 * (1 - 1 / number) for number in classes}):
        if highest >= chance / 2:
            axes.axhline(chance, color=CHANCE, linewidth=0.8, zorder=1)
            if labelled:  # on white, because curves may cross it
                axes.annotate(
                    f"chance, {chance:.3g} %", (0.99, chance), xycoords=axes.get_yaxis_transform(), xytext=(0, -4),
                    textcoords="offset points", ha="right", va="top", fontsize=8, color=CHANCE,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip


def confusion_matrix(evaluation: Evaluation, class_names: Sequence[str], name: str) -> Figure:
    """Images by true and predicted class; the mistakes are coloured by their number, and what is right is green."""
    class_names = list(map(_plain, class_names))
    mistakes = evaluation.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    size = min(max(5.0, 0.4 * len(class_names)), 14.0)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(mistakes, cmap=_MISTAKEN)
    if len(class_names) <= 30:
        for row, column in np.ndindex(*mistakes.shape):
            count = evaluation.confusion[row, column]
            if count:
                dark = mistakes[row, column] > 0.6 * max(1, mistakes.max())
                axes.text(
                    column, row, str(count), ha="center", va="center", fontsize=8,
                    color=TRUE if row == column else "white" if dark else "black",
                )  # fmt: skip
        axes.set_xticks(range(len(class_names)), class_names, rotation=90 if max(map(len, class_names)) > 2 else 0)
        axes.set_yticks(range(len(class_names)), class_names)
    axes.set(
        xlabel="predicted", ylabel="true", title=f"{_plain(name)}: {evaluation.errors} errors in {evaluation.count}"
    )
    return figure


def activity_profile(evaluation: Evaluation, name: str) -> Figure:
    """Mean activity of the most active primary capsules, ranked by it, and how often each is kept (paper, Figure 4)."""
    ranked = np.argsort(-evaluation.primary_activity, kind="stable")[:_PROFILE_CAPSULES]
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.bar(np.arange(len(ranked)), evaluation.primary_activity[ranked], 1, color=AMOUNT, label="mean activity")
    if evaluation.kept is not None:
        share = evaluation.kept[ranked]
        axes.plot(share, ".", color=KEPT, markersize=3, label="share of images in which it is kept")
    count = len(evaluation.primary_activity)
    axes.set(xlabel=f"the {len(ranked)} most active of {count} primary capsules", ylim=(0, 1.03), title=_plain(name))
    axes.legend()
    return figure


def worst_mistakes(evaluation: Evaluation, split: TestSet, class_names: Sequence[str], name: str) -> Figure:
    """The wrongly classified images that the network was surest of, with true and predicted class."""
    class_names = list(map(_plain, class_names))
    wrong = np.flatnonzero(evaluation.predicted != split.labels)
    worst = wrong[np.argsort(-evaluation.margin[wrong], kind="stable")][:_MISTAKES]
    columns = 5
    rows = max(1, -(-len(worst) // columns))
    figure = Figure(figsize=(1.25 * columns, 1.75 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    shown = split.take(worst)
    for axes, i, image, label in zip(grid, worst, shown.images, shown.labels):
        show_image(axes, image)
        true, predicted = class_names[label], class_names[evaluation.predicted[i]]
        _write_above(axes, (f"margin {evaluation.margin[i]:.2f}", LINE), (f"as {predicted}", WRONG), (true, TRUE))
    figure.suptitle(f"{_plain(name)}: the {len(worst)} worst of {len(wrong)} mistakes")
    return figure


def _write_above(axes, *lines: tuple[str, str]) -> None:
    """Writes lines of their own colours above a picture, the lowest first."""
    for i, (words, colour) in enumerate(lines):
        axes.annotate(
            words, (0.5, 1), xycoords="axes fraction", xytext=(0, 2 + 11 * i), textcoords="offset points", ha="center",
            va="bottom", fontsize=9, color=colour,
        )  # fmt: skip


def kept_capsules(
    split: Split, output: NetworkOutput, sizes: Geometry, class_names: Sequence[str], name: str
) -> Figure:
    """Images with the places of their kept capsules over them, the activity of each class below, and what this says.

    Args:
      split: Images and labels.
      output: Output of the network for these images.
      sizes: Grid of the network's primary capsules.
      class_names: Names of the J classes.
      name: Name of the data set.

    Returns:
      The figure. A dot is the centre of what the capsules at that position see, larger where more of them are kept.
      Below all stand the sentences of ``kept.in_words``.
    """
    class_names = list(map(_plain, class_names))
    columns, count = min(_IN_A_ROW, len(split)), len(split)
    blocks = -(-count // columns)
    figure = Figure(figsize=(max(1.6 * columns, 5), 2.8 * blocks + 0.6), layout="constrained")
    rows = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=(1.5, 1) * blocks)
    most = max(kept.by_place(index, sizes)[1].max() for index in output.index)
    for i in range(blocks * columns):
        block, column = divmod(i, columns)
        above, below = rows[2 * block : 2 * block + 2, column]
        if i >= count:
            above.axis("off")
            below.axis("off")
            continue
        show_image(above, split.images[i])
        _show_own_frame(above, output, i)
        _show_kept(above, output, i, sizes, most)
        activity = np.asarray(output.activity[i])
        predicted, true = int(np.argmax(activity)), int(split.labels[i])
        colours = [TRUE if j == true else WRONG if j == predicted else OTHER for j in range(len(activity))]
        below.bar(np.arange(len(activity)), activity, color=colours)
        below.set(ylim=(0, 1), yticks=[0, 1] if column == 0 else [])
        if len(class_names) <= 10 and max(map(len, class_names)) <= 2:
            below.set_xticks(range(len(class_names)), class_names, fontsize=7)
        else:
            below.set(xticks=[], xlabel=f"{class_names[true]} as {class_names[predicted]}")
        if column == 0:
            below.set_ylabel("activity of\nthe classes", fontsize=8)
    meanings: list[Artist] = [Line2D([], [], color=KEPT, marker="o", linestyle="", label="kept capsules")]
    if output.frame is not None:
        meanings.append(Line2D([], [], color=FRAME, label="what the network sees"))
    meanings += [
        Patch(color=colour, label=meaning)
        for colour, meaning in ((TRUE, "true class"), (WRONG, "wrongly predicted"), (OTHER, "other classes"))
    ]
    title = f"{_plain(name)}: where the {output.index.shape[1]} kept of {sizes.capsules} primary capsules sit"
    figure.legend(
        handles=meanings, loc="outside upper center", ncols=3, fontsize=8, frameon=False, title=title, title_fontsize=11
    )
    _write_below(figure, kept.in_words(split, output, sizes))
    return figure


def _write_below(figure: Figure, words: str) -> None:
    """Writes sentences below all axes, in lines of the figure's width."""
    lines = textwrap.fill(words.replace(" %", "\N{NO-BREAK SPACE}%"), round(13 * figure.get_figwidth()))
    figure.supxlabel(lines, fontsize=8.5, color=LINE)


def _show_kept(axes, output: NetworkOutput, i: int, sizes: Geometry, most: int | None = None) -> None:
    """Draws a dot where the capsules of image ``i`` are kept, its area by their number; dots of ``most`` touch.

    Where the image was seen in a frame, the dots lie in it.
    """
    centres, counts = kept.centres(output, i, sizes)
    diameters = sizes.stride * np.sqrt(counts / (most or counts.max()))
    if output.frame is not None:
        diameters = diameters * np.sqrt(abs(np.linalg.det(output.frame.matrix[i])))
    for (y, x), diameter in zip(centres, diameters):
        axes.add_patch(Circle((x, y), diameter / 2, color=KEPT, alpha=0.75, linewidth=0))


def _show_own_frame(axes, output: NetworkOutput, i: int) -> None:
    """Draws the frame of image ``i`` over it, where the network saw it in one."""
    if output.frame is not None:
        _show_frame(axes, jax.tree.map(lambda x: x[i], output.frame), output.picture.shape[1])


def _show_frame(axes, frame: frames.Frame, size: int) -> None:
    """Draws the frame in which an image was seen, a parallelogram whose upper side is drawn thicker."""
    corners = np.asarray(frames.outline(frame, size))[:, ::-1]
    axes.add_patch(Polygon(corners, fill=False, edgecolor=FRAME, linewidth=1))
    axes.add_line(Line2D(*corners[:2].T, color=FRAME, linewidth=2.5))


def in_frames(images: np.ndarray, output: NetworkOutput, titles: Sequence[str]) -> Figure:
    """Images ``[M, I, I, C]`` in [0, 1] in a row, each with its frame over it and its title above."""
    figure = Figure(figsize=(0.6 * len(images), 0.85), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, len(images), squeeze=False)[0]):
        show_image(axes, _as_uint8(images[i]))
        _show_own_frame(axes, output, i)
        axes.set_title(titles[i], fontsize=7)
    return figure


# Part of a picture's side that an object fills in its frame, as MNIST's digits fill 20 of 28 pixels.
_FILLED = 20 / 28
_RIGHT, _WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


def poses(
    images: np.ndarray,
    seen: NetworkOutput,
    activities: Mapping[str, Array],
    errors: Mapping[str, Sequence[float]],
    titles: Sequence[str],
    label: int,
) -> Figure:
    """One object in many poses: each image with its frame, its picture in that frame, and what networks take it for.

    Of the frame the middle is drawn, which the object fills.

    Args:
      images: Images, ``[M, I, I, C]`` uint8.
      seen: Output of a network with a frame for them.
      activities: Activities of the classes by name of the network, ``[M, J]``; a class is named by its number.
      errors: Errors in percent in each pose by name of the network.
      titles: Title of each pose.
      label: Class of the object.
    """
    count, size = len(images), seen.picture.shape[1]
    figure = Figure(figsize=(1.25 * count, 3.5), layout="constrained")
    for column, axes in enumerate(figure.subplots(2, count, squeeze=False).T):
        show_image(axes[0], images[column])
        low, high = -0.5, images.shape[1] - 0.5
        _show_frame(axes[0], jax.tree.map(lambda x, i=column: x[i], seen.frame), round(_FILLED * size))
        axes[0].set(xlim=(low, high), ylim=(high, low))
        axes[0].set_title(titles[column], fontsize=10)
        show_image(axes[1], _as_uint8(np.asarray(seen.picture[column])))
        for axis, (name, activity) in zip(axes, activities.items()):
            predicted = int(np.argmax(activity[column]))
            right = predicted == label
            below = functools.partial(axis.text, transform=axis.transAxes, ha="center", va="top")
            below(
                0.5, -0.05, f"{predicted} {_RIGHT if right else _WRONG}", fontsize=12, fontweight="bold",
                color=TRUE if right else WRONG,
            )  # fmt: skip
            below(0.5, -0.24, f"errs {errors[name][column]:.1f} %", fontsize=8, color=LINE)
            if column == 0:
                axis.text(-0.1, 0.5, name, transform=axis.transAxes, rotation=90, ha="center", va="center", fontsize=10)
    return figure


def classified(
    image: np.ndarray, output: NetworkOutput, sizes: Geometry | None, class_names: Sequence[str], name: str
) -> Figure:
    """An image ``[I, I, C]`` uint8 with its frame and the places of its kept capsules, and its class activities.

    The predicted class is dark and not green, because nobody has said whether it is the true one. Without kept
    capsules no places are shown, and without a frame no frame. Of more than ten classes the ten most active are.
    """
    class_names = list(map(_plain, class_names))
    figure = Figure(figsize=(6.2, 3.2))
    left, right = figure.subplots(1, 2)
    show_image(left, image)
    if title := _show_seen(left, output, sizes):
        left.set_title(title, fontsize=9)
    activity = np.asarray(output.activity[0])
    best = np.sort(np.argsort(-activity, kind="stable")[:10])
    predicted = int(np.argmax(activity))
    right.barh(
        [class_names[j] for j in best],
        activity[best],
        color=[PREDICTED if j == predicted else OTHER for j in best],
    )
    right.set(xlim=(0, 1), xlabel="class activity")
    right.invert_yaxis()
    figure.suptitle(f"{_plain(name)}: {class_names[predicted]}")
    figure.tight_layout()
    return figure


def _show_seen(axes, output: NetworkOutput, sizes: Geometry | None) -> str:
    """Draws the frame and the kept capsules of the one image of an output over it, and returns a title for both.

    The title is empty where the network has neither.
    """
    _show_own_frame(axes, output, 0)
    if output.index is None:
        return "" if output.frame is None else "the frame in which the network sees it"
    _show_kept(axes, output, 0, sizes)
    return "where its kept capsules sit"


def explained(image: np.ndarray, output: NetworkOutput, sizes: Geometry | None, class_names: Sequence[str]) -> Figure:
    """The inside of one decision: an image ``[I, I, C]`` uint8 and what the network computed of it (``B`` = 1).

    It shows the image with its frame and the places of its kept capsules, the kept capsules beside what the most active
    class regresses them to, and the reconstruction of a network that has one.
    """
    class_names = list(map(_plain, class_names))
    best = int(np.argmax(output.activity[0]))
    panels = 1 + 2 * (output.regressed is not None) + (output.reconstruction is not None)
    figure = Figure(figsize=(2.9 * panels, 3.2))
    row = list(figure.subplots(1, panels, squeeze=False)[0])
    axes = row.pop(0)
    show_image(axes, image)
    axes.set_title(_show_seen(axes, output, sizes) or "as the network sees it", fontsize=9)
    if output.regressed is not None:
        for values, title in (
            (output.kept[0], "the kept capsules"),
            (output.regressed[0, best], f"as class {class_names[best]} regresses them"),
        ):
            axes = row.pop(0)
            axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
            axes.set_title(title, fontsize=9)
            axes.set(xlabel="dimension", ylabel="kept capsule")
    if output.reconstruction is not None:
        axes = row.pop(0)
        seen = image if output.picture is None else output.picture[0]
        show_image(axes, _as_uint8(np.asarray(output.reconstruction[0])).reshape(seen.shape))
        axes.set_title(f"reconstructed from class {class_names[best]}", fontsize=9)
    figure.tight_layout()
    return figure


def reconstructions(split: Split, output: NetworkOutput, class_names: Sequence[str], name: str) -> Figure:
    """Images above what CapsNet's decoder makes of the pose of the predicted class."""
    class_names = list(map(_plain, class_names))
    columns, count = min(_IN_A_ROW, len(split)), len(split)
    blocks = -(-count // columns)
    figure = Figure(figsize=(max(1.4 * columns, 5), 3.4 * blocks + 0.5), layout="constrained")
    rows = figure.subplots(2 * blocks, columns, squeeze=False)
    images = split.images if output.picture is None else _as_uint8(np.asarray(output.picture))
    decoded = _as_uint8(np.asarray(output.reconstruction).reshape(images.shape))
    for axes in rows.ravel():
        axes.axis("off")
    for i in range(count):
        block, column = divmod(i, columns)
        above, below = rows[2 * block : 2 * block + 2, column]
        true, predicted = int(split.labels[i]), int(np.argmax(output.activity[i]))
        show_image(above, images[i])
        show_image(below, decoded[i])
        _write_above(above, (class_names[true], TRUE))
        _write_above(below, (f"drawn as {class_names[predicted]}", TRUE if predicted == true else WRONG))
    figure.suptitle(
        f"{_plain(name)}: images, and below each the decoder's\ndrawing from the pose of the predicted class"
    )
    return figure


def perturbations(images: np.ndarray, offsets: np.ndarray, class_name: str) -> Figure:
    """Reconstructions ``[D, M, I, I, C]`` of a pose, a row for each dimension, moved by ``offsets [M]``."""
    dims, count = images.shape[:2]
    figure = Figure(figsize=(0.6 * count, 0.62 * dims))
    grid = figure.subplots(dims, count, squeeze=False)
    decoded = _as_uint8(images)
    for i, j in np.ndindex(dims, count):
        show_image(grid[i, j], decoded[i, j])
        if i == 0:
            grid[0, j].set_title(f"{offsets[j]:+.2f}", fontsize=7)
        if j == 0:
            grid[i, 0].text(-0.1, 0.5, str(i + 1), transform=grid[i, 0].transAxes, ha="right", va="center", fontsize=7)
    figure.suptitle(
        f"A {_plain(class_name)}, drawn as each of the {dims} dimensions of its pose (rows)\n"
        "is moved by so much (columns)", fontsize=9,
    )  # fmt: skip
    figure.subplots_adjust(wspace=0.05, hspace=0.05, top=0.92, left=0.03, right=0.99, bottom=0.01)
    return figure


def _as_uint8(images: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def lengths_and_couplings(activity: np.ndarray, coupling: np.ndarray, shown: int = 100) -> Figure:
    """Mean length and mean coupling coefficient ``[n]`` of the most active capsules of a CapsNet (paper, Figure 1)."""
    ranked = np.argsort(-activity, kind="stable")[:shown]
    figure = Figure(figsize=(7, 3.4))
    left = figure.subplots()
    left.bar(np.arange(len(ranked)), activity[ranked], width=1, color=AMOUNT, alpha=0.7)
    left.set(xlabel=f"the {len(ranked)} most active of {len(activity)} primary capsules", ylim=(0, 1))
    left.set_ylabel("mean length", color=AMOUNT)
    right = left.twinx()
    right.bar(np.arange(len(ranked)), coupling[ranked], width=0.5, color=SECOND)
    right.set_ylabel("mean coupling coefficient to the class", color=SECOND)
    figure.tight_layout()
    return figure


def activity_levels(activities: Mapping[int, np.ndarray]) -> Figure:
    """Mean activity ``[n]`` of the most active capsules, for several K (paper, Figure 4)."""
    figure = Figure(figsize=(3.6 * len(activities), 3))
    for axes, (k, activity) in zip(
        figure.subplots(1, len(activities), sharey=True, squeeze=False)[0], activities.items()
    ):
        ranked = np.sort(activity)[::-1][:_PROFILE_CAPSULES]
        bars = np.arange(len(ranked))
        axes.bar(bars, ranked, width=1, color=[KEPT if i < k else AMOUNT for i in bars])
        axes.set(title=f"K={k}", ylim=(0, 1), xlabel=f"the {len(ranked)} most active of {len(activity)}")
    figure.axes[0].set_ylabel("mean activity")
    figure.axes[-1].legend(
        handles=[Patch(color=KEPT, label="the K most active"), Patch(color=AMOUNT, label="the rest")]
    )
    figure.tight_layout()
    return figure


_BINS = 8


def equal_ranges(values: np.ndarray) -> np.ndarray:
    """Edges of ranges of equal width over all values."""
    return np.linspace(values.min(), values.max(), _BINS + 1)


def binned_errors(
    values: np.ndarray, edges: np.ndarray, wrong: Mapping[str, np.ndarray]
) -> list[tuple[float, float, int, dict]]:
    """Error in percent of each network, by ranges of a quantity: lower and upper end, images, errors by name."""
    lines = []
    for low, high, inside in _ranges(values, edges):
        errors = {name: round(100 * float(mistakes[inside].mean()), 2) for name, mistakes in wrong.items()}
        lines.append((low, high, int(inside.sum()), errors))
    return lines


def _ranges(values: np.ndarray, edges: np.ndarray) -> Iterator[tuple[float, float, np.ndarray]]:
    """Ranges between edges that hold any of the values: lower and upper end, and which values."""
    place = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    for i in np.unique(place):
        yield float(edges[i]), float(edges[i + 1]), place == i


def errors_by(
    quantities: Mapping[str, tuple[np.ndarray, np.ndarray]], wrong: Mapping[str, np.ndarray], classes: Collection[int]
) -> Figure:
    """Error against each quantity ``[N]``, of networks with these mistakes ``[N]`` by name.

    A point is one range between edges, at the mean of the values in it. ``classes`` is as for ``errors_under``.
    """
    errors: dict[str, dict] = {name: {} for name in wrong}
    for quantity, (values, edges) in quantities.items():
        means = np.array([values[inside].mean() for *_, inside in _ranges(values, edges)])
        lines = binned_errors(values, edges, wrong)
        for name in wrong:
            errors[name][quantity] = means, np.array([of_range[name] for *_, of_range in lines])
    return errors_under(errors, classes)


def errors_under(errors: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], classes: Collection[int]) -> Figure:
    """Error in percent against the amount of each kind of transformation, of networks by name.

    Args:
      errors: Amounts and errors by network and kind.
      classes: Numbers of classes of the networks, for the errors of guessing.
    """
    kinds = list(next(iter(errors.values())))
    columns = 1 if len(kinds) == 1 else 2 if len(kinds) <= 4 else 3
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(max(6, 3 * columns), 2.7 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    highest = max(float(np.max(values)) for by_kind in errors.values() for _, values in by_kind.values())
    for axes, kind in zip(grid, kinds):
        axes.set_prop_cycle(SERIES)
        for name, by_kind in errors.items():
            axes.plot(*by_kind[kind], markersize=3, label=_plain(name))
        _show_chance(axes, classes, highest, labelled=axes is grid[0])
        axes.set(xlabel=kind)
        axes.grid(alpha=0.3)
    for axes in grid[len(kinds) :]:
        axes.remove()
    for axes in grid[::columns]:
        axes.set_ylabel("error (%)")
    figure.axes[0].set_ylim(0, None)  # shared by all axes; it ends at the highest curve
    _legend_above(figure)
    return figure


def _legend_above(figure: Figure) -> None:
    """Draws the legend of the first axes above all of them, where it covers no curve."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, min(len(labels), round(figure.get_figwidth() / 3)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)


def activity_under(
    label: int,
    sweeps: Mapping[str, np.ndarray],
    results: Mapping[str, Mapping[str, Mapping[str, npt.ArrayLike | None]]],
) -> Figure:
    """Activity of a digit's class above its pose, one line for each dimension, as the digit is transformed.

    The colour of such a line says which dimension it is, and a bar above the poses says how.

    Args:
      label: Class of the digit.
      sweeps: Amounts ``[M]`` by name of the transformation.
      results: By network and transformation, ``"activity"`` ``[M]`` and ``"pose"`` ``[M, D]``, None without capsules.
    """
    posed = [name for name, by_sweep in results.items() if by_sweep[next(iter(sweeps))]["pose"] is not None]
    figure = Figure(figsize=(3.4 * len(sweeps), 2.4 * (1 + len(posed))), layout="constrained")
    grid = figure.subplots(1 + len(posed), len(sweeps), squeeze=False, sharex="col")
    for column, (sweep, values) in enumerate(sweeps.items()):
        grid[0, column].set_prop_cycle(SERIES)
        for name, by_sweep in results.items():
            grid[0, column].plot(values, by_sweep[sweep]["activity"], label=name, marker="")
        grid[0, column].set(title=sweep, ylim=(0, 1.02))
        for row, name in enumerate(posed, start=1):
            pose = np.asarray(results[name][sweep]["pose"])
            grid[row, column].set_prop_cycle(color=_DIMENSIONS(np.linspace(0, 1, pose.shape[1])))
            grid[row, column].plot(values, pose, linewidth=0.8)
        grid[-1, column].set_xlabel(sweep)
    grid[0, 0].set_ylabel(f"activity of class {label}")
    for row, name in enumerate(posed, start=1):
        grid[row, 0].set_ylabel(f"pose of class {label}\n{name}", fontsize=8)
    if posed:
        bar = figure.colorbar(
            ScalarMappable(cmap=_DIMENSIONS), ax=grid[1:], location="top", ticks=(0, 1), aspect=60, shrink=0.5, pad=0.01
        )
        bar.ax.set_xticklabels(["first", "last"])
        bar.set_label("dimension of the pose")
    _legend_above(figure)
    return figure
