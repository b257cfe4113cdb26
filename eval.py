"""Evaluates a trained network on test sets: error, its interval, and errors by class.

    python eval.py --workdir=runs/quickstart --eval_datasets=sample

The results go into the run's results.json, the figures into its folder figures/. With --images it classifies image
files instead; mnist_small and mnist_framed are networks that come with the package:

    python eval.py --workdir=runs/quickstart --images='photos/*.png'
    python eval.py --workdir=mnist_small --images=digit.png --format=json

With --report it writes one page about a run, or about several side by side; with --export it writes the network as one
program, which runs without this package (docs/how_to/export.md):

    python eval.py --workdir=runs/one,runs/other --report=report.html
    python eval.py --workdir=runs/quickstart --export=quickstart.program
"""

from absl import flags

from lcaps_jax.cli import evaluate
from lcaps_jax.cli import flags as cli_flags
from lcaps_jax.cli import main as cli

cli_flags.define_evaluation()
cli_flags.define_distributed()
flags.adopt_module_key_flags(cli_flags)  # so that --help lists them


if __name__ == "__main__":
    cli.run(evaluate.main)
