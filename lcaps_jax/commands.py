"""What train.py and eval.py do: train a run in its folder, evaluate one, and classify image files with it."""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import time
from typing import TextIO

from lcaps_jax import data, networks, parallel, runs
from lcaps_jax.config import CONFIG_FILE, FIXED, Config, ConfigError, read_config, write_config
from lcaps_jax.data import folder
from lcaps_jax.data.augment import place
from lcaps_jax.errors import arg, renamed
from lcaps_jax.runs import Run
from lcaps_jax.runtime import say, write_line
from lcaps_jax.training import (
    BEST,
    LAST,
    Checkpoints,
    Evaluation,
    evaluate,
    fit,
    make_eval_steps,
    on_devices,
    plan_of,
)
from lcaps_jax.training.checkpoints import FOLDER, check_path
from lcaps_jax.views import classify, plots

_SECONDS_BETWEEN_PICTURES = 60


def train(config: Config, workdir: str | pathlib.Path) -> None:
    """Trains a network in a folder, or continues the run that the folder holds.

    Args:
      config: Settings of the run.
      workdir: Folder of the run, which may be new.

    Raises:
      ConfigError: The settings cannot be run, or they do not continue the run in the folder; or the folder holds
        something else, or another process is training in it.
      data.DataError: The data cannot be used.
      parallel.DeviceError: The batch does not divide among the devices, or the data are too large for one.
      training.Stopped: See ``training.fit``.
      training.DivergenceError: See ``training.fit``.
      training.CheckpointError: See ``training.fit``.
    """
    workdir = pathlib.Path(workdir)
    check_path(workdir)
    if config.batch_size:
        parallel.check_batch_size(config.batch_size)
    config = _of_own_images(config)
    given = config.given()
    if config.data_dir and "://" not in config.data_dir:  # as it is meant here, wherever the run is evaluated later
        config = dataclasses.replace(config, data_dir=str(pathlib.Path(config.data_dir).absolute()))
    config, finished = _continued(config, workdir)
    if config.keep_going:
        check_keep_going((config.dataset, *(config.eval_datasets or ())))
    if finished:
        say(f"{workdir} is finished: {_end_of(config)}")
        return

    with renamed(name="dataset"):
        source = data.load(config.dataset, config.data_dir, config.image_size, keep_going=config.keep_going)
    train_split, validation = _training_parts(config, source)
    config = config.resolved(source.image_size, source.max_shift, len(train_split))
    if (workdir / CONFIG_FILE).exists():
        runs.check_same_data(workdir, source, len(train_split))
    if config.placement == FIXED:
        train_split = data.Split(place(train_split.images, config.max_shift, config.seed), train_split.labels)
    plan_of(config, len(train_split))  # refuses a batch larger than the set
    network = networks.from_config(config, len(source.class_names))
    tests = {
        name: source.test
        if name == config.dataset
        else runs.load_test(name, config, source.class_names, source.channels)
        for name in config.eval_datasets
    }
    _check_fits([train_split, *([validation] if validation else []), *tests.values()])
    runs.compare_ground(data.Ground.of(source.train.images), tests)

    with runs.alone(workdir):
        if parallel.is_main():
            write_config(workdir, config, runs.describe(workdir, source, len(train_split)))
        say(f"Settings other than the defaults: {_listed(given)}.")
        pictures = _Pictures()

        def on_epoch(evaluations, state, step, is_last):
            for measured in (workdir / runs.MEASURED).glob("*.json"):  # they describe the network as it was before
                measured.unlink()
            run = Run(network, state.params, config, source.class_names, source.channels, step)
            if is_last or pictures.due:
                plots.write_all(run, workdir, evaluations, tests)
                pictures.drawn()
            # Results come last, because a run that has them is finished. Results of later steps go with their network.
            runs.add_results(workdir, config, evaluations, tests, step, later_too=False)

        fitted = fit(config, network, train_split, validation, tests, workdir, on_epoch)
    _say_what_is_there(config, workdir)
    for name, evaluation in fitted.evaluations.items():
        result = format_result(evaluation.result(fitted.steps))
        say(f"{name}: {result} after {fitted.steps} steps, {fitted.seconds / 60:.1f} minutes")
    say(f"Everything is in {workdir}; pictures in {workdir / plots.FOLDER}.")


