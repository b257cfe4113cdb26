"""lcaps_jax: the Ladder Capsule Network (Jeong, Lee, Kim, ICML 2019) in JAX.

Each name is imported when it is first used, so that importing the package costs nothing. The layers need JAX and Flax
alone; what loads and uses trained networks needs more.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from lcaps_jax.pretrained import load_pretrained as load_pretrained
    from lcaps_jax.routing import route
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


# The home of each name; those of __all__ need JAX and Flax alone.
_HOMES = {
    **dict.fromkeys(("agreement", "code_loss", "length", "margin_loss", "propagate"), "lcaps_jax.capsules"),
    **dict.fromkeys(("prune", "regress", "squash", "squashed_length"), "lcaps_jax.capsules"),
    "strided_conv": "lcaps_jax.convolution",
    "PrimaryCapsules": "lcaps_jax.networks.base",
    **dict.fromkeys(("CapsNet", "DynamicRouting"), "lcaps_jax.networks.capsnet"),
    "ConvNet": "lcaps_jax.networks.cnn",
    **dict.fromkeys(("CapsuleLadder", "LadderCapsNet", "LadderLayer"), "lcaps_jax.networks.ladder"),
    "route": "lcaps_jax.routing",
    "load_pretrained": "lcaps_jax.pretrained",
    **dict.fromkeys(("Predictions", "load_run", "predict"), "lcaps_jax.runs"),
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if name in __all__:
            raise
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install lcaps-jax[train] brings it.") from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
