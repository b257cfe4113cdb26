"""The paper's Table 2: test errors on MNIST and affNIST, beside the paper's."""

from experiments.output import Rows
from experiments.results import read_table, results_of

# The test set, and the error in the paper where it has such a network, by run.
CELLS: dict[str, tuple[str, float | None]] = {
    "affnist_15x15_k70": ("affnist", 12.2),
    "mnist_9x9_k70": ("mnist", 0.50),
    "affnist_capsnet": ("affnist", 21.0),
    "affnist_capsnet_stopped": ("affnist", 21.0),
    "mnist_capsnet": ("mnist", 0.25),
    "mnist_9x9_k50": ("mnist", 0.74),
    "mnist_9x9_k100": ("mnist", 0.80),
    "affnist_9x9_k70": ("affnist", 12.5),
    "mnist_15x15_k70": ("mnist", 0.73),
    "mnist_9x9_k70_released": ("mnist", None),
    "affnist_15x15_k50": ("affnist", 12.5),
    "affnist_15x15_k100": ("affnist", 13.1),
    "affnist_cnn32": ("affnist", None),
    "mnist_cnn32": ("mnist", None),
    "mnist_cnn": ("mnist", 0.39),
    "affnist_cnn": ("affnist", 34.0),
    "mnist_15x15_k50": ("mnist", 0.69),
    "mnist_15x15_k100": ("mnist", 0.79),
    "affnist_9x9_k50": ("affnist", 13.0),
    "affnist_9x9_k100": ("affnist", 13.2),
}


def rows() -> Rows:
    """A row for each cell; the errors of seeds stand side by side, each with its own interval.

    All seeds are tested on the same images, so that one interval for their mean would be too narrow.
    """
    table = read_table()
    found = []
    for run, (test_set, paper) in CELLS.items():
        results = results_of(run, test_set, table)
        found.append(
            {
                "network": results[0].network if results else f"{run}, not trained yet",
                "test set": test_set,
                "parameters": results[0].millions if results else "",
                "error, %": " and ".join(f"{result.error:.2f}" for result in results),
                "95 % interval": " and ".join(result.interval for result in results),
                "paper, %": "" if paper is None else f"{paper:g}",
                "seeds": len(results),
                "epochs": " and ".join(dict.fromkeys(f"{result.epochs:g}" for result in results)),
                "minutes": " and ".join(f"{result.minutes:.0f}" for result in results),
            }
        )
    return found