class _Pictures:
    """When pictures are due: at most once a minute, because drawing them takes seconds."""

    def __init__(self):
        self.drawn()

    def drawn(self) -> None:
        self._since = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._since >= _SECONDS_BETWEEN_PICTURES


def _of_own_images(config: Config) -> Config:
    """The settings with the data set ``folder`` where the sample was left and the data folder holds image files."""
    if config.data_dir is None or config.dataset != Config.dataset:
        return config
    fault = folder.fault_of(config.data_dir)
    if not fault:
        say(f"{config.data_dir} holds folders of images: --dataset={folder.NAME} is taken.")
        return dataclasses.replace(config, dataset=folder.NAME)
    if set(config.eval_datasets or ()) <= {config.dataset}:
        raise ConfigError(
            f"{arg('data_dir')}={config.data_dir}: does nothing to the bundled {config.dataset}, and is no folder of "
            f"images. {fault} Give such a folder, or another {arg('dataset')}."
        )
    return config


def check_keep_going(names: Sequence[str]) -> None:
    """Raises ConfigError where files that cannot be read are to be left out, but no set of these names has files."""
    if folder.NAME not in names:
        raise ConfigError(
            f"{arg('keep_going')}: does nothing to {', '.join(dict.fromkeys(names))}; it leaves out image files of the "
            f"set {folder.NAME} that cannot be read."
        )


def _listed(settings: Mapping) -> str:
    """Settings in words."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "none"


def _say_what_is_there(config: Config, workdir: pathlib.Path) -> None:
    """Says what the folder of a finished run holds that one may want to see or to remove."""
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        best = checkpoints.steps(BEST)
    if best:
        default = "evaluates it" if config.patience else "--checkpoint=best evaluates it"
        say(f"The lowest validation error was at step {best[-1]}: eval.py {default}.")
    place = workdir / FOLDER
    say(
        f"{workdir} takes {_megabytes(workdir):.0f} MB, {_megabytes(place):.0f} of them in {place}. Two thirds of the "
        f"last checkpoint are Adam's moments, which only more epochs need. {_what_can_go(place, bool(best))}"
    )
    say(f"To see its curves: pip install tensorboard && tensorboard --logdir={workdir}")


def _what_can_go(place: pathlib.Path, has_best: bool) -> str:
    """What may be deleted of the checkpoints of a finished run, and at what price, in words."""
    if has_best:
        return f"{place / LAST} may be deleted: the run cannot go on then, but --checkpoint={BEST} still evaluates it."
    return (
        f"{place} may be deleted: the run can neither go on nor be evaluated then, so keep its network first, by "
        "eval.py --export=FILE."
    )


def _megabytes(path: pathlib.Path) -> float:
    """Size of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def _continued(config: Config, workdir: pathlib.Path) -> tuple[Config, bool]:
    """The settings, completed by those of the run in the folder, and whether that run is finished."""
    if not (workdir / CONFIG_FILE).exists():
        if workdir.exists() and not runs.is_empty(workdir):
            raise ConfigError(
                f"{arg('workdir')}={workdir} holds something else and no run; give a new or an empty folder."
            )
        if "," in str(workdir):  # by which eval.py divides the runs of a report
            raise ConfigError(f"{arg('workdir')}={workdir}: give a path without a comma.")
        config.check_settings_are_used()
        return config, False
    earlier, _ = read_config(workdir)
    config = config.with_defaults_of(earlier)
    if runs.is_finished(config, workdir):
        return config, True
    # A run that was killed in its first epochs may have results and no checkpoint yet: it begins anew.
    if runs.is_finished(earlier, workdir, archived=True) and not runs.is_finished(earlier, workdir):
        raise ConfigError(
            f"{arg('workdir')}={workdir} holds the log and the results of a finished run whose checkpoints are gone: "
            f"it cannot go on, and training would write over them. Give another {arg('workdir')}."
        )
    return config, False


def _end_of(config: Config) -> str:
    """Why a finished run is finished, in words."""
    ends, without = [f"{config.epochs} epochs"], []
    if config.stop_at_error:
        ends.append(f"an error of at most {config.stop_at_error} %")
        without.append("--stop_at_error")
    if config.patience:
        ends.append(f"{config.patience} epochs without a lower validation error")
        without.append("--patience")
    if not without:
        return f"{config.epochs} epochs. A larger --epochs continues it."
    return f"{', or '.join(ends)}. Without {' and '.join(without)} it goes on."


