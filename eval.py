"""Evaluates a trained network on test sets: error, its interval, and errors by class.

    python eval.py --workdir=runs/quickstart --eval_datasets=sample

The results go into the run's results.json, the plots into its folder figures/. With --images it classifies image files
instead; mnist_small and mnist_framed are the networks that come with the package:

    python eval.py --workdir=runs/quickstart --images='photos/*.png'
    python eval.py --workdir=mnist_small --images=digit.png --format=json

With --report it writes one page about a run, or about several side by side; with --export it writes the network as one
program, which runs without this package (docs/deployment.md):

    python eval.py --workdir=runs/one,runs/other --report=report.html
    python eval.py --workdir=runs/quickstart --export=quickstart.program
"""

import contextlib
import dataclasses
import itertools
import pathlib
import signal
import sys

# Ctrl-C during the imports below, which take seconds, would print a traceback.
_ON_INTERRUPT = signal.signal(signal.SIGINT, signal.SIG_DFL) if __name__ == "__main__" else None

from absl import flags

from lcaps_jax import usage

if __name__ == "__main__":
    usage.check_names(sys.argv, usage.EVALUATION)
    usage.check_sets(sys.argv)

from lcaps_jax import cli, commands, deployment, pretrained, runs
from lcaps_jax.config import ConfigError
from lcaps_jax.data import affnist
from lcaps_jax.runtime import messages_on_stderr, say
from lcaps_jax.training import BEST, LAST
from lcaps_jax.views import classify, report

_WORKDIR = flags.DEFINE_list(
    "workdir",
    None,
    "Folder of the run; for --report, one or several. 'mnist_small' and 'mnist_framed' come with the package.",
)
_EVAL_DATASETS = flags.DEFINE_list("eval_datasets", None, "Test sets, as for train.py. Default: those of the run.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets. Default: that of the run.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    None,
    [LAST, BEST],
    "The last checkpoint, or the best by validation error. Default: the best of a run with --patience, else the last.",
)
_AFFNIST_VARIANTS = flags.DEFINE_integer(
    "affnist_variants",
    None,
    "Variants of each digit in the set 'affnist'. Default: those of the run.",
    1,
    affnist.VARIANTS,
)
_IMAGES = flags.DEFINE_string("images", None, "Image files to classify instead of test sets, such as 'photos/*.png'.")
_INVERT = flags.DEFINE_boolean("invert", False, "Black and white change places in the images, as for ink on paper.")
_CENTRE = flags.DEFINE_boolean(
    "centre", False, "With --images: each image is a digit, which is cut out and centred as MNIST's digits are."
)
_KEEP_GOING = flags.DEFINE_boolean(
    "keep_going",
    None,
    "Leave out and list image files that cannot be read, of --images or of the set 'folder'. Default: as for the run.",
)
_FORMAT = flags.DEFINE_enum(
    "format",
    classify.TEXT,
    classify.FORMATS,
    "With --images: lines to read and a picture of each file, or for programs one JSON object or one line of CSV for "
    "each file. All else then goes to standard error, and pictures are drawn with an --output_dir alone.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "With --images: folder of the pictures. Default: figures/classified in the run's folder, which then holds those of "
    "the latest files alone; for a network of the package, classified.",
)
_REPORT = flags.DEFINE_string("report", None, "HTML page to write about one or more runs, instead of evaluating.")
_EXPORT = flags.DEFINE_string(
    "export",
    None,
    "File to write the network to as one program of jax.export, with its weights inside, instead of evaluating. Its "
    "classes go into FILE.json.",
)
_SEARCH_ANGLES = flags.DEFINE_list(
    "search_angles",
    None,
    "Degrees by which each image is turned, as -20,-10,0,10,20; the classes are weighed over all of them. For networks "
    "with a --frame. With --report: the curves of such networks are drawn with this search too.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images of a step, over all devices. Default: the run's.", 1)
cli.define_distributed_flags()
flags.adopt_module_key_flags(cli)  # so that --help lists them

