"""The figures of a run: its training curve, and for each test set the mistakes and what the network computes."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
import numpy as np
from PIL import Image

from lcaps_jax.data.splits import TestSet
from lcaps_jax.infer.model import Model
from lcaps_jax.nn.outputs import LadderCapsNetOutput
from lcaps_jax.train.evaluate import Evaluation
from lcaps_jax.train.log import read_metrics
from lcaps_jax.viz import capsules, style
from lcaps_jax.viz.style import plain

_EXAMPLES = 8  # images of a set that are drawn with what the network computes of them
_MISTAKES = 25
_PROFILE_CAPSULES = 300  # as in the paper's Figure 4


class Kind(NamedTuple):
    """A kind of figure that a run has; in its caption ``{name}`` stands for the name of the data set."""

    title: str
    caption: str


# By the beginning of the files' names, in the order in which people look at them.
KINDS: Mapping[str, Kind] = {
    "training_curve": Kind(
        "Training",
        "Error and loss against epochs, on logarithmic scales. The thin line is measured on training batches, the "
        "other lines on whole data sets. A grey line marks the error of guessing where the errors come near it.",
    ),
    "confusion": Kind(
        "Confusion matrix",
        "The images of {name} by true class (rows) and predicted class (columns). The green counts on the diagonal are "
        "correct. The darker another cell, the more often its row is mistaken for its column.",
    ),
    "mistakes": Kind(
        "Worst mistakes",
        "The mistakes on {name} of which the network was most certain. Above each image are its true class in green, "
        "the predicted class, and the margin: the activity of the predicted class minus that of the true one.",
    ),
    "capsules": Kind(
        "Kept capsules",
        "The first images of {name}. An orange dot is the centre of what the kept capsules at one position see; the "
        "larger it is, the more of them are kept. The bars are the activities of the classes, the true class in green.",
    ),
    "reconstructions": Kind(
        "Reconstructions",
        "The first images of {name}, and below each what the decoder draws from the pose of the predicted class.",
    ),
    "perturbations": Kind(
        "Dimensions of a pose",
        "What the decoder draws from the pose of the first image of {name} when one dimension is changed, a row for "
        "each dimension. The middle column is the pose itself. A row that changes in one way shows what its dimension "
        "represents.",
    ),
    "activity": Kind(
        "Activity of the primary capsules",
        "The mean activity over {name} of the most active primary capsules, in descending order. A steep edge means "
        "that the same capsules are active for all images.",
    ),
}
_KEPT_RATE_CAPTION = (
    "Orange dots show how often each capsule is kept. If they drop from 1 to 0, all images keep the same capsules."
)


def write_figures(
    model: Model, workdir: pathlib.Path, evaluations: Mapping[str, Evaluation], splits: Mapping[str, TestSet]
) -> None:
    """Writes the figures of a run into its folder, for test sets and their evaluations by name."""

    def save(figure: Figure, kind: str, name: str = "", remark: str = "") -> None:
        caption = " ".join(filter(None, (KINDS[kind].caption.format(name=name), remark)))
        style.save(figure, workdir / style.FOLDER, f"{kind}_{name}" if name else kind, caption)

    names = model.class_names
    save(training_curve(read_metrics(workdir), len(names)), "training_curve")
    for name, evaluation in evaluations.items():
        save(confusion_matrix(evaluation, names, name), "confusion", name)
        if evaluation.primary_activity is not None:
            remark = "" if evaluation.kept_rate is None else _KEPT_RATE_CAPTION
            save(activity_profile(evaluation, name), "activity", name, remark)
        save(worst_mistakes(evaluation, splits[name], names, name), "mistakes", name)
        shown = splits[name].take(np.arange(min(_EXAMPLES, len(splits[name]))))
        output = model(shown.images)
        if isinstance(output, LadderCapsNetOutput):
            figure = capsules.kept_capsules(shown, output, model.geometry, names, name)
            save(figure, "capsules", name, capsules.describe(shown, output, model.geometry))
        if getattr(output, "reconstruction", None) is not None:
            save(capsules.reconstructions(shown, output, names, name), "reconstructions", name)
            figure = capsules.perturbations(model, shown.images[:1], int(shown.labels[0]))
            save(figure, "perturbations", name)


def caption_of(path: pathlib.Path, kind: str) -> str:
    """The caption in the metadata of a figure, or that of its kind where the file has none."""
    with Image.open(path) as image:
        caption = getattr(image, "text", {}).get("Description")
    return caption or KINDS[kind].caption.format(name=path.stem.removeprefix(f"{kind}_"))


def training_curve(lines: Sequence[dict], classes: int) -> Figure:
    """Error above loss against epochs, from the lines of ``metrics.jsonl`` of a network with so many classes."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    splits = sorted({line["split"] for line in lines}, key=lambda split: (split != "train", split))
    for axes, quantity, unit in zip(figure.subplots(2, 1, sharex=True), ("error", "loss"), (" (%)", "")):
        axes.set_prop_cycle(style.SERIES)
        for split in splits:
            points = [
                (line["epoch"], line[quantity]) for line in lines if line["split"] == split and line[quantity] > 0
            ]
            look = {"linewidth": 0.8, "alpha": 0.7, "marker": ""} if split == "train" else {"markersize": 3}
            axes.plot(*zip(*points) if points else ((), ()), label=plain(split), **look)
        if quantity == "error":
            style.show_chance(axes, [classes], max((line["error"] for line in lines), default=0.0))
        axes.set(ylabel=quantity + unit, yscale="log")
        axes.grid(alpha=0.3, which="both")
        if lines:
            axes.legend()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch")
    last = {line["split"]: line["error"] for line in lines if line["split"] != "train"}
    figure.suptitle(", ".join(f"{plain(split)}: {error:.2f} % error" for split, error in last.items()))
    return figure


