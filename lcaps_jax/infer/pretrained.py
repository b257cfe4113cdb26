"""Networks in one file, among them the two that ship with the package, trained on the whole of MNIST.

``mnist_small`` is a small network of the paper's form. ``mnist_framed`` sees digits in their canonical frame, with a
transformation matrix per capsule, and so knows digits in poses that it never saw.

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

from lcaps_jax.data.brightness import Brightness
from lcaps_jax.infer.model import Model, load_run
from lcaps_jax.train.checkpoint import LAST
from lcaps_jax.train.config import Config
from lcaps_jax.util.errors import ConfigError

_WEIGHTS = pathlib.Path(__file__).parent / "weights"
# The networks of the package, by name.
PACKAGED = {name: _WEIGHTS / f"{name}.npz" for name in ("mnist_small", "mnist_framed")}
_ABOUT = "about"


def load_model(source: str | pathlib.Path, checkpoint: str | None = None) -> Model:
    """Loads a trained network: of a training run's folder, of a file that ``save_model`` wrote, or of the package.

    A run has the checkpoints ``"last"`` and ``"best"``; see ``load_run``. Raises ConfigError where there is no such
    network or checkpoint, CheckpointError for a damaged one.
    """
    if is_packaged(source):
        source = PACKAGED[str(source)]
    elif not pathlib.Path(source).is_file():
        return load_run(source, checkpoint)
    if checkpoint not in (None, LAST):
        raise ConfigError(f"checkpoint={checkpoint}: must be {LAST}, the only one in {source}.")
    try:
        with np.load(source) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop(_ABOUT)))
        names, brightness = tuple(about["class_names"]), about["brightness"]
        config = Config.from_settings(about["settings"], len(names))
        channels, step, results = about["channels"], about["step"], about["results"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{source}: is not a network that lcaps_jax saved ({error}).") from None
    params = traverse_util.unflatten_dict({name: value.astype(np.float32) for name, value in arrays.items()}, sep="/")
    known = brightness and Brightness(tuple(brightness["mean"]), tuple(brightness["deviation"]))
    return Model(config.network, params, config, names, channels, step, LAST, results, known)


def is_packaged(source: str | pathlib.Path) -> bool:
    """Whether a name means a network of the package; a file or folder of that name comes first."""
    return str(source) in PACKAGED and not pathlib.Path(source).exists()


def save_model(model: Model, path: str | pathlib.Path) -> None:
    """Writes a network to one file, with parameters in half precision and without the path of its data."""
    about = {
        "settings": {**model.config.settings, "data_dir": ""},
        "class_names": model.class_names,
        "channels": model.channels,
        "step": model.step,
        "results": model.results,
        "brightness": model.brightness and dataclasses.asdict(model.brightness),
    }
    params = traverse_util.flatten_dict(model.params, sep="/")
    arrays: Any = {name: np.asarray(value, np.float16) for name, value in params.items()}
    arrays[_ABOUT] = np.array(json.dumps(about))
    with open(path, "wb") as file:  # because NumPy adds an ending to a name
        np.savez_compressed(file, **arrays)
