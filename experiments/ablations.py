"""What each part of a network is worth: one thing changed at a time, most of it on expanded MNIST."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from experiments.output import interval, parameters, write_table
from experiments.plan import CLASSES, Plan, image_size
from lcaps_jax import networks, runs
from lcaps_jax.config import FIXED, Config
from lcaps_jax.data import affnist, expanded_mnist
from lcaps_jax.networks import ladder, released


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A network trained with something changed or left out, most of them on expanded MNIST.

    Attributes:
      row: Name of the row, as printed.
      changed: Settings that are changed; ``{"k": None}`` keeps every capsule.
      quick: Whether ``--quick`` trains it too. It leaves out the released graph's choices one at a time.
      base: Flagfile of the network that is changed, in ``configs/`` without its ending.
      asked: Whether ``docs/open_questions.md`` asks for it as an open question. Such rows have a table of their own.
    """

    row: str
    changed: dict[str, Any]
    quick: bool = True
    base: str = "ablation"
    asked: bool = False


def _asked(row: str, base: str, changed: dict[str, Any]) -> Ablation:
    return Ablation(row, changed, quick=False, base=base, asked=True)


def _one_choice(row: str, choice: str) -> Ablation:
    return Ablation(f"the released graph's {row}", {"variant": f"{released.PAPER}+{choice}"}, quick=False)


_ROUTING = {"model": "capsnet", "decoder": False}
_TWICE = {"epochs": 12, "decay_steps": 1000}  # the learning rate is halved as often as in six epochs
_FULL_SIZE: dict[str, Any] = {"quick": False, "base": "affnist_9x9_k70"}
_HALF = {"epochs": 5, "decay_steps": 600}  # half the schedule of Table 2, as for the narrow CNN
# The schedule of the authors' script: 36,000 steps.
_AUTHORS = {"batch_size": 50, "epochs": 30, "decay_rate": 0.9, "decay_steps": 1000, "decay_staircase": True}
_BALANCED = {"selection": ladder.BALANCED, "k": 64}
_MNIST, _LARGE_KERNELS, _RELEASED = "mnist_9x9_k70", "affnist_15x15_k70", "affnist_15x15_k70_released"
# By the names of their runs' folders. affNIST's digits lie up to 19 pixels from the middle, expanded MNIST's up to 6.
ABLATIONS = {
    "whole": Ablation("the whole network", {}),
    "shift10": Ablation("training digits up to 10 pixels from the middle, not 6", {"max_shift": 10}),
    "capsnet": Ablation("routing (r=3, no decoder), not pruning and ladder", _ROUTING),
    "capsnet_shift10": Ablation("routing, and training digits up to 10 pixels", _ROUTING | {"max_shift": 10}),
    "no_ladder": Ablation("no ladder: activity is the length of the pose", {"activity": ladder.LENGTH}),
    "no_pruning": Ablation("no pruning: all 576 capsules kept", {"k": None}),
    "two_types": Ablation("two types of capsules, not 16", {"capsule_types": 2}, quick=False),
    "capsnet_two_types": Ablation("routing, and two types of capsules", _ROUTING | {"capsule_types": 2}, quick=False),
    "random": Ablation("random capsules kept", {"selection": ladder.RANDOM}),
    "balanced_types": Ablation("equally many capsules of each type kept", {"selection": ladder.BALANCED}, quick=False),
    "biased_types": Ablation("types kept equally often, by a learnt bias", {"selection": ladder.BIASED}, quick=False),
    "placed_once": Ablation("training digits placed once, not anew", {"placement": FIXED}),
    "released": Ablation("the released graph's choices, but shuffled", {"variant": released.RELEASED, "shuffle": True}),
    "rectified": _one_choice("ReLU before the squash", released.RECTIFIED),
    "widths": _one_choice("widths of the class networks", released.WIDTHS),
    "biases": _one_choice("initial biases of the class networks", released.BIASES),
    "unit": _one_choice("regression from the direction of the pose", released.UNIT),
    "distance": _one_choice("distance, not squared", released.DISTANCE),
    "loss": _one_choice("loss, and 1 - error as activity", released.LOSS),
    "code_loss": _one_choice("code loss", released.CODE_LOSS),
    "half_rate": Ablation("half the learning rate", {"learning_rate": 1e-3}, quick=False),
    "longer": Ablation("twice as many epochs, the decay as much slower", _TWICE, quick=False),
    "capsnet_longer": Ablation("routing, and twice as many epochs", _ROUTING | _TWICE, quick=False),
    "capsnet_full_size": Ablation(
        "routing at full size (r=3, with decoder), half its schedule", _HALF, quick=False, base="affnist_capsnet"
    ),
    "full_size": Ablation("full size (9x9, K=70), half its schedule", _HALF, **_FULL_SIZE),
    "full_size_shift10": Ablation(
        "full size, half its schedule, and training digits up to 10 pixels", _HALF | {"max_shift": 10}, **_FULL_SIZE
    ),
    "large_kernels_shift10": Ablation(
        "full size with 15x15 kernels, and training digits up to 10 pixels",
        {"max_shift": 10},
        quick=False,
        base=_LARGE_KERNELS,
    ),
    "length": _asked("15x15, the authors' 36,000 steps of batch 50", _LARGE_KERNELS, _AUTHORS),
    "capsnet_length": _asked(
        "routing at full size, the authors' 36,000 steps of batch 50", "affnist_capsnet", _AUTHORS
    ),
    "length_mnist": _asked("9x9, the authors' 36,000 steps of batch 50", _MNIST, _AUTHORS),
    "capsnet_full_size_shift10": _asked(
        "routing at full size, and training digits up to 10 pixels", "affnist_capsnet", {"max_shift": 10}
    ),
    "released_full_size": _asked("the released graph, 15x15, as it stands", _RELEASED, {"shuffle": False}),
    "released_full_size_shuffled": _asked("the released graph, 15x15, shuffled", _RELEASED, {}),
    "code_loss_full_size": _asked(
        "15x15, the released graph's code loss",
        _LARGE_KERNELS,
        {"variant": f"{released.PAPER}+{released.CODE_LOSS}"},
    ),
    "balanced_mnist": _asked("9x9, equally many capsules of each type, K=64", _MNIST, _BALANCED),
    "balanced": _asked("15x15, equally many capsules of each type, K=64", _LARGE_KERNELS, _BALANCED),
    "shifted_mnist": _asked("9x9, training digits shifted by up to 2 pixels", _MNIST, {"max_shift": 2}),
    "own_k70": _asked("L-CapsNet, operators of its own for each capsule, K=70", "mnist_own_k70", {}),
    "own_capsnet": _asked("routing, with the same convolutions and schedule", "mnist_own_capsnet", {}),
}
SEEDS = 3  # the most of one ablation that a table shows

