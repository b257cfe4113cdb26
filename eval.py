"""Evaluates a trained network on test sets: error, its interval, and errors by class.

    python eval.py --workdir=runs/quickstart --eval_datasets=sample

The figures are added to the run's results.json, the pictures to its folder figures/.
"""

import pathlib

from absl import flags

from lcaps_jax import cli, parallel, runs
from lcaps_jax.checkpoints import BEST, LAST

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_EVAL_DATASETS = flags.DEFINE_list("eval_datasets", None, "Test sets, as for train.py. Default: those of the run.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets. Default: that of the run.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", LAST, [LAST, BEST], "The last checkpoint, or the best by validation error."
)
_AFFNIST_VARIANTS = flags.DEFINE_integer(
    "affnist_variants", None, "Variants of each digit in the set 'affnist'. Default: those of the run.", 1, 32
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images a step, over all devices. Default: that of the run.", 1)


def main(argv):
    del argv
    parallel.prepare()
    workdir = pathlib.Path(_WORKDIR.value)
    run = runs.load_run(workdir, _CHECKPOINT.value)
    names = _EVAL_DATASETS.value or run.config.eval_datasets
    evaluations = runs.evaluate_run(
        run,
        names,
        workdir,
        batch_size=_BATCH_SIZE.value,
        data_dir=_DATA_DIR.value,
        affnist_variants=_AFFNIST_VARIANTS.value,
    )
    for name, evaluation in evaluations.items():
        result = runs.format_result(evaluation.result(run.step))
        print(f"{name}: {result}, {run.checkpoint} checkpoint, step {run.step}")
        print(runs.format_table(evaluation, run.class_names))


if __name__ == "__main__":
    cli.run(main)
