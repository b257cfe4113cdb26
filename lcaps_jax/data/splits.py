"""Labelled images in memory, and the parts of a data set. Axes: ``N`` images of size ``I``, ``C`` channels."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
from typing import Any
import unicodedata

import numpy as np

from lcaps_jax.util.errors import UserError


class DataError(UserError):
    """Data cannot be used; the message names the set, file or value, and what would be accepted."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images in memory: ``images [N, I, I, C]`` uint8, ``labels [N]`` int32, and facts ``about`` them."""

    images: np.ndarray
    labels: np.ndarray
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # which results on the images repeat

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of the images and labels."""
        return self.images.nbytes + self.labels.nbytes

    @property
    def channels(self) -> int:
        """Channels of the images, C."""
        return self.images.shape[-1]

    def take(self, index: np.ndarray) -> "Split":
        """The images at ``index``, and their labels."""
        return Split(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set as it is loaded."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    image_size: int  # pixels along a side that the images are meant for
    max_shift: int = 0  # pixels by which training images are meant to be shifted at random
    validation: Split | None = None  # None where the set has no such part

    @property
    def channels(self) -> int:
        """Channels of the images, C."""
        return self.train.channels


def check_split(split: Split, classes: int, what: str) -> None:
    """Raises DataError about ``what``, a part without images, with images that are not bytes, or labels of no class."""
    if not len(split):
        raise DataError(f"{what} has no images.")
    if split.images.dtype != np.uint8:
        raise DataError(f"{what} has images of the type {split.images.dtype}: they must be bytes (uint8), 0 to 255.")
    bad = split.labels[(split.labels < 0) | (split.labels >= classes)]
    if bad.size:
        raise DataError(f"{what} has the label {bad[0]}: labels must be 0 to {classes - 1}.")


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
    """Divides a training part at random into what is left, at least one image, and ``validation_size`` images."""
    if validation_size >= len(split):
        most = f"{len(split) - 1}, one less than the training images"
        raise DataError(f"validation_size={validation_size}: must be at most {most}.")
    order = np.random.default_rng(seed).permutation(len(split))
    chosen, left = np.sort(order[:validation_size]), np.sort(order[validation_size:])
    return split.take(left), split.take(chosen)


def draw(split: Split, train_size: int, seed: int) -> Split:
    """Draws ``train_size`` of the training images at random."""
    if train_size > len(split):
        raise DataError(f"train_size={train_size}: must be at most {len(split)}, the number of training images left.")
    return split.take(np.sort(np.random.default_rng(seed).permutation(len(split))[:train_size]))


def match_classes(dataset: str, split: Split, names: Sequence[str], class_names: Sequence[str] | None) -> Split:
    """The same images with the labels of a network, whose ``class_names`` are the set's ``names`` in another order."""
    if class_names is None or tuple(names) == tuple(class_names):
        return split
    labels = {normal_form(name): label for label, name in enumerate(class_names)}
    if set(map(normal_form, names)) != set(labels):
        wanted, has = (", ".join(each[:10]) + (", ..." if len(each) > 10 else "") for each in (class_names, names))
        raise DataError(f"dataset={dataset}: must have the classes of the network, {wanted}; it has {has}.")
    order = np.array([labels[normal_form(name)] for name in names], np.int32)
    return dataclasses.replace(split, labels=order[split.labels])


def normal_form(name: str) -> str:
    """The name of a class in Unicode's normal form C, in which names that look alike are alike."""
    return unicodedata.normalize("NFC", name)
