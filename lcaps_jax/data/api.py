"""Image classification sets as uint8 arrays.

A data set is one file of this package and one line in a table below; every other name is looked up in TensorFlow
Datasets.
"""

from collections.abc import Callable, Sequence
import dataclasses
import difflib

import numpy as np

from lcaps_jax.data import affnist, affnist_official, folder, mnist, tfds
from lcaps_jax.data.image_io import fit_size
from lcaps_jax.data.splits import DataError, Source, Split, TestSet, check_split, match_classes, sameness
from lcaps_jax.util import devices
from lcaps_jax.util.process import say
from lcaps_jax.util.settings import setting

# Loaders of the sets that can be trained on, called with data_dir, image_size, class_names and skip_unreadable.
SETS: dict[str, Callable[..., Source]] = {
    mnist.SAMPLE: mnist.load_sample,
    folder.NAME: folder.load,
    mnist.EXPANDED: mnist.load_expanded,
}
# Loaders of the sets that are for tests alone: (data_dir, image_size, affnist_variants, class_names) -> TestSet.
TEST_SETS: dict[str, Callable[..., TestSet]] = {
    affnist.NAME: affnist.load_test,
    affnist.OFFICIAL: affnist_official.load_test,
}
_NEARLY = 0.8  # of difflib's ratio, by which no set of TensorFlow Datasets is taken for one of this package
# Values that a set's images span at least; those of fewer use a sliver of the 256.
_SPAN = 32


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The training data."""

    dataset: str = setting(
        mnist.SAMPLE,
        "Training set: 'sample' (10,000 bundled MNIST digits, offline), 'folder' (your image files, as "
        "DATA_DIR/train/CLASS/FILE and DATA_DIR/test/CLASS/FILE), 'expanded_mnist' (MNIST on a 40x40 canvas, "
        "shifted by up to 6 pixels), or any image classification set of TensorFlow Datasets, such as 'mnist'.",
    )
    data_dir: str = setting(
        "",
        "Folder of prepared TensorFlow Datasets, by default ~/tensorflow_datasets; for 'folder', of your image files.",
        may_change=True,
    )
    skip_unreadable: bool = setting(
        False,
        "Leave out and list those image files of 'folder' that cannot be read, rather than stop at the first.",
        may_change=True,
    )
    image_size: int = setting(28, "Pixels along a side; smaller images are padded, larger ones scaled down.", minimum=1)
    validation_size: int = setting(
        0,
        "Training images to hold out, drawn at random, in place of the images of DATA_DIR/val of a 'folder'; the best "
        "checkpoint by their error is then kept too.",
        minimum=0,
    )
    train_size: int = setting(
        0, "Training images to use, drawn at random from those that are not held out; 0 uses all.", minimum=0
    )
    shuffle: bool = setting(True, "Draw a new order of the images every epoch.")


def load(
    dataset: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    skip_unreadable: bool = False,
) -> Source:
    """Loads a data set.

    Args:
      dataset: ``"sample"``, ``"folder"``, ``"expanded_mnist"`` or the name of a TFDS set; affNIST is for tests alone.
      data_dir: Folder of prepared TFDS sets, None or ``""`` for TFDS's own; for ``"folder"`` the folder of ``train/``
        and its other parts.
      image_size: Pixels along a side that images are padded or scaled to; None for the set's own size.
      class_names: Classes of a trained network, for ``"folder"``: its folders are then among them.
      skip_unreadable: Whether files of ``"folder"`` that cannot be read are listed and left out.

    Raises:
      DataError: The set does not exist, cannot be downloaded, holds no labelled images, or is damaged; or its training
        images are all the same.
    """
    if dataset in TEST_SETS:
        raise DataError(f"dataset={dataset}: is for tests alone: train on {mnist.EXPANDED}, and test on {dataset}.")
    if dataset in SETS:
        options = {"image_size": image_size, "class_names": class_names, "skip_unreadable": skip_unreadable}
        source = SETS[dataset](data_dir=data_dir or None, **options)
    else:
        source = _from_tfds(tfds.load, dataset, data_dir, image_size)
    parts = {"train": source.train, "test": source.test, "validation": source.validation}
    for part, split in parts.items():
        if split is not None:
            check_split(split, len(source.class_names), f"The {part} part of {dataset}")
    _check_content(dataset, source.train.images)
    size = image_size or source.image_size
    pixels = sum(map(len, filter(None, parts.values()))) * size**2 * source.channels
    devices.check_fits(pixels, f"The set {dataset}, of images of {size}x{size},")
    train, test, validation = (split and Split(fit_size(split.images, size), split.labels) for split in parts.values())
    return Source(train, test, source.class_names, size, source.max_shift, validation)


def load_test(
    dataset: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    affnist_variants: int = 1,
    class_names: Sequence[str] | None = None,
    skip_unreadable: bool = False,
    invert: bool = False,
) -> TestSet:
    """Loads the test part of a data set; a folder or a set of TFDS that has one needs no other part.

    Args:
      dataset: A name that ``load`` takes; or ``"affnist"``, the test digits of MNIST distorted by affNIST's rules; or
        ``"affnist_official"``, Tieleman's files.
      data_dir: See ``load``.
      image_size: Pixels along a side of the network's images; None for the set's own size.
      affnist_variants: Variants of each digit, for ``"affnist"``.
      class_names: Names of the network's classes, by which labels are matched; None takes the set's own.
      skip_unreadable: See ``load``.
      invert: Whether black and white change places, before an image gets its borders.

    Raises:
      DataError: The set cannot be loaded, see ``load``; or affNIST is wanted at another size than 40x40, or inverted.
    """
    if dataset in TEST_SETS:
        if invert:
            raise DataError(f"invert: must be off for dataset={dataset}, which has white digits on black.")
        return TEST_SETS[dataset](data_dir or None, image_size, affnist_variants, class_names)
    if dataset == folder.NAME:
        split, names = folder.load_test(data_dir, image_size, class_names, skip_unreadable, invert)
    else:
        if dataset in SETS:
            source = SETS[dataset](data_dir=data_dir or None)
            split, names = source.test, source.class_names
        else:
            split, names = _from_tfds(tfds.load_test, dataset, data_dir, image_size)
        split = Split(255 - split.images, split.labels) if invert else split
    check_split(split, len(names), f"The test part of {dataset}")
    if same := sameness(split.images):
        say(f"The test part of {dataset} tells nothing: {same}.")
    split = Split(fit_size(split.images, image_size or max(split.images.shape[1:3])), split.labels)
    return match_classes(dataset, split, names, class_names)


def _from_tfds(loader: Callable, dataset: str, data_dir: str | None, image_size: int | None):
    """Calls a loader of TFDS, unless the name is nearly one of this package; an unknown name lists what there is."""
    if close := difflib.get_close_matches(dataset, (*SETS, *TEST_SETS), n=1, cutoff=_NEARLY):
        raise DataError(f"dataset={dataset}: no such set. Did you mean {close[0]}?")
    try:
        return loader(dataset, data_dir or None, image_size)
    except tfds.UnknownSetError as error:
        raise DataError(
            f"{error} Accepted are {', '.join(SETS)} and the image classification sets of TensorFlow Datasets, such as "
            "mnist or cifar10."
        ) from None


def _check_content(dataset: str, images: np.ndarray) -> None:
    """Raises DataError for training images that are all the same, and says where they use a sliver of their range."""
    if same := sameness(images):
        raise DataError(f"The train part of {dataset} cannot be learned: {same}.")
    if (high := int(images.max())) - (low := int(images.min())) < _SPAN:
        say(
            f"The images of {dataset} use a sliver of their range, the values {low} to {high} of 0 to 255: save them "
            "with the contrast that they are meant to have."
        )
