"""A run and its folder: starting, continuing, evaluating and loading it."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import pathlib
import subprocess

import filelock
import jax
import numpy as np

from lcaps_jax import data, figures, parallel, training
from lcaps_jax.checkpoints import BEST, LAST, Checkpoints
from lcaps_jax.config import (
    CAPSNET,
    CONFIG_FILE,
    FIXED,
    LCAPSNET,
    PARTIAL,
    Config,
    ConfigError,
    read_config,
    write_config,
    write_json,
)
from lcaps_jax.models import Decoder, Geometry, Network, geometry

RESULTS_FILE = "results.json"
MEASURED = "experiments"  # folder of what the experiments have measured of a run's network
_LOCK_FILE = ".lock"
_RESULTS_LOCK = ".results.lock"
_SHOWN = 8
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "chex", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network.

    Attributes:
      model: Flax module; ``model.apply({"params": params}, images)`` with images ``[B, I, I, C]`` in [0, 1].
      params: its parameters.
      config: settings it was trained with.
      class_names: J of them.
      channels: of the images.
      step: training steps done.
      checkpoint: ``"last"`` or ``"best"``.
      results: by test set, as in ``results.json``.
    """

    model: Network
    params: dict
    config: Config
    class_names: tuple[str, ...]
    channels: int
    step: int
    checkpoint: str = LAST
    results: Mapping[str, dict] = dataclasses.field(default_factory=dict)


def load_run(workdir: str | pathlib.Path, checkpoint: str = LAST) -> Run:
    """Loads the network of a run.

    Args:
      workdir: the run's folder.
      checkpoint: ``"last"``, or ``"best"`` by validation error.

    Returns:
      Run.

    Raises:
      ConfigError: where the folder holds no run, or no such checkpoint.
      CheckpointError: where the checkpoint is damaged.
    """
    workdir = pathlib.Path(workdir)
    config, about = read_config(workdir)
    classes = len(about["class_names"])
    model = training.make_model(config, classes)
    optimizer = training.make_optimizer(config)
    target = jax.eval_shape(lambda: training.init_state(model, optimizer, config, about["channels"]))
    target = parallel.like_replicated(target.params if checkpoint == BEST else target)
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        restored = checkpoints.restore(target, checkpoint)
    finally:
        checkpoints.close()
    if restored is None:
        hint = " One is kept where --validation_size was above 0." if checkpoint == BEST else ""
        raise ConfigError(f"{workdir} has no {checkpoint} checkpoint yet.{hint}")
    tree, step = restored
    params = tree if checkpoint == BEST else tree.params
    names = tuple(about["class_names"])
    return Run(model, params, config, names, about["channels"], step, checkpoint, read_results(workdir))


def train(config: Config, workdir: str | pathlib.Path) -> None:
    """Trains a network as the settings say, in ``workdir``; continues a run that stands there already.

    Raises:
      ConfigError: for settings that cannot be run or do not continue the run, and for a folder of something else or
        one in which another process is training.
      data.DataError, parallel.DeviceError: for data or batches that cannot be used.
      training.Stopped, training.DivergenceError, checkpoints.CheckpointError: see ``training.fit``.
    """
    workdir = pathlib.Path(workdir)
    parallel.check_batch_size(config.batch_size)
    if (workdir / CONFIG_FILE).exists():
        earlier, _ = read_config(workdir)
        config = config.with_defaults_of(earlier)
        if is_finished(config, workdir):
            parallel.say(f"{workdir} is finished: {_end_of(config)}")
            return
        # Of a run killed in its first epochs there may be results and no checkpoint yet: that one begins anew.
        if is_finished(earlier, workdir, archived=True) and not is_finished(earlier, workdir):
            raise ConfigError(
                f"--workdir={workdir} holds the log and the results of a finished run whose checkpoints are gone: "
                "it cannot go on, and training would write over them. Give another --workdir."
            )
    elif workdir.exists() and not _is_empty(workdir):
        raise ConfigError(f"--workdir={workdir} holds something else and no run; give a new or an empty folder.")

    source, config = data.load_for(config)
    train_split, validation = source.train, None
    if config.validation_size:
        train_split, validation = data.hold_out(source.train, config.validation_size, config.seed)
        # As the set's own test images are, which checkpoints are to be chosen for.
        validation = data.Split(data.place(validation.images, source.max_shift), validation.labels)
    if config.train_size:
        train_split = data.draw(train_split, config.train_size, config.seed)
    if (workdir / CONFIG_FILE).exists():
        _check_same_data(workdir, source, len(train_split))
    if config.placement == FIXED:
        train_split = data.Split(data.place(train_split.images, config.max_shift, config.seed), train_split.labels)
    training.steps_per_epoch(config, len(train_split))  # refuses a batch larger than the set
    model = training.make_model(config, len(source.class_names))
    tests = {
        name: source.test if name == config.dataset else load_test(name, config, source.class_names, source.channels)
        for name in config.eval_datasets
    }

    _check_fits([train_split, *([validation] if validation else []), *tests.values()])

    with _alone(workdir):
        if parallel.is_main():
            write_config(workdir, config, _about(workdir, source, len(train_split)))

        def on_epoch(evaluations, state, step):
            for measured in (workdir / MEASURED).glob("*.json"):  # of the network as it was
                measured.unlink()
            figures.write_all(workdir, evaluations, tests, source.class_names)
            _draw_examples(workdir, config, model, state.params, tests, source.class_names)
            # Last, for a run with its results is finished. Those of later steps are of a network that is lost.
            _add_results(workdir, config, evaluations, tests, step, later_too=False)

        fitted = training.fit(config, model, train_split, validation, tests, workdir, on_epoch)
    for name, evaluation in fitted.evaluations.items():
        result = format_result(evaluation.result(fitted.steps))
        parallel.say(f"{name}: {result} after {fitted.steps} steps, {fitted.seconds / 60:.1f} minutes")
    parallel.say(f"Everything is in {workdir}; pictures in {workdir / figures.FOLDER}.")


