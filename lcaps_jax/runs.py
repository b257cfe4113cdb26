"""A run: its trained network, which can be called, and its folder."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import operator
import pathlib
import subprocess
from typing import cast

import jax
import numpy as np

from lcaps_jax import data, networks, parallel
from lcaps_jax.config import CONFIG_FILE, Config, ConfigError, read_config
from lcaps_jax.data import DataError, Ground, Source, Split, TestSet, check_split, folder
from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.data.ground import brightness
from lcaps_jax.data.resize import to_channels
from lcaps_jax.data.splits import listed, normal_form
from lcaps_jax.errors import arg, renamed
from lcaps_jax.files import PARTIAL, write_json
from lcaps_jax.frames import Frame
from lcaps_jax.locks import LockedError, locked
from lcaps_jax.networks import Geometry, Network, NetworkOutput
from lcaps_jax.runtime import say
from lcaps_jax.training import (
    BEST,
    LAST,
    VALIDATION,
    Checkpoints,
    Evaluation,
    init_state,
    make_optimizer,
    out_of_patience,
    plan_of,
    read_metrics,
)

RESULTS_FILE = "results.json"
MEASURED = "experiments"  # folder of what the experiments have measured of a run
_LOCK_FILE = ".lock"
_RESULTS_LOCK = ".results.lock"
_RESULTS_SECONDS = 60.0  # to wait for another process that writes results, which takes it no second
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "chex", "numpy")
# The most images that a run computes at a time.
_BATCH = 64
# Keys of what config.json keeps of the training data.
_TRAINING_DATA, _GROUND = "training_data", "ground"
_LOOKED_AT = 1000  # images of a test set, of which the ground is compared


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network. Called with images, it gives the network's output.

    Attributes:
      network: Flax module.
      params: Parameters of the network.
      config: Settings that the network was trained with.
      class_names: Names of the J classes.
      channels: Channels of the images, C.
      step: Number of training steps done.
      checkpoint: ``"last"`` or ``"best"``.
      results: Results by test set, as in ``results.json``.
      ground: Brightness of the training images and their borders; None where the run has kept none.
    """

    network: Network
    params: dict
    config: Config
    class_names: tuple[str, ...]
    channels: int
    step: int
    checkpoint: str = LAST
    results: Mapping[str, dict] = dataclasses.field(default_factory=dict)
    ground: Ground | None = None

    def __call__(self, images: np.ndarray) -> NetworkOutput:
        """Computes the network's output for images.

        Args:
          images: ``[N, I, I, C]`` of the network's size, uint8 or float in [0, 1]; N is at least 1.

        Returns:
          Output of NumPy arrays, ``[N, ...]``.

        Raises:
          data.DataError: The images have another shape, type or range.
        """
        return jax.tree.map(lambda *parts: np.concatenate(parts), *self.batches(images))

    def batches(self, images: np.ndarray) -> Iterator[NetworkOutput]:
        """Computes outputs part by part, in order, so that the outputs of many images need not fit in memory.

        Args:
          images: Images, as for a call of the run.

        Raises:
          data.DataError: The images have another shape, type or range.
        """
        images = self._checked(images)
        # Sizes are powers of two, so that calls with many different numbers of images compile few programs.
        size = min(_BATCH, 2 ** math.ceil(math.log2(len(images))))
        for start in range(0, len(images), size):
            part = images[start : start + size]
            black = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            output = jax.device_get(_apply(self.network, self._on_device, np.concatenate([part, black])))
            yield cast(NetworkOutput, jax.tree.map(operator.itemgetter(slice(len(part))), output))

    def searching(self, angles: Sequence[float]) -> "Run":
        """The same run, which turns each image by each of some angles, in degrees, and weighs its classes over all.

        Raises:
          ArgumentError: The network has no frame to turn the image in, or an angle is no number from -180 to 180.
        """
        return dataclasses.replace(self, network=self.network.searching(angles))

    @property
    def geometry(self) -> Geometry | None:
        """Grid of the network's primary capsules; None without capsules."""
        return self.network.geometry(self.config.image_size)

    @functools.cached_property
    def _on_device(self) -> dict:
        return jax.device_put(self.params)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        size = self.config.image_size
        taken = images.shape[1:3] if self.config.framed else (size, size)
        if images.ndim != 4 or images.shape[1:] != (*taken, self.channels) or not images.size:
            wanted = "any height, any width" if self.config.framed else f"{size}, {size}"
            raise DataError(
                f"{arg('images')} have the shape {images.shape}: this network takes [N, {wanted}, {self.channels}] "
                "with N of at least 1."
            )
        if images.dtype == np.uint8:
            return images
        if not np.issubdtype(images.dtype, np.floating) or not 0 <= images.min() <= images.max() <= 1:
            raise DataError(
                f"{arg('images')} are {images.dtype} from {images.min():g} to {images.max():g}: they must be bytes "
                "(uint8), 0 to 255, or floats from 0 to 1."
            )
        return images.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network says of N images.

    Attributes:
      labels: Name of the most active class of each image, N of them.
      activity: Activity of each class, ``[N, J]``, in the order of the run's class names.
      pose: Class capsules, ``[N, J, D]``; None where the network has none.
      frame: Frame in which each image was seen, in its pixels; None where the network has none.
      angle: Angle in degrees that a search has chosen, ``[N]``; None without one.
    """

    labels: tuple[str, ...]
    activity: np.ndarray
    pose: np.ndarray | None
    frame: Frame | None = None
    angle: np.ndarray | None = None


def predict(run: Run, images: np.ndarray) -> Predictions:
    """Classifies images. For all else that a network computes of them, call the run itself.

    Args:
      run: Trained network.
      images: ``[N, I, I, C]`` of the network's size, or ``[N, I, I]`` where they are grey, uint8 or float in [0, 1].
        They are computed batch by batch, so N may be large; it may be 0.

    Raises:
      data.DataError: The images have another shape, type or range.
    """
    try:
        images = np.asarray(images)
    except ValueError as error:  # NumPy's, of a list of images that differ in size
        raise DataError(f"{arg('images')} are not one array of images of one size ({error}).") from None
    if images.ndim == 3 and run.channels == 1:
        images = images[..., None]
    count = images.shape[0] if images.ndim else 0
    if images.ndim == 4 and not count:  # one image stands in, so that the results get their shapes
        images = np.zeros((1, *images.shape[1:]), images.dtype)
    kept = [(output.activity, output.pose, output.frame, output.angle) for output in run.batches(images)]
    activity, pose, frame, angle = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *kept)
    labels = tuple(run.class_names[label] for label in activity.argmax(axis=1))
    return Predictions(labels, activity, pose, frame, angle)


# All runs share this function, so that runs of the same network compile it once.
@functools.partial(jax.jit, static_argnums=0)
def _apply(network: Network, params: dict, images: np.ndarray) -> NetworkOutput:
    return cast(NetworkOutput, network.apply({"params": params}, to_unit_range(images)))


def load_run(workdir: str | pathlib.Path, checkpoint: str | None = None) -> Run:
    """Loads the network of a run.

    Args:
      workdir: Folder of the run.
      checkpoint: ``"last"``, or ``"best"`` by validation error; None for the best one of a run that was to stop by
        its validation error (``patience``), and for the last one of every other.

    Raises:
      ConfigError: The folder holds no run, or no such checkpoint.
      CheckpointError: The checkpoint is damaged.
    """
    workdir = pathlib.Path(workdir)
    config, about = read_config(workdir)
    checkpoint = checkpoint or (BEST if config.patience else LAST)
    network = networks.from_config(config, len(about["class_names"]))
    optimizer = make_optimizer(config)
    target = jax.eval_shape(lambda: init_state(network, optimizer, config, about["channels"]))
    target = parallel.like_replicated(target.params if checkpoint == BEST else target)
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        restored = checkpoints.restore(target, checkpoint)
    if restored is None:
        hint = (
            f" One is kept where {arg('validation_size')} was above 0, or a folder had a validation part."
            if checkpoint == BEST
            else ""
        )
        raise ConfigError(f"{workdir} has no {checkpoint} checkpoint yet.{hint}")
    tree, step = restored
    params = tree if checkpoint == BEST else tree.params
    names = tuple(about["class_names"])
    ground = data.ground_of(config.dataset, about.get(_GROUND))
    return Run(network, params, config, names, about["channels"], step, checkpoint, read_results(workdir), ground)


def list_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of runs in a folder and in its folders, by name."""
    return sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{CONFIG_FILE}"))


