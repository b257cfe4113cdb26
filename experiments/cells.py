"""The cells of the paper's Table 2: a line and a flagfile for each network that is trained."""

import dataclasses

from lcaps_jax.data import affnist


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of the paper's Table 2.

    Attributes:
      row: Name of the row, as printed.
      column: Name of the column, as printed.
      flagfile: Name of the settings' file in ``configs/``, without its ending.
      paper: Test error in the paper, percent; None where the paper has no such cell.
      seeds: Number of seeds to train.
      quick: Whether ``--quick`` trains it too. It leaves out what differs from others in K, width or data alone.
    """

    row: str
    column: str
    flagfile: str
    paper: float | None
    seeds: int = 1
    quick: bool = True

    @property
    def test_set(self) -> str:
        """Name of the set whose error the cell shows."""
        return affnist.NAME if self.column == "affNIST" else "mnist"


# In the order of training.
CELLS = (
    Cell("L-CapsNet 15x15, K=70", "affNIST", "affnist_15x15_k70", 12.2, seeds=3),
    Cell("L-CapsNet 9x9, K=70", "MNIST", "mnist_9x9_k70", 0.50, seeds=3),
    Cell("CapsNet, r=3", "affNIST", "affnist_capsnet", 21.0),
    Cell("CapsNet, r=3, stopped at 0.77 %", "affNIST", "affnist_capsnet_stopped", 21.0, quick=False),
    Cell("CapsNet, r=3", "MNIST", "mnist_capsnet", 0.25),
    Cell("L-CapsNet 9x9, K=50", "MNIST", "mnist_9x9_k50", 0.74, seeds=2),
    Cell("L-CapsNet 9x9, K=100", "MNIST", "mnist_9x9_k100", 0.80),
    Cell("L-CapsNet 9x9, K=70", "affNIST", "affnist_9x9_k70", 12.5, seeds=2),
    Cell("L-CapsNet 15x15, K=70", "MNIST", "mnist_15x15_k70", 0.73, quick=False),
    Cell("L-CapsNet 9x9, K=70, released graph", "MNIST", "mnist_9x9_k70_released", None),
    Cell("L-CapsNet 15x15, K=50", "affNIST", "affnist_15x15_k50", 12.5, quick=False),
    Cell("L-CapsNet 15x15, K=100", "affNIST", "affnist_15x15_k100", 13.1, quick=False),
    Cell("CNN, an eighth of the channels", "affNIST", "affnist_cnn32", None),
    Cell("CNN, an eighth of the channels", "MNIST", "mnist_cnn32", None, quick=False),
    Cell("CNN", "MNIST", "mnist_cnn", 0.39, quick=False),
    Cell("CNN", "affNIST", "affnist_cnn", 34.0, quick=False),
    Cell("L-CapsNet 15x15, K=50", "MNIST", "mnist_15x15_k50", 0.69, quick=False),
    Cell("L-CapsNet 15x15, K=100", "MNIST", "mnist_15x15_k100", 0.79, quick=False),
    Cell("L-CapsNet 9x9, K=50", "affNIST", "affnist_9x9_k50", 13.0, quick=False),
    Cell("L-CapsNet 9x9, K=100", "affNIST", "affnist_9x9_k100", 13.2, quick=False),
)


def cell_of(flagfile: str) -> Cell:
    """The cell that a flagfile belongs to."""
    return next(cell for cell in CELLS if cell.flagfile == flagfile)
