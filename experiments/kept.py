"""Which capsules ladder networks keep: the same for all digits, or others for each."""

import numpy as np

from experiments import ablations
from experiments.cells import cell_of
from experiments.measurements import Measurement, collect
from experiments.output import write_table
from experiments.plan import Plan
from lcaps_jax import data
from lcaps_jax.networks import Geometry

_DIGITS = 1000


def run(plan: Plan) -> None:
    """Measures how alike the capsules are that ladder networks keep for test digits."""
    names = ["mnist_9x9_k50", "mnist_9x9_k70", "mnist_9x9_k100", "affnist_15x15_k70", "affnist_9x9_k70"]
    rows_of = {name: cell_of(name).row for name in names}  # two of them share one, and differ in the data
    networks = plan.finished("kept", names)
    networks |= ablations.finished(plan, ["full_size", "longer", "code_loss"])

    def measure(run):
        split = data.load_test(run.config.dataset, plan.data_dir, run.config.image_size).take(np.arange(_DIGITS))
        index = np.concatenate([output.index for output in run.batches(split.images)])
        return {"dataset": run.config.dataset} | selection(index, split.labels, run.geometry)

    found = collect("kept", networks, Measurement("kept", {"digits": _DIGITS}, measure))
    rows = [
        {
            "network": rows_of.get(name, name),
            "test digits of": each["dataset"],
            "kept of each digit": f"{each['k']} of {each['capsules']}",
            "kept of any": each["ever"],
            "their types": f"{each['types_ever']} of {each['types']}",
            "in common, two digits, %": f"{100 * each['in_common']:.0f}",
            "of one class, %": f"{100 * each['in_common_of_class']:.0f}",
            "by chance, %": f"{100 * each['k'] / each['ever']:.0f}",
        }
        for name, (each,) in found.items()
    ]
    if rows:
        write_table(plan.workdir, "kept", rows)


def selection(index: np.ndarray, labels: np.ndarray, sizes: Geometry) -> dict[str, float]:
    """How much the selections of different images have in common.

    Args:
      index: Indices of the capsules that each image keeps, ``[N, K]``.
      labels: Class of each image, ``[N]``; some class has at least two.
      sizes: Grid of capsules.

    Returns:
      Counts: ``k``, ``capsules``, ``types``; ``ever``, capsules that any image keeps, and ``types_ever`` of them. Mean
      shares of the K that two images have in common: ``in_common`` of any two, ``in_common_of_class`` of one class.
      Selections at random among those that are ever kept would have ``k / ever``.
    """
    count, k = index.shape
    is_kept = np.zeros((count, sizes.capsules), bool)
    np.put_along_axis(is_kept, index, True, axis=1)
    ever = np.flatnonzero(is_kept.any(axis=0))

    def in_common(groups):
        """Mean share over ordered pairs of different images, by how many of a group keep a capsule."""
        pairs = sum(len(group) * (len(group) - 1) for group in groups)
        times = [group.sum(axis=0, dtype=int) for group in groups]
        return float(sum(np.sum(each * (each - 1)) for each in times) / (pairs * k))

    return {
        "k": k,
        "capsules": sizes.capsules,
        "types": sizes.types,
        "ever": len(ever),
        "types_ever": len(np.unique(ever % sizes.types)),
        "in_common": in_common([is_kept]),
        "in_common_of_class": in_common([is_kept[labels == label] for label in np.unique(labels)]),
    }
