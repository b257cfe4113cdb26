"""The paper's tables and figures, and what belongs beside them, by one command each.

    python -m lcaps_jax.experiments table2 --workdir=runs/paper

Run from the repository: the settings of every run are the flagfiles in ``configs/``. What has been trained is not
trained again, and what was interrupted goes on. ``--notrain`` shows what there is so far; ``--quick`` tries a run of
each kind with small networks, in minutes. What the figures need of a network is kept as text beside its results:
``--workdir=docs/results --notrain`` shows the tables of the runs that this repository tells of.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import json
import pathlib
import time
from typing import Any, cast

from absl import flags
import jax
import numpy as np

from lcaps_jax import affnist, cli, data, figures, measurements, metrics, models, parallel, robustness, runs, training
from lcaps_jax import config as configs
from lcaps_jax.config import Config
from lcaps_jax.measurements import Measurement

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_QUICK: dict[str, Any] = {
    "channels": 8,
    "capsule_types": 4,
    "capsule_dim": 4,
    "pose_dim": 8,
    "train_size": 2000,
    "epochs": 1,
    "learning_rate": 3e-3,
}
_QUICK_SHARE = 5  # of so many kept capsules quick networks keep one
_TRAINING_DIGITS = 60_000  # of MNIST
_ZERO = 0  # the digit of figures 1 and 4
# Ablations shown beside the networks of Table 2: CapsNet and the ladder at full size by half the schedule, the CNN's,
# and with other training digits; the longest trained narrow networks that differ in nothing but the layers; and the one
# that keeps capsules of the most types.
_SHOWN_ABLATIONS = {
    "capsnet_full_size": "CapsNet, 5 epochs",
    "full_size": "L-CapsNet 9x9, 5 epochs",
    "full_size_shift10": "L-CapsNet 9x9, 5 epochs, 10 pixels",
    "longer": "narrow L-CapsNet",
    "capsnet_longer": "narrow CapsNet",
    "code_loss": "narrow L-CapsNet, released code loss",
}
_KEPT_DIGITS = 1000
_POSED_DIGITS = 300
# Amounts that one digit is transformed by, far beyond affNIST's.
_SWEEPS = {
    robustness.ROTATION: np.linspace(-90, 90, 41),
    robustness.SHEAR: np.linspace(-0.8, 0.8, 41),
    robustness.SCALE: np.linspace(0.5, 1.5, 41),
    robustness.SHIFT: np.arange(-20.0, 21),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of the paper's Table 2.

    Attributes:
      row, column: as printed.
      flagfile: in ``configs/``, without its ending.
      paper: test error, percent; None where the paper has no such cell.
      seeds: to train.
      quick: whether ``--quick`` trains it too; not where it differs from others in K, width or data alone.
    """

    row: str
    column: str
    flagfile: str
    paper: float | None
    seeds: int = 1
    quick: bool = True

    @property
    def test_set(self) -> str:
        """Whose error the cell shows."""
        return data.AFFNIST if self.column == "affNIST" else "mnist"