def load_test(name: str, config: Config, class_names: Sequence[str], channels: int, *, invert: bool = False) -> TestSet:
    """The test part of a set, at the size of the run's images; a network with a frame sees other sets at their own.

    Coloured images become grey for a network that was trained on grey ones, and the other way round, which is said.
    With ``invert`` black and white change places.

    Raises:
      data.DataError: The set cannot be loaded, or its labels or channels are not the network's.
    """
    any_size = config.framed and name not in (config.dataset, folder.NAME)
    size = None if any_size else config.image_size
    with renamed(name="eval_datasets"):
        split = data.load_test(
            name,
            config.data_dir,
            size,
            config.affnist_variants,
            class_names,
            keep_going=config.keep_going,
            invert=invert,
        )
    check_split(split, len(class_names), f"{name}, for a network of {len(class_names)} classes,")
    if split.channels == channels:
        return split
    if not isinstance(split, Split):
        raise DataError(f"{name} has images of {split.channels} channel(s); the network's have {channels}.")
    of, made = ("in colour", "grey") if channels == 1 else ("grey", "coloured")
    say(f"{name}: its images are {of}, and are made {made}, as the network's are.")
    return Split(to_channels(split.images, channels), split.labels)


def compare_ground(ground: Ground | None, tests: Mapping[str, TestSet]) -> None:
    """Says of which test sets most images are far darker or brighter than the training data, as if inverted."""
    for name, split in tests.items():
        if ground is not None and isinstance(split, Split):
            some = split.images[:: math.ceil(len(split) / _LOOKED_AT)]
            if warning := ground.warning(name, brightness(some), share=1 / 2):
                say(warning)


