"""Image classification sets as uint8 arrays.

A data set is one file of this package and one line in a table below; every other name is looked up in TensorFlow
Datasets.
"""

from collections.abc import Callable, Sequence

from lcaps_jax.data import affnist, expanded_mnist, folder, sample, tfds
from lcaps_jax.data.affnist import Affnist
from lcaps_jax.data.resize import fit_size
from lcaps_jax.data.splits import DataError, Source, Split, TestSet, check_split, draw, hold_out, match_classes
from lcaps_jax.errors import arg

AFFNIST_OFFICIAL = "affnist_official"


def _load_official(*arguments) -> TestSet:
    from lcaps_jax.data import affnist_official  # imported here because it imports TensorFlow

    return affnist_official.load_test(*arguments)


# Loaders of the sets that can be trained on: (data_dir, image_size, class_names) -> Source.
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

__all__ = [
    "SETS",
    "TEST_SETS",
    "Affnist",
    "DataError",
    "Source",
    "Split",
    "TestSet",
    "check_split",
    "draw",
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
) -> Source:
    """Loads a data set.

    Args:
      name: ``"sample"``, ``"folder"``, ``"expanded_mnist"`` or the name of a TFDS set; affNIST is for tests alone.
      data_dir: Folder of prepared TFDS sets, None for TFDS's own; for ``"folder"`` the folder of ``train/`` and
        ``test/``.
      image_size: Pixels along a side that images are padded or scaled to; None for the set's own size.
      class_names: Classes of a trained network, for ``"folder"``: its folders are then among them.

    Raises:
      DataError: The set does not exist, cannot be downloaded, holds no labelled images, or is damaged.
    """
    if name in TEST_SETS:
        raise DataError(
            f"{arg('name')}={name}: is a test set: train on {expanded_mnist.NAME}, and name it in "
            f"{arg('eval_datasets')}."
        )
    source = SETS[name](data_dir, image_size, class_names) if name in SETS else _load_tfds(name, data_dir, image_size)
    for part, split in (("train", source.train), ("test", source.test)):
        check_split(split, len(source.class_names), f"The {part} part of {name}")
    size = image_size or source.image_size
    train, test = (Split(fit_size(split.images, size), split.labels) for split in (source.train, source.test))
    return Source(train, test, source.class_names, size, source.max_shift)


def _load_tfds(name: str, data_dir: str | None, image_size: int | None) -> Source:
    try:
        return tfds.load(name, data_dir, image_size)
    except tfds.UnknownSetError as error:
        raise DataError(
            f"{error.marked} Accepted are {', '.join(SETS)} and the image classification sets of TensorFlow Datasets, "
            "such as mnist or cifar10."
        ) from None


def load_test(
    name: str,
    data_dir: str | None,
    image_size: int | None,
    affnist_variants: int = 1,
    class_names: Sequence[str] | None = None,
) -> TestSet:
    """Loads the test part of a data set.

    Args:
      name: A name that ``load`` takes; or ``"affnist"``, the test digits of MNIST distorted by affNIST's rules; or
        ``"affnist_official"``, Tieleman's files.
      data_dir: See ``load``.
      image_size: Pixels along a side of the network's images; None for the set's own size.
      affnist_variants: Variants of each digit, for ``"affnist"``.
      class_names: Names of the network's classes, by which labels are matched; None takes the set's own.

    Raises:
      DataError: The set cannot be loaded, see ``load``; or affNIST is wanted at another size than 40x40.
    """
    if name in TEST_SETS:
        return TEST_SETS[name](data_dir, image_size, affnist_variants, class_names)
    source = load(name, data_dir, image_size, class_names)
    return match_classes(name, source.test, source.class_names, class_names)