# In the order of training.
CELLS = (
    Cell("L-CapsNet 15x15, K=70", "affNIST", "affnist_15x15_k70", 12.2, seeds=2),
    Cell("L-CapsNet 9x9, K=70", "MNIST", "mnist_9x9_k70", 0.50, seeds=2),
    Cell("CapsNet, r=3", "affNIST", "affnist_capsnet", 21.0),
    Cell("CapsNet, r=3, stopped at 0.77 %", "affNIST", "affnist_capsnet_stopped", 21.0, quick=False),
    Cell("CapsNet, r=3", "MNIST", "mnist_capsnet", 0.25),
    Cell("L-CapsNet 9x9, K=50", "MNIST", "mnist_9x9_k50", 0.74, seeds=2),
    Cell("L-CapsNet 9x9, K=100", "MNIST", "mnist_9x9_k100", 0.80),
    Cell("L-CapsNet 9x9, K=70", "affNIST", "affnist_9x9_k70", 12.5),
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the experiments are run.

    Attributes:
      workdir: of all of them; each run has a folder of its own in it.
      quick: with small networks.
      data_dir: of prepared TFDS sets.
      train: what has not been; False leaves it out.
    """

    workdir: pathlib.Path
    quick: bool
    data_dir: str | None
    train: bool = True

    def settings(self, cell: Cell, seed: int) -> Config:
        """Of a run."""
        return self.settings_of(cell.flagfile, seed)

    def settings_of(self, flagfile: str, seed: int) -> Config:
        """Of a flagfile in ``configs/``, named without its ending."""
        config = configs.from_flagfile(_ROOT / "configs" / f"{flagfile}.flags")
        config = dataclasses.replace(config, seed=seed, data_dir=self.data_dir or config.data_dir)
        return dataclasses.replace(config, k=config.k // _QUICK_SHARE, **_QUICK) if self.quick else config

    def folder(self, cell: Cell, seed: int) -> pathlib.Path:
        """Of a run."""
        return self.workdir / (cell.flagfile + (f"_seed{seed}" if seed else ""))

    def cells(self) -> list[Cell]:
        """Of Table 2, in the order of training."""
        return [cell for cell in CELLS if cell.quick or not self.quick]

    def finish(self, config: Config, folder: pathlib.Path) -> bool:
        """Trains a run to its end where that is wanted and not done yet: whether it is done.

        One that diverges does so again however often it is started, and is left out for the others' sake.
        """
        if self.train and not runs.is_finished(config, folder, archived=True):
            try:
                runs.train(config, folder)
            except training.DivergenceError as error:
                print(f"{folder}: {error} Its cell stays empty.", flush=True)
        return runs.is_finished(config, folder, archived=True)

    def seeds(self, cell: Cell) -> range:
        """Of a cell's runs."""
        return range(1 if self.quick else cell.seeds)

    def run(self, cell: Cell) -> list[pathlib.Path]:
        """The folders of a cell's finished runs, trained now where that is wanted."""
        return [
            self.folder(cell, seed)
            for seed in self.seeds(cell)
            if self.finish(self.settings(cell, seed), self.folder(cell, seed))
        ]

    def unfinished(self, cells: Sequence[Cell]) -> list[tuple[Cell, int]]:
        """Cells and seeds that are still to be trained."""
        pairs = [(cell, seed) for cell in cells for seed in self.seeds(cell)]
        return [
            (cell, seed)
            for cell, seed in pairs
            if not runs.is_finished(self.settings(cell, seed), self.folder(cell, seed), archived=True)
        ]


def cell_of(flagfile: str) -> Cell:
    """The cell that a flagfile belongs to."""
    return next(cell for cell in CELLS if cell.flagfile == flagfile)


def seconds_left(plan: Plan, cells: Sequence[Cell]) -> float:
    """How long the training of cells will take on this machine: from their logs, or from a few steps of each."""
    total = 0.0
    for cell, seed in plan.unfinished(cells):
        config = plan.settings(cell, seed)
        folder = plan.folder(cell, seed)
        logged = metrics.read_metrics(folder) if folder.is_dir() else []
        steps = [line for line in logged if line["split"] == "train"]
        done = steps[-1]["step"] if steps else 0
        per_step = float(np.median([line["seconds_per_step"] for line in steps])) if steps else _seconds_a_step(config)
        images = config.train_size or _TRAINING_DIGITS - config.validation_size
        total += per_step * (config.epochs * training.steps_per_epoch(config, images) - done)
    return total


def _image_size(config: Config) -> int:
    """Of the cells' sets, without loading them."""
    return data.EXPANDED_SIZE if config.dataset == data.EXPANDED_MNIST else 28


@functools.cache  # for what is left is said again before each run
def _seconds_a_step(config: Config) -> float:
    """Of a few steps on black images, compilation left out."""
    parallel.check_batch_size(config.batch_size)
    size = _image_size(config)
    config = config.resolved(size, 0)
    model, optimizer = training.make_model(config, 10), training.make_optimizer(config)
    black = np.zeros((config.batch_size, size, size, 1), np.uint8)
    train_data = training.TrainData(black, np.zeros(len(black), np.int32), jax.random.key(0))
    state = training.compute_once(lambda: training.init_state(model, optimizer, config, 1))
    state, train_data = parallel.replicate((state, train_data))
    steps = training.make_train_steps(model, optimizer, config.max_shift)
    batches = training.make_batches(np.broadcast_to(np.arange(len(black), dtype=np.int32), (3, len(black))))
    for _ in range(2):
        began = time.monotonic()
        state, losses = steps(state, train_data, batches)
        jax.block_until_ready(losses)
    return (time.monotonic() - began) / 3


def table2(plan: Plan) -> None:
    """Trains every cell of Table 2 and prints errors beside the paper's."""
    rows = []
    cells = plan.cells()
    for place, cell in enumerate(cells):
        if plan.train:
            _say_what_is_left(plan, cells[place:])
        rows.append(table2_row(plan.settings(cell, seed=0), cell, plan.run(cell)))
    _write_table(plan, "table2", rows)


def _say_what_is_left(plan: Plan, cells: Sequence[Cell]) -> None:
    """Runs and hours; of a quick plan the runs alone, for to measure each would take as long as to train it."""
    if left := plan.unfinished(cells):
        hours = "" if plan.quick else f", about {seconds_left(plan, cells) / 3600:.1f} hours"
        print(f"{len(left)} run{'s' if len(left) > 1 else ''} to train{hours}.", flush=True)


def table2_row(config: Config, cell: Cell, folders: Sequence[pathlib.Path]) -> dict:
    """A line of Table 2 from the finished runs of a cell, with these settings: errors of the last epoch.

    Each seed has its own interval: all are tested on the same images, so that pooled they would promise too much.
    """
    row = {
        "network": cell.row,
        "test set": cell.column,
        "parameters": _parameters(config),
        "error, %": "",
        "95 % interval": "",
        "paper, %": "" if cell.paper is None else f"{cell.paper:g}",
        "seeds": len(folders),
        "epochs": str(config.epochs),
        "minutes": "",
    }
    if not folders:
        return row
    results = [runs.read_results(folder)[cell.test_set] for folder in folders]
    epochs = dict.fromkeys(_epochs(folder, result) for folder, result in zip(folders, results, strict=True))
    logs = [metrics.read_metrics(folder) for folder in folders]
    if cell.test_set == data.AFFNIST:
        tested = dict.fromkeys(f"{result['images']}, {result['variants']} each" for result in results)
        row["test set"] = f"affNIST ({' and '.join(tested)})"
    return row | {
        "error, %": " and ".join(f"{result['error']:.2f}" for result in results),
        "epochs": " and ".join(epochs),
        "95 % interval": " and ".join(_interval(result) for result in results),
        "minutes": " and ".join(f"{_minutes(log):.0f}" for log in logs),
    }


def _epochs(folder: pathlib.Path, result: Mapping) -> str:
    """Trained before a result: with ``--stop_at_error`` fewer than were allowed."""
    config, about = configs.read_config(folder)
    return f"{result['step'] / training.steps_per_epoch(config, about['train_images']):g}"


def _interval(result: Mapping) -> str:
    return "{:.2f} to {:.2f}".format(*result["ci95"])


def _minutes(log: Sequence[dict]) -> float:
    """Of training, by the median step: what a run waited for other programs, or lay stopped, is left out."""
    steps = [line for line in log if line["split"] == "train"]
    return float(np.median([line["seconds_per_step"] for line in steps])) * steps[-1]["step"] / 60


def table3(plan: Plan) -> None:
    """Times a training step of L-CapsNet and CapsNet in one process: Table 3. ``step_time.json`` has the raw times."""
    from benchmarks import step_time, timing  # of the repository, and no part of the package

    output = plan.workdir / "step_time.json"
    if plan.train:
        timing.write(output, step_time.measure(list(step_time.TABLE3), iterations=10 if plan.quick else 100))
    elif not output.exists():
        print("table3: not timed yet.", flush=True)
        return
    cases = json.loads(output.read_text())["cases"]
    rows = [
        {
            "network": name,
            "ms an iteration (s.e.)": f"{1e3 * case['mean']:.0f} ({1e3 * case['standard_error_over_calls']:.0f})",
            "paper, ms": f"{1e3 * case['paper_seconds']:.0f}",
        }
        for name, case in cases.items()
    ]
    _write_table(plan, "table3", rows)


def figure1(plan: Plan) -> None:
    """Mean length and mean coupling coefficient of CapsNet's most active capsules over all training zeros."""
    for means in _zeros_through(plan, "figure1", ["mnist_capsnet"]).values():
        activity, coupling = np.array(means["activity"]), np.array(means["coupling"])
        _save(plan, "figure1", figures.lengths_and_couplings(activity, coupling))
        _write_table(plan, "figure1", _couplings_by_rank(activity, coupling))


def _couplings_by_rank(activity: np.ndarray, coupling: np.ndarray) -> list[dict]:
    """The figure in numbers, and of the capsules that it does not show."""
    ranked = np.argsort(-activity, kind="stable")
    edges = [*(edge for edge in (0, 50, 100, 300, 600) if edge < len(ranked)), len(ranked)]
    return [
        {
            "capsules, by mean length": f"{low + 1} to {high}",
            "mean length": f"{activity[ranked[low:high]].mean():.2f}",
            "median coupling": f"{np.median(coupling[ranked[low:high]]):.3f}",
            "largest coupling": f"{coupling[ranked[low:high]].max():.3f}",
        }
        for low, high in itertools.pairwise(edges)
    ]


def figure4(plan: Plan) -> None:
    """Mean activity of the most active capsules for K = 50, 70 and 100 over all training zeros."""
    if means := _zeros_through(plan, "figure4", [f"mnist_9x9_k{k}" for k in (50, 70, 100)]):
        activities = {
            plan.settings(cell_of(name), seed=0).k: np.array(of_one["activity"]) for name, of_one in means.items()
        }
        _save(plan, "figure4", figures.activity_levels(activities))


def _finished(plan: Plan, experiment: str, flagfiles: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """Folders of the finished runs of cells, the first of each trained now where that is wanted.

    Says which cells have none.
    """
    found = {}
    for name in flagfiles:
        cell = cell_of(name)
        plan.run(dataclasses.replace(cell, seeds=1))
        found[name] = dataclasses.replace(plan, train=False).run(cell)
    if missing := [name for name, folders in found.items() if not folders]:
        print(f"{experiment}: without {', '.join(missing)}, not trained yet.", flush=True)
    return {name: folders for name, folders in found.items() if folders}


def _zeros_through(plan: Plan, experiment: str, flagfiles: Sequence[str]) -> dict[str, dict]:
    """``primary_means`` over all training zeros, of the cells that have been trained."""

    def measure(run):
        activity, coupling = primary_means(run, _zeros(plan), _ZERO)
        return {"activity": measurements.rounded(activity), "coupling": measurements.rounded(coupling)}

    zeros = Measurement("zeros", {"dataset": "mnist", "digit": _ZERO}, measure)
    found = measurements.collect(experiment, _finished(plan, experiment, flagfiles), zeros)
    return {name: means for name, (means,) in found.items()}


def _zeros(plan: Plan) -> np.ndarray:
    """All zeros of MNIST's training part: 5,923, for TFDS does not keep the order that the paper's 5,444 are of."""
    train = data.load("mnist", plan.data_dir).train
    return train.images[train.labels == _ZERO]


def primary_means(run: runs.Run, images: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean activity of each primary capsule, ``[n]``, and its mean coupling to a class, None without routing."""

    @jax.jit
    def sums(params, images, weight):
        output = run.model.apply({"params": params}, data.to_unit_range(images))
        coupling = None if output.coupling is None else output.coupling[..., label]
        return training.weighted_sum(weight, output.primary_activity), training.weighted_sum(weight, coupling)

    params = jax.device_put(run.params)
    total, size = None, 100
    for start in range(0, len(images), size):
        part = images[start : start + size]
        weight = (np.arange(size) < len(part)).astype(np.float32)
        new = jax.tree.map(lambda x: np.asarray(x, np.float64), sums(params, data.pad_batch(part, size), weight))
        total = new if total is None else jax.tree.map(np.add, total, new)
    return jax.tree.map(lambda x: x / len(images), total)


def kept(plan: Plan) -> None:
    """Which capsules ladder networks keep over test digits: the same of all digits, or other ones of each."""
    names = ["mnist_9x9_k50", "mnist_9x9_k70", "mnist_9x9_k100", "affnist_15x15_k70", "affnist_9x9_k70"]
    rows_of = {name: cell_of(name).row for name in names}  # two of them share one, and differ in the data
    networks = _finished(plan, "kept", names)
    networks |= _finished_ablations(plan, ["full_size", "longer", "code_loss"])

    def measure(run):
        split = data.load_test(run.config.dataset, plan.data_dir, run.config.image_size).take(np.arange(_KEPT_DIGITS))
        apply = jax.jit(lambda params, images: run.model.apply({"params": params}, data.to_unit_range(images)).index)
        params, parts = jax.device_put(run.params), np.split(split.images, _KEPT_DIGITS // 100)
        index = np.concatenate([apply(params, part) for part in parts])
        return {"dataset": run.config.dataset} | selection(index, split.labels, runs.geometry_of(run.config))

    found = measurements.collect("kept", networks, Measurement("kept", {"digits": _KEPT_DIGITS}, measure))
    rows = [
        {
            "network": rows_of.get(name, name),
            "test digits of": of_one["dataset"],
            "kept of each digit": f"{of_one['k']} of {of_one['capsules']}",
            "kept of any": of_one["ever"],
            "their types": f"{of_one['types_ever']} of {of_one['types']}",
            "in common, two digits, %": f"{100 * of_one['in_common']:.0f}",
            "of one class, %": f"{100 * of_one['in_common_of_class']:.0f}",
            "by chance, %": f"{100 * of_one['k'] / of_one['ever']:.0f}",
        }
        for name, (of_one,) in found.items()
    ]
    if rows:
        _write_table(plan, "kept", rows)


def selection(index: np.ndarray, labels: np.ndarray, sizes: models.Geometry) -> dict[str, float]:
    """How alike the selections of images are.

    Args:
      index: ``[N, K]`` of the kept capsules of each.
      labels: ``[N]``; of some class at least two.
      sizes: the grid of capsules.

    Returns:
      Counts: ``k``, ``capsules``, ``types``; ``ever``, capsules that any image keeps, and ``types_ever`` of them. Mean
      shares of the K that two images have in common: ``in_common`` of any two, ``in_common_of_class`` of one class.
      Selections at random among those that are ever kept would have ``k / ever``.
    """
    count, k = index.shape
    is_kept = np.zeros((count, sizes.capsules), bool)
    np.put_along_axis(is_kept, index, True, axis=1)
    types = sizes.capsules // sizes.grid**2
    ever = np.flatnonzero(is_kept.any(axis=0))

    def in_common(groups):
        """Over ordered pairs of different images, by how many of a group keep a capsule."""
        pairs = sum(len(group) * (len(group) - 1) for group in groups)
        times = [group.sum(axis=0, dtype=int) for group in groups]
        return float(sum(np.sum(of_each * (of_each - 1)) for of_each in times) / (pairs * k))

    return {
        "k": k,
        "capsules": sizes.capsules,
        "types": types,
        "ever": len(ever),
        "types_ever": len(np.unique(ever % types)),
        "in_common": in_common([is_kept]),
        "in_common_of_class": in_common([is_kept[labels == label] for label in np.unique(labels)]),
    }


def errors_by_transformation(plan: Plan) -> None:
    """What becomes of digits as they are transformed, by the networks trained on expanded MNIST.

    Where the errors on affNIST lie, one digit's activity and pose, and what the poses of many do.
    """
    folders = _finished(
        plan, "robustness", ["affnist_15x15_k70", "affnist_9x9_k70", "affnist_capsnet", "affnist_cnn32"]
    )
    networks = {cell_of(name).row: seeds for name, seeds in folders.items()}
    shown = ["capsnet_full_size", "full_size", "full_size_shift10", "longer", "capsnet_longer"]
    networks |= _finished_ablations(plan, shown)
    if not networks:
        return
    split = cast(data.Affnist, data.load_test(data.AFFNIST, plan.data_dir, affnist.CANVAS))
    wanted = (_predictions(split), _one_digit(split.digits), _poses(split.digits))
    if not (found := measurements.collect("robustness", networks, *wanted)):
        return
    predicted = {name: np.array(list(predictions["predicted"]), int) for name, (predictions, _, _) in found.items()}
    _errors_by(plan, split, {name: of_one != split.labels for name, of_one in predicted.items()})
    results = {name: transformed for name, (_, transformed, _) in found.items()}
    _save(plan, "transformed", figures.activity_under(int(split.digits.labels[0]), _SWEEPS, results))
    if rows := _pose_rows({name: poses for name, (_, _, poses) in found.items()}):
        _write_table(plan, "poses", rows)


def _finished_ablations(plan: Plan, names: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """The ablations that are finished, by the names they are shown by; figures of others do not have them trained."""
    settings = ablated(plan)
    folders = {name: plan.workdir / f"ablation_{name}" for name in names}
    return {
        _SHOWN_ABLATIONS[name]: [folders[name]]
        for name in names
        if runs.is_finished(settings[name], folders[name], archived=True)
    }


def _predictions(split: data.Affnist) -> Measurement:
    """The predicted digits, in the order of the set."""

    def measure(run):
        steps = training.make_eval_steps(run.model)
        result = training.evaluate(steps, run.params, training.on_devices(split), parallel.round_up(100))
        return {"predicted": "".join(str(label) for label in result.predicted)}

    return Measurement("affnist", {"images": len(split)}, measure)


def _errors_by(plan: Plan, split: data.Affnist, wrong: Mapping[str, np.ndarray]) -> None:
    """Draws and prints error by rotation, shear, scale and shift; ``wrong`` is ``[N]`` bool, by network."""
    done = split.transformations()
    continuous: dict[str, np.ndarray] = {
        "rotation (degrees)": np.rad2deg(done.rotation),
        "shear": np.asarray(done.shear),
        "vertical scale": np.asarray(done.scale[:, 0]),
        "horizontal scale": np.asarray(done.scale[:, 1]),
    }
    quantities = {name: (values, figures.equal_ranges(values)) for name, values in continuous.items()}
    farthest = np.abs(done.shift).max(axis=1)
    # Up to the shifts of training, then by two pixels, then all of the few that are left.
    edges = [0, *range(data.EXPANDED_SHIFT + 1, 2 * data.EXPANDED_SHIFT + 2, 2)]
    edges.append(max(*edges, farthest.max()) + 1)
    quantities["shift from the middle (pixels)"] = farthest, np.array(edges)
    _save(plan, "robustness", figures.errors_by(quantities, wrong))
    rows = [
        {"quantity": quantity, "from": f"{low:.2f}", "below": f"{high:.2f}", "images": count, **errors}
        for quantity, (values, edges) in quantities.items()
        for low, high, count, errors in figures.binned_errors(values, edges, wrong)
    ]
    _write_table(plan, "robustness", rows)


def _one_digit(digits: data.Split) -> Measurement:
    """Activity and pose of the first digit's class as the digit is rotated, sheared, scaled and moved."""
    label = int(digits.labels[0])

    def measure(run):
        apply = jax.jit(lambda params, images: run.model.apply({"params": params}, images))
        measured = {}
        for sweep, amounts in _SWEEPS.items():
            digit = np.broadcast_to(digits.images[:1, :, :, 0], (len(amounts), *digits.images.shape[1:3]))
            moved = affnist.warp(digit / np.float32(255), robustness.transformation(sweep, amounts))
            output = apply(run.params, moved[..., None])
            pose = None if output.pose is None else output.pose[:, label]
            activity = measurements.rounded(output.activity[:, label])
            measured[sweep] = {"activity": activity, "pose": measurements.rounded(pose)}
        return measured

    amounts = {sweep: measurements.rounded(amounts) for sweep, amounts in _SWEEPS.items()}
    return Measurement("transformed_digit", {"label": label, "amounts": amounts}, measure)


def _poses(digits: data.Split) -> Measurement:
    """Whether class poses answer to moderate transformations of the first digits, and how; of no CNN."""
    digits = digits.take(np.arange(min(_POSED_DIGITS, len(digits))))

    def measure(run):
        if run.config.model == configs.CNN:
            return {}
        on_canvas = dataclasses.replace(digits, images=data.fit_size(digits.images, affnist.CANVAS))
        return {
            kind: dataclasses.asdict(robustness.pose_change(robustness.MODERATE[kind], poses, digits.labels))
            for kind, poses in robustness.poses(run, on_canvas).items()
        }

    amounts = {kind: measurements.rounded(amounts) for kind, amounts in robustness.MODERATE.items()}
    return Measurement("poses", {"digits": len(digits), "amounts": amounts, "line": "of the others"}, measure)


def _pose_rows(poses: Mapping[str, Mapping]) -> list[dict]:
    """The table of pose changes, by network."""
    return [
        {
            "network": name,
            "transformation": kind,
            "pose turned, degrees": f"{of_one[kind]['turned']:.0f}",
            "straight, %": f"{100 * of_one[kind]['straight']:.0f}",
            "by the class's line, %": f"{100 * of_one[kind]['shared']:.0f}",
        }
        for name, of_one in poses.items()
        for kind in robustness.KINDS
        if kind in of_one
    ]


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What is left out or changed of a network trained on expanded MNIST.

    Attributes:
      row: as printed.
      changed: settings; ``{"k": None}`` keeps every capsule.
      quick: whether ``--quick`` trains it too; not the released graph's choices one at a time.
      base: the flagfile of the network that is changed.
    """

    row: str
    changed: dict[str, Any]
    quick: bool = True
    base: str = "ablation"


def _one_choice(row: str, choice: str) -> Ablation:
    return Ablation(f"of the released graph {row}", {"variant": f"{models.PAPER}+{choice}"}, quick=False)


_ROUTING = {"model": configs.CAPSNET, "decoder": False}
_TWICE = {"epochs": 12, "decay_steps": 1000}  # as many halvings of the learning rate as in six epochs
_FULL_SIZE: dict[str, Any] = {"quick": False, "base": "affnist_9x9_k70"}
_HALF = {"epochs": 5, "decay_steps": 600}  # of the schedule of Table 2; the narrow CNN's
# By the names of their runs' folders. affNIST's digits lie up to 19 pixels from the middle, expanded MNIST's up to 6.
ABLATIONS = {
    "whole": Ablation("the whole network", {}),
    "shift10": Ablation("training digits up to 10 pixels from the middle, not 6", {"max_shift": 10}),
    "capsnet": Ablation("routing (r=3, no decoder) for pruning and ladder", _ROUTING),
    "capsnet_shift10": Ablation("routing, and training digits up to 10 pixels", _ROUTING | {"max_shift": 10}),
    "no_ladder": Ablation("no ladder: activity is the length of the pose", {"activity": models.LENGTH}),
    "no_pruning": Ablation("no pruning: K = n", {"k": None}),
    "two_types": Ablation("two types of capsules, not 16", {"capsule_types": 2}, quick=False),
    "capsnet_two_types": Ablation("routing, and two types of capsules", _ROUTING | {"capsule_types": 2}, quick=False),
    "random": Ablation("random capsules kept", {"selection": models.RANDOM}),
    "placed_once": Ablation("training digits placed once, not anew", {"placement": configs.FIXED}),
    "released": Ablation("the released graph's choices, but shuffled", {"variant": models.RELEASED, "shuffle": True}),
    "rectified": _one_choice("the ReLU before the squash", models.RECTIFIED),
    "widths": _one_choice("the widths of the class networks", models.WIDTHS),
    "biases": _one_choice("the class networks' initial biases", models.BIASES),
    "unit": _one_choice("the regression from the direction of the pose", models.UNIT),
    "distance": _one_choice("the distance, not squared", models.DISTANCE),
    "loss": _one_choice("the loss, and 1 - error as activity", models.LOSS),
    "code_loss": _one_choice("the code loss", models.CODE_LOSS),
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
}


def ablated(plan: Plan) -> dict[str, Config]:
    """The settings of each ablation of a network on expanded MNIST, by its name."""
    settings = {}
    for name, ablation in ABLATIONS.items():
        base = plan.settings_of(ablation.base, seed=0)
        every = runs.geometry_of(base, data.EXPANDED_SIZE).capsules
        filled: dict[str, Any] = {key: every if value is None else value for key, value in ablation.changed.items()}
        settings[name] = dataclasses.replace(base, **filled)
    return settings


def ablations(plan: Plan) -> None:
    """Trains networks, most of them narrow, with one thing changed at a time; their errors on affNIST."""
    rows = []
    for name, config in ablated(plan).items():
        if plan.quick and not ABLATIONS[name].quick:
            continue
        folder = plan.workdir / f"ablation_{name}"
        results = runs.read_results(folder) if plan.finish(config, folder) else {}
        rows.append({"network": ABLATIONS[name].row, "parameters": _parameters(config), "epochs": config.epochs})
        for test in (data.EXPANDED_MNIST, data.AFFNIST):
            column = f"{test}, % (95 % interval)"
            rows[-1][column] = f"{results[test]['error']:.2f} ({_interval(results[test])})" if results else ""
    _write_table(plan, "ablations", rows)


def _parameters(config: Config) -> str:
    """Of a network of 10 classes, in millions."""
    model = training.make_model(config, 10)
    config = dataclasses.replace(config, image_size=config.image_size or _image_size(config))
    shapes = jax.eval_shape(lambda: training.init_params(model, config, 1))
    return f"{sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6:.1f} M"


def _save(plan: Plan, name: str, figure) -> None:
    plan.workdir.mkdir(parents=True, exist_ok=True)
    figures.save(figure, plan.workdir, name)
    print(f"{plan.workdir / figures.FOLDER / name}.png", flush=True)


def _write_table(plan: Plan, name: str, rows: Sequence[dict]) -> None:
    """Prints a table and writes it as Markdown and JSON."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    plan.workdir.mkdir(parents=True, exist_ok=True)
    (plan.workdir / f"{name}.md").write_text(text + "\n")
    configs.write_json(plan.workdir / f"{name}.json", list(rows))
    print(text, flush=True)


_EXPERIMENTS = {
    "table2": table2,
    "table3": table3,
    "figure1": figure1,
    "figure4": figure4,
    "kept": kept,
    "robustness": errors_by_transformation,
    "ablations": ablations,
}


def run(names: Sequence[str], plan: Plan) -> None:
    """Runs the named experiments.

    Raises:
      config.ConfigError: for a name that is none of theirs.
    """
    unknown = [name for name in names if name not in (*_EXPERIMENTS, "all")]
    if unknown or not names:
        raise configs.ConfigError(
            f"Name one or more of {', '.join(_EXPERIMENTS)}, all" + (f"; got {', '.join(unknown)}." if unknown else ".")
        )
    for name in _EXPERIMENTS if "all" in names else names:
        _EXPERIMENTS[name](plan)


def main() -> None:
    """The command line."""
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder of the experiments and their runs. Default: runs/paper or, for --quick, runs/quick."
    )
    quick = flags.DEFINE_boolean("quick", False, "Small networks, an epoch each: minutes, and figures that say little.")
    train = flags.DEFINE_boolean("train", True, "Train what has not been; --notrain shows what there is.")
    data_dir = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets; default: their own.")

    def parsed(argv):
        folder = workdir.value or ("runs/quick" if quick.value else "runs/paper")
        run(argv[1:], Plan(pathlib.Path(folder), quick.value, data_dir.value, train.value))

    cli.run(parsed, positional=True)


if __name__ == "__main__":
    main()
