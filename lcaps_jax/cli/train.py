"""What train.py does: trains a network in a folder, or continues the run that the folder holds."""

from collections.abc import Mapping
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax

from lcaps_jax.data import api, folder
from lcaps_jax.data.augment import shift_once
from lcaps_jax.data.splits import DataError, Source, Split, draw, hold_out
from lcaps_jax.infer.model import Model
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.checkpoint import BEST, Checkpoints, check_path
from lcaps_jax.train.config import Config, check
from lcaps_jax.train.loop import fit
from lcaps_jax.train.plan import StepPlan
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.train.test_sets import compare_brightness, load_test_set
from lcaps_jax.train.workdir import Stored
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import say
from lcaps_jax.viz import training
from lcaps_jax.viz.style import FOLDER as FIGURES

_SECONDS_BETWEEN_PICTURES = 60


def train(given: Mapping[str, Any], workdir: str | pathlib.Path) -> None:
    """Trains a network in a folder, which may be new, or continues the run that the folder holds.

    Settings are ``given`` by name; the others follow from the data (``train.recipe``). ConfigError, DataError and
    DeviceError say what cannot be used; for Stopped, DivergenceError and CheckpointError see ``train.loop.fit``.
    """
    workdir = pathlib.Path(workdir)
    check_path(workdir)
    check(given)
    settings = given = _with_paths(given)
    stored = folders.read(workdir)
    if stored is None:
        folders.check_new(workdir)
    else:
        folders.check_checkpoints(stored, workdir)
        settings = folders.continued(stored, given, workdir)
        config = Config.from_settings(settings, len(stored.class_names))
        if folders.is_finished(config, stored, workdir):
            say(f"{workdir} is finished: {_how_to_go_on(config)}")
            return

    dataset, options = settings.get("dataset", "sample"), ("data_dir", "image_size", "skip_unreadable")
    source = api.load(dataset, **{name: settings[name] for name in options if name in settings})
    train_split, validation = _training_parts(settings, source)
    if stored is not None:
        chosen = stored.chosen
    else:
        facts = Facts(dataset, len(train_split), source.image_size, source.max_shift, jax.device_count())
        config, chosen = resolve(given, facts, len(source.class_names))
    now = Stored.of(config, chosen, source, len(train_split))
    if stored is not None:
        stored.check_same_data(now, workdir)
        now = dataclasses.replace(now, sessions=stored.sessions)
    StepPlan(len(train_split), config.schedule)  # refuses a batch larger than the set
    devices.check_batch_size(config.schedule.batch_size)
    tests = _test_sets(config, source, now)

    with folders.alone(workdir):
        if devices.is_main():
            now.write(workdir)
        say(f"Settings given: {_listed(given)}.\nChosen by the recipe: {_listed(chosen)}.")
        fitted = fit(config, train_split, validation, tests, workdir, _on_epoch(config, source, tests, workdir))
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        best = checkpoints.steps(BEST)
    if best:
        default = "evaluates it" if config.evaluation.patience else "--checkpoint=best evaluates it"
        say(f"The lowest validation error was at step {best[-1]}: eval.py {default}.")
    for name, evaluation in fitted.evaluations.items():
        say(f"{name}: {evaluation.text()} after {fitted.steps} steps, {fitted.seconds / 60:.1f} minutes")
    say(f"Everything is in {workdir}; pictures in {workdir / FIGURES}.")


def _with_paths(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with absolute paths, and the data set ``folder`` where a data_dir of images stands alone."""
    given, data_dir = dict(given), given.get("data_dir")
    if ".py:" in given.get("model", ""):
        given["model"] = str(pathlib.Path(given["model"]).absolute())
    if not data_dir:
        return given
    if given.get("dataset", "sample") == "sample":
        try:
            folder.find(data_dir)
        except DataError as error:
            if not set(given.get("eval_datasets", ())) - {"sample"}:
                unused = "is not used by the bundled sample, and not a folder of images"
                raise ConfigError(f"data_dir={data_dir}: {unused}. {error}") from None
        else:
            say(f"{data_dir} holds folders of images: --dataset={folder.NAME} is taken.")
            given["dataset"] = folder.NAME
    if "://" not in data_dir:
        given["data_dir"] = str(pathlib.Path(data_dir).absolute())
    return given


def _training_parts(settings: Mapping[str, Any], source: Source) -> tuple[Split, Split | None]:
    """The images to train on, and those held out for validation, without which ``patience`` raises ConfigError."""
    train_split, validation, seed = source.train, source.validation, settings.get("seed", 0)
    if count := settings.get("validation_size", 0):
        if validation is not None:
            say(f"{count} training images are held out, so the set's own validation part is not used.")
        train_split, validation = hold_out(source.train, count, seed)
        # Shifted as the set's test images are, because the best checkpoint is to be the best on those.
        validation = Split(shift_once(validation.images, source.max_shift), validation.labels)
    if count := settings.get("train_size", 0):
        train_split = draw(train_split, count, seed)
    if settings.get("patience", 0) and validation is None:
        needed = "give validation_size, such as a tenth of the training images, or images in DATA_DIR/val"
        raise ConfigError(f"patience={settings['patience']}: there is no image to validate on; {needed}.")
    return train_split, validation


def _test_sets(config: Config, source: Source, stored: Stored) -> dict[str, Split]:
    """The test sets by name, checked to fit the network and the devices' memory."""
    data = config.data
    if data.skip_unreadable and folder.NAME not in (data.dataset, *config.evaluation.eval_datasets):
        raise ConfigError(f"skip_unreadable=True: does nothing to dataset={data.dataset}, which has no image files.")
    tests = {
        name: source.test
        if name == data.dataset
        else load_test_set(name, config, source.class_names, source.channels, skip_unreadable=data.skip_unreadable)
        for name in config.evaluation.eval_datasets
    }
    parts = [source.train, *([source.validation] if source.validation else []), *tests.values()]
    devices.check_fits(sum(part.nbytes for part in parts), "The data")
    compare_brightness(stored.brightness, tests)
    return tests


def _on_epoch(config: Config, source: Source, tests: Mapping[str, Split], workdir: pathlib.Path):
    """What happens after each evaluation: results, and pictures at most once a minute, because they take seconds."""
    drawn = time.monotonic()

    def on_epoch(evaluations, state, step, is_last):
        nonlocal drawn
        model = Model(config.network, state.params, config, source.class_names, source.channels, step)
        folders.add_results(workdir, config, evaluations, tests, step, later_too=False)
        if is_last or time.monotonic() - drawn >= _SECONDS_BETWEEN_PICTURES:
            training.write_figures(model, workdir, evaluations, tests)
            drawn = time.monotonic()

    return on_epoch


def _listed(settings: Mapping) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "none"


def _how_to_go_on(config: Config) -> str:
    """What ended a finished run, and what continues it."""
    evaluation = config.evaluation
    ends = [f"stop_at_error={evaluation.stop_at_error:g}"] if evaluation.stop_at_error else []
    ends += [f"patience={evaluation.patience}"] if evaluation.patience else []
    early = f" It may have ended earlier by {' or '.join(ends)}; 0 switches that off." if ends else ""
    return f"{config.schedule.epochs} epochs. A larger --epochs continues it.{early}"
