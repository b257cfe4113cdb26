"""Image files as bytes: what their headers say, and their pixels as somebody sees them.

What belongs to the file decides how it is read: its orientation, its transparency, which end of its range is white.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from lcaps_jax.data.splits import DataError
from lcaps_jax.runtime import say

MOST_PIXELS = 80_000_000  # of a file, because a decoded pixel takes up to seven bytes

_GREY_MODES = ("1", "L", "LA", "La", "I")  # and I;16 with its byte orders
_DEEP = "I"  # begins the modes of grey images with more than 8 bits
_TIFF = "TIFF"
# EXIF's tag of the orientation, and what turns an image of each orientation upright.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_ON_ITS_SIDE = 5
# Pillow's name of 16 bits in how a file stores its pixels, and that of the greys with alpha that it opens as colours.
_SIXTEEN, _GREY_WITH_ALPHA = ";16", "LA;16"
# The largest of 256 values that a value of up to 255 in 16 bits becomes, cut or rounded.
_BLACK = 1
# Tags of TIFF, and the value of the second that makes the smallest number white.
_BITS, _PHOTOMETRIC, _MIN_IS_WHITE = 258, 262, 0


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a look at image files has found.

    Attributes:
      files: Files that can be read, as far as their headers tell.
      faults: Files that cannot be read, and a line about each.
      coloured: Files with colours, in the order of ``files``.
      sizes: Sizes (width, height) as the images are seen, each with a file that has it.
      shallow: Whether the files of 16 bits hold values of 8 bits, none above 255.
    """

    files: tuple[pathlib.Path, ...]
    faults: Mapping[pathlib.Path, str]
    coloured: tuple[pathlib.Path, ...]
    sizes: Mapping[tuple[int, int], pathlib.Path]
    shallow: bool

    @property
    def channels(self) -> int:
        """Channels that hold all the images, 3 where any of them is coloured and else 1."""
        return 3 if self.coloured else 1


@dataclasses.dataclass(frozen=True)
class _Look:
    """What the header of one file says, and a palette's pixels.

    Attributes:
      size: Width and height as the image is seen.
      coloured: Whether it has colours.
      deep: Whether it is grey with more than 8 bits.
      cut: Whether it has 16 bits of which Pillow keeps the upper 8: colours, or greys with alpha.
    """

    size: tuple[int, int]
    coloured: bool
    deep: bool
    cut: bool

    @classmethod
    def at(cls, image: Image.Image) -> "_Look":
        """Looks at an image that has been opened and not decoded, which it may be afterwards."""
        stored, deep = _stored(image), image.mode.startswith(_DEEP)
        cut = not deep and (_SIXTEEN in stored[0] or (image.format == "PPM" and stored[-1] == str(2**16 - 1)))
        if deep or stored[0].startswith(_GREY_WITH_ALPHA):
            coloured = False
        else:
            coloured = _shows_colours(image) if image.mode == "P" else image.mode not in _GREY_MODES
        return cls(_upright_size(image), coloured, deep, cut)


def survey(files: Sequence[pathlib.Path], keep_going: bool = False) -> Survey:
    """Looks at the headers of image files, and at the values of those with a palette or, until it is clear, 16 bits.

    Args:
      files: Files to look at.
      keep_going: Whether a file that cannot be read is noted as a fault rather than refused.

    Raises:
      DataError: A file is no image, has too many pixels, or has pixels of 32 bits; or all files of 16 bits in colour
        would be read as black.
    """
    looks: dict[pathlib.Path, _Look] = {}
    faults: dict[pathlib.Path, str] = {}
    for file in files:
        try:
            with _opened(file) as image:
                looks[file] = _Look.at(image)
        except DataError as error:
            if not keep_going:
                raise
            faults[file] = str(error)
    cut = [file for file, look in looks.items() if look.cut]
    if all(_largest(file, keep_going) <= _BLACK for file in cut):
        for file in cut:
            line = (
                f"{file} cannot be read: of its 16 bits in colour, or with alpha, Pillow keeps the upper 8, in which "
                "it is black. Save it with 8 bits."
            )
            if not keep_going:
                raise DataError(line)
            faults[file] = line
            del looks[file]
    deep = [file for file, look in looks.items() if look.deep]
    shallow = bool(deep) and all(_largest(file, keep_going) <= np.iinfo(np.uint8).max for file in deep)
    if shallow:
        say(f"The {len(deep)} files of 16 bits, as {deep[0]}, hold no value above 255: they are read as 8 bits.")
    sizes: dict[tuple[int, int], pathlib.Path] = {}
    for file, look in looks.items():
        sizes.setdefault(look.size, file)
    coloured = tuple(file for file, look in looks.items() if look.coloured)
    return Survey(tuple(looks), faults, coloured, sizes, shallow)


