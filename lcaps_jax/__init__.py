"""lcaps_jax: the Ladder Capsule Network (Jeong, Lee, Kim, ICML 2019) in JAX.

Importing it takes JAX and Flax alone. What loads trained networks needs more, and is imported when it is first used.
"""

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
from lcaps_jax.networks.ladder import LadderCapsNet, LadderLayer
from lcaps_jax.routing import route

if TYPE_CHECKING:
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


def __getattr__(name: str):
    if name == "load_run":
        from lcaps_jax.runs import load_run

        return load_run
    if name == "load_pretrained":
        from lcaps_jax.pretrained import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load_pretrained", "load_run"])
