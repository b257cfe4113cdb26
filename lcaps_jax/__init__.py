"""lcaps_jax: the Ladder Capsule Network (Jeong, Lee, Kim, ICML 2019) in JAX.

Each name is imported when it is first used, so that importing the package costs nothing. The layers need JAX and Flax
alone; training and trained networks need ``lcaps-jax[train]``.
"""

from etils import epy

__version__ = "0.1.0"

with epy.lazy_api_imports(globals()):
    from lcaps_jax.infer.model import Model, Predictions
    from lcaps_jax.infer.pretrained import load_model, save_model
    from lcaps_jax.nn import NETWORKS, Network, Preprocessed, build_network
    from lcaps_jax.nn.capsnet import CapsNet, DynamicRouting
    from lcaps_jax.nn.cnn import ConvNet
    from lcaps_jax.nn.ladder import LadderCapsNet, LadderLayer, PerCapsuleLadder, TopK, TopKPerType
    from lcaps_jax.nn.layers import PrimaryCapsules
    from lcaps_jax.ops.capsules import (
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
    from lcaps_jax.ops.conv import strided_conv
    from lcaps_jax.ops.routing import route

__all__ = [
    "NETWORKS", "CapsNet", "ConvNet", "DynamicRouting", "LadderCapsNet", "LadderLayer", "Model", "Network",
    "PerCapsuleLadder", "Predictions", "Preprocessed", "PrimaryCapsules", "TopK", "TopKPerType", "agreement",
    "build_network", "code_loss", "length", "load_model", "margin_loss", "propagate", "prune", "regress", "route",
    "save_model", "squash", "squashed_length", "strided_conv",
]  # fmt: skip
