"""lcaps_jax: the Ladder Capsule Network (Jeong, Lee, Kim, ICML 2019) in JAX.

Importing it needs JAX and Flax alone. What loads and uses trained networks needs more, and is imported when it is first
used.
"""

import importlib
from typing import TYPE_CHECKING

from lcaps_jax.capsules import (
    agreement,
    code_loss,
    length,
    margin_loss,
    propagate,
    prune,
    regress,
    squash,
    squashed_length,
)
from lcaps_jax.convolution import strided_conv
from lcaps_jax.networks.base import PrimaryCapsules
from lcaps_jax.networks.capsnet import CapsNet, DynamicRouting
from lcaps_jax.networks.cnn import ConvNet
from lcaps_jax.networks.ladder import CapsuleLadder, LadderCapsNet, LadderLayer
from lcaps_jax.routing import route

if TYPE_CHECKING:
    from lcaps_jax.pretrained import load_pretrained as load_pretrained
    from lcaps_jax.runs import Predictions as Predictions
    from lcaps_jax.runs import load_run as load_run
    from lcaps_jax.runs import predict as predict

__version__ = "0.1.0"

__all__ = [
    "CapsNet",
    "CapsuleLadder",
    "ConvNet",
    "DynamicRouting",
    "LadderCapsNet",
    "LadderLayer",
    "PrimaryCapsules",
    "agreement",
    "code_loss",
    "length",
    "margin_loss",
    "propagate",
    "prune",
    "regress",
    "route",
    "squash",
    "squashed_length",
    "strided_conv",
]


# The names that need more than JAX and Flax, and their homes.
_LOADERS = {
    "load_pretrained": "lcaps_jax.pretrained",
    **dict.fromkeys(("Predictions", "load_run", "predict"), "lcaps_jax.runs"),
}


def __getattr__(name: str):
    if name not in _LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LOADERS[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install lcaps-jax[train] brings it.") from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_LOADERS])
