"""Draws the ladder network from the image to the activity of each class, for the documents, the report and the demo.

python -m scripts.draw_network
"""

import io
import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
import numpy as np
from PIL import Image

from lcaps_jax import data
from lcaps_jax.apps import NETWORK
from lcaps_jax.viz import style

_PAGES = pathlib.Path(__file__).resolve().parents[1] / "docs" / "images"
_FONT = 15  # large, because a phone shows the picture at a third of its width
_DPI = 120
_COLOURS = 96  # of the file, which is then small
_GRID = 6  # positions along a side of the primary capsules that are drawn
_DIM = 4  # dimension of the capsules that are drawn
_SIDE = 1.4  # of what stands at the bottom
_BOTTOM = 1.45


def draw() -> Figure:
    """The network as a figure: along the bottom from the image to the kept capsules, then up the ladder and down."""
    figure = Figure(figsize=(10, 4.7))
    axes = figure.add_axes((0, 0, 1, 1))
    split = data.load("sample").test
    digit, label = split.images[0, ..., 0], split.labels[0]
    axes.imshow(digit, cmap="gray", extent=(0.25, 0.25 + _SIDE, _BOTTOM, _BOTTOM + _SIDE), zorder=2)
    axes.set(xlim=(0, 10), ylim=(0.7, 5.4), aspect="auto")
    axes.axis("off")
    for i in range(4):
        _box(axes, 2.35 + 0.15 * i, _BOTTOM + 0.45 - 0.15 * i, 0.95, 0.95, style.BOX)
    # Of each block of the digit the brightness, so that the kept ones lie on the strokes.
    ink = digit[2:26, 2:26].reshape(_GRID, 4, _GRID, 4).sum(axis=(1, 3))
    is_kept = ink >= np.sort(ink, axis=None)[-8]
    _grid(axes, 4.4, _BOTTOM, _SIDE, is_kept, (style.BOX, style.KEPT))
    numbers = np.random.default_rng(4).uniform(0.25, 1, (2, is_kept.sum(), _DIM))
    numbers[1] = np.clip(numbers[0] + np.random.default_rng(5).normal(0, 0.1, numbers[0].shape), 0.2, 1)
    for x, rows in ((6.35, numbers[0]), (9.05, numbers[1])):
        _vectors(axes, x, rows)
    _grid(axes, 7.45, 2.72, 0.8, is_kept, ("black", "white"))
    for j in range(10):
        _box(axes, 6.45 + 0.29 * j, 4.35, 0.23, 0.42, style.TRUE if j == label else style.BOX)
        axes.text(
            6.565 + 0.29 * j, 4.55, str(j), ha="center", va="center", fontsize=_FONT - 3,
            color="white" if j == label else style.LINE,
        )  # fmt: skip
    _arrows(axes)
    _words(axes)
    return figure


def _box(axes, x: float, y: float, width: float, height: float, colour, **look) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=style.LINE, linewidth=0.8, **look))


def _grid(axes, x: float, y: float, side: float, chosen: np.ndarray, colours: tuple[str, str]) -> None:
    """A square of cells, of the second colour where they are chosen."""
    cell = side / _GRID
    for row, column in np.ndindex(_GRID, _GRID):
        _box(axes, x + column * cell, y + side - (row + 1) * cell, cell, cell, colours[int(chosen[row, column])])


def _vectors(axes, x: float, rows: np.ndarray) -> None:
    """Capsules below each other, a cell for each of their numbers."""
    width, height = 0.6 / _DIM, _SIDE / len(rows)
    for (i, j), value in np.ndenumerate(rows):
        _box(axes, x + j * width, _BOTTOM + _SIDE - (i + 1) * height, width, height, (*_rgb(style.KEPT), value))


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _arrows(axes) -> None:
    middle = _BOTTOM + _SIDE / 2
    for start, end, look in (
        ((1.73, middle), (2.27, middle), {}),
        ((3.82, middle), (4.32, middle), {}),
        ((5.88, middle), (6.27, middle), {}),
        ((6.65, 2.93), (6.95, 4.27), {"linewidth": 3}),
        ((8.85, 4.27), (9.3, 2.93), {"linewidth": 3}),
        ((7.4, 3.2), (6.95, 3.45), {"linestyle": "--"}),
        ((8.3, 3.2), (8.95, 3.45), {"linestyle": "--"}),
        ((7.05, 1.85), (8.97, 1.85), {"arrowstyle": "<|-|>", "linewidth": 3, "color": style.TRUE}),
    ):
        look = {"arrowstyle": "-|>", "linewidth": 2, "color": style.LINE, "mutation_scale": 16} | look
        axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, zorder=5, **look))


def _words(axes) -> None:
    for x, words in (
        (0.95, "image"),
        (2.95, "convolutions"),
        (5.1, "primary\ncapsules"),
        (6.6, "the K most\nactive"),
        (9.3, "the same,\nregressed"),
    ):
        axes.text(x, _BOTTOM - 0.15, words, ha="center", va="top", fontsize=_FONT, linespacing=1.1)
    green = {"color": style.TRUE, "fontweight": "bold"}
    axes.text(8.0, 1.98, "agreement", ha="center", va="bottom", fontsize=_FONT, **green)
    axes.text(8.0, 1.72, "= activity", ha="center", va="top", fontsize=_FONT, **green)
    axes.text(7.85, 3.6, "code vector", ha="center", va="bottom", fontsize=_FONT)
    axes.text(7.9, 4.88, "a capsule for each class", ha="center", va="bottom", fontsize=_FONT)
    axes.text(6.7, 3.75, "up", ha="right", va="center", fontsize=_FONT, fontweight="bold")
    axes.text(9.22, 3.75, "down", ha="left", va="center", fontsize=_FONT, fontweight="bold")
    axes.text(0.25, 5.15, "Ladder Capsule Network", ha="left", va="top", fontsize=_FONT + 5, fontweight="bold")
    axes.text(
        0.25, 4.6,
        "The code vector says which capsules are kept.\n"
        "Each class turns the kept ones into its own\n"
        "capsule, and that back into the kept ones.\n"
        "The better they agree, the more active it is.",
        ha="left", va="top", fontsize=_FONT, linespacing=1.3,
    )  # fmt: skip


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG of few colours."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def main() -> None:
    png = as_png(draw())
    for path in (NETWORK, _PAGES / NETWORK.name):
        path.write_bytes(png)


if __name__ == "__main__":
    main()
