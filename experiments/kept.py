"""Which capsules ladder networks keep: the same ones for all digits, or others for each."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from experiments.figures import overlap
from experiments.output import Rows
from experiments.results import measured_of, read_measured
from lcaps_jax.data import api
from lcaps_jax.infer.model import Model
from lcaps_jax.nn.outputs import LadderCapsNetOutput

_DIGITS = 1000
# Networks by run, as the table names them.
_NETWORKS = {
    "mnist_9x9_k50": "L-CapsNet 9x9, K=50",
    "mnist_9x9_k70": "L-CapsNet 9x9, K=70",
    "mnist_9x9_k100": "L-CapsNet 9x9, K=100",
    "affnist_15x15_k70": "L-CapsNet 15x15, K=70",
    "affnist_9x9_k70": "L-CapsNet 9x9, K=70",
    "ablation_full_size": "L-CapsNet 9x9, 5 epochs",
    "ablation_longer": "narrow L-CapsNet",
    "ablation_code_loss": "narrow L-CapsNet, released code loss",
    "ablation_balanced_types": "narrow L-CapsNet, top-k per type",
    "ablation_biased_types": "narrow L-CapsNet, biased",
    "mnist_per_capsule_k70": "L-CapsNet, matrices per capsule, K=70",
    "ablation_balanced": "L-CapsNet 15x15, top-k per type, K=64",
    "ablation_balanced_mnist": "L-CapsNet 9x9, top-k per type, K=64",
    "ablation_length": "L-CapsNet 15x15, 36,000 steps",
    "ablation_code_loss_full_size": "L-CapsNet 15x15, released code loss",
}


def measure(model: Model, data_dir: str) -> dict[str, Any]:
    """How alike the kept capsules of test digits are."""
    dataset = model.config.data.dataset
    split = api.load_test(dataset, data_dir, model.image_size).take(np.arange(_DIGITS))
    outputs = cast(Iterator[LadderCapsNetOutput], model.batches(split.images))
    index = np.concatenate([output.kept_index for output in outputs])
    return {"kept": {"dataset": dataset} | overlap(index, split.labels, model.geometry)}


def rows() -> Rows:
    """A row for each network that was measured."""
    measured = read_measured()
    found = {run: measured_of(run, "kept", measured)[:1] for run in _NETWORKS}
    return [
        {
            "network": _NETWORKS[run],
            "test digits of": each["dataset"],
            "kept for a digit": f"{each['k']} of {each['capsules']}",
            "kept for any digit": each["ever"],
            "types of these": f"{each['types_ever']} of {each['types']}",
            "two digits share, %": f"{100 * each['in_common']:.0f}",
            "of one class, %": f"{100 * each['in_common_of_class']:.0f}",
            "by chance, %": f"{100 * each['k'] / each['ever']:.0f}",
        }
        for run, first in found.items()
        for each in first
    ]
