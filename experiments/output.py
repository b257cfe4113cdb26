"""How the experiments show their results: Markdown tables on the terminal, and figures in a folder."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from matplotlib.figure import Figure
import numpy as np
import numpy.typing as npt

from lcaps_jax.viz import style

CLASSES = 10  # digits
Rows = list[dict[str, Any]]  # of a table: the keys of the first are its header


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as Markdown."""
    lines = (list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows))
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save_figure(figure: Figure, folder: pathlib.Path, name: str) -> None:
    """Saves a figure and prints its path."""
    print(style.save(figure, folder, name))


def rounded(x: npt.ArrayLike | None) -> list | None:
    """An array with four digits after the point, for JSON; None for None."""
    return None if x is None else np.asarray(x, np.float64).round(4).tolist()
