"""The folder of a run: its settings, its results, and the locks that keep two processes apart."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import pathlib
import subprocess
from typing import Any

import filelock

from lcaps_jax.data.brightness import Brightness
from lcaps_jax.data.splits import Source, Split, fingerprint, normal_form
from lcaps_jax.train.checkpoint import Checkpoints, check_path
from lcaps_jax.train.config import Config, check, declared_settings
from lcaps_jax.train.evaluate import Evaluation, out_of_patience
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.loop import VALIDATION
from lcaps_jax.train.plan import StepPlan
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.files import PARTIAL, locked, write_json

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"
_LOCK_FILE, _RESULTS_LOCK = ".lock", ".results.lock"
_RESULTS_SECONDS = 60.0  # to wait for another process that writes results, which takes it no second
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "chex", "numpy")


@dataclasses.dataclass(frozen=True)
class Stored:
    """What ``config.json`` holds."""

    settings: dict[str, Any]  # every setting of the run, by name
    chosen: dict[str, Any]  # those among them that the recipe chose
    class_names: tuple[str, ...]  # names of the J classes
    channels: int  # channels of the images, C
    train_images: int  # number of training images
    training_data: dict[str, str]  # digest of the training images of each class
    brightness: Brightness  # brightness of the training images and their borders
    sessions: list[dict]  # devices, package versions and revision of each start of the run

    @classmethod
    def of(cls, config: Config, chosen: Mapping[str, Any], source: Source, train_images: int) -> "Stored":
        """What a run on this data set keeps, before its first session."""
        return cls(
            config.settings, dict(chosen), source.class_names, source.channels, train_images,
            fingerprint(source.train, source.class_names), Brightness.of(source.train.images), sessions=[],
        )  # fmt: skip

    @property
    def config(self) -> Config:
        """The settings as a ``Config``, for the run's number of classes."""
        return Config.from_settings(self.settings, len(self.class_names))

    def check_same_data(self, now: "Stored", workdir: pathlib.Path) -> None:
        """Raises ConfigError where the run would go on with the data of ``now`` and these are others."""
        advice = "Give it the same data, or another workdir."
        was, is_ = ([each.train_images, each.channels, *map(normal_form, each.class_names)] for each in (self, now))
        if was != is_:
            words = f"{', '.join(map(str, was))}, and are now {', '.join(map(str, is_))}"
            raise ConfigError(
                f"workdir={workdir}: the run's training images, channels and classes were {words}. {advice}"
            )
        digests = zip(now.training_data.items(), self.training_data.values())
        if changed := ", ".join(name for (name, digest), kept in digests if digest != kept):
            raise ConfigError(f"workdir={workdir}: the training images of {changed} have changed. {advice}")

    def write(self, workdir: pathlib.Path) -> None:
        """Writes ``config.json``, with a session of now."""
        git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            revision = None
        session = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "devices": devices.describe(),
            "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "git_revision": revision,
        }
        stored = dataclasses.replace(self, sessions=[*self.sessions, session])
        write_json(workdir / CONFIG_FILE, dataclasses.asdict(stored))


