"""How the error on affNIST falls with the epochs of training, at full size."""

from collections.abc import Mapping, Sequence
import pathlib

from matplotlib.figure import Figure

from experiments.output import Rows, save_figure
from experiments.results import read_curves, seeds
from experiments.table2 import CELLS
from lcaps_jax.viz import style

_TEN_EPOCHS = "L-CapsNet 15x15, ten epochs"
_Points = Sequence[tuple[float, float]]
# By how far the training digits lie from the middle of the canvas: runs, and what the figure calls them.
_CURVES = {
    "up to 6 pixels from the middle": {
        "ablation_length": "L-CapsNet 15x15, the authors' steps",
        "ablation_capsnet_length": "CapsNet, the authors' steps",
        "affnist_15x15_k70_released": "released graph, the authors' steps, shuffled",
        "ablation_released_full_size": "released graph, the authors' steps",
        "ablation_code_loss_full_size": "L-CapsNet 15x15, the graph's code loss, ten epochs",
        "affnist_15x15_k70": _TEN_EPOCHS,
    },
    "up to 10 pixels from the middle": {
        "ablation_large_kernels_shift10": _TEN_EPOCHS,
        "ablation_capsnet_full_size_shift10": "CapsNet, ten epochs",
    },
}
# Colours tell the networks; dashes and dots those of ten epochs and the graph that is not shuffled.
_STYLES = dict(
    zip(
        [
            "L-CapsNet 15x15, the authors' steps",
            "CapsNet, the authors' steps",
            "released graph, the authors' steps, shuffled",
            _TEN_EPOCHS,
            "CapsNet, ten epochs",
            "released graph, the authors' steps",
            "L-CapsNet 15x15, the graph's code loss, ten epochs",
        ],
        style.SERIES,
    )
)


def panels() -> dict[str, dict[str, list[_Points]]]:
    """Epochs and errors of each seed, by panel and network, of runs that were tested on affNIST after each epoch."""
    curves = read_curves()
    found: dict[str, dict[str, list[_Points]]] = {}
    for title, names in _CURVES.items():
        points = {shown: [_errors(curves[run]) for run in seeds(curves, name)] for name, shown in names.items()}
        found[title] = {shown: kept for shown, each in points.items() if (kept := list(filter(None, each)))}
    return found


def _errors(lines: Sequence[Mapping]) -> _Points:
    """Epochs and errors in percent; none where an epoch was not tested."""
    tested = [(line["epoch"], line["error"]) for line in lines if line["split"] == "affnist"]
    return tested if len(tested) == round(max(line["epoch"] for line in lines)) else []


def draw(curves: Mapping[str, Mapping[str, Sequence[_Points]]]) -> Figure:
    """A panel for each distance of the training digits, with the paper's error as a line."""
    _, paper = CELLS["affnist_15x15_k70"]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (title, networks) in zip(figure.subplots(1, len(curves), sharey=True), curves.items()):
        for name, each in networks.items():
            for i, points in enumerate(each):
                axes.plot(*zip(*points), **_STYLES[name], markersize=3, label=None if i else name)
        axes.axhline(paper, color=style.CHANCE, linewidth=0.8, zorder=1, label=f"L-CapsNet in the paper, {paper} %")
        axes.set(title=f"training digits {title}", xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("error on affNIST (%)")
    return figure


def run(figures: pathlib.Path, data_dir: str) -> Rows:
    """Draws the error on affNIST after each epoch."""
    del data_dir
    save_figure(draw(panels()), figures, "affnist_by_epoch")
    return []
