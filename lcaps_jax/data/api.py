"""Image sets as uint8 arrays: those of the tables below, each with a file of its own, or any of TensorFlow Datasets."""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
from typing import Any

import numpy as np

from lcaps_jax.data import affnist, folder, mnist, tfds
from lcaps_jax.data.image_io import fit_size
from lcaps_jax.data.splits import DataError, Source, Split, check_split, match_classes
from lcaps_jax.util import devices
from lcaps_jax.util.process import say
from lcaps_jax.util.settings import setting

# Loaders of the sets that can be trained on, called with data_dir, image_size and skip_unreadable.
SETS: dict[str, Callable[..., Source]] = {
    mnist.SAMPLE: mnist.load_sample,
    folder.NAME: folder.load,
    mnist.EXPANDED: mnist.load_expanded,
}
# Loaders of the sets that are for tests alone, called with data_dir, affnist_variants and class_names.
TEST_SETS: dict[str, Callable[..., Split]] = {
    affnist.NAME: affnist.load_test,
    affnist.OFFICIAL: affnist.load_official,
}
_NEARLY = 0.8  # of difflib's ratio, by which no set of TensorFlow Datasets is taken for one of this package
_SPAN = 32  # values that a set's images span at least; those of fewer use a sliver of the 256


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The training data."""

    dataset: str = setting(
        mnist.SAMPLE,
        "Training set: 'sample' (10,000 bundled MNIST digits, offline), 'folder' (your image files, as "
        "DATA_DIR/train/CLASS/FILE and DATA_DIR/test/CLASS/FILE), 'expanded_mnist' (MNIST shifted on a 40x40 canvas), "
        "or any image classification set of TensorFlow Datasets, such as 'mnist'.",
    )
    data_dir: str = setting(
        "",
        "Folder of prepared TensorFlow Datasets, by default ~/tensorflow_datasets; for 'folder', of your image files.",
        may_change=True,
    )
    skip_unreadable: bool = setting(
        False, "Leave out and list image files of 'folder' that cannot be read, rather than stop.", may_change=True
    )
    image_size: int = setting(28, "Pixels along a side; smaller images are padded, larger ones scaled down.", minimum=1)
    validation_size: int = setting(
        0, "Training images to hold out at random; the best checkpoint by their error is then kept too.", minimum=0
    )
    train_size: int = setting(0, "Training images to draw at random from those not held out; 0 is all.", minimum=0)
    shuffle: bool = setting(True, "Draw a new order of the images every epoch.")


def load(
    dataset: str, data_dir: str | None = None, image_size: int | None = None, skip_unreadable: bool = False
) -> Source:
    """Loads a data set; DataError says why it cannot be used.

    Args:
      dataset: ``"sample"``, ``"folder"``, ``"expanded_mnist"`` or the name of a TFDS set; affNIST is for tests alone.
      data_dir: Folder of prepared TFDS sets, by default TFDS's own; for ``"folder"`` that of ``train/``.
      image_size: Pixels along a side that images are padded or scaled to; None for the set's own size.
      skip_unreadable: Whether files of ``"folder"`` that cannot be read are listed and left out.
    """
    if dataset in TEST_SETS:
        raise DataError(f"dataset={dataset}: is for tests alone; train on {mnist.EXPANDED}, and test on {dataset}.")
    if dataset in SETS:
        source = SETS[dataset](data_dir=data_dir or "", image_size=image_size, skip_unreadable=skip_unreadable)
    else:
        source = _from_tfds(tfds.load, dataset, data_dir, image_size)
    parts = {part: split for part in ("train", "test", "validation") if (split := getattr(source, part)) is not None}
    for part, split in parts.items():
        check_split(split, len(source.class_names), f"The {part} part of {dataset}")
    images = source.train.images
    if all(np.array_equal(image, images[0]) for image in images):
        raise DataError(f"The train part of {dataset} cannot be learned: all {len(images)} images are the same.")
    if (high := int(images.max())) - (low := int(images.min())) < _SPAN:
        say(f"The images of {dataset} use the values {low} to {high} of 0 to 255 alone: save them with more contrast.")
    size = image_size or source.image_size
    pixels = sum(map(len, parts.values())) * size**2 * source.channels
    devices.check_fits(pixels, f"The set {dataset}, of images of {size}x{size},")
    fitted: dict[str, Any] = {part: Split(fit_size(split.images, size), split.labels) for part, split in parts.items()}
    return dataclasses.replace(source, image_size=size, **fitted)


def load_test(
    dataset: str, data_dir: str | None = None, image_size: int | None = None, affnist_variants: int = 1,
    class_names: Sequence[str] | None = None, skip_unreadable: bool = False, invert: bool = False,
) -> Split:  # fmt: skip
    """Loads the test part of a data set; a folder or a set of TFDS that has one needs no other part.

    ``load`` explains the arguments that it has too. ``dataset`` may also be ``"affnist"``, the test digits of MNIST
    distorted by affNIST's rules into ``affnist_variants`` of each, or ``"affnist_official"``, Tieleman's files. Labels
    are matched by the ``class_names`` of a network. ``invert`` swaps black and white before images get their borders.
    """
    if dataset in TEST_SETS:
        if invert:
            raise DataError(f"invert: must be off for dataset={dataset}, which has white digits on black.")
        size = affnist.CANVAS
        if image_size not in (None, size):
            taken = f"the network takes {image_size}x{image_size}; train on {mnist.EXPANDED}, or with a frame"
            raise DataError(f"dataset={dataset}: has images of {size}x{size} pixels, and {taken}.")
        return TEST_SETS[dataset](data_dir or "", affnist_variants, class_names)
    if dataset == folder.NAME:
        split, names = folder.load_test(data_dir or "", image_size, class_names, skip_unreadable, invert)
    elif dataset in SETS:
        source = SETS[dataset](data_dir=data_dir or "")
        split, names = source.test, source.class_names
    else:
        split, names = _from_tfds(tfds.load_test, dataset, data_dir, image_size)
    if invert and dataset != folder.NAME:  # whose files are inverted as they are read
        split = Split(255 - split.images, split.labels)
    check_split(split, len(names), f"The test part of {dataset}")
    split = Split(fit_size(split.images, image_size or max(split.images.shape[1:3])), split.labels)
    return match_classes(dataset, split, names, class_names)


def _from_tfds(loader: Callable, dataset: str, data_dir: str | None, image_size: int | None):
    """Calls a loader of TFDS, unless the name is nearly one of this package; an unknown name lists what there is."""
    if close := difflib.get_close_matches(dataset, (*SETS, *TEST_SETS), n=1, cutoff=_NEARLY):
        raise DataError(f"dataset={dataset}: no such set. Did you mean {close[0]}?")
    try:
        return loader(dataset, data_dir or "", image_size)
    except tfds.UnknownSetError as error:
        raise DataError(f"{error} Accepted are {', '.join(SETS)} and sets such as mnist or cifar10.") from None
