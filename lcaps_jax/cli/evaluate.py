"""What eval.py does: evaluates a model on test sets, or classifies files, writes a report, or exports the network."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from absl import flags

from lcaps_jax.apps import report
from lcaps_jax.cli import predict
from lcaps_jax.data import folder
from lcaps_jax.data.splits import TestSet
from lcaps_jax.infer.export import export
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.checkpoint import LAST
from lcaps_jax.train.evaluate import Evaluation, evaluate, make_eval_steps, on_devices
from lcaps_jax.train.test_sets import compare_brightness, load_test_set
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import say
from lcaps_jax.viz import training


@dataclasses.dataclass(frozen=True)
class Options:
    """What an evaluation is asked for beside its test sets.

    Attributes:
      batch_size: Images of a step, over all devices; None for the run's own number.
      data_dir: Folder of the test sets; None for the run's own.
      affnist_variants: Variants of each digit; None for the run's own number.
      skip_unreadable: Whether files that cannot be read are left out; None for what the run did.
      invert: Whether black and white change places in the images.
    """

    batch_size: int | None = None
    data_dir: str | None = None
    affnist_variants: int | None = None
    skip_unreadable: bool | None = None
    invert: bool = False


def evaluate_model(
    model: Model, names: Sequence[str], workdir: pathlib.Path | None, options: Options = Options()  # noqa: B008
) -> dict[str, Evaluation]:
    """Evaluates a model on test sets, prints the metrics, adds them to its ``results.json`` and draws the figures.

    If training has gone on meanwhile, the results and figures of the later step stay. The results of a best checkpoint
    stand beside those of the last, as ``"NAME (best)"``, those of a search as ``"NAME (search by -10, 0, 10)"``, those
    of inverted images as ``"NAME (inverted)"``, and those of another folder than the run's own as ``"folder of DIR"``.

    Args:
      model: Model to evaluate.
      names: Names of the test sets.
      workdir: Folder of the run; None writes nothing.
      options: What else is asked for.

    Returns:
      Evaluations by name.

    Raises:
      DataError: A set cannot be loaded, or its labels or channels are not the network's.
      DeviceError: The batch does not divide among the devices, or the data are too large for one.
    """
    if options.skip_unreadable and folder.NAME not in names:
        raise ConfigError(f"skip_unreadable=True: does nothing to {', '.join(names)}, which have no image files.")
    batch_size = options.batch_size or devices.round_up(model.config.schedule.batch_size)
    devices.check_batch_size(batch_size)
    skip = model.config.data.skip_unreadable if options.skip_unreadable is None else options.skip_unreadable
    splits = {
        _entry_name(name, model, options): load_test_set(
            name, model.config, model.class_names, model.channels, data_dir=options.data_dir,
            affnist_variants=options.affnist_variants, skip_unreadable=skip, invert=options.invert,
        )
        for name in names
    }  # fmt: skip
    devices.check_fits(sum(split.nbytes for split in splits.values()), "The data")
    compare_brightness(model.brightness, splits)
    eval_steps = make_eval_steps(model.network)
    evaluations = {
        name: evaluate(eval_steps, model.params, on_devices(split), batch_size, split.about.get("variants", 1))
        for name, split in splits.items()
    }
    for name, evaluation in evaluations.items():  # before anything is written, because a full disk can prevent that
        say(f"{name}: {evaluation.text()}, {model.checkpoint} checkpoint, step {model.step}")
        say(evaluation.table(model.class_names))
    if workdir is not None and devices.is_main():
        _add(model, workdir, evaluations, splits)
    return evaluations


def _add(
    model: Model, workdir: pathlib.Path, evaluations: Mapping[str, Evaluation], splits: Mapping[str, TestSet]
) -> None:
    """Adds evaluations to the run's results and figures, except where those of a later step stand there."""
    stored = folders.read_results(workdir)
    older = [name for name in evaluations if name in stored and stored[name]["step"] > model.step]
    for name in older:
        say(f"{name}: {workdir} has results of step {stored[name]['step']} by now; they stay.")
    added = {name: evaluation for name, evaluation in evaluations.items() if name not in older}
    shown = {name: splits[name] for name in added}
    stop_at = model.config.evaluation.stop_at_error
    folders.add_results(workdir, added, shown, model.step, about={"stop_at_error": stop_at} if stop_at else {})
    training.write_figures(model, workdir, added, shown)


def _entry_name(name: str, model: Model, options: Options) -> str:
    """Name of a set's entry in ``results.json``; images other than the run's own get an entry of their own."""
    own, given = model.config.data.data_dir, options.data_dir
    if name == folder.NAME and given and (not own or pathlib.Path(given).resolve() != pathlib.Path(own).resolve()):
        name = f"{name} of {given}"
    extra = [model.checkpoint] if model.checkpoint != LAST else []
    if angles := model.network.angles:
        extra.append("search by " + ", ".join(f"{angle:g}" for angle in angles))
    if options.invert:
        extra.append("inverted")
    return f"{name} ({'; '.join(extra)})" if extra else name


# What can be asked for, and the flags beside --workdir and --checkpoint that it reads.
_USED = {
    "eval_datasets": ("data_dir", "affnist_variants", "invert", "skip_unreadable", "search_angles", "batch_size"),
    "images": ("format", "output_dir", "invert", "centre", "skip_unreadable", "search_angles"),
    "report": ("data_dir", "search_angles"),
    "export": ("search_angles",),
}
_RUNS = pathlib.Path("runs")  # where the examples put runs
_LISTED = 20  # runs that a message names


def main() -> None:
    """Runs eval.py by its flags."""
    values = flags.FLAGS
    workdirs = _workdirs(values.workdir or [])
    _check_used(values)
    angles = _angles(values.search_angles or [])
    if values.report:
        report.write(
            workdirs, pathlib.Path(values.report), checkpoint=values.checkpoint, data_dir=values.data_dir,
            search_angles=angles,
        )  # fmt: skip
        say(f"{values.report} is written.")
        return
    if len(workdirs) != 1:
        raise ConfigError(f"workdir={','.join(values.workdir)}: must be one run, except for --report.")
    model = load_model(workdirs[0], values.checkpoint)
    own = pathlib.Path(workdirs[0])
    folder_of_run = own if own.is_dir() else None  # nothing is written beside a network of the package
    if angles:
        model = model.with_rotation_search(angles)
    if values.images:
        skip = bool(values.skip_unreadable)
        place = pathlib.Path(values.output_dir) if values.output_dir else None
        options = predict.Options(values.format, place, values.invert, values.centre, skip)
        predict.classify_files(model, values.images, folder_of_run, options)
    elif values.export:
        about = export(model, values.export)
        say(f"{values.export} is written, and its classes are in {about}.")
    else:
        names = values.eval_datasets or model.config.evaluation.eval_datasets
        chosen = (values.batch_size, values.data_dir, values.affnist_variants, values.skip_unreadable, values.invert)
        evaluate_model(model, names, folder_of_run, Options(*chosen))


def _angles(values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        raise ConfigError(f"search_angles={','.join(values)}: must be numbers of degrees, as -10,0,10.") from None


def _workdirs(given: Sequence[str]) -> list[str]:
    if given and "" not in given:
        return list(given)
    found = [str(each) for each in folders.list_runs(_RUNS)]
    listed = ", ".join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
    there = f"In {_RUNS} there are {listed}." if found else f"There is no run in {_RUNS}."
    raise ConfigError(
        f"workdir={','.join(given)}: must be the folder of a run, or mnist_small or mnist_framed. {there}"
    )


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
