"""Evaluates a trained network on test sets: error, its interval, and errors by class.

    python eval.py --workdir=runs/quickstart --eval_datasets=sample

The results go into the run's results.json, the plots into its folder figures/. With --images it classifies image files
instead:

    python eval.py --workdir=runs/quickstart --images='photos/*.png'

With --report it writes one page about a run, or about several side by side:

    python eval.py --workdir=runs/one,runs/other --report=report.html
"""

import dataclasses
import pathlib

from absl import flags

from lcaps_jax import cli, commands, parallel, runs
from lcaps_jax.config import ConfigError
from lcaps_jax.data import affnist
from lcaps_jax.runtime import say
from lcaps_jax.training import BEST, LAST
from lcaps_jax.views import classify, plots, report

_WORKDIR = flags.DEFINE_list("workdir", None, "Folder of the run; for --report, one or several.", required=True)
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
_INVERT = flags.DEFINE_boolean("invert", False, "With --images: black and white change places, as for ink on paper.")
_CENTRE = flags.DEFINE_boolean(
    "centre", False, "With --images: each image is a digit, which is cut out and centred as MNIST's digits are."
)
_KEEP_GOING = flags.DEFINE_boolean(
    "keep_going", None, "Leave out and list image files that cannot be read. Default: as for the run."
)
_REPORT = flags.DEFINE_string("report", None, "HTML page to write about one or more runs, instead of evaluating.")
_SEARCH_ANGLES = flags.DEFINE_list(
    "search_angles",
    None,
    "Degrees by which each image is turned, as -20,-10,0,10,20; the classes are weighed over all of them. For networks "
    "with a --frame.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images of a step, over all devices. Default: the run's.", 1)
cli.define_distributed_flags()
flags.adopt_module_key_flags(cli)  # so that --help lists them


def _angles(values):
    try:
        return [float(value) for value in values]
    except ValueError as error:
        raise ConfigError(f"--search_angles={','.join(values)}: must be numbers of degrees ({error}).") from None


def main(argv):
    del argv
    workdirs = [pathlib.Path(folder) for folder in _WORKDIR.value]
    given = [flag.name for flag in (_EVAL_DATASETS, _IMAGES, _REPORT) if flag.value]
    if len(given) > 1:
        raise ConfigError(f"--{' and --'.join(given)}: one at a time.")
    if not _WORKDIR.value or "" in _WORKDIR.value:
        raise ConfigError(
            f"--workdir={','.join(_WORKDIR.value)}: name the folder of a run, or several with commas between."
        )
    if not _IMAGES.value and (_INVERT.value or _CENTRE.value):
        raise ConfigError(f"--{'invert' if _INVERT.value else 'centre'}: needs --images.")
    if _REPORT.value and _SEARCH_ANGLES.value:
        raise ConfigError("--report and --search_angles: one at a time.")
    if _REPORT.value:
        report.write(workdirs, pathlib.Path(_REPORT.value), checkpoint=_CHECKPOINT.value, data_dir=_DATA_DIR.value)
        say(f"{_REPORT.value} is written.")
        return
    if len(workdirs) != 1:
        raise ConfigError(f"--workdir={','.join(_WORKDIR.value)}: one run at a time, except for --report.")
    (workdir,) = workdirs
    run = runs.load_run(workdir, _CHECKPOINT.value)
    if _KEEP_GOING.value is not None:
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, keep_going=_KEEP_GOING.value))
    if _SEARCH_ANGLES.value:
        run = run.searching(_angles(_SEARCH_ANGLES.value))
    if _IMAGES.value:
        prepare = {"invert": _INVERT.value, "centre": _CENTRE.value}
        for number, classified in enumerate(classify.classify(run, classify.find(_IMAGES.value), **prepare)):
            say(classified.line(run.class_names))
            if parallel.is_main():
                classify.draw(run, classified, workdir, number)
        say(f"Their pictures are in {workdir / plots.FOLDER / classify.FOLDER}.")
        return
    names = _EVAL_DATASETS.value or run.config.eval_datasets
    commands.evaluate_run(
        run,
        names,
        workdir,
        batch_size=_BATCH_SIZE.value,
        data_dir=_DATA_DIR.value,
        affnist_variants=_AFFNIST_VARIANTS.value,
    )


if __name__ == "__main__":
    cli.run(main)
