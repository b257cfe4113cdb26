"""What a training run prints before its first step."""

from collections.abc import Mapping

import jax

from lcaps_jax.train.config import Config
from lcaps_jax.train.plan import StepPlan
from lcaps_jax.util import devices

_FEW_STEPS = 300  # below which the networks barely learn


def text(config: Config, plan: StepPlan, params: Mapping, start: int) -> str:
    """The steps, the learning rate and the layers of a run, in a few lines.

    Args:
      config: Settings.
      plan: Plan of the run's steps.
      params: Parameters of the network.
      start: Steps that are done already.
    """
    often = "each epoch" if config.schedule.eval_every == 1 else f"every {config.schedule.eval_every} epochs"
    out = f" {plan.left_out} images are left out of each epoch, different ones each time." if plan.left_out else ""
    optimizer = config.optimizer
    layers = ", ".join(f"{name} {_size(params[name]):,}" for name in params)
    lines = [
        f"{'Continuing' if start else 'Training'} from step {start} to {plan.total_steps}: {_size(params):,} "
        f"parameters, {plan.images} images, {devices.describe()}.",
        f"{config.schedule.epochs} epochs of {plan.steps_per_epoch} steps, {plan.batch_size} images a step; evaluation "
        f"after {often}. Learning rate {optimizer.learning_rate:g}, times {optimizer.decay_rate:g} every "
        f"{optimizer.decay_steps} steps.{out}",
        f"Parameters by layer: {layers}.",
    ]
    if plan.total_steps < _FEW_STEPS:
        lines.append(
            f"Warning: most networks learn little in {plan.total_steps} steps. More --epochs, or a smaller "
            "--batch_size in a new --workdir, give more."
        )
    return "\n".join(lines)


def _size(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
