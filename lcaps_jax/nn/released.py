"""The authors' released TensorFlow graph: where it departs from the paper, and its weights as our parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_POSE_DIM = 16
# Settings by which the released graph departs from the paper, each with its value there.
CHOICES: dict[str, Any] = {
    "rectify": True,  # a ReLU before the squash, so that capsules are not negative
    "ascending_widths": True,  # f and f_reg have widths 128, 256, 384; p has K, K, K
    "uniform_biases": True,  # initial biases of the class networks, in +-sqrt(3/width)
    "regress_direction": True,  # from s/(|s|+1e-8), not from s
    "squared_distance": False,  # the mean distance, not the mean squared one
    "class_activity": "complement",  # 1 - distance
    "class_loss": "released",  # of the distance, in place of the margin loss
    "code_loss": "mean",  # of absolute differences, in place of a sum of squares
}

_NETWORKS = {"propagation": "l{}", "regression": "l{}_inv", "contribution": "c{}"}


def params_from_released(variables: Mapping[str, np.ndarray], *, classes: int = 10) -> dict:
    """Converts the variables of the released graph to parameters of a ``LadderCapsNet`` with the preset ``released``.

    Args:
      variables: Arrays by name, as TensorFlow names them without ``:0``: ``Conv1_layer/Conv/weights``,
        ``Ladder/Weight_construction{j}/l1/weight``, ... K follows from their shapes. Other names are ignored.
      classes: Number of classes, J.

    Returns:
      Variables of the network, ``{"params": ...}``.

    Raises:
      ValueError: A variable is missing; the message names it.
    """

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
