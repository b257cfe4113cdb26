"""Image classification sets as uint8 arrays.

A data set is one file of this package, its name in ``set_names.py`` and one line in a table below; every other name is
looked up in TensorFlow Datasets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib

import numpy as np

from lcaps_jax import parallel, set_names
from lcaps_jax.data import affnist, expanded_mnist, folder, ground, sample, tfds
from lcaps_jax.data.affnist import Affnist
from lcaps_jax.data.ground import Ground
from lcaps_jax.data.resize import fit_size
from lcaps_jax.data.splits import (
    DataError,
    Source,
    Split,
    TestSet,
    check_split,
    draw,
    fingerprint,
    hold_out,
    match_classes,
    sameness,
)
from lcaps_jax.errors import arg
from lcaps_jax.runtime import say

AFFNIST_OFFICIAL = set_names.AFFNIST_OFFICIAL


def _load_official(*arguments) -> TestSet:
    from lcaps_jax.data import affnist_official  # imported here because it imports TensorFlow

    return affnist_official.load_test(*arguments)


# Loaders of the sets that can be trained on: (data_dir, image_size, class_names, keep_going) -> Source.
SETS: dict[str, Callable[..., Source]] = {
    sample.NAME: sample.load,
    folder.NAME: folder.load,
    expanded_mnist.NAME: expanded_mnist.load,
}
# Loaders of the sets that are for tests alone: (data_dir, image_size, affnist_variants, class_names) -> TestSet.
TEST_SETS: dict[str, Callable[..., TestSet]] = {
    affnist.NAME: affnist.load_test,
    AFFNIST_OFFICIAL: _load_official,
}
# Sets of white digits on black that are fitted into 20x20 pixels, with their centre of mass in the middle.
MNIST_FORM = (sample.NAME, "mnist", expanded_mnist.NAME)
# Values that a set's images span at least; those of fewer use a sliver of the 256.
_SPAN = 32

__all__ = [
    "MNIST_FORM",
    "SETS",
    "TEST_SETS",
    "Affnist",
    "DataError",
    "Ground",
    "Source",
    "Split",
    "TestSet",
    "check_split",
    "draw",
    "fingerprint",
    "ground_of",
    "hold_out",
    "load",
    "load_test",
    "match_classes",
]


def load(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    keep_going: bool = False,
) -> Source:
    """Loads a data set.

    Args:
      name: ``"sample"``, ``"folder"``, ``"expanded_mnist"`` or the name of a TFDS set; affNIST is for tests alone.
      data_dir: Folder of prepared TFDS sets, None for TFDS's own; for ``"folder"`` the folder of ``train/`` and its
        other parts.
      image_size: Pixels along a side that images are padded or scaled to; None for the set's own size.
      class_names: Classes of a trained network, for ``"folder"``: its folders are then among them.
      keep_going: Whether files of ``"folder"`` that cannot be read are listed and left out.

    Raises:
      DataError: The set does not exist, cannot be downloaded, holds no labelled images, or is damaged; or its training
        images are all the same.
    """
    if name in TEST_SETS:
        raise DataError(
            f"{arg('name')}={name}: is a test set: train on {expanded_mnist.NAME}, and name it in "
            f"{arg('eval_datasets')}."
        )
    if name in SETS:
        source = SETS[name](data_dir, image_size, class_names, keep_going)
    else:
        _check_spelling(name)
        with _known_sets():
            source = tfds.load(name, data_dir, image_size)
    parts = {"train": source.train, "test": source.test, "validation": source.validation}
    for part, split in parts.items():
        if split is not None:
            check_split(split, len(source.class_names), f"The {part} part of {name}")
    _check_content(name, source.train.images)
    size = image_size or source.image_size
    pixels = sum(map(len, filter(None, parts.values()))) * size**2 * source.channels
    parallel.check_fits(pixels, f"The set {name}, of images of {size}x{size},")
    train, test, validation = (split and Split(fit_size(split.images, size), split.labels) for split in parts.values())
    return Source(train, test, source.class_names, size, source.max_shift, validation)


def _check_spelling(name: str) -> None:
    """Raises DataError for a name that is nearly one of this package, before TensorFlow is imported to look it up."""
    if correction := set_names.correction(name):
        raise DataError(f"{arg('name')}={name}: {correction}")


def _check_content(name: str, images: np.ndarray) -> None:
    """Raises DataError for training images that are all the same, and says where they use a sliver of their range."""
    if same := sameness(images):
        raise DataError(f"The train part of {name} cannot be learned: {same}.")
    if (high := int(images.max())) - (low := int(images.min())) < _SPAN:
        say(
            f"The images of {name} use a sliver of their range, the values {low} to {high} of 0 to 255: save them with "
            "the contrast that they are meant to have."
        )


@contextlib.contextmanager
def _known_sets() -> Iterator[None]:
    """Says which sets there are where TensorFlow Datasets does not know one."""
    try:
        yield
    except tfds.UnknownSetError as error:
        raise DataError(
            f"{error.marked} Accepted are {', '.join(SETS)} and the image classification sets of TensorFlow Datasets, "
            "such as mnist or cifar10."
        ) from None


def ground_of(dataset: str, stored: Mapping | None) -> Ground | None:
    """The ground of the data that a run was trained on.

    Args:
      dataset: Name of the training set.
      stored: What the run has kept, ``dataclasses.asdict`` of a ``Ground``; None of an older run.

    Returns:
      Ground; None where the run has kept none and the set is not of MNIST's form.
    """
    if stored:
        return Ground(tuple(stored["mean"]), tuple(stored["deviation"]))
    return ground.MNIST if dataset in MNIST_FORM else None


def load_test(
    name: str,
    data_dir: str | None,
    image_size: int | None,
    affnist_variants: int = 1,
    class_names: Sequence[str] | None = None,
    keep_going: bool = False,
    invert: bool = False,
) -> TestSet:
    """Loads the test part of a data set; a folder or a set of TFDS that has one needs no other part.

    Args:
      name: A name that ``load`` takes; or ``"affnist"``, the test digits of MNIST distorted by affNIST's rules; or
        ``"affnist_official"``, Tieleman's files.
      data_dir: See ``load``.
      image_size: Pixels along a side of the network's images; None for the set's own size.
      affnist_variants: Variants of each digit, for ``"affnist"``.
      class_names: Names of the network's classes, by which labels are matched; None takes the set's own.
      keep_going: See ``load``.
      invert: Whether black and white change places, before an image gets its borders.

    Raises:
      DataError: The set cannot be loaded, see ``load``; or affNIST is wanted at another size than 40x40, or inverted.
    """
    if name in TEST_SETS:
        if invert:
            raise DataError(
                f"{arg('name')}={name}: has white digits on black, which {arg('invert')} leaves alone: it is for "
                "images on another ground than those that the network was trained on."
            )
        return TEST_SETS[name](data_dir, image_size, affnist_variants, class_names)
    if name == folder.NAME:
        split, own = folder.load_test(data_dir, image_size, class_names, keep_going, invert)
    elif name in SETS:
        source = SETS[name](data_dir, image_size, class_names, keep_going)
        split, own = source.test, source.class_names
    else:
        _check_spelling(name)
        with _known_sets():
            split, own = tfds.load_test(name, data_dir, image_size)
    if invert and name != folder.NAME:
        split = Split(255 - split.images, split.labels)
    check_split(split, len(own), f"The test part of {name}")
    if same := sameness(split.images):
        say(f"The test part of {name} tells nothing: {same}.")
    split = Split(fit_size(split.images, image_size or max(split.images.shape[1:3])), split.labels)
    return match_classes(name, split, own, class_names)
