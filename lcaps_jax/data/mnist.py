"""Two sets of MNIST's digits: the bundled sample, which needs no network, and expanded MNIST."""

import pathlib

import numpy as np

from lcaps_jax.data import tfds
from lcaps_jax.data.augment import shift_once
from lcaps_jax.data.image_io import fit_size
from lcaps_jax.data.splits import Source, Split

SAMPLE, EXPANDED = "sample", "expanded_mnist"
# Sets of white digits on black that are fitted into 20x20 pixels, with their centre of mass in the middle.
MNIST_FORM = (SAMPLE, "mnist", EXPANDED)
SIZE, MAX_SHIFT = 40, 6  # pixels along a side of expanded MNIST, and by which its digits are shifted at most
_SAMPLE_FILE = pathlib.Path(__file__).parent / "sample.npz"


def load_sample(**unused) -> Source:
    """10,000 digits of MNIST, 28x28; the arguments of other loaders are not used."""
    with np.load(_SAMPLE_FILE) as stored:
        parts = [(stored[f"{part}_images"], stored[f"{part}_labels"]) for part in ("train", "test")]
    train, test = (Split(images[..., None], labels.astype(np.int32)) for images, labels in parts)
    return Source(train, test, tuple("0123456789"), train.images.shape[1])


def load_expanded(data_dir: str = "", **unused) -> Source:
    """MNIST on a black 40x40 canvas: training digits in the middle, to be shifted when used, test digits shifted."""
    digits = tfds.load("mnist", data_dir)
    train = Split(fit_size(digits.train.images, SIZE), digits.train.labels)
    test = Split(shift_once(fit_size(digits.test.images, SIZE), MAX_SHIFT), digits.test.labels)
    return Source(train, test, digits.class_names, SIZE, MAX_SHIFT)
