"""Networks in one file, among them the two that ship with the package, trained on the whole of MNIST.

``MNIST_SMALL`` is a small network of the paper's form. ``MNIST_FRAMED`` sees digits in their frames, with operators of
each capsule's own (``configs/affnist_framed.flags``), and so knows digits in poses that it never saw.

A file holds half-precision parameters by name and, as JSON, the settings, class names and errors of their run.
"""

import dataclasses
import json
import pathlib
from typing import Any
import zipfile
import zlib

from flax import traverse_util
import numpy as np

from lcaps_jax import data, networks
from lcaps_jax.config import Config, ConfigError
from lcaps_jax.errors import arg
from lcaps_jax.runs import Run, load_run
from lcaps_jax.training import LAST

MNIST_SMALL = pathlib.Path(__file__).parent / "mnist_small.npz"
MNIST_FRAMED = pathlib.Path(__file__).parent / "mnist_framed.npz"
# The networks of the package by the names that a command line has for them.
PACKAGED = {path.stem: path for path in (MNIST_SMALL, MNIST_FRAMED)}
_ABOUT = "about"


def load_pretrained(path: str | pathlib.Path = MNIST_SMALL) -> Run:
    """Loads a network from one file.

    Args:
      path: File that ``save`` wrote, or the name of a network of this package, ``"mnist_framed"`` or ``"mnist_small"``;
        by default the latter (``configs/mnist_small.flags``).

    Returns:
      Run with float32 parameters.

    Raises:
      config.ConfigError: The file is not one that ``save`` wrote, or it is of another version.
    """
    if is_packaged(path):
        path = PACKAGED[str(path)]
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop(_ABOUT)))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path} is not a network of lcaps_jax ({error}).") from None
    config = Config.from_json(about["settings"])
    params = traverse_util.unflatten_dict({name: value.astype(np.float32) for name, value in arrays.items()}, sep="/")
    return Run(
        network=networks.from_config(config, len(about["class_names"])),
        params=params,
        config=config,
        class_names=tuple(about["class_names"]),
        channels=about["channels"],
        step=about["step"],
        results=about["results"],
        ground=data.ground_of(config.dataset, about.get("ground")),
    )


def is_packaged(workdir: str | pathlib.Path) -> bool:
    """Whether a command line means a packaged network by its ``--workdir``; a folder of that name comes first."""
    return str(workdir) in PACKAGED and not pathlib.Path(workdir).exists()


def load(workdir: str | pathlib.Path, checkpoint: str | None = None) -> Run:
    """Loads the run of a folder or, by the name ``mnist_small`` or ``mnist_framed``, a network of the package.

    Raises:
      config.ConfigError: See ``runs.load_run``; or the best checkpoint is wanted of a network of the package.
      training.CheckpointError: See ``runs.load_run``.
    """
    if not is_packaged(workdir):
        return load_run(workdir, checkpoint)
    if checkpoint not in (None, LAST):
        raise ConfigError(f"{arg('checkpoint')}={checkpoint}: a network of the package has one checkpoint, {LAST}.")
    return load_pretrained(PACKAGED[str(workdir)])


def save(run: Run, path: str | pathlib.Path) -> None:
    """Writes a network to one file, with parameters in half precision and without any path of this machine."""
    about = {
        "settings": dataclasses.replace(run.config, data_dir=None).to_json(),
        "class_names": run.class_names,
        "channels": run.channels,
        "step": run.step,
        "results": run.results,
        "ground": run.ground and dataclasses.asdict(run.ground),
    }
    params = traverse_util.flatten_dict(run.params, sep="/")
    arrays: Any = {name: np.asarray(value, np.float16) for name, value in params.items()}
    arrays[_ABOUT] = np.array(json.dumps(about))
    with open(path, "wb") as file:  # because NumPy adds an ending to a name
        np.savez_compressed(file, **arrays)
