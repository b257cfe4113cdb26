"""lcaps_jax: the Ladder Capsule Network (Jeong, Lee, Kim, ICML 2019) in JAX."""

from lcaps_jax.capsules import (
    agreement,
    code_loss,
    length,
    margin_loss,
    propagate,
    prune,
    regress,
    route,
    squash,
    squashed_length,
)
from lcaps_jax.convolution import strided_conv
from lcaps_jax.models import CapsNet, ConvNet, DynamicRouting, LadderCapsNet, LadderLayer, PrimaryCapsules
from lcaps_jax.pretrained import load_pretrained
from lcaps_jax.runs import load_run

__version__ = "0.1.0"

__all__ = [
    "CapsNet",
    "ConvNet",
    "DynamicRouting",
    "LadderCapsNet",
    "LadderLayer",
    "PrimaryCapsules",
    "agreement",
    "code_loss",
    "length",
    "load_pretrained",
    "load_run",
    "margin_loss",
    "propagate",
    "prune",
    "regress",
    "route",
    "squash",
    "squashed_length",
    "strided_conv",
]
