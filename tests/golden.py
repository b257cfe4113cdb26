"""The golden data of the released TensorFlow graph, and its weights, which are drawn rather than stored."""

import ast
import os
import pathlib

import numpy as np
import pytest

# Continuous integration sets this, so that there the comparison can fail and never be left out.
REQUIRED = os.environ.get("LCAPS_REQUIRE_REFERENCE") == "1"
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def path(name: str) -> pathlib.Path:
    """A file or folder of the reference material; skips the test where it is absent."""
    found = SHARED / name
    if not found.exists() and not REQUIRED:
        pytest.skip(f"the reference material is absent ({found})")
    return found


def load(name: str) -> np.lib.npyio.NpzFile:
    """Opens a file of golden data; skips the test where the reference material is absent."""
    return np.load(path(f"golden/{name}"))


def released_variables(data) -> dict[str, np.ndarray]:
    """Draws the released graph's variables as ``reference.md`` says they were."""
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
