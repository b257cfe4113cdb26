"""Draws which room of the house imports which, and writes the table of it in docs/architecture.md.

python -m scripts.draw_architecture
"""

import ast
from collections.abc import Iterable
import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lcaps_jax.views import plots

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# The floors, from the ground: rooms of the package, which import from below alone, and what stands around it.
FLOORS = (
    ("errors", "files", "precision"),
    ("parallel", "capsules", "frames"),
    ("runtime", "routing", "convolution"),
    ("locks", "flagfiles", "set_names"),
    ("data", "networks"),
    ("config",),
    ("training",),
    ("runs", "usage"),
    ("pretrained", "deployment", "cli"),
    ("views",),
    ("commands",),
    ("train.py", "eval.py", "experiments"),
)


def imported(path: pathlib.Path) -> set[str]:
    """The modules that a Python file imports, wherever it does, by their whole names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _files(room: str) -> Iterable[pathlib.Path]:
    if room.endswith(".py"):
        return [_ROOT / room]
    if room == "experiments":
        return (_ROOT / room).rglob("*.py")
    path = _ROOT / "lcaps_jax" / room
    return path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]


def rooms() -> dict[str, list[str]]:
    """The rooms that each room imports from, from the top floor down."""
    order = [room for floor in reversed(FLOORS) for room in floor]
    graph = {}
    for room in order:
        names = {module for path in _files(room) for module in imported(path)}
        inside = {name.split(".")[1] for name in names if name.startswith("lcaps_jax.")}
        graph[room] = [other for other in order if other in inside - {room}]
    return graph


def table() -> str:
    """The rooms as a table in Markdown."""
    lines = [f"| `{room}` | {', '.join(f'`{other}`' for other in others)} |" for room, others in rooms().items()]
    return "\n".join(("| room | imports from |", "|---|---|", *lines))


def _direct(graph: dict[str, list[str]]) -> dict[str, list[str]]:
    """The imports that do not follow from others: where a leads to b and b to c, the arrow from a to c is left out."""

    def reached(room: str) -> set[str]:
        return {far for other in graph[room] for far in (other, *reached(other))}

    return {room: [x for x in others if not any(x in reached(y) for y in others)] for room, others in graph.items()}


def draw() -> Figure:
    """The house: a box for each room, and arrows to the rooms that it imports from, as far as no others imply them."""
    figure = Figure(figsize=(7, 8))
    axes = figure.subplots()
    places = {}
    for height, floor in enumerate(FLOORS):
        for i, room in enumerate(floor):
            places[room] = x, y = (i - (len(floor) - 1) / 2) * 2.6 + 0.45 * (-1) ** height, 1.15 * height
            outside = height == len(FLOORS) - 1
            axes.add_patch(
                FancyBboxPatch(
                    (x - 0.8, y - 0.22), 1.6, 0.44, boxstyle="round,pad=0.04",
                    facecolor=plots.OUTSIDE if outside else plots.BOX, edgecolor=plots.LINE, zorder=3,
                )
            )  # fmt: skip
            axes.text(x, y, room, ha="center", va="center", fontsize=10, zorder=4)
    for room, others in _direct(rooms()).items():
        for other in others:
            (x, y), (end_x, end_y) = places[room], places[other]
            bend = 0.0 if abs(y - end_y) < 1.5 else 0.12 if end_x <= x else -0.12
            axes.add_patch(
                FancyArrowPatch(
                    (x, y - 0.26), (end_x, end_y + 0.26), arrowstyle="-|>", mutation_scale=9, color=plots.LINE,
                    linewidth=0.8, connectionstyle=f"arc3,rad={bend}", zorder=2,
                )
            )  # fmt: skip
    axes.set(xlim=(-4.2, 4.2), ylim=(-0.6, 1.15 * len(FLOORS) - 0.4))
    axes.axis("off")
    return figure


def main() -> None:
    draw().savefig(_ROOT / "docs" / "images" / "architecture.png", dpi=110, bbox_inches="tight")
    page = _ROOT / "docs" / "architecture.md"
    text = page.read_text()
    page.write_text(text[: text.index(table().splitlines()[0])] + table() + "\n")


if __name__ == "__main__":
    main()
