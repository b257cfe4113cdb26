"""Image files as data: folders of classes, and single files to classify.

A data set is a folder with ``train/CLASS/FILE`` and, where there is one, ``test/CLASS/FILE``, in any format that Pillow
reads. One colour image makes a set colour. A transparent image is laid on black.
"""

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lcaps_jax import parallel
from lcaps_jax.data.resize import fit_size
from lcaps_jax.data.splits import DataError, Source, Split
from lcaps_jax.data.tfds import TEST_SHARE
from lcaps_jax.errors import arg
from lcaps_jax.runtime import say

NAME = "folder"

_GREY_MODES = ("1", "L", "LA", "La", "I")  # and I;16 with its byte orders
# File managers leave these in folders of pictures.
_NOT_DATA = ("Thumbs.db", "desktop.ini")


def find(folder: pathlib.Path, part: str) -> dict[str, list[pathlib.Path]]:
    """The files of each class in ``folder/part``, classes and files sorted by name.

    Raises:
      DataError: The folder is missing or has no class, or a class has no file.
    """
    place = folder / part
    if not place.is_dir():
        raise DataError(f"{place} is not there: images are expected as {place}/CLASS/FILE.")
    classes = {
        path.name: sorted(file for file in path.iterdir() if not _is_ignored(file))
        for path in sorted(place.iterdir())
        if path.is_dir() and not _is_ignored(path)
    }
    if not classes:
        raise DataError(f"{place} has no folder in it: images are expected as {place}/CLASS/FILE.")
    for name, files in classes.items():
        if not files:
            raise DataError(f"{place / name} has no image: put some there, or remove the folder.")
    return classes


def _is_ignored(path: pathlib.Path) -> bool:
    return path.name.startswith(".") or path.name in _NOT_DATA


def describe(files: Sequence[pathlib.Path]) -> tuple[int, dict[tuple[int, int], pathlib.Path]]:
    """Looks at the headers of image files.

    Returns:
      Channels, 3 where any of them is coloured and else 1, and the sizes (width, height), each with a file that has it.

    Raises:
      DataError: A file is no image, or has pixels of 32 bits.
    """
    channels = 1
    sizes: dict[tuple[int, int], pathlib.Path] = {}
    for file in files:
        with _opened(file) as image:
            if not (image.mode in _GREY_MODES or image.mode.startswith("I;16")):
                channels = 3
            # A camera's picture may say that it lies on its side.
            turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            sizes.setdefault(image.size[::-1] if turned else image.size, file)
    return channels, sizes


# EXIF's tag of the orientation, and the value from which on width and height change places.
_ORIENTATION, _FIRST_TURNED = 0x0112, 5


def read(file: pathlib.Path, channels: int) -> np.ndarray:
    """Decodes an image file.

    Args:
      file: Image in any format that Pillow reads; of several frames it reads the first.
      channels: Channels of the result, 1 or 3.

    Returns:
      ``[H, W, channels]`` uint8.

    Raises:
      DataError: The file is no image, is damaged, or has pixels of 32 bits.
    """
    with _opened(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits; Pillow would cut them off at 255
            image = Image.fromarray((np.asarray(image).clip(0, 2**16 - 1) // 2**8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Image.Image]:
    """Opens an image file, to be decoded inside; raises DataError where that fails."""
    try:
        with Image.open(file) as image:
            # Pillow opens Netpbm's 16 bits as 32. Other such images do not say what is black and what white.
            if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                raise ValueError(
                    "its pixels are signed or have 32 bits, of no known range; save it with 8 or 16, unsigned"
                )
            yield image
    except UnidentifiedImageError:
        raise DataError(f"{file} is not an image that Pillow can read.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all of these
        raise DataError(f"{file} cannot be read: {error}.") from None


def load(
    data_dir: str | None = None, image_size: int | None = None, class_names: Sequence[str] | None = None
) -> Source:
    """Loads image files: ``data_dir/train/CLASS/FILE`` and, where it exists, ``data_dir/test/CLASS/FILE``.

    Args:
      data_dir: Folder of ``train/`` and ``test/``.
      image_size: Pixels along a side to fit the images to; None where they are square and of one size.
      class_names: Classes of a trained network; the folders are then among them.

    Raises:
      DataError: A folder or file cannot be used; the message names it.
    """
    if data_dir is None:
        raise DataError(f"The set '{NAME}' needs the folder that holds train/CLASS/FILE: give it as {arg('data_dir')}.")
    root = pathlib.Path(data_dir)
    parts = {"train": find(root, "train")}
    if (root / "test").exists():
        parts["test"] = find(root, "test")
    names = tuple(class_names or parts["train"])
    for part, classes in parts.items():
        if unknown := sorted(set(classes) - set(names)):
            raise DataError(f"{root / part / unknown[0]}: no such class; there are {', '.join(names)}.")
    if len(names) < 2:
        raise DataError(f"{root / 'train'} has the one class {names[0]}: to tell classes apart takes two.")
    files = [file for classes in parts.values() for group in classes.values() for file in group]
    channels, sizes = describe(files)
    if image_size is None and (len(sizes) > 1 or len(set(next(iter(sizes)))) > 1):
        seen = ", ".join(f"{width}x{height} ({file})" for (width, height), file in list(sizes.items())[:2])
        raise DataError(f"The images in {root} must be square and of one size, or give {arg('image_size')}: {seen}.")
    size = image_size or next(iter(sizes))[0]
    parallel.check_fits(len(files) * size**2 * channels, f"The set in {root}")
    if "test" not in parts:
        parts["train"], parts["test"] = _hold_out_files(parts["train"], root)
    splits = {part: _read_classes(classes, names, channels, size) for part, classes in parts.items()}
    return Source(splits["train"], splits["test"], names, size)


_Classes = dict[str, list[pathlib.Path]]


def _hold_out_files(classes: _Classes, root: pathlib.Path) -> tuple[_Classes, _Classes]:
    """Makes a test part for a folder that has none: some of each class's files, but never all.

    A file's own content decides, so that it stays in its part when others are added, removed or renamed: a network is
    never tested on what it was trained on.
    """
    train, test = {}, {}
    for name, files in classes.items():
        digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
        held = [int.from_bytes(digest, "big") % TEST_SHARE == 0 for digest in digests]
        if all(held):
            held = [False] * len(files)
        train[name] = [file for file, out in zip(files, held) if not out]
        test[name] = [file for file, out in zip(files, held) if out]
    images, count = sum(map(len, test.values())), sum(map(len, classes.values()))
    if not images:
        raise DataError(f"{root} has too few images to hold some out as a test part; give them in {root / 'test'}.")
    say(f"{root} has no test part: {images} of its {count} images, always the same, are held out as one.")
    return train, test


def _read_classes(classes: _Classes, names: Sequence[str], channels: int, size: int) -> Split:
    images = [fit_size(read(file, channels)[None], size)[0] for files in classes.values() for file in files]
    labels = [names.index(name) for name, files in classes.items() for _ in files]
    # Mixed, always in the same way, so that the first images, and training without shuffling, meet every class.
    order = np.random.default_rng(0).permutation(len(labels))
    return Split(np.stack(images)[order], np.array(labels, np.int32)[order])
