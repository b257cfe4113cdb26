"""Trains a capsule network.

    python train.py --flagfile=configs/quickstart.flags

The same command again continues an interrupted run.
"""

import signal
import sys

# Ctrl-C during the imports below, which take seconds, would print a traceback.
_ON_INTERRUPT = signal.signal(signal.SIGINT, signal.SIG_DFL) if __name__ == "__main__" else None

from absl import flags

from lcaps_jax import usage

if __name__ == "__main__":
    usage.check_names(sys.argv, usage.TRAINING)
    usage.check_sets(sys.argv)

from lcaps_jax import cli, commands, config

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: settings, checkpoints, plots.")
config.define_flags()
cli.define_distributed_flags()
for module in (config, cli):
    flags.adopt_module_key_flags(module)  # so that --help lists them


def main(argv):
    del argv
    if not _WORKDIR.value:
        raise config.ConfigError(
            "--workdir=: the settings, checkpoints, results and pictures of a run go into a folder of its own. Name a "
            "new folder, as --workdir=runs/mine, or that of a run that is to go on."
        )
    commands.train(config.from_flags(flags.FLAGS), _WORKDIR.value)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _ON_INTERRUPT)
    cli.run(main)
