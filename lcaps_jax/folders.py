"""Image files as data: folders of classes, and single files to be classified.

A data set is a folder with ``train/CLASS/FILE`` and, where there is one, ``test/CLASS/FILE``, in any format that Pillow
reads. One colour image makes a set colour; a transparent image is seen on black.
"""

from collections.abc import Iterator, Sequence
import contextlib
import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_GREY_MODES = ("1", "L", "LA", "La", "I")  # and I;16 with its byte orders
# What file managers leave in folders of pictures.
_NOT_DATA = ("Thumbs.db", "desktop.ini")


class FileError(ValueError):
    """A file or folder that cannot be used; the message names it and what would do."""


def find(folder: pathlib.Path, part: str) -> dict[str, list[pathlib.Path]]:
    """The files of each class in ``folder/part``, classes and files sorted by name.

    Raises:
      FileError: for a folder that is missing, has less than one class, or a class without files.
    """
    place = folder / part
    if not place.is_dir():
        raise FileError(f"{place} is not there: images are expected as {place}/CLASS/FILE.")
    classes = {
        path.name: sorted(file for file in path.iterdir() if not _is_ignored(file))
        for path in sorted(place.iterdir())
        if path.is_dir() and not _is_ignored(path)
    }
    if not classes:
        raise FileError(f"{place} has no folder in it: images are expected as {place}/CLASS/FILE.")
    for name, files in classes.items():
        if not files:
            raise FileError(f"{place / name} has no image: put some there, or remove the folder.")
    return classes


def _is_ignored(path: pathlib.Path) -> bool:
    return path.name.startswith(".") or path.name in _NOT_DATA


def describe(files: Sequence[pathlib.Path]) -> tuple[int, dict[tuple[int, int], pathlib.Path]]:
    """Looks at the headers of image files.

    Returns:
      Channels, 3 where any of them is coloured and else 1, and the sizes (width, height), each with a file that has it.

    Raises:
      FileError: for a file that is no image, or has pixels of 32 bits.
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


# Of EXIF: from this value on, width and height change places.
_ORIENTATION, _FIRST_TURNED = 0x0112, 5


def read(file: pathlib.Path, channels: int) -> np.ndarray:
    """Decodes an image file.

    Args:
      file: in any format that Pillow reads; of several frames, the first.
      channels: 1 or 3, to which it is converted.

    Returns:
      ``[H, W, channels]`` uint8.

    Raises:
      FileError: for a file that is no image or is damaged, or has pixels of 32 bits.
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
    """An image file to be decoded inside; raises FileError for what is wrong with it."""
    try:
        with Image.open(file) as image:
            # Pillow opens Netpbm's 16 bits as 32. Other such images do not say what is black and what white.
            if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                raise ValueError(
                    "its pixels are signed or have 32 bits, of no known range; save it with 8 or 16, unsigned"
                )
            yield image
    except UnidentifiedImageError:
        raise FileError(f"{file} is not an image that Pillow can read.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow's decoders do
        raise FileError(f"{file} cannot be read: {error}.") from None