def confusion_matrix(evaluation: Evaluation, class_names: Sequence[str], name: str) -> Figure:
    """Images by true and predicted class: mistakes are coloured by their number, correct counts are green."""
    class_names = list(map(plain, class_names))
    mistakes = evaluation.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    size = min(max(5.0, 0.4 * len(class_names)), 14.0)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(mistakes, cmap=style.MISTAKES)
    if len(class_names) <= 30:
        for row, column in np.argwhere(evaluation.confusion):
            dark = mistakes[row, column] > 0.6 * max(1, mistakes.max())
            axes.text(
                column, row, str(evaluation.confusion[row, column]), ha="center", va="center", fontsize=8,
                color=style.TRUE if row == column else "white" if dark else "black",
            )  # fmt: skip
        axes.set_xticks(range(len(class_names)), class_names, rotation=90 if max(map(len, class_names)) > 2 else 0)
        axes.set_yticks(range(len(class_names)), class_names)
    title = f"{plain(name)}: {evaluation.errors} errors in {evaluation.count} images"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def activity_profile(evaluation: Evaluation, name: str) -> Figure:
    """Mean activity of the most active primary capsules in descending order, and how often each is kept (Figure 4)."""
    ranked = np.argsort(-evaluation.primary_activity, kind="stable")[:_PROFILE_CAPSULES]
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.bar(np.arange(len(ranked)), evaluation.primary_activity[ranked], 1, color=style.AMOUNT, label="mean activity")
    if evaluation.kept_rate is not None:
        axes.plot(
            evaluation.kept_rate[ranked], ".", color=style.KEPT, markersize=3, label="share of images that keep it"
        )
    count = len(evaluation.primary_activity)
    axes.set(xlabel=f"the {len(ranked)} most active of {count} primary capsules", ylim=(0, 1.03), title=plain(name))
    axes.legend()
    return figure


def worst_mistakes(evaluation: Evaluation, split: TestSet, class_names: Sequence[str], name: str) -> Figure:
    """The mistakes of which the network was most certain, with true and predicted class."""
    class_names = list(map(plain, class_names))
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
        style.show_image(axes, image)
        predicted = (f"as {class_names[evaluation.predicted[i]]}", style.WRONG)
        style.write_above(
            axes, (f"margin {evaluation.margin[i]:.2f}", style.LINE), predicted, (class_names[label], style.TRUE)
        )
    figure.suptitle(f"{plain(name)}: the {len(worst)} worst of {len(wrong)} mistakes")
    return figure
