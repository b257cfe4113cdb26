"""Writes the network of a run to one file, which lcaps_jax.load_pretrained reads.

python -m scripts.export --workdir=runs/mnist_small --output=lcaps_jax/mnist_small.npz
"""

from absl import flags

from lcaps_jax import cli, pretrained, runs

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to write.", required=True)


def main(argv):
    del argv
    pretrained.save(runs.load_run(_WORKDIR.value), _OUTPUT.value)


if __name__ == "__main__":
    cli.run(main)
