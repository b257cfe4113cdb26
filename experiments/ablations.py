"""What each part of a network contributes: networks with one thing changed at a time."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.output import Rows
from experiments.results import read_table, results_of

# The schedule of the authors' script: 36,000 steps.
_AUTHORS = {"batch_size": 50, "epochs": 30, "decay_rate": 0.9, "decay_steps": 1000, "decay_staircase": True}
_HALF = {"epochs": 5, "decay_steps": 600}  # of the schedule of Table 2
_TWICE = {"epochs": 12, "decay_steps": 1000}  # the learning rate is halved as often as in six epochs
_ROUTING = {"model": "capsnet", "decoder": False, "k": None}
_PER_TYPE = {"pruning": "top_k_per_type", "k": 64}
# Flagfile and changed settings by run; None leaves a setting of the flagfile out. In place of settings None stands for
# a network that this version cannot train, and whose results remain.
_Changes = Mapping[str, Any] | None
ABLATIONS: dict[str, tuple[str, _Changes]] = {
    "ablation": ("ablation", {}),
    "ablation_shift10": ("ablation", {"max_shift": 10}),
    "ablation_capsnet": ("ablation", _ROUTING),
    "ablation_capsnet_shift10": ("ablation", _ROUTING | {"max_shift": 10}),
    "ablation_no_ladder": ("ablation", {"regression": False}),
    "ablation_no_pruning": ("ablation", {"k": 576}),
    "ablation_two_types": ("ablation", {"capsule_types": 2}),
    "ablation_capsnet_two_types": ("ablation", _ROUTING | {"capsule_types": 2}),
    "ablation_random": ("ablation", None),
    "ablation_balanced_types": ("ablation", {"pruning": "top_k_per_type"}),
    "ablation_biased_types": ("ablation", None),
    "ablation_placed_once": ("ablation", None),
    "ablation_released": ("ablation", {"preset": "released", "shuffle": True}),
    "ablation_rectified": ("ablation", {"rectify": True}),
    "ablation_widths": ("ablation", {"ascending_widths": True}),
    "ablation_biases": ("ablation", {"uniform_biases": True}),
    "ablation_unit": ("ablation", {"regress_direction": True}),
    "ablation_distance": ("ablation", {"squared_distance": False}),
    "ablation_loss": ("ablation", {"class_loss": "released", "class_activity": "complement"}),
    "ablation_code_loss": ("ablation", {"code_loss": "mean"}),
    "ablation_half_rate": ("ablation", {"learning_rate": 1e-3}),
    "ablation_longer": ("ablation", _TWICE),
    "ablation_capsnet_longer": ("ablation", _ROUTING | _TWICE),
    "ablation_capsnet_full_size": ("affnist_capsnet", _HALF),
    "ablation_full_size": ("affnist_9x9_k70", _HALF),
    "ablation_full_size_shift10": ("affnist_9x9_k70", _HALF | {"max_shift": 10}),
    "ablation_large_kernels_shift10": ("affnist_15x15_k70", {"max_shift": 10}),
}
# What the open questions of the documentation ask for, at full size.
QUESTIONS: dict[str, tuple[str, _Changes]] = {
    "ablation_length": ("affnist_15x15_k70", _AUTHORS),
    "ablation_capsnet_length": ("affnist_capsnet", _AUTHORS),
    "ablation_length_mnist": ("mnist_9x9_k70", _AUTHORS),
    "ablation_capsnet_full_size_shift10": ("affnist_capsnet", {"max_shift": 10}),
    "ablation_released_full_size": ("affnist_15x15_k70_released", {"shuffle": False}),
    "affnist_15x15_k70_released": ("affnist_15x15_k70_released", {}),
    "ablation_code_loss_full_size": ("affnist_15x15_k70", {"code_loss": "mean"}),
    "ablation_balanced_mnist": ("mnist_9x9_k70", _PER_TYPE),
    "ablation_balanced": ("affnist_15x15_k70", _PER_TYPE),
    "ablation_shifted_mnist": ("mnist_9x9_k70", {"max_shift": 2}),
    "mnist_per_capsule_k70": ("mnist_per_capsule_k70", {}),
    "mnist_capsnet_conv2": ("mnist_capsnet_conv2", {}),
}


def rows(runs: Iterable[str], test_sets: Iterable[str]) -> Rows:
    """A row for each run with results: the errors of its seeds on the test sets."""
    table, found = read_table(), []
    for run in runs:
        results = {test_set: results_of(run, test_set, table) for test_set in test_sets}
        if first := next((each[0] for each in results.values() if each), None):
            row = {"network": first.network, "parameters": first.millions, "epochs": f"{first.epochs:g}"}
            for test_set, each in results.items():
                shown = [f"{result.error:.2f} ({result.interval})" for result in each]
                row[f"{test_set}, % (95 % interval)"] = ", ".join(shown)
            found.append(row)
    return found
