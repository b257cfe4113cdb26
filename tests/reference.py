"""The golden data of the released TensorFlow graph, its weights, and whole MNIST where it is at hand."""

import ast
import os
import pathlib

import numpy as np
import pytest

_GOLDEN = pathlib.Path(__file__).parent / "golden"


def load(name: str) -> np.lib.npyio.NpzFile:
    """Opens a file of golden data; ``golden/README.md`` says how each was made."""
    return np.load(_GOLDEN / name)


def mnist() -> str:
    """The folder of TFDS sets that holds MNIST, LCAPS_TFDS or TFDS's own; skips the test where MNIST is absent."""
    for folder in (os.environ.get("LCAPS_TFDS"), pathlib.Path.home() / "tensorflow_datasets"):
        if folder and (pathlib.Path(folder) / "mnist").is_dir():
            return str(folder)
    pytest.skip("MNIST is absent: LCAPS_TFDS names the folder of TensorFlow Datasets that holds it")


def released_variables(data) -> dict[str, np.ndarray]:
    """Draws the released graph's variables as ``golden/README.md`` says they were."""
    rng = np.random.default_rng(int(data["seed"]))
    variables = {}
    for name, shape in zip(data["var_names"], data["var_shapes"]):
        shape = ast.literal_eval(str(shape))
        draw = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            value = np.float32(0.01) * draw
        else:
            fan = (shape[-2] + shape[-1]) * int(np.prod(shape[:-2]))
            gain = 1.0 if len(shape) == 4 else 1.8
            value = np.float32(gain * np.sqrt(2 / fan)) * draw
        if shape == (9, 9, 256, 256):
            value = value * 4
        variables[str(name)] = value
    return variables