def _check_same_data(workdir: pathlib.Path, source: data.Source, train_images: int) -> None:
    """Raises ConfigError where a run would go on with other data."""
    _, about = read_config(workdir)
    before = (about["train_images"], about["class_names"], about["channels"])
    if before != (train_images, list(source.class_names), source.channels):
        raise ConfigError(
            f"--workdir={workdir}: the run there was begun with {before[0]} training images of the classes "
            f"{_listed(before[1])}, {before[2]} channel(s); now there are {train_images} of "
            f"{_listed(source.class_names)}, {source.channels} channel(s). Give it the same data, or another --workdir."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)})" if len(names) > 10 else "")


def is_finished(config: Config, workdir: pathlib.Path, archived: bool = False) -> bool:
    """Whether a run with these settings has all its epochs, and their evaluation, behind it.

    With ``archived`` also one of which nothing but settings, log and results has been kept.

    Raises:
      ConfigError: where the run in the folder is one with other settings.
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
    per_epoch = training.steps_per_epoch(config, about["train_images"])
    good_enough = config.stop_at_error and results[config.dataset]["error"] <= config.stop_at_error
    return bool(good_enough and last % per_epoch == 0) or last == config.epochs * per_epoch


def _end_of(config: Config) -> str:
    """Why a finished run is, in words."""
    if not config.stop_at_error:
        return f"{config.epochs} epochs. A larger --epochs continues it."
    return (
        f"{config.epochs} epochs, or an error of at most {config.stop_at_error} %. Without --stop_at_error it goes on."
    )


def _is_empty(workdir: pathlib.Path) -> bool:
    """Whether a folder holds nothing but what a run leaves that was killed as it began."""
    ours = (_LOCK_FILE, CONFIG_FILE + PARTIAL)
    return workdir.is_dir() and all(path.name in ours for path in workdir.iterdir())


def _check_fits(splits: Sequence[data.TestSet]) -> None:
    """Raises parallel.DeviceError for data that do not fit on a device."""
    parallel.check_fits(sum(split.nbytes for split in splits), "The data")


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder, and keeps a second training out of it; a killed process leaves no lock behind."""
    workdir.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(workdir / _LOCK_FILE, blocking=False)
    taken = False
    if parallel.is_main():
        try:
            lock.acquire()
        except filelock.Timeout:
            taken = True
    if parallel.any_process(taken):
        raise ConfigError(f"--workdir={workdir}: another process is training in this folder.")
    try:
        yield
    finally:
        lock.release()