def _training_parts(config: Config, source: data.Source) -> tuple[data.Split, data.Split | None]:
    """The images to train on, and those held out for validation.

    Raises:
      ConfigError: Training is to stop by its validation error, and there is no image to validate on.
    """
    train_split, validation = source.train, source.validation
    if config.validation_size:
        if validation is not None:
            say(
                f"{config.validation_size} training images are held out, so the validation part of {config.dataset} "
                "is not used."
            )
        train_split, validation = data.hold_out(source.train, config.validation_size, config.seed)
        # They are placed as the set's test images are, because the best checkpoint is to be the best on those.
        validation = data.Split(place(validation.images, source.max_shift), validation.labels)
    if config.train_size:
        train_split = data.draw(train_split, config.train_size, config.seed)
    if config.patience and validation is None:
        or_files = ", or images in its part val" if config.dataset == folder.NAME else ""
        raise ConfigError(
            f"{arg('patience')}={config.patience}: {config.dataset} has no image to validate on; give "
            f"{arg('validation_size')}, such as a tenth of the training images{or_files}."
        )
    return train_split, validation


def _check_fits(splits: Iterable[data.TestSet]) -> None:
    parallel.check_fits(sum(split.nbytes for split in splits), "The data")


def evaluate_run(
    run: Run,
    names: Sequence[str],
    workdir: pathlib.Path | None,
    *,
    batch_size: int | None = None,
    data_dir: str | None = None,
    affnist_variants: int | None = None,
    invert: bool = False,
) -> dict[str, Evaluation]:
    """Evaluates a run on test sets, prints the metrics, adds them to its ``results.json`` and draws the plots.

    If training has gone on meanwhile, the results and plots of the later step stay. The results of a best checkpoint
    stand beside those of the last, as ``"NAME (best)"``, those of a search as ``"NAME (search by -10, 0, 10)"``, those
    of inverted images as ``"NAME (inverted)"``, and those of another folder of images than the run's own as
    ``"folder of DIR"``.

    Args:
      run: Run to evaluate.
      names: Names of the test sets.
      workdir: Folder of the run; None writes nothing.
      batch_size: Images of a step, over all devices; None for the run's own number, rounded up to divide among them.
      data_dir: Folder of prepared TFDS sets; None for the run's own.
      affnist_variants: Variants of each digit; None for the run's own.
      invert: Whether black and white change places in the images.

    Returns:
      Evaluations by name.

    Raises:
      data.DataError: A set cannot be loaded, or its labels or channels are not the network's.
      parallel.DeviceError: The batch does not divide among the devices, or the data are too large for one.
    """
    batch_size = batch_size or parallel.round_up(run.config.batch_size)
    parallel.check_batch_size(batch_size)
    config = dataclasses.replace(
        run.config,
        data_dir=data_dir or run.config.data_dir,
        affnist_variants=affnist_variants or run.config.affnist_variants,
    )
    splits = {
        _entry_of(name, run, data_dir, invert): runs.load_test(
            name, config, run.class_names, run.channels, invert=invert
        )
        for name in names
    }
    _check_fits(splits.values())
    runs.compare_ground(run.ground, splits)
    eval_steps = make_eval_steps(run.network)
    evaluations = {
        name: evaluate(eval_steps, run.params, on_devices(split), batch_size, split.about.get("variants", 1))
        for name, split in splits.items()
    }
    for name, evaluation in evaluations.items():  # before anything is written, because a full disk can prevent that
        say(f"{name}: {format_result(evaluation.result(run.step))}, {run.checkpoint} checkpoint, step {run.step}")
        say(format_table(evaluation, run.class_names))
    if workdir is not None and parallel.is_main():
        _add_evaluations(run, workdir, evaluations, splits)
    return evaluations


