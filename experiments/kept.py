"""Which capsules ladder networks keep: the same for all digits, or others for each."""

import numpy as np

from experiments import ablations
from experiments.cells import cell_of
from experiments.measurements import Measurement, collect
from experiments.output import write_table
from experiments.plan import Plan
from lcaps_jax import data
from lcaps_jax.views.kept import selection

_DIGITS = 1000
_ASKED = ("own_k70", "balanced", "balanced_mnist", "length", "code_loss_full_size")


def run(plan: Plan) -> None:
    """Measures how alike the capsules are that ladder networks keep for test digits."""
    names = ["mnist_9x9_k50", "mnist_9x9_k70", "mnist_9x9_k100", "affnist_15x15_k70", "affnist_9x9_k70"]
    rows_of = {name: cell_of(name).row for name in names}  # two of them share one, and differ in the data
    networks = plan.finished("kept", names)
    networks |= ablations.finished(
        plan, ["full_size", "longer", "code_loss", "balanced_types", "biased_types", *_ASKED]
    )

    def measure(run):
        split = data.load_test(run.config.dataset, plan.data_dir, run.config.image_size).take(np.arange(_DIGITS))
        index = np.concatenate([output.index for output in run.batches(split.images)])
        return {"dataset": run.config.dataset} | selection(index, split.labels, run.geometry)

    found = collect("kept", networks, Measurement("kept", {"digits": _DIGITS}, measure))
    rows = [
        {
            "network": rows_of.get(name, name),
            "test digits of": each["dataset"],
            "kept for a digit": f"{each['k']} of {each['capsules']}",
            "kept for any digit": each["ever"],
            "types of these": f"{each['types_ever']} of {each['types']}",
            "two digits share, %": f"{100 * each['in_common']:.0f}",
            "of one class, %": f"{100 * each['in_common_of_class']:.0f}",
            "by chance, %": f"{100 * each['k'] / each['ever']:.0f}",
        }
        for name, (each,) in found.items()
    ]
    if rows:
        write_table(plan.workdir, "kept", rows)
