"""How the error of a network grows as images are rotated, sheared, scaled and shifted: measurements and curves."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.figure import Figure
import numpy as np

from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.viz import style
from lcaps_jax.viz.transforms import KINDS, ROTATION, SCALE, SHEAR, SHIFT, transform

# Amounts at which errors are measured.
AMOUNTS = {
    ROTATION: np.arange(-90.0, 91, 15),
    SHEAR: np.linspace(-0.8, 0.8, 9),
    SCALE: np.linspace(0.5, 1.5, 11),
    SHIFT: np.arange(-8.0, 9, 2),
}
# Amounts and errors in percent, by kind of transformation.
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def errors(model: Model, split: Split, kinds: Sequence[str] = KINDS) -> Curves:
    """The error on images of the network's size under each kind of transformation; a few hundred are enough."""
    images = split.images.astype(np.float32) / 255

    def error(kind, amount):
        moved = np.asarray(transform(images, kind, np.full(len(images), amount)))
        predicted = np.concatenate([output.activity.argmax(axis=-1) for output in model.batches(moved)])
        return 100 * float(np.mean(predicted != split.labels))

    return {kind: (AMOUNTS[kind], np.array([error(kind, amount) for amount in AMOUNTS[kind]])) for kind in kinds}


def error_curves(curves: Mapping[str, Curves], classes: Collection[int]) -> Figure:
    """Curves of networks by name, as ``errors`` measures them; numbers of ``classes`` tell the errors of guessing."""
    kinds = list(next(iter(curves.values())))
    columns = 1 if len(kinds) == 1 else 2 if len(kinds) <= 4 else 3
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(max(6, 3 * columns), 2.7 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    highest = max(float(np.max(values)) for by_kind in curves.values() for _, values in by_kind.values())
    for axes, kind in zip(grid, kinds):
        axes.set_prop_cycle(style.SERIES)
        for name, by_kind in curves.items():
            axes.plot(*by_kind[kind], markersize=3, label=style.plain(name))
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
