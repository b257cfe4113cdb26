"""Training and evaluation of a network on a data set that lies on the devices."""

from lcaps_jax.training.checkpoints import BEST, LAST, CheckpointError, Checkpoints
from lcaps_jax.training.evaluation import (
    Evaluation,
    evaluate,
    make_eval_steps,
    on_devices,
    out_of_patience,
    wilson_interval,
)
from lcaps_jax.training.loop import VALIDATION, Fitted, fit, plan_of
from lcaps_jax.training.meter import DivergenceError, StepMeter
from lcaps_jax.training.metric_log import MetricLog, read_metrics
from lcaps_jax.training.plan import StepPlan
from lcaps_jax.training.steps import (
    TrainData,
    TrainState,
    compute_once,
    init_params,
    init_state,
    make_batches,
    make_optimizer,
    make_train_steps,
)
from lcaps_jax.training.stop import Stopped

__all__ = [
    "BEST",
    "LAST",
    "VALIDATION",
    "CheckpointError",
    "Checkpoints",
    "DivergenceError",
    "Evaluation",
    "Fitted",
    "MetricLog",
    "StepMeter",
    "StepPlan",
    "Stopped",
    "TrainData",
    "TrainState",
    "compute_once",
    "evaluate",
    "fit",
    "init_params",
    "init_state",
    "make_batches",
    "make_eval_steps",
    "make_optimizer",
    "make_train_steps",
    "on_devices",
    "out_of_patience",
    "plan_of",
    "read_metrics",
    "wilson_interval",
]
