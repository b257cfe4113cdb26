"""Weights of the authors' released TensorFlow graph, as parameters of ``LadderCapsNet(variant="released")``."""

from collections.abc import Mapping

import numpy as np

from lcaps_jax.models import POSE_DIM

_NETWORKS = {"propagation": "l{}", "regression": "l{}_inv", "contribution": "c{}"}


def params_from_released(variables: Mapping[str, np.ndarray], *, classes: int = 10) -> dict:
    """Converts the released graph's variables.

    Args:
      variables: arrays by name, as TensorFlow names them without ``:0``: ``Conv1_layer/Conv/weights``,
        ``Ladder/Weight_construction{j}/l1/weight``, ... K follows from their shapes. Other names are ignored.
      classes: J.

    Returns:
      The variables of the network, ``{"params": ...}``.

    Raises:
      ValueError: naming a variable that is missing.
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
        return kernel.reshape(*kernel.shape[:2], -1, POSE_DIM), bias.reshape(classes, -1, POSE_DIM)

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