def read_results(workdir: pathlib.Path) -> dict:
    """The entries of ``results.json`` by data set; empty where there are none yet.

    Raises:
      ConfigError: The file is damaged.
    """
    path = workdir / RESULTS_FILE
    try:
        results = json.loads(path.read_text()) if path.exists() else {}
        for name, entry in results.items():
            figures = [entry["step"], *(entry.get(figure, 0) for figure in ("error", "count"))]
            figures += entry.get("ci95", ())
            if not all(isinstance(figure, int | float) for figure in figures) or len(figures) not in (3, 5):
                raise ValueError(f"the entry of {name} is damaged")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Remove it, and evaluate the run again.") from None
    return results


def add_results(
    workdir: pathlib.Path,
    config: Config,
    evaluations: Mapping[str, Evaluation],
    splits: Mapping[str, TestSet],
    step: int,
    later_too: bool = True,
) -> None:
    """Adds entries to ``results.json``.

    Args:
      workdir: Folder of the run.
      config: Settings of the run.
      evaluations: Evaluations by name of the entry.
      splits: Test sets by name of the entry.
      step: Step that was evaluated.
      later_too: Whether entries of later steps stay; otherwise they are removed.

    Raises:
      LockedError: Another process has kept the results locked for a minute.
    """
    stopped = {} if not config.stop_at_error else {"stop_at_error": config.stop_at_error}
    results = {
        name: {**evaluation.result(step), **splits[name].about, **stopped} for name, evaluation in evaluations.items()
    }
    waiting = f"Another process writes the results in {workdir}; waiting for it."
    # Because train.py and eval.py may write at once.
    with locked(workdir / _RESULTS_LOCK, seconds=_RESULTS_SECONDS, meanwhile=waiting):
        stored = {name: entry for name, entry in read_results(workdir).items() if later_too or entry["step"] <= step}
        newer = {name: entry for name, entry in stored.items() if name in results and entry["step"] > step}
        write_json(workdir / RESULTS_FILE, {**stored, **results, **newer})