def read(file: pathlib.Path, channels: int, shallow: bool = False) -> np.ndarray:
    """Decodes an image file.

    Args:
      file: Image in any format that Pillow reads; of several frames it reads the first.
      channels: Channels of the result, 1 or 3.
      shallow: Whether a file of 16 bits holds values of 8 bits; see ``Survey``.

    Returns:
      ``[H, W, channels]`` uint8, upright. A transparent image lies on black, or on white where its ink is dark.

    Raises:
      DataError: The file is no image, is damaged, has too many pixels, or has pixels of 32 bits.
    """
    with _opened(file) as image:
        orientation = _orientation(image)
        image.load()
        if image.mode.startswith(_DEEP):
            image = _as_bytes(image, shallow)
        if image.has_transparency_data:
            image = _on_ground(image.convert("RGBA"))
        image = image.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(image.transpose(_TURNS[orientation]) if orientation in _TURNS else image)
    return pixels.reshape(*pixels.shape[:2], channels)


def list_faults(faults: Mapping[pathlib.Path, str], count: int) -> None:
    """Prints which of ``count`` files are left out, and why."""
    if faults:
        lines = "".join(f"\n  {fault}" for fault in faults.values())
        say(f"{len(faults)} of {count} image files cannot be read and are left out:{lines}")


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Image.Image]:
    """Opens an image file, to be decoded inside; raises DataError where that fails, in whatever way."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of images that are large, which the check below refuses, and of odd metadata.
            warnings.simplefilter("ignore")
            # From a stream, because Pillow maps a file that it opens by its name, and then garbles a turned TIFF.
            with file.open("rb") as stream, Image.open(stream) as image:
                _check_kind(image)
                yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{file} is not an image that Pillow can read.") from None
    except Exception as error:  # each decoder has exceptions of its own; a damaged size may ask for too much memory
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"{file} cannot be read: {said.rstrip('.')}.") from None


def _check_kind(image: Image.Image) -> None:
    """Raises ValueError for an image that is too large to be decoded, or whose range is not known."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"it has {width}x{height} pixels; at most {MOST_PIXELS // 10**6} million are read, so save it smaller"
        )
    # Pillow opens Netpbm's 16 bits as 32. Other such images do not say what is black and what white.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its pixels are signed or have 32 bits, of no known range; save it with 8 or 16, unsigned")


def _stored(image: Image.Image) -> tuple[str, ...]:
    """How a file stores its pixels, in the words that Pillow has for its decoder; they are gone once it has decoded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return tuple(map(str, arguments if isinstance(arguments, tuple) else (arguments,))) or ("",)


def _shows_colours(image: Image.Image) -> bool:
    """Whether any pixel of an image with a palette is coloured and can be seen; a palette may have colours to spare."""
    pixels = np.asarray(image.convert("RGBA"))
    seen = pixels[pixels[..., 3] > 0, :3]
    return bool((seen != seen[:, :1]).any())


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after an image has been turned; a square is not asked, because some formats decode for it."""
    width, height = image.size
    on_its_side = width != height and _orientation(image) >= _FIRST_ON_ITS_SIDE
    return (height, width) if on_its_side else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, which some programs write as text; 1, upright, where it says nothing that makes sense.

    Pillow turns a TIFF file by itself, as far as the orientation is a number.
    """
    if image.format == "PNG":
        image.load()  # outside of what is suppressed, because Pillow would decode it for its metadata
    with contextlib.suppress(Exception):  # damaged metadata leave the pixels as they are
        tags = image.tag_v2 if image.format == _TIFF else image.getexif()  # type: ignore[attr-defined]
        value = tags.get(_ORIENTATION)
        if image.format == _TIFF and isinstance(value, int):
            return 1
        if isinstance(value, tuple | list):
            value = value[0]
        text = value.decode("ascii") if isinstance(value, bytes) else str(value)
        return int(float(text.strip(" \0")))
    return 1


def _largest(file: pathlib.Path, keep_going: bool) -> int:
    """The largest value of a file of 16 bits, whatever its alpha; of a coloured one the upper 8 bits."""
    try:
        with _opened(file) as image:
            return int(np.atleast_3d(np.asarray(image))[..., :3].max())
    except DataError:
        if not keep_going:
            raise
        return 0  # it is left out when it is read


def _as_bytes(image: Image.Image, shallow: bool) -> Image.Image:
    """A grey image of more than 8 bits as one of 8; Pillow would cut its values off at 255."""
    tags = image.tag_v2 if image.format == _TIFF else {}  # type: ignore[attr-defined]
    bits = 8 if shallow else 12 if tags.get(_BITS) == (12,) else 16
    values = np.asarray(image).astype(np.int32)
    grey = (values.clip(0, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # Pillow sees to it in images of at most 8 bits
        grey = 255 - grey
    result = Image.fromarray(grey)
    if isinstance(key := image.info.get("transparency"), int):  # a PNG names the value that is transparent
        result.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return result


def _on_ground(image: Image.Image) -> Image.Image:
    """Lays an RGBA image on black or, where what is opaque is darker than half, on white: its ink stays visible."""
    opacity = np.asarray(image.getchannel("A"), np.float64)
    grey = np.asarray(image.convert("RGB").convert("L"), np.float64)
    dark = (grey * opacity).sum() < 255 / 2 * opacity.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if dark else "black"), image)
