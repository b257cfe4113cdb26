"""Tables and plots of the experiments, printed and written beside the runs, and cells that several tables share."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import jax
from matplotlib.figure import Figure

from experiments.plan import CLASSES, image_size
from lcaps_jax import networks, training
from lcaps_jax.config import Config
from lcaps_jax.files import write_json
from lcaps_jax.runtime import say
from lcaps_jax.views import plots


def write_table(workdir: pathlib.Path, name: str, rows: Sequence[dict]) -> None:
    """Prints a table and writes it as Markdown and JSON; the keys of its first row are its header."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / f"{name}.md").write_text(text + "\n")
    write_json(workdir / f"{name}.json", list(rows))
    say(text)


def save_plot(workdir: pathlib.Path, name: str, figure: Figure) -> None:
    """Writes a plot and prints where it is."""
    say(str(plots.save(figure, workdir, name)))


def parameters(config: Config) -> str:
    """The number of a network's parameters, in millions."""
    config = dataclasses.replace(config, image_size=image_size(config))
    network = networks.from_config(config, CLASSES)
    shapes = jax.eval_shape(lambda: training.init_params(network, config, 1))
    return f"{sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6:.1f} M"


def interval(result: Mapping) -> str:
    """The 95 % interval of an entry of ``results.json``."""
    return "{:.2f} to {:.2f}".format(*result["ci95"])
