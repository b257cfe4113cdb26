"""What eval.py does: evaluates a model on test sets, or classifies files, writes a report, or exports the network."""

from collections.abc import Sequence
import pathlib

from absl import flags

from lcaps_jax.apps import report
from lcaps_jax.cli.predict import classify_files
from lcaps_jax.data import folder
from lcaps_jax.infer.export import export
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.checkpoint import LAST
from lcaps_jax.train.evaluate import Evaluation, evaluate, make_eval_steps, on_devices
from lcaps_jax.train.sets import compare_brightness, load_test_set
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import say
from lcaps_jax.viz import training

# What can be asked for, and the flags beside --workdir and --checkpoint that it reads.
_USED = {
    "eval_datasets": ("data_dir", "affnist_variants", "invert", "skip_unreadable", "search_angles", "batch_size"),
    "images": ("format", "output_dir", "invert", "centre", "skip_unreadable", "search_angles"),
    "report": ("data_dir", "search_angles"),
    "export": ("search_angles",),
}
_RUNS = pathlib.Path("runs")  # where the examples put runs
_LISTED = 20  # runs that a message names


def evaluate_model(
    model: Model, names: Sequence[str], workdir: pathlib.Path | None = None, *, batch_size: int | None = None, **options
) -> dict[str, Evaluation]:
    """Evaluates a model on test sets, prints the metrics, adds them to its ``results.json`` and draws the figures.

    If training has gone on meanwhile, the results and figures of the later step stay; without a ``workdir`` nothing is
    written. Entries are named ``"NAME"``, ``"NAME (best)"`` of a best checkpoint, ``"NAME (search by -10, 0, 10)"``,
    ``"NAME (inverted)"``, and ``"folder of DIR"`` of another folder than the run's.

    The ``batch_size`` over all devices is by default the run's; for ``options`` see ``train.sets.load_test_set``.
    Raises DataError for sets that cannot be used, and DeviceError where batch or data do not fit the devices.
    """
    if options.get("skip_unreadable") and folder.NAME not in names:
        raise ConfigError(f"skip_unreadable=True: does nothing to {', '.join(names)}, which have no image files.")
    batch_size = batch_size or devices.round_up(model.config.schedule.batch_size)
    devices.check_batch_size(batch_size)
    facts = (model.config, model.class_names, model.channels)
    splits = {_entry_name(name, model, options): load_test_set(name, *facts, **options) for name in names}
    devices.check_fits(sum(split.nbytes for split in splits.values()), "The data")
    compare_brightness(model.brightness, splits)
    steps = make_eval_steps(model.network)
    evaluations = {
        name: evaluate(steps, model.params, on_devices(split), batch_size, split.about.get("variants", 1))
        for name, split in splits.items()
    }
    for name, evaluation in evaluations.items():  # before anything is written, because a full disk can prevent that
        say(f"{name}: {evaluation.text()}, {model.checkpoint} checkpoint, step {model.step}")
        say(evaluation.table(model.class_names))
    if workdir is not None and devices.is_main():
        stored = folders.read_results(workdir)
        later = sorted(name for name in evaluations if stored.get(name, {"step": 0})["step"] > model.step)
        if later:
            say(f"{workdir} has later results for {', '.join(later)}, which stay.")
        added = {name: evaluation for name, evaluation in evaluations.items() if name not in later}
        shown = {name: splits[name] for name in added}
        folders.add_results(workdir, model.config, added, shown, model.step)
        training.write_figures(model, workdir, added, shown)
    return evaluations


def _entry_name(name: str, model: Model, options: dict) -> str:
    """Name of a set's entry in ``results.json``; images other than the run's own get an entry of their own."""
    own, given = model.config.data.data_dir, options.get("data_dir")
    if name == folder.NAME and given and (not own or pathlib.Path(given).resolve() != pathlib.Path(own).resolve()):
        name = f"{name} of {given}"
    extra = [model.checkpoint] if model.checkpoint != LAST else []
    if angles := model.network.angles:
        extra.append("search by " + ", ".join(f"{angle:g}" for angle in angles))
    if options.get("invert"):
        extra.append("inverted")
    return f"{name} ({'; '.join(extra)})" if extra else name


def main() -> None:
    """Runs eval.py by its flags."""
    values = flags.FLAGS
    workdirs = _workdirs(values.workdir or [])
    _check_used(values)
    try:
        angles = [float(angle) for angle in values.search_angles or []]
    except ValueError:
        raise ConfigError(f"search_angles={','.join(values.search_angles)}: must be degrees, as -10,0,10.") from None
    if values.report:
        path = pathlib.Path(values.report)
        report.write(workdirs, path, checkpoint=values.checkpoint, data_dir=values.data_dir, search_angles=angles)
        say(f"{values.report} is written.")
        return
    if len(workdirs) != 1:
        raise ConfigError(f"workdir={','.join(workdirs)}: must be one run, except for --report.")
    model, path = load_model(workdirs[0], values.checkpoint), pathlib.Path(workdirs[0])
    own = path if path.is_dir() else None  # not beside a packaged network
    if angles:
        model = model.with_rotation_search(angles)
    if values.images:
        place = pathlib.Path(values.output_dir) if values.output_dir else None
        options = {name: bool(values[name].value) for name in ("invert", "centre", "skip_unreadable")}
        classify_files(model, values.images, own, values.format, place, **options)
    elif values.export:
        about = export(model, values.export)
        say(f"{values.export} is written, and its classes are in {about}.")
    else:
        names = values.eval_datasets or model.config.evaluation.eval_datasets
        options = {name: values[name].value for name in ("data_dir", "affnist_variants", "skip_unreadable", "invert")}
        evaluate_model(model, names, own, batch_size=values.batch_size, **options)


def _workdirs(given: Sequence[str]) -> list[str]:
    if given and "" not in given:
        return list(given)
    found = [str(each) for each in folders.list_runs(_RUNS)]
    there = f"In {_RUNS} there are {', '.join(found[:_LISTED])}." if found else f"There is no run in {_RUNS}."
    raise ConfigError(f"workdir={','.join(given)}: must be a run's folder, mnist_small or mnist_framed. {there}")


def _check_used(values: flags.FlagValues) -> None:
    """Raises ConfigError for flags that contradict each other or do nothing."""
    asked = [name for name in _USED if values[name].value]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(f'--{name}' for name in asked)}: one at a time.")
    wanted = asked[0] if asked else "eval_datasets"
    for name in dict.fromkeys(name for names in _USED.values() for name in names):
        if values[name].present and name not in _USED[wanted]:
            where = f"with --{wanted}" if asked else "without --images"
            raise ConfigError(f"{name}={values[name].value}: does nothing {where}.")
