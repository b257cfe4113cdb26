"""What train.py does: trains a network in a folder, or continues the run that the folder holds."""

from collections.abc import Mapping
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax

from lcaps_jax.data.splits import Source, Split
from lcaps_jax.infer.model import Model
from lcaps_jax.train import sets
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.checkpoint import BEST, Checkpoints
from lcaps_jax.train.config import Config
from lcaps_jax.train.loop import fit
from lcaps_jax.train.plan import StepPlan
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.train.workdir import Stored
from lcaps_jax.util import devices
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
    given = sets.with_paths(given)
    settings, stored, finished = folders.opened(workdir, given)
    if finished:
        ends = "A larger --epochs continues it; where it ended early, so does stop_at_error=0 or patience=0."
        say(f"{workdir} is finished. {ends}")
        return

    data = sets.load_training(settings)
    source, images, classes = data.source, len(data.train), len(data.source.class_names)
    if stored is not None:
        config, chosen = Config.from_settings(settings, classes), stored.chosen
    else:
        dataset = settings.get("dataset", "sample")
        facts = Facts(dataset, images, source.image_size, source.max_shift, jax.device_count())
        config, chosen = resolve(settings, facts, classes)
    now = Stored.of(config, chosen, source, images)
    if stored is not None:
        stored.check_same_data(now, workdir)
        now = dataclasses.replace(now, sessions=stored.sessions)
    StepPlan(images, config.schedule)  # refuses a batch larger than the set
    devices.check_batch_size(config.schedule.batch_size)
    tests = sets.load_tests(config, source, now.brightness)

    with folders.alone(workdir):
        if devices.is_main():
            now.write(workdir)
        say(f"Settings given: {_listed(given)}.\nChosen by the recipe: {_listed(chosen)}.")
        fitted = fit(config, data.train, data.validation, tests, workdir, _on_epoch(config, source, tests, workdir))
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        best = checkpoints.steps(BEST)
    if best:
        default = "evaluates it" if config.evaluation.patience else "--checkpoint=best evaluates it"
        say(f"The lowest validation error was at step {best[-1]}: eval.py {default}.")
    for name, evaluation in fitted.evaluations.items():
        say(f"{name}: {evaluation.text()} after {fitted.steps} steps, {fitted.seconds / 60:.1f} minutes")
    say(f"Everything is in {workdir}; pictures in {workdir / FIGURES}.")


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