# Names of the ablations that other experiments show beside the networks of Table 2: CapsNet and the ladder at full size
# by half the schedule, as the CNN, and the latter with other training digits; the narrow networks that are trained the
# longest and differ in the layers alone; and those that were trained to keep capsules of more types.
_SHOWN = {
    "capsnet_full_size": "CapsNet, 5 epochs",
    "full_size": "L-CapsNet 9x9, 5 epochs",
    "full_size_shift10": "L-CapsNet 9x9, 5 epochs, 10 pixels",
    "longer": "narrow L-CapsNet",
    "capsnet_longer": "narrow CapsNet",
    "code_loss": "narrow L-CapsNet, released code loss",
    "balanced_types": "narrow L-CapsNet, balanced",
    "biased_types": "narrow L-CapsNet, biased",
    "own_k70": "L-CapsNet, own operators, K=70",
    "balanced": "L-CapsNet 15x15, balanced, K=64",
    "balanced_mnist": "L-CapsNet 9x9, balanced, K=64",
    "length": "L-CapsNet 15x15, 36,000 steps",
    "code_loss_full_size": "L-CapsNet 15x15, released code loss",
}


def run(plan: Plan) -> None:
    """Trains networks, most of them narrow, with one thing changed at a time, and prints their errors."""
    names = [name for name, ablation in ABLATIONS.items() if not ablation.asked]
    _write(plan, "ablations", names, (expanded_mnist.NAME, affnist.NAME))


def run_questions(plan: Plan) -> None:
    """Trains the networks that the open questions of ``docs/open_questions.md`` ask for, and prints their errors."""
    names = [name for name, ablation in ABLATIONS.items() if ablation.asked]
    _write(plan, "questions", names, ("mnist", expanded_mnist.NAME, affnist.NAME))


def _write(plan: Plan, table: str, names: Sequence[str], tests: Sequence[str]) -> None:
    """Trains ablations, and writes a table of their errors on test sets."""
    configs, rows = settings(plan), []
    for name in names:
        if plan.quick and not ABLATIONS[name].quick:
            continue
        plan.finish(configs[name], folder(plan, name))
        results = [runs.read_results(each) for each in finished_seeds(plan, name)]
        row = {"network": ABLATIONS[name].row, "parameters": parameters(configs[name]), "epochs": configs[name].epochs}
        for test in tests:
            shown = [f"{each[test]['error']:.2f} ({interval(each[test])})" for each in results if test in each]
            row[f"{test}, % (95 % interval)"] = ", ".join(shown)
        rows.append(row)
    if rows:
        write_table(plan.workdir, table, rows)


def settings(plan: Plan, seed: int = 0) -> dict[str, Config]:
    """Settings of each ablation, by its name."""
    changed = {}
    for name, ablation in ABLATIONS.items():
        base = plan.settings_of(ablation.base, seed)
        filled = dict(ablation.changed)
        if "k" in filled and filled["k"] is None:
            filled["k"] = networks.from_config(base, CLASSES).geometry(image_size(base)).capsules
        changed[name] = dataclasses.replace(base, **filled)
    return changed


def folder(plan: Plan, name: str, seed: int = 0) -> pathlib.Path:
    """Folder of an ablation's run."""
    return plan.workdir / (f"ablation_{name}" + (f"_seed{seed}" if seed else ""))


def finished_seeds(plan: Plan, name: str) -> list[pathlib.Path]:
    """Folders of the finished runs of an ablation."""
    config = settings(plan)[name]
    return [
        folder(plan, name, seed)
        for seed in range(SEEDS)
        if plan.is_finished(dataclasses.replace(config, seed=seed), folder(plan, name, seed))
    ]


def finished(plan: Plan, names: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """Folders of the finished ablations, by the names that they are shown by; the others are not trained now."""
    configs = settings(plan)
    return {_SHOWN[name]: [folder(plan, name)] for name in names if plan.is_finished(configs[name], folder(plan, name))}
