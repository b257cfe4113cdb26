"""The figures of a run: its training curve, and for each test set the mistakes and what the network computes."""

from collections.abc import Mapping, Sequence
import pathlib

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
import numpy as np

from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.nn.outputs import CapsNetOutput, LadderCapsNetOutput
from lcaps_jax.train.evaluate import Evaluation
from lcaps_jax.train.log import read_metrics
from lcaps_jax.viz import capsules, style

_EXAMPLES = 8  # images of a set that are drawn with what the network computes of them
_MISTAKES, _COLUMNS = 25, 5
_PROFILE_CAPSULES = 300  # as in the paper's Figure 4

# Caption of each kind of figure, by the beginning of the files' names, in the order in which people look at them;
# ``{name}`` stands for the name of the data set.
CAPTIONS: Mapping[str, str] = {
    "training_curve": "Error and loss against epochs, on logarithmic scales. The thin line is measured on training "
    "batches, the other lines on whole data sets. A grey line marks the error of guessing where errors come near it.",
    "confusion": "The images of {name} by true class (rows) and predicted class (columns). The green counts on the "
    "diagonal are correct. The darker another cell, the more often its row is mistaken for its column.",
    "mistakes": "The mistakes on {name} of which the network was most certain. Above each image are its true class in "
    "green, the predicted class, and the margin: the activity of the predicted class minus that of the true one.",
    "capsules": "The first images of {name}. An orange dot is the centre of what the kept capsules at one position "
    "see; the larger it is, the more are kept. The bars are the activities of the classes, the true class in green.",
    "reconstructions": "The first images of {name}, and below each what is decoded from the predicted class's pose.",
    "activity": "The mean activity over {name} of the most active primary capsules, in descending order. A steep edge "
    "means that all images have the same active capsules. Where capsules are pruned, dots show how often each is kept.",
}


def write_figures(
    model: Model, workdir: pathlib.Path, evaluations: Mapping[str, Evaluation], splits: Mapping[str, Split]
) -> None:
    """Writes the figures of a run into its folder, for test sets and their evaluations by name."""

    def save(figure: Figure, kind: str, name: str = "", remark: str = "") -> None:
        caption = f"{CAPTIONS[kind].format(name=name)} {remark}".strip()
        style.save(figure, workdir / style.FOLDER, f"{kind}_{name}" if name else kind, caption)

    names = model.class_names
    save(training_curve(read_metrics(workdir), len(names)), "training_curve")
    for name, evaluation in evaluations.items():
        save(confusion_matrix(evaluation, names, name), "confusion", name)
        if evaluation.primary_activity is not None:
            save(activity_profile(evaluation, name), "activity", name)
        save(worst_mistakes(evaluation, splits[name], names, name), "mistakes", name)
        shown = splits[name].take(np.arange(len(splits[name]))[:_EXAMPLES])
        output = model(shown.images)
        if isinstance(output, LadderCapsNetOutput):
            figure = capsules.kept_capsules(shown, output, model.geometry, names, name)
            save(figure, "capsules", name, capsules.describe(shown, output, model.geometry))
        if isinstance(output, CapsNetOutput) and output.reconstruction is not None:
            save(capsules.reconstructions(shown, output, names, name), "reconstructions", name)


def training_curve(lines: Sequence[dict], classes: int) -> Figure:
    """Error above loss against epochs, from the lines of ``metrics.jsonl`` of a network with so many classes."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    splits = sorted({line["split"] for line in lines}, key=lambda split: (split != "train", split))
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes, quantity in ((top, "error"), (bottom, "loss")):
        axes.set_prop_cycle(style.SERIES)
        for split in splits:
            points = [(line["epoch"], line[quantity]) for line in lines if line["split"] == split]
            x, y = np.reshape([point for point in points if point[1] > 0], (-1, 2)).T
            look = {"linewidth": 0.8, "alpha": 0.7, "marker": ""} if split == "train" else {"markersize": 3}
            axes.plot(x, y, label=style.plain(split), **look)
        axes.set(yscale="log")
        axes.grid(alpha=0.3, which="both")
        if lines:
            axes.legend()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    style.show_chance(top, [classes], max((line["error"] for line in lines), default=0.0))
    top.set_ylabel("error (%)")
    bottom.set(xlabel="epoch", ylabel="loss")
    last = {line["split"]: line["error"] for line in lines if line["split"] != "train"}
    figure.suptitle(", ".join(f"{style.plain(split)}: {error:.2f} % error" for split, error in last.items()))
    return figure


def confusion_matrix(evaluation: Evaluation, class_names: Sequence[str], name: str) -> Figure:
    """Images by true and predicted class: mistakes are coloured by their number, correct counts are green."""
    class_names = list(map(style.plain, class_names))
    mistakes = evaluation.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    size = min(max(5.0, 0.4 * len(class_names)), 14.0)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(mistakes, cmap=style.MISTAKES)
    if len(class_names) <= 30:
        for row, column in np.argwhere(evaluation.confusion):
            dark = mistakes[row, column] > 0.6 * max(1, mistakes.max())
            colour = style.TRUE if row == column else "white" if dark else "black"
            count = str(evaluation.confusion[row, column])
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(class_names)), class_names, rotation=90 if max(map(len, class_names)) > 2 else 0)
        axes.set_yticks(range(len(class_names)), class_names)
    title = f"{style.plain(name)}: {evaluation.errors} errors in {evaluation.count} images"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def activity_profile(evaluation: Evaluation, name: str) -> Figure:
    """Mean activity of the most active primary capsules in descending order, and how often each is kept (Figure 4)."""
    activity, kept = evaluation.primary_activity, evaluation.kept_rate
    ranked = np.argsort(-activity, kind="stable")[:_PROFILE_CAPSULES]
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.bar(np.arange(len(ranked)), activity[ranked], 1, color=style.AMOUNT, label="mean activity")
    if kept is not None:
        axes.plot(kept[ranked], ".", color=style.KEPT, markersize=3, label="share of images that keep it")
    xlabel = f"the {len(ranked)} most active of {len(activity)} primary capsules"
    axes.set(xlabel=xlabel, ylim=(0, 1.03), title=style.plain(name))
    axes.legend()
    return figure


def worst_mistakes(evaluation: Evaluation, split: Split, class_names: Sequence[str], name: str) -> Figure:
    """The mistakes of which the network was most certain, with true and predicted class."""
    wrong = np.flatnonzero(evaluation.predicted != split.labels)
    worst = wrong[np.argsort(-evaluation.margin[wrong], kind="stable")][:_MISTAKES]
    rows = max(1, -(-len(worst) // _COLUMNS))
    figure = Figure(figsize=(1.25 * _COLUMNS, 1.75 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    shown = split.take(worst)
    for axes, i, image, label in zip(grid, worst, shown.images, shown.labels):
        style.show_image(axes, image)
        predicted = (f"as {style.plain(class_names[evaluation.predicted[i]])}", style.WRONG)
        true = (style.plain(class_names[label]), style.TRUE)
        style.write_above(axes, (f"margin {evaluation.margin[i]:.2f}", style.LINE), predicted, true)
    figure.suptitle(f"{style.plain(name)}: the {len(worst)} worst of {len(wrong)} mistakes")
    return figure