def read(workdir: pathlib.Path) -> Stored | None:
    """What the ``config.json`` of a folder holds, or None; ConfigError where it is damaged or of another version."""
    path = workdir / CONFIG_FILE
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
        fields["brightness"] = Brightness(*(tuple(fields["brightness"][name]) for name in ("mean", "deviation")))
        fields["class_names"] = tuple(fields["class_names"])
        stored = Stored(**fields)
        for name, kind in (("settings", dict), ("chosen", dict), ("channels", int), ("train_images", int)):
            if type(getattr(stored, name)) is not kind:
                raise TypeError(f"{name} is {getattr(stored, name)!r}")
        if len(stored.class_names) < 2 or not all(type(name) is str for name in stored.class_names):
            raise TypeError(f"class_names is {stored.class_names!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"workdir={workdir}: cannot read {path} ({type(error).__name__}: {error}).") from None
    check(stored.settings)
    return stored


def read_run(workdir: pathlib.Path) -> Stored:
    """As ``read``, for a folder that has to hold a run."""
    stored = read(workdir)
    if stored is None:
        raise ConfigError(f"workdir={workdir}: there is no run, because there is no {workdir / CONFIG_FILE}.")
    return stored


def continued(stored: Stored, given: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """The settings of a run that goes on: the stored ones, and those ``given`` now.

    Raises ConfigError for a given setting that would change what is computed.
    """
    known = declared_settings()
    for name, value in given.items():
        before = stored.settings.get(name)
        begun = f"{name}={value}: the run in {workdir} was started with {name}={before}"
        if value != before and not known[name][0].metadata["may_change"]:
            raise ConfigError(f"{begun}, and what is computed would change. Keep that, or give another workdir.")
        if name == "epochs" and value < before:
            raise ConfigError(f"{begun}, which can only grow.")
    return {**stored.settings, **given}


def _last_step(workdir: pathlib.Path) -> int | None:
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return max(checkpoints.steps(), default=None)


def is_finished(config: Config, stored: Stored, workdir: pathlib.Path) -> bool:
    """Whether a run has done all the epochs of these settings and evaluated the last."""
    last, evaluation = _last_step(workdir), config.evaluation
    results = {
        name: result
        for name, result in read_results(workdir).items()
        if result["step"] == last and result.get("variants", math.inf) >= evaluation.affnist_variants
    }
    if last is None or not set(evaluation.eval_datasets) <= set(results):
        return False
    plan = StepPlan(stored.train_images, config.schedule)
    good_enough = evaluation.stop_at_error and results[config.data.dataset]["error"] <= evaluation.stop_at_error
    errors = {line["step"]: line["error"] for line in read_metrics(workdir) if line["split"] == VALIDATION}
    ended = evaluation.patience and out_of_patience(errors, evaluation.patience * plan.steps_per_epoch)
    return bool((good_enough or ended) and plan.evaluates(last)) or last == plan.total_steps


def opened(workdir: pathlib.Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], Stored | None, bool]:
    """The settings of a run that begins or goes on in a folder, what the folder holds, and whether it is finished.

    Raises ConfigError for a folder that a new run cannot have, and for a finished run whose checkpoints are gone, so
    that its log and its results stay.
    """
    check_path(workdir)
    check(given)
    stored = read(workdir)
    if stored is None:
        ours = (_LOCK_FILE, CONFIG_FILE + PARTIAL)  # of a run that was killed as it began
        if workdir.exists() and not (workdir.is_dir() and all(path.name in ours for path in workdir.iterdir())):
            raise ConfigError(f"workdir={workdir}: holds something else and no run; give a new or an empty folder.")
        if "," in str(workdir):
            raise ConfigError(f"workdir={workdir}: must not contain a comma, by which eval.py divides folders.")
        return dict(given), None, False
    last = StepPlan(stored.train_images, stored.config.schedule).total_steps
    if _last_step(workdir) is None and any(each["step"] == last for each in read_results(workdir).values()):
        raise ConfigError(f"workdir={workdir}: the checkpoints of this finished run are gone; give another workdir.")
    settings = continued(stored, given, workdir)
    config = Config.from_settings(settings, len(stored.class_names))
    return settings, stored, is_finished(config, stored, workdir)


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder and locks it; ConfigError where another process is training in it.

    A killed process leaves no lock behind.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        taken = False
        try:
            if devices.is_main():
                held.enter_context(locked(workdir / _LOCK_FILE))
        except filelock.Timeout:
            taken = True
        if devices.any_process(taken):
            raise ConfigError(f"workdir={workdir}: another process is training in this folder.")
        yield


def list_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of runs in a folder and in its folders, by name."""
    return sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{CONFIG_FILE}"))


def read_results(workdir: pathlib.Path) -> dict[str, dict]:
    """The entries of ``results.json`` by data set, none where there is no file; ConfigError where it is damaged."""
    path = workdir / RESULTS_FILE
    try:
        results = json.loads(path.read_text()) if path.exists() else {}
        for name, entry in results.items():
            figures = [entry["step"], *(entry.get(figure, 0) for figure in ("error", "count")), *entry.get("ci95", ())]
            if not all(isinstance(figure, int | float) for figure in figures) or len(figures) not in (3, 5):
                raise ValueError(f"the entry of {name} is damaged")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Remove it, and evaluate the run again.") from None
    return results


def add_results(
    workdir: pathlib.Path,
    config: Config,
    evaluations: Mapping[str, Evaluation],
    splits: Mapping[str, Split],
    step: int,
    later_too: bool = True,
) -> None:
    """Adds evaluations at a step to ``results.json``, by their names; entries of later steps stay or are removed.

    Raises filelock.Timeout where another process has kept the results locked for a minute.
    """
    stop_at = config.evaluation.stop_at_error
    about = {"stop_at_error": stop_at} if stop_at else {}
    results = {name: {**each.result(step), **splits[name].about, **about} for name, each in evaluations.items()}
    with locked(workdir / _RESULTS_LOCK, seconds=_RESULTS_SECONDS):  # because train.py and eval.py may write at once
        stored = {name: entry for name, entry in read_results(workdir).items() if later_too or entry["step"] <= step}
        newer = {name: entry for name, entry in stored.items() if name in results and entry["step"] > step}
        write_json(workdir / RESULTS_FILE, {**stored, **results, **newer})
