"""Labelled images in memory, and the parts that a data set is divided into.

Axes: ``N`` images, ``I`` their size, ``C`` channels, ``J`` classes.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
from typing import Any, Protocol
import unicodedata

import numpy as np

from lcaps_jax.util.errors import UserError


class DataError(UserError):
    """Data cannot be used; the message names the set, file or value, and what would be accepted."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
      images: Images, ``[N, I, I, C]`` uint8.
      labels: Class of each image, ``[N]`` int32.
      about: Facts about the images, which results on them repeat.
    """

    images: np.ndarray
    labels: np.ndarray
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of the parts that are in memory at a time."""
        return self.images.nbytes + self.labels.nbytes

    @property
    def channels(self) -> int:
        """Channels of the images, C."""
        return self.images.shape[-1]

    def parts(self) -> Iterator["Split"]:
        """The images part by part, in order, all of one size."""
        yield self

    def take(self, index: np.ndarray) -> "Split":
        """The images at ``index``, and their labels."""
        return Split(self.images[index], self.labels[index])


class TestSet(Protocol):
    """Labelled images to test on, in memory as in ``Split``, or generated part by part as in ``affnist.Affnist``."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> np.ndarray:
        """Labels of all images, ``[N]`` int32."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Facts about the images, which results on them repeat."""

    @property
    def nbytes(self) -> int:
        """Bytes of the parts that are in memory at a time."""

    @property
    def channels(self) -> int:
        """Channels of the images, C."""

    def parts(self) -> Iterator[Split]:
        """The images part by part, in order, all of one size."""

    def take(self, index: np.ndarray) -> Split:
        """The images at ``index``, and their labels."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set as it is loaded.

    Attributes:
      train: Training part.
      test: Test part.
      class_names: Names of the J classes.
      image_size: Pixels along a side that the images are meant for.
      max_shift: Pixels by which training images are meant to be shifted at random.
      validation: Validation part, None where the set has none of its own.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    image_size: int
    max_shift: int = 0
    validation: Split | None = None

    @property
    def channels(self) -> int:
        """Channels of the images, C."""
        return self.train.channels


def check_split(split: TestSet, classes: int, what: str) -> None:
    """Raises DataError for an empty part, labels that are no classes, or images that are not bytes.

    Args:
      split: Part to be checked.
      classes: Number of classes, J.
      what: Name of the part in the message.
    """
    if not len(split):
        raise DataError(f"{what} has no images.")
    if isinstance(split, Split) and split.images.dtype != np.uint8:
        raise DataError(f"{what} has images of the type {split.images.dtype}: they must be bytes (uint8), 0 to 255.")
    bad = split.labels[(split.labels < 0) | (split.labels >= classes)]
    if bad.size:
        raise DataError(f"{what} has the label {bad[0]}: labels must be 0 to {classes - 1}.")


def sameness(images: np.ndarray) -> str | None:
    """In which way images ``[N, I, I, C]`` cannot be told apart, in words; None where they can."""
    low, high = images.min(), images.max()
    if low == high:
        return f"all {len(images)} images have the value {low} in every pixel"
    if len(images) > 1 and all(np.array_equal(image, images[0]) for image in images[1:]):
        return f"all {len(images)} images are the same"
    return None


def fingerprint(split: Split, class_names: Sequence[str]) -> dict[str, str]:
    """Digests of the images of each class, whatever their order, by the classes' names: a second for each GiB."""
    found: list[list[bytes]] = [[] for _ in class_names]
    for image, label in zip(split.images, split.labels):
        found[label].append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    shape = repr(split.images.shape[1:]).encode()
    return {
        name: hashlib.blake2b(b"".join([shape, *sorted(digests)]), digest_size=8).hexdigest()
        for name, digests in zip(class_names, found)
    }


def hold_out(split: Split, validation_size: int, seed: int) -> tuple[Split, Split]:
    """Divides a training part at random into what is left and ``validation_size`` images.

    Raises:
      DataError: No image would be left.
    """
    if validation_size >= len(split):
        raise DataError(
            f"validation_size={validation_size}: must be at most {len(split) - 1}, because the training part has "
            f"{len(split)} images."
        )
    order = np.random.default_rng(seed).permutation(len(split))
    chosen, left = np.sort(order[:validation_size]), np.sort(order[validation_size:])
    return split.take(left), split.take(chosen)


def draw(split: Split, train_size: int, seed: int) -> Split:
    """Draws ``train_size`` of the training images at random.

    Raises:
      DataError: There are fewer images.
    """
    if train_size > len(split):
        raise DataError(
            f"train_size={train_size}: must be at most {len(split)}, the number of images that are left to train on."
        )
    return split.take(np.sort(np.random.default_rng(seed).permutation(len(split))[:train_size]))


def match_classes(dataset: str, split: Split, names: Sequence[str], class_names: Sequence[str] | None) -> Split:
    """The same images with the labels of a network that knows the classes in another order.

    Args:
      dataset: Name of the set, for the message.
      split: Images and labels.
      names: Names of the set's classes, in the order of its labels.
      class_names: Names of the network's classes; None takes any.

    Raises:
      DataError: The set has other classes than the network.
    """
    if class_names is None or tuple(names) == tuple(class_names):
        return split
    labels = {normal_form(name): label for label, name in enumerate(class_names)}
    if set(map(normal_form, names)) != set(labels):
        raise DataError(
            f"dataset={dataset}: must have the network's classes, {listed(class_names)}, by which labels are matched; "
            f"it has {listed(names)}."
        )
    order = np.array([labels[normal_form(name)] for name in names], np.int32)
    return dataclasses.replace(split, labels=order[split.labels])


def normal_form(name: str) -> str:
    """The name of a class in Unicode's normal form C, in which names that look alike are alike."""
    return unicodedata.normalize("NFC", name)


def listed(names: Sequence[str]) -> str:
    """The first ten names, and how many there are if there are more."""
    return ", ".join(names[:10]) + (f", ... ({len(names)})" if len(names) > 10 else "")
