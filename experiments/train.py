"""Trains networks of the experiments: a flagfile of ``configs/``, with what an ablation changes."""

from collections.abc import Sequence
import pathlib
from typing import Any

import jax

from experiments.ablations import ABLATIONS, QUESTIONS
from lcaps_jax.cli import train
from lcaps_jax.cli.flags import read_flagfile
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import say

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
_QUICK = {"filters": 8, "train_size": 2000, "epochs": 1}


def settings(name: str, seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """The given settings of a run.

    Args:
      name: Name of an ablation, or of a flagfile in ``configs/`` without its ending.
      seed: Seed of the training.
      quick: Whether to train a tiny network on few images, to see that all works.

    Raises:
      ConfigError: There is no such run, or this version cannot train it.
    """
    flagfiles: dict[str, Any] = {path.stem: (path.stem, {}) for path in sorted(CONFIGS.glob("*.flags"))}
    runs = flagfiles | ABLATIONS | QUESTIONS
    if name not in runs:
        raise ConfigError(f"{name}: must be one of {', '.join(runs)}.")
    flagfile, changes = runs[name]
    if changes is None:
        raise ConfigError(f"{name}: only its results are left; this version has no such setting.")
    given, _ = read_flagfile(CONFIGS / f"{flagfile}.flags")
    given = {**given, **changes, "seed": seed} | (_QUICK if quick else {})
    return {key: value for key, value in given.items() if value is not None}


def run(names: Sequence[str], folder: pathlib.Path, seed: int = 0, quick: bool = False, data_dir: str = "") -> None:
    """Trains runs one after another, each in the folder of its name; what is interrupted continues."""
    given = {name: settings(name, seed, quick) for name in names}
    for name, each in given.items():
        workdir = folder / (f"{name}_seed{seed}" if seed else name)
        say(f"{workdir}:")
        train.train(each | ({"data_dir": data_dir} if data_dir else {}), workdir)
        jax.clear_caches()  # the programs of some forty runs would need more memory maps than Linux allows a process
