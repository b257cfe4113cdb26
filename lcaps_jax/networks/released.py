"""The authors' released TensorFlow graph: its departures from the paper, and its weights as our parameters."""

from collections.abc import Mapping

import numpy as np

from lcaps_jax.errors import ArgumentError, arg
from lcaps_jax.networks.base import POSE_DIM

PAPER = "paper"
RELEASED = "released"
VARIANTS = (PAPER, RELEASED)
# Points at which the released graph departs from the paper; see choices_of.
RECTIFIED, WIDTHS, BIASES, UNIT, DISTANCE, LOSS, CODE_LOSS = RELEASED_CHOICES = (
    "rectified", "widths", "biases", "unit", "distance", "loss", "code_loss",
)  # fmt: skip

_NETWORKS = {"propagation": "l{}", "regression": "l{}_inv", "contribution": "c{}"}


def choices_of(variant: str) -> frozenset[str]:
    """Choices of the released graph that a variant makes, of ``RELEASED_CHOICES``.

    * rectified: A ReLU comes before the squash, so that capsules are not negative.
    * widths: f and f_reg have widths 128, 256, 384 in place of 384, 256, 128, and p has K, K, K in place of 3K, 2K, K.
    * biases: The class networks' biases begin uniform in ``+-sqrt(3/width)``, not at zero.
    * unit: Capsules are regressed from ``s/(|s|+1e-8)``, not from s.
    * distance: The error is the mean distance, not the mean squared distance.
    * loss: ``released_loss`` of the error replaces the margin loss, and 1 - error is the activity.
    * code_loss: ``released_code_loss`` replaces ``code_loss``.

    Args:
      variant: Variant: ``"paper"`` makes no choice, ``"released"`` makes all, and names such as ``"paper+rectified"``
        or ``"paper+distance+loss"`` make some, to find out what each does.

    Returns:
      Names of the choices.

    Raises:
      ValueError: The variant is none of these.
    """
    if variant == RELEASED:
        return frozenset(RELEASED_CHOICES)
    base, *made = variant.split("+")
    if base != PAPER or not set(made) <= set(RELEASED_CHOICES):
        raise ArgumentError(
            f"{arg('variant')} must be one of {', '.join(VARIANTS)}, or {PAPER} with any of "
            f"+{', +'.join(RELEASED_CHOICES)}; got {variant!r}."
        )
    return frozenset(made)


def params_from_released(variables: Mapping[str, np.ndarray], *, classes: int = 10) -> dict:
    """Converts the variables of the released graph to parameters of ``LadderCapsNet(variant="released")``.

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
