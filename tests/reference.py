"""The golden data of the released TensorFlow graph, its weights, and whole MNIST where it is at hand."""

import ast
from collections.abc import Mapping
import os
import pathlib

import numpy as np
import pytest

_GOLDEN = pathlib.Path(__file__).parent / "golden"
_POSE_DIM = 16
# Layers of the released graph's class networks, by our name for the network.
_NETWORKS = {"propagation": "l{}", "regression": "l{}_inv", "contribution": "c{}"}


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


def params_from_released(variables: Mapping[str, np.ndarray], classes: int = 10) -> dict:
    """The released graph's variables, by their names in TensorFlow, as variables of a network with that preset."""

    def get(name):
        if name not in variables:
            raise ValueError(f"The released graph has a variable {name!r}, which is missing here.")
        return np.asarray(variables[name], np.float32)

    def stacked(layer, part):
        return np.stack([get(f"Ladder/Weight_construction{j}/{layer}/{part}") for j in range(classes)])

    def operators(layer):
        """The last layer: kernel [J, h, K*d, D], bias [J, K*d, D]."""
        kernel, bias = stacked(layer, "weight"), stacked(layer, "bias")
        return kernel.reshape(*kernel.shape[:2], -1, _POSE_DIM), bias.reshape(classes, -1, _POSE_DIM)

    ladder: dict = {}
    for network, layer in _NETWORKS.items():
        hidden_layers = (1, 2, 3, 4) if network == "contribution" else (1, 2, 3)
        ladder[network] = {}
        for i in hidden_layers:
            ladder[network][f"kernel{i}"] = stacked(layer.format(i), "weight")
            ladder[network][f"bias{i}"] = stacked(layer.format(i), "bias")
    kernel, bias = operators("l4")
    ladder["propagation_kernel"] = kernel.transpose(0, 2, 1, 3)
    ladder["propagation_bias"] = bias
    kernel, bias = operators("l4_inv")
    ladder["regression_kernel"] = kernel.transpose(0, 1, 3, 2)
    ladder["regression_bias"] = bias.transpose(0, 2, 1)
    convolutions = {
        ours: {"kernel": get(f"{theirs}/Conv/weights"), "bias": get(f"{theirs}/Conv/biases")}
        for ours, theirs in (("conv1", "Conv1_layer"), ("primary", "PrimaryCaps_layer"))
    }
    return {"params": {"primary_capsules": convolutions, "ladder": ladder}}