def is_finished(config: Config, workdir: pathlib.Path, archived: bool = False) -> bool:
    """Whether a run with these settings has done all its epochs and evaluated the last.

    Args:
      config: Settings that the run is to have.
      workdir: Folder of the run.
      archived: Whether a run also counts if only its settings, log and results have been kept.

    Raises:
      ConfigError: The run in the folder has other settings.
    """
    if not (workdir / CONFIG_FILE).exists():
        return False
    earlier, about = read_config(workdir)
    config = config.with_defaults_of(earlier)
    config.check_continues(earlier, workdir)
    results = read_results(workdir)
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        steps = checkpoints.steps() or (archived and [result["step"] for result in results.values()]) or []
    last = max(steps, default=None)
    results = {
        name: result
        for name, result in results.items()
        if result["step"] == last and result.get("variants", math.inf) >= config.affnist_variants
    }
    if not set(config.eval_datasets) <= set(results):
        return False
    plan = plan_of(config, about["train_images"])
    good_enough = config.stop_at_error and results[config.dataset]["error"] <= config.stop_at_error
    errors = {line["step"]: line["error"] for line in read_metrics(workdir) if line["split"] == VALIDATION}
    ended = config.patience and out_of_patience(errors, config.patience * plan.steps_per_epoch)
    return bool((good_enough or ended) and plan.evaluates(last)) or last == plan.total_steps


def is_empty(workdir: pathlib.Path) -> bool:
    """Whether a folder is empty but for files of a run that was killed as it began."""
    ours = (_LOCK_FILE, CONFIG_FILE + PARTIAL)
    return workdir.is_dir() and all(path.name in ours for path in workdir.iterdir())


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder, and keeps a second training out of it; a killed process leaves no lock behind.

    Raises:
      ConfigError: Another process is training in the folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        taken = False
        if parallel.is_main():
            try:
                held.enter_context(locked(workdir / _LOCK_FILE))
            except LockedError:
                taken = True
        if parallel.any_process(taken):
            raise ConfigError(f"{arg('workdir')}={workdir}: another process is training in this folder.")
        yield


def describe(workdir: pathlib.Path, source: Source, train_images: int) -> dict:
    """Facts that ``config.json`` holds beside the settings; each start of the run adds a session."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = None
    session = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "devices": parallel.describe(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_revision": revision,
    }
    earlier = read_config(workdir)[1].get("sessions", []) if (workdir / CONFIG_FILE).exists() else []
    return {
        "class_names": list(source.class_names),
        "channels": source.channels,
        "train_images": train_images,
        _GROUND: dataclasses.asdict(Ground.of(source.train.images)),
        _TRAINING_DATA: data.fingerprint(source.train, source.class_names),
        "sessions": [*earlier, session],
    }


def check_same_data(workdir: pathlib.Path, source: Source, train_images: int) -> None:
    """Raises ConfigError where the run in a folder would go on with other data.

    A run of before fingerprints were kept goes on with a note.
    """
    _, about = read_config(workdir)
    before = (about["train_images"], about["class_names"], about["channels"])
    same_names = [*map(normal_form, before[1])] == [*map(normal_form, source.class_names)]
    if not same_names or (before[0], before[2]) != (train_images, source.channels):
        raise ConfigError(
            f"{arg('workdir')}={workdir}: the run there was begun with {before[0]} training images of the classes "
            f"{listed(before[1])}, {before[2]} channel(s); now there are {train_images} of "
            f"{listed(source.class_names)}, {source.channels} channel(s). Give it the same data, or another "
            f"{arg('workdir')}."
        )
    if _TRAINING_DATA not in about:
        say(f"{workdir} keeps no fingerprint of its training data: whether they are the same is not known.")
        return
    now = data.fingerprint(source.train, source.class_names)
    stored = about[_TRAINING_DATA].values()
    if changed := [name for (name, digest), kept in zip(now.items(), stored) if digest != kept]:
        raise ConfigError(
            f"{arg('workdir')}={workdir}: the run there was begun with as many training images of the same classes, "
            f"but those of {listed(changed)} are others now. Give it the same data, or another {arg('workdir')}. If "
            "they are the same and are only decoded otherwise, by another version of a library, remove "
            f'"{_TRAINING_DATA}" from {workdir / CONFIG_FILE}.'
        )
