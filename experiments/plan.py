"""How the experiments are run: where, with which settings, and which runs are finished."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import jax

from experiments.cells import CELLS, Cell, cell_of
from lcaps_jax import commands, runs
from lcaps_jax.config import CONFIG_FILE, Config, from_flagfile, read_config
from lcaps_jax.data import expanded_mnist
from lcaps_jax.runtime import say
from lcaps_jax.training import DivergenceError

CLASSES = 10  # digits

_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
_QUICK: dict[str, Any] = {
    "channels": 8,
    "capsule_types": 4,
    "capsule_dim": 4,
    "pose_dim": 8,
    "train_size": 2000,
    "epochs": 1,
    "learning_rate": 3e-3,
}
_QUICK_SHARE = 5  # Quick networks keep one capsule for every so many of the others.
_MNIST_SIZE = 28


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the experiments are run.

    Attributes:
      workdir: Folder of all of them; each run has a folder of its own in it.
      quick: Whether the networks are small.
      data_dir: Folder of prepared TFDS sets; None for TFDS's own.
      train: Whether to train what has not been trained.
    """

    workdir: pathlib.Path
    quick: bool
    data_dir: str | None
    train: bool = True

    def settings(self, cell: Cell, seed: int) -> Config:
        """Settings of a run."""
        return self.settings_of(cell.flagfile, seed)

    def settings_of(self, flagfile: str, seed: int) -> Config:
        """Settings of a flagfile in ``configs/``, named without its ending."""
        config = from_flagfile(_CONFIGS / f"{flagfile}.flags")
        config = dataclasses.replace(config, seed=seed, data_dir=self.data_dir or config.data_dir)
        return dataclasses.replace(config, k=config.k // _QUICK_SHARE, **_QUICK) if self.quick else config

    def folder(self, cell: Cell, seed: int) -> pathlib.Path:
        """Folder of a run."""
        return self.workdir / (cell.flagfile + (f"_seed{seed}" if seed else ""))

    def cells(self) -> list[Cell]:
        """Cells of Table 2, in the order of training."""
        return [cell for cell in CELLS if cell.quick or not self.quick]

    def seeds(self, cell: Cell) -> range:
        """Seeds of a cell's runs."""
        return range(1 if self.quick else cell.seeds)

    def is_finished(self, config: Config, folder: pathlib.Path) -> bool:
        """Whether a run is done. It counts without its checkpoints, and with products of any precision."""
        return runs.is_finished(_as_begun(config, folder), folder, archived=True)

    def finish(self, config: Config, folder: pathlib.Path) -> bool:
        """Trains a run to its end if that is wanted and not done yet, and returns whether it is done.

        A run that diverges would diverge again, so it is left out, and the other runs go on.
        """
        config = _as_begun(config, folder)
        if self.train and not self.is_finished(config, folder):
            try:
                commands.train(config.without_unused(), folder)
            except DivergenceError as error:
                say(f"{folder}: {error} Its cell stays empty.")
            # The next run has other programs. Those of some forty runs would need more memory maps than Linux gives a
            # process, which ends it.
            jax.clear_caches()
        return self.is_finished(config, folder)

    def run(self, cell: Cell) -> list[pathlib.Path]:
        """Folders of a cell's finished runs, trained now where that is wanted."""
        return [
            self.folder(cell, seed)
            for seed in self.seeds(cell)
            if self.finish(self.settings(cell, seed), self.folder(cell, seed))
        ]

    def unfinished(self, cells: Sequence[Cell]) -> list[tuple[Cell, int]]:
        """Cells and seeds that are still to be trained."""
        pairs = [(cell, seed) for cell in cells for seed in self.seeds(cell)]
        return [
            (cell, seed)
            for cell, seed in pairs
            if not self.is_finished(self.settings(cell, seed), self.folder(cell, seed))
        ]

    def finished(self, experiment: str, flagfiles: Sequence[str]) -> dict[str, list[pathlib.Path]]:
        """Folders of the finished runs of cells, by flagfile.

        The first run of each cell is trained now if that is wanted. A line that begins with the name of the experiment
        says which cells have no run.
        """
        found = {}
        for name in flagfiles:
            cell = cell_of(name)
            self.run(dataclasses.replace(cell, seeds=1))
            found[name] = dataclasses.replace(self, train=False).run(cell)
        if missing := [name for name, folders in found.items() if not folders]:
            say(f"{experiment}: without {', '.join(missing)}, not trained yet.")
        return {name: folders for name, folders in found.items() if folders}


def _as_begun(config: Config, folder: pathlib.Path) -> Config:
    """Settings with the precision of products that the run in the folder was begun with."""
    if not (folder / CONFIG_FILE).exists():
        return config
    earlier, _ = read_config(folder)
    return dataclasses.replace(config, matmul_precision=earlier.matmul_precision)


def image_size(config: Config) -> int:
    """Pixels along a side of the images that a run trains on, known without loading them."""
    return config.image_size or (expanded_mnist.SIZE if config.dataset == expanded_mnist.NAME else _MNIST_SIZE)
