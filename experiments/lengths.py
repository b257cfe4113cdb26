"""How the error on affNIST falls with the epochs of training, at full size."""

from collections.abc import Mapping
import pathlib

from matplotlib.figure import Figure

from experiments import ablations
from experiments.cells import cell_of
from experiments.output import save_plot
from experiments.plan import Plan
from lcaps_jax.data import affnist
from lcaps_jax.runtime import say
from lcaps_jax.training import read_metrics
from lcaps_jax.views import plots

_LADDER = "affnist_15x15_k70"
_TEN_EPOCHS = "L-CapsNet 15x15, ten epochs"
_CODE_LOSS = "L-CapsNet 15x15, the graph's code loss, ten epochs"
# By how far training's digits lie from the middle of the canvas: ablations by the names that the picture has for them.
_CURVES = {
    "up to 6 pixels from the middle": {
        "length": "L-CapsNet 15x15, the authors' steps",
        "capsnet_length": "CapsNet, the authors' steps",
        "released_full_size_shuffled": "released graph, the authors' steps, shuffled",
        "released_full_size": "released graph, the authors' steps",
        "code_loss_full_size": _CODE_LOSS,
    },
    "up to 10 pixels from the middle": {
        "large_kernels_shift10": _TEN_EPOCHS,
        "capsnet_full_size_shift10": "CapsNet, ten epochs",
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
            _CODE_LOSS,
        ],
        plots.SERIES,
    )
)


def run(plan: Plan) -> None:
    """Draws the error on affNIST after each epoch, of the finished runs whose epochs were all evaluated on it."""
    panels = {title: _curves(plan, names) for title, names in _CURVES.items()}
    cell = cell_of(_LADDER)
    seeds = {plan.folder(cell, seed): plan.settings(cell, seed) for seed in plan.seeds(cell)}
    ladder = [folder for folder, settings in seeds.items() if plan.is_finished(settings, folder)]
    if curves := list(filter(None, map(_errors, ladder))):
        first, *_ = panels.values()
        first[_TEN_EPOCHS] = curves
    if any(panels.values()):
        save_plot(plan.workdir, "lengths", _draw(panels, cell.paper))
    else:
        say("lengths: no run is finished that was tested on affNIST after each epoch.")


def _curves(plan: Plan, names: Mapping[str, str]) -> dict[str, list[list[tuple[float, float]]]]:
    """Curves of the finished seeds of ablations, by the names that the picture has for them."""
    found = {}
    for name, shown in names.items():
        folders = ablations.finished_seeds(plan, name)
        if curves := list(filter(None, map(_errors, folders))):
            found[shown] = curves
    return found


def _errors(folder: pathlib.Path) -> list[tuple[float, float]]:
    """Epochs and errors on affNIST in percent of a run; none where an epoch was not evaluated on it."""
    lines = read_metrics(folder)
    tested = [(line["epoch"], line["error"]) for line in lines if line["split"] == affnist.NAME]
    return tested if len(tested) == round(max(line["epoch"] for line in lines)) else []


def _draw(panels: Mapping[str, Mapping[str, list[list[tuple[float, float]]]]], paper: float | None) -> Figure:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), sharey=True), panels.items()):
        for name, seeds in curves.items():
            for i, points in enumerate(seeds):
                axes.plot(*zip(*points), **_STYLES[name], markersize=3, label=None if i else name)
        axes.axhline(paper, color=plots.CHANCE, linewidth=0.8, zorder=1, label=f"L-CapsNet in the paper, {paper} %")
        axes.set(title=f"training digits {title}", xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("error on affNIST (%)")
    return figure