def load_test(name: str, config: Config, class_names: Sequence[str], channels: int) -> data.TestSet:
    """The test part of a set, at the size of the run's images.

    Raises:
      data.DataError: for a set that cannot be had, or whose labels or channels are not the network's.
    """
    split = data.load_test(name, config.data_dir, config.image_size, config.affnist_variants, class_names)
    data.check_split(split, len(class_names), f"{name}, for a network of {len(class_names)} classes,")
    if split.channels != channels:
        raise data.DataError(f"{name} has images of {split.channels} channel(s); the network's have {channels}.")
    return split


def evaluate_run(
    run: Run,
    names: Sequence[str],
    workdir: pathlib.Path,
    *,
    batch_size: int | None = None,
    data_dir: str | None = None,
    affnist_variants: int | None = None,
) -> dict[str, training.Evaluation]:
    """Evaluates a run on test sets, prints the figures, adds them to its ``results.json`` and draws the pictures.

    Where training has gone on meanwhile, the figures and pictures of the later step stay.

    The figures of a best checkpoint stand beside those of the last, as ``"NAME (best)"``, and those of another folder
    of images than the run's own as ``"folder of DIR"``.

    Args:
      run: of ``load_run``.
      names: of the test sets.
      workdir: the run's folder.
      batch_size: over all devices; None for that of the run, made to divide among them.
      data_dir: of prepared TFDS sets; None for that of the run.
      affnist_variants: of each digit; None for those of the run.

    Returns:
      Evaluations by name.

    Raises:
      data.DataError: for a set that cannot be had, or whose labels or channels are not the network's.
      parallel.DeviceError: for a batch that does not divide among the devices, or data too large for one.
    """
    batch_size = batch_size or parallel.round_up(run.config.batch_size)
    parallel.check_batch_size(batch_size)
    config = dataclasses.replace(
        run.config,
        data_dir=data_dir or run.config.data_dir,
        affnist_variants=affnist_variants or run.config.affnist_variants,
    )
    splits = {_entry_of(name, run, data_dir): load_test(name, config, run.class_names, run.channels) for name in names}
    _check_fits(list(splits.values()))
    eval_steps = training.make_eval_steps(run.model)
    evaluations = {
        name: training.evaluate(
            eval_steps, run.params, training.on_devices(split), batch_size, split.about.get("variants", 1)
        )
        for name, split in splits.items()
    }
    for name, evaluation in evaluations.items():  # before anything is written, which a full disk can prevent
        parallel.say(
            f"{name}: {format_result(evaluation.result(run.step))}, {run.checkpoint} checkpoint, step {run.step}"
        )
        parallel.say(format_table(evaluation, run.class_names))
    if parallel.is_main():
        stored = read_results(workdir)
        older = [name for name in evaluations if name in stored and stored[name]["step"] > run.step]
        for name in older:
            parallel.say(f"{name}: {workdir} has figures of step {stored[name]['step']} by now; they stay.")
        added = {name: evaluation for name, evaluation in evaluations.items() if name not in older}
        shown = {name: splits[name] for name in added}
        figures.write_all(workdir, added, shown, run.class_names)
        _draw_examples(workdir, run.config, run.model, run.params, shown, run.class_names)
        _add_results(workdir, run.config, added, shown, run.step)
    return evaluations


def _entry_of(name: str, run: Run, data_dir: str | None) -> str:
    """The name in ``results.json`` of a set's figures; those of other images do not stand in the place of the run's."""
    own = run.config.data_dir
    if (
        name == data.FOLDER
        and data_dir
        and (own is None or pathlib.Path(data_dir).resolve() != pathlib.Path(own).resolve())
    ):
        name = f"{name} of {data_dir}"
    return name if run.checkpoint == LAST else f"{name} ({run.checkpoint})"


def _add_results(
    workdir: pathlib.Path,
    config: Config,
    evaluations: Mapping[str, training.Evaluation],
    splits: Mapping[str, data.TestSet],
    step: int,
    later_too: bool = True,
) -> None:
    """Adds entries to ``results.json``; those of later steps stay, or without ``later_too`` go."""
    stopped = {} if not config.stop_at_error else {"stop_at_error": config.stop_at_error}
    results = {
        name: {**evaluation.result(step), **splits[name].about, **stopped} for name, evaluation in evaluations.items()
    }
    with filelock.FileLock(workdir / _RESULTS_LOCK):  # for train.py and eval.py at once
        stored = {name: entry for name, entry in read_results(workdir).items() if later_too or entry["step"] <= step}
        newer = {name: entry for name, entry in stored.items() if name in results and entry["step"] > step}
        write_json(workdir / RESULTS_FILE, {**stored, **results, **newer})


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Network, params: dict, images: np.ndarray):
    return model.apply({"params": params}, data.to_unit_range(images))


