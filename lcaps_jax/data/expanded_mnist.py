"""Expanded MNIST: digits of MNIST on a black 40x40 canvas, shifted at random by up to 6 pixels each way."""

from collections.abc import Sequence

from lcaps_jax import set_names
from lcaps_jax.data import tfds
from lcaps_jax.data.augment import place
from lcaps_jax.data.resize import fit_size
from lcaps_jax.data.splits import Source, Split

NAME = set_names.EXPANDED_MNIST
SIZE = 40
MAX_SHIFT = 6


def load(
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    keep_going: bool = False,
) -> Source:
    """Training digits lie in the middle of the canvas, to be shifted anew each time; test digits are placed once.

    Args:
      data_dir: Folder of prepared TFDS sets; None for TFDS's own.
      image_size: Not used.
      class_names: Not used.
      keep_going: Not used.

    Raises:
      DataError: MNIST cannot be loaded.
    """
    del image_size, class_names, keep_going
    mnist = tfds.load("mnist", data_dir)
    train = Split(fit_size(mnist.train.images, SIZE), mnist.train.labels)
    test = Split(place(fit_size(mnist.test.images, SIZE), MAX_SHIFT), mnist.test.labels)
    return Source(train, test, mnist.class_names, SIZE, MAX_SHIFT)