# What can be asked for, and the flags beside --workdir and --checkpoint that do something to it.
_ASKED = (
    (_EVAL_DATASETS, (_DATA_DIR, _AFFNIST_VARIANTS, _INVERT, _KEEP_GOING, _SEARCH_ANGLES, _BATCH_SIZE)),
    (_IMAGES, (_FORMAT, _OUTPUT_DIR, _INVERT, _CENTRE, _KEEP_GOING, _SEARCH_ANGLES)),
    (_REPORT, (_DATA_DIR, _SEARCH_ANGLES)),
    (_EXPORT, (_SEARCH_ANGLES,)),
)
_RUNS = pathlib.Path("runs")  # where the examples put runs
_LISTED = 20  # runs that a message names


def _angles(values):
    try:
        return [float(value) for value in values]
    except ValueError as error:
        raise ConfigError(f"--search_angles={','.join(values)}: must be numbers of degrees ({error}).") from None


def _workdirs():
    given = _WORKDIR.value or []
    if given and "" not in given:
        return [pathlib.Path(folder) for folder in given]
    found = [str(folder) for folder in runs.list_runs(_RUNS)]
    listed = ", ".join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
    there = f"in {_RUNS} there are {listed}" if found else f"there is no run in {_RUNS}"
    example = f", as --workdir={found[0]}," if found else ""
    raise ConfigError(
        f"--workdir={','.join(given)}: {there}. --workdir={pretrained.MNIST_SMALL.stem} is a network that comes with "
        f"the package. Name the folder of a run{example} or several with commas between."
    )


def _check_flags():
    given = [(flag, used) for flag, used in _ASKED if flag.value]
    if len(given) > 1:
        raise ConfigError(f"--{' and --'.join(flag.name for flag, _ in given)}: one at a time.")
    asked, used = given[0] if given else _ASKED[0]
    where = "without --images" if asked is _EVAL_DATASETS else f"with --{asked.name}"
    names = {flag.name for flag in used}
    for flag in itertools.chain.from_iterable(others for _, others in _ASKED):
        if flag.present and flag.name not in names:
            raise ConfigError(f"--{flag.name}={flag.value}: does nothing {where}.")


def main(argv):
    del argv
    workdirs = _workdirs()
    _check_flags()
    if _REPORT.value:
        report.write(
            workdirs,
            pathlib.Path(_REPORT.value),
            checkpoint=_CHECKPOINT.value,
            data_dir=_DATA_DIR.value,
            search_angles=_angles(_SEARCH_ANGLES.value or ()),
        )
        say(f"{_REPORT.value} is written.")
        return
    if len(workdirs) != 1:
        raise ConfigError(f"--workdir={','.join(_WORKDIR.value)}: one run at a time, except for --report.")
    (workdir,) = workdirs
    own = None if pretrained.is_packaged(workdir) else workdir  # nothing is written into the package
    with contextlib.nullcontext() if _FORMAT.value == classify.TEXT else messages_on_stderr() as records:
        run = pretrained.load(workdir, _CHECKPOINT.value)
        if _KEEP_GOING.value is not None:
            run = dataclasses.replace(run, config=dataclasses.replace(run.config, keep_going=_KEEP_GOING.value))
        if _SEARCH_ANGLES.value:
            run = run.searching(_angles(_SEARCH_ANGLES.value))
        if _IMAGES.value:
            commands.classify_files(
                run,
                _IMAGES.value,
                own,
                form=_FORMAT.value,
                output_dir=pathlib.Path(_OUTPUT_DIR.value) if _OUTPUT_DIR.value else None,
                records=records,
                invert=_INVERT.value,
                centre=_CENTRE.value,
            )
            return
    if _EXPORT.value:
        about = deployment.export(run, _EXPORT.value)
        say(f"{_EXPORT.value} is written, and its classes are in {about}.")
        return
    names = _EVAL_DATASETS.value or run.config.eval_datasets
    if _KEEP_GOING.value:
        commands.check_keep_going(names)
    commands.evaluate_run(
        run,
        names,
        own,
        batch_size=_BATCH_SIZE.value,
        data_dir=_DATA_DIR.value,
        affnist_variants=_AFFNIST_VARIANTS.value,
        invert=_INVERT.value,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _ON_INTERRUPT)
    cli.run(main)