def _add_evaluations(
    run: Run, workdir: pathlib.Path, evaluations: Mapping[str, Evaluation], splits: Mapping[str, data.TestSet]
) -> None:
    """Adds evaluations to the run's results and plots, except where those of a later step stand there."""
    stored = runs.read_results(workdir)
    older = [name for name in evaluations if name in stored and stored[name]["step"] > run.step]
    for name in older:
        say(f"{name}: {workdir} has results of step {stored[name]['step']} by now; they stay.")
    added = {name: evaluation for name, evaluation in evaluations.items() if name not in older}
    shown = {name: splits[name] for name in added}
    plots.write_all(run, workdir, added, shown)
    runs.add_results(workdir, run.config, added, shown, run.step)


def _entry_of(name: str, run: Run, data_dir: str | None, invert: bool) -> str:
    """Name of a set's entry in ``results.json``; images other than the run's own get an entry of their own."""
    own = run.config.data_dir
    if (
        name == folder.NAME
        and data_dir
        and (own is None or pathlib.Path(data_dir).resolve() != pathlib.Path(own).resolve())
    ):
        name = f"{name} of {data_dir}"
    extra = [run.checkpoint] if run.checkpoint != LAST else []
    if angles := run.network.search_angles:
        extra.append("search by " + ", ".join(f"{angle:g}" for angle in angles))
    if invert:
        extra.append("inverted")
    return f"{name} ({'; '.join(extra)})" if extra else name


def classify_files(
    run: Run,
    pattern: str,
    workdir: pathlib.Path | None,
    *,
    form: str = classify.TEXT,
    output_dir: pathlib.Path | None = None,
    records: TextIO | None = None,
    invert: bool = False,
    centre: bool = False,
) -> None:
    """Prints the label of each image file and draws a picture of each, but for programs only where a folder is given.

    The labels do not wait for the pictures: where those cannot be written, the labels of all files come nevertheless.

    Args:
      run: Run to classify with.
      pattern: Files, such as ``"photos/*.png"``.
      workdir: Folder of the run, whose pictures of earlier files make room; None where the run has none, for the folder
        ``classified``.
      form: Form of the labels, one of ``classify.FORMATS``.
      output_dir: Folder of the pictures instead of the run's own.
      records: File that the labels go to; None for standard output.
      invert: Whether black and white change places.
      centre: Whether each image is a digit, to be centred as MNIST's are.

    Raises:
      data.DataError: There is no such file, or one is no image.
      ConfigError: The pictures could not be written, which is raised after the last label.
    """
    drawn, failure = form == classify.TEXT or output_dir is not None, None
    place = output_dir or (classify.place_of(workdir) if workdir else pathlib.Path(classify.FOLDER))
    found = classify.classify(run, classify.find(pattern), invert=invert, centre=centre)
    for number, (text, classified) in enumerate(classify.formatted(found, run.class_names, form)):
        if not parallel.is_main():
            continue
        write_line(text, records)
        if drawn and failure is None:
            try:
                if number == 0 and workdir and not output_dir:
                    classify.clear(place)
                classify.draw(run, classified, place, number)
            except OSError as error:
                failure = error
    if failure is not None:
        raise ConfigError(
            f"The pictures cannot be written: {failure}. The labels are complete. Another {arg('output_dir')} takes "
            "the pictures."
        )
    if drawn:
        say(f"Their pictures are in {place}.")


def format_result(result: dict) -> str:
    """An entry of ``results.json`` in words."""
    low, high = result["ci95"]
    return f"error {result['error']:.2f} % of {result['count']} images (95 % interval {low:.2f} to {high:.2f} %)"


def format_table(evaluation: Evaluation, class_names: Sequence[str]) -> str:
    """Errors by class as text: one line for each class, and one for all."""
    width = max(len(name) for name in (*class_names, "class"))
    lines = [f"{'class':<{width}}  images  errors  error %  most often taken for"]
    for label, name in enumerate(class_names):
        row = evaluation.confusion[label].copy()
        count, wrong = int(row.sum()), int(row.sum() - row[label])
        row[label] = 0
        taken = f"{class_names[int(row.argmax())]} ({row.max()})" if wrong else ""
        percent = f"{100 * wrong / count:7.2f}" if count else "      -"
        lines.append(f"{name:<{width}}  {count:6d}  {wrong:6d}  {percent}  {taken}".rstrip())
    lines.append(f"{'all':<{width}}  {evaluation.count:6d}  {evaluation.errors:6d}  {evaluation.error:7.2f}")
    return "\n".join(lines)