def _draw_examples(
    workdir: pathlib.Path,
    config: Config,
    model: Network,
    params: dict,
    splits: Mapping[str, data.TestSet],
    class_names: Sequence[str],
) -> None:
    """Draws what the network makes of the first images of each test set.

    Where the kept capsules sit, or for CapsNet the reconstructions, and what each dimension of a pose stands for.
    """
    if config.model == LCAPSNET:
        sizes = geometry_of(config)
    elif config.model != CAPSNET or not config.decoder:
        return
    for name, split in splits.items():
        shown = split.take(np.arange(min(_SHOWN, len(split))))
        output = jax.device_get(_apply(model, params, shown.images))
        if config.model == LCAPSNET:
            pictures = {f"capsules_{name}": figures.kept_capsules(shown, output, sizes, class_names, name)}
        else:
            images, offsets = perturbed_reconstructions(params, output.pose[0], shown.labels[0], shown.images.shape[1:])
            pictures = {
                f"reconstructions_{name}": figures.reconstructions(shown, output, class_names, name),
                f"perturbations_{name}": figures.perturbations(images, offsets, class_names[shown.labels[0]]),
            }
        for file, picture in pictures.items():
            figures.save(picture, workdir, file)


def geometry_of(config: Config, image_size: int | None = None) -> Geometry:
    """The grid of primary capsules of a run's network, on images of that size or its own."""
    size = image_size or config.image_size
    return geometry(size, config.conv1_kernel, config.primary_kernel, config.capsule_types)


def perturbed_reconstructions(
    params: dict, pose: np.ndarray, label: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """What CapsNet's decoder draws as each dimension of a pose is moved (Sabour et al. 2017, Figure 4).

    Args:
      params: of a CapsNet with a decoder.
      pose: ``[J, D]`` of one image.
      label: its class.
      shape: (I, I, C).

    Returns:
      Images ``[D, 11, I, I, C]`` in [0, 1], and the offsets ``[11]``, from -0.25 to 0.25.
    """
    offsets = np.linspace(-0.25, 0.25, 11)
    dim = pose.shape[1]
    moved = np.broadcast_to(pose, (dim, len(offsets), *pose.shape)).copy()
    for i in range(dim):
        moved[i, :, label, i] += offsets
    moved = moved.reshape(-1, *pose.shape)
    decoder = Decoder(int(np.prod(shape)))
    images = decoder.apply({"params": params["decoder"]}, moved, np.full(len(moved), label))
    return np.asarray(images).reshape(dim, len(offsets), *shape), offsets


def read_results(workdir: pathlib.Path) -> dict:
    """The figures of ``results.json`` by data set; empty where there are none yet."""
    path = workdir / RESULTS_FILE
    return json.loads(path.read_text()) if path.exists() else {}


def format_result(result: dict) -> str:
    """An entry of ``results.json`` in words."""
    low, high = result["ci95"]
    return f"error {result['error']:.2f} % of {result['count']} images (95 % interval {low:.2f} to {high:.2f} %)"


def format_table(evaluation: training.Evaluation, class_names: Sequence[str]) -> str:
    """Errors by class as text: a line each, and one for all."""
    width = max(len(name) for name in (*class_names, "class"))
    lines = [f"{'class':<{width}}  images  errors  error %  most often taken for"]
    for label, name in enumerate(class_names):
        row = evaluation.confusion[label].copy()
        count, wrong = int(row.sum()), int(row.sum() - row[label])
        row[label] = 0
        taken = f"{class_names[int(np.argmax(row))]} ({row.max()})" if wrong else ""
        percent = f"{100 * wrong / count:7.2f}" if count else "      -"
        lines.append(f"{name:<{width}}  {count:6d}  {wrong:6d}  {percent}  {taken}".rstrip())
    lines.append(f"{'all':<{width}}  {evaluation.count:6d}  {evaluation.errors:6d}  {evaluation.error:7.2f}")
    return "\n".join(lines)


def _about(workdir: pathlib.Path, source: data.Source, train_images: int) -> dict:
    """What ``config.json`` holds beside the settings; each start of the run adds a session."""
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
        "sessions": [*earlier, session],
    }
