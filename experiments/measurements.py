"""What experiments measure of a trained network, kept as text beside its results.

Figures can then be drawn, and later networks compared, even when the checkpoints are gone.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from lcaps_jax import runs
from lcaps_jax.files import write_json
from lcaps_jax.runtime import say


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Something that is measured of a network.

    Attributes:
      name: Name of the file in a run's folder ``experiments``.
      of: Conditions that the numbers depend on beside the network, in JSON's types. They are kept with the numbers,
        which are measured anew once the conditions change.
      measure: Function that returns a run's numbers, in JSON's types.
    """

    name: str
    of: Mapping[str, Any]
    measure: Callable[[runs.Run], dict]

    def kept(self, folder: pathlib.Path) -> dict | None:
        """The numbers that a run's folder has, unless the run has gone on since."""
        path = folder / runs.MEASURED / f"{self.name}.json"
        kept = json.loads(path.read_text()) if path.exists() else None
        return kept if kept and (kept["step"], kept["of"]) == (_last_step(folder), self.of) else None

    def make(self, run: runs.Run, folder: pathlib.Path) -> dict:
        """Measures a run and keeps the numbers in its folder."""
        made = {"step": run.step, "of": dict(self.of)} | self.measure(run)
        (folder / runs.MEASURED).mkdir(exist_ok=True)
        write_json(folder / runs.MEASURED / f"{self.name}.json", made, indent=None)
        return made


def _last_step(folder: pathlib.Path) -> int:
    return max(result["step"] for result in runs.read_results(folder).values())


def rounded(x) -> list | None:
    """An array with few digits, for a file that people read; None for None."""
    return None if x is None else np.asarray(x, np.float64).round(4).tolist()


def collect(
    experiment: str, networks: Mapping[str, Sequence[pathlib.Path]], *measurements: Measurement
) -> dict[str, tuple[dict, ...]]:
    """All measurements of each network, from one of its runs.

    This is the first run that has the measurements, or a checkpoint to take them from. A line says where it is not the
    network's first run, and which networks are left out because they have no such run.

    Args:
      experiment: Name of the experiment, with which these lines begin.
      networks: Folders of the networks' finished runs, by name.
      measurements: Measurements that are kept already or are taken now.
    """
    found = {}
    for name, folders in networks.items():
        kept = {folder: [measurement.kept(folder) for measurement in measurements] for folder in folders}
        whole = (folder for folder in folders if all(kept[folder]) or (folder / "checkpoints").is_dir())
        if (folder := next(whole, None)) is None:
            say(f"{experiment}: without {folders[0].name}, whose checkpoints are gone.")
            continue
        if folder != folders[0]:
            say(f"{experiment}: {folder.name} in place of {folders[0].name}, whose checkpoints are gone.")
        if not all(kept[folder]):
            run = runs.load_run(folder)
            if run.step != _last_step(folder):  # the newest checkpoint is damaged
                say(f"{experiment}: without {folder.name}, whose last checkpoint is of step {run.step}.")
                continue
            kept[folder] = [had or one.make(run, folder) for had, one in zip(kept[folder], measurements)]
        found[name] = tuple(kept[folder])
    return found
