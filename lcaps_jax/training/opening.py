"""What a training says before its first step: its steps and its network."""

from collections.abc import Mapping
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax import parallel
from lcaps_jax.config import Config
from lcaps_jax.networks import Network
from lcaps_jax.networks.base import SMALL
from lcaps_jax.training.plan import StepPlan

_FEW_STEPS = 300  # below which the networks hardly learn


def text(config: Config, plan: StepPlan, network: Network, params: Mapping, channels: int, start: int) -> str:
    """What the run is about to do, in a few lines.

    Args:
      config: Resolved settings.
      plan: Plan of the run's steps.
      network: Network to train.
      params: Parameters of the network.
      channels: Channels of the images.
      start: Steps that are done already.
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    out = f" {plan.left_out} of the images sit an epoch out, other ones each time." if plan.left_out else ""
    often = "each epoch" if plan.eval_every == 1 else f"every {plan.eval_every} epochs"
    said = [
        f"{'Continuing' if start else 'Training'} from step {start} to {plan.total_steps}: {parameters:,} parameters, "
        f"{plan.images} images, {parallel.describe()}.",
        f"Epochs: {plan.epochs}. Steps an epoch: {plan.steps_per_epoch}, of {plan.batch_size} images. Evaluations: "
        f"after {often}. Learning rate: {config.learning_rate:g}, times {config.decay_rate:g} every "
        f"{config.decay_steps} steps.{out}",
        layers_line(network, params, (config.image_size, config.image_size, channels)),
    ]
    if config.layers == SMALL:
        said.append("The layers are small ones, for few images; --layers=paper takes the paper's in a new --workdir.")
    if plan.total_steps < _FEW_STEPS:
        said.append(
            f"Warning: {plan.total_steps} steps are few, and most networks learn little in fewer than {_FEW_STEPS}. "
            "More --epochs, or a smaller --batch_size in a new --workdir, give more."
        )
    return "\n".join(said)


def layers_line(network: Network, params: Mapping, shape: tuple[int, int, int]) -> str:
    """The layers of a network with their outputs and parameters, and where most of the parameters are.

    Args:
      network: Network.
      params: Parameters of the network.
      shape: Shape of an image, as (I, I, C).
    """
    outputs: dict[str, str] = {}

    def note(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and len(context.module.path) == 1:
            outputs[context.module.path[0]] = _described(output)
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(network.apply, {"params": params}, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    layers = [
        f"{name} {outputs.get(name, '')} {sum(leaf.size for leaf in jax.tree.leaves(params[name])):,}"
        for name in sorted(params, key=list(outputs).index)
    ]
    path, largest = max(jax.tree_util.tree_leaves_with_path(params), key=lambda leaf: leaf[1].size)
    where = "/".join(str(getattr(key, "key", key)) for key in path)
    share = 100 * math.prod(largest.shape) / total
    return f"Layers, output and parameters: {'; '.join(layers)}. The largest array is {where}, {share:.0f} % of them."


def _described(output: Any) -> str:
    """Shape of a layer's output for one image; a convolution's layer returns its kernel and bias instead."""
    if isinstance(output, tuple):
        return "kernel " + "x".join(map(str, output[0].shape))
    return "x".join(map(str, getattr(output, "pose", output).shape[1:]))
