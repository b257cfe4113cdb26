"""Trains a capsule network.

    python train.py --flagfile=configs/quickstart.flags

The same command again continues an interrupted run.
"""

from absl import flags

from lcaps_jax.cli import flags as cli_flags
from lcaps_jax.cli import main as cli
from lcaps_jax.cli.train import train
from lcaps_jax.util.errors import ConfigError

cli_flags.define_training()
cli_flags.define_distributed()
flags.adopt_module_key_flags(cli_flags)  # so that --help lists them


def main():
    workdir = flags.FLAGS.workdir
    if not workdir:
        raise ConfigError(
            "workdir=: must be the folder of the run, which may be new, as --workdir=runs/mine; its settings, "
            "checkpoints, results and figures go there."
        )
    train(cli_flags.given(), workdir)


if __name__ == "__main__":
    cli.run(main)
