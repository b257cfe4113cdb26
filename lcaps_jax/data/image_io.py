"""Image files as the uint8 arrays that a network takes: what their headers say, their pixels, and their size.

What belongs to a file decides how it is read: its orientation, its transparency, which end of its range is white.

Axes: ``N`` images, ``H x W`` pixels of a file, ``I`` pixels along a side of a network's images, ``C`` channels.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
from typing import NamedTuple
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lcaps_jax.data.brightness import border
from lcaps_jax.data.splits import DataError
from lcaps_jax.util.process import say

MOST_PIXELS = 80_000_000  # of a file, because a decoded pixel takes up to seven bytes

_GREY_MODES = ("1", "L", "LA", "La", "I")  # and I;16 with its byte orders
_DEEP = "I"  # begins the modes of grey images with more than 8 bits
# What turns an image of each orientation of EXIF upright, as ImageOps.exif_transpose does, which knows numbers alone.
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

_LARGEST_PICTURE = 2000  # pixels along a side of a drawing
_FAINT = 0.2  # share of the strongest ink below which a pixel is background, uneven as that of a photograph
_LIGHT = 128  # from which on a background is light
_DIGIT_SIZE = 20  # pixels of a 28x28 image that MNIST's digits are fitted into

_Pair = Sequence[int]


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


class _Look(NamedTuple):
    """What the header of one file says, and a palette's pixels."""

    size: tuple[int, int]  # width and height as the image is seen
    coloured: bool
    deep: bool  # grey with more than 8 bits
    cut: bool  # of 16 bits of which Pillow keeps the upper 8: colours, or greys with alpha


def _look(image: Image.Image) -> _Look:
    """Looks at an image that has been opened and not decoded, which it may be afterwards."""
    tiles = getattr(image, "tile", None)  # how the file stores its pixels, in the words that Pillow has for its decoder
    arguments = tiles[0][3] if tiles else ""
    stored = tuple(map(str, arguments if isinstance(arguments, tuple) else (arguments,))) or ("",)
    deep = image.mode.startswith(_DEEP)
    cut = not deep and (_SIXTEEN in stored[0] or (image.format == "PPM" and stored[-1] == str(2**16 - 1)))
    if deep or stored[0].startswith(_GREY_WITH_ALPHA):
        coloured = False
    else:
        coloured = _shows_colours(image) if image.mode == "P" else image.mode not in _GREY_MODES
    return _Look(_upright_size(image), coloured, deep, cut)


def survey(files: Sequence[pathlib.Path], skip_unreadable: bool = False) -> Survey:
    """Looks at the headers of image files, and at the values of those with a palette or, until it is clear, 16 bits.

    Args:
      files: Files to look at.
      skip_unreadable: Whether a file that cannot be read is noted as a fault rather than refused.

    Raises:
      DataError: A file is no image, has too many pixels, or has pixels of 32 bits; or all files of 16 bits in colour
        would be read as black.
    """
    looks: dict[pathlib.Path, _Look] = {}
    faults: dict[pathlib.Path, str] = {}
    for file in files:
        try:
            with _opened(file) as image:
                looks[file] = _look(image)
        except DataError as error:
            if not skip_unreadable:
                raise
            faults[file] = str(error)
    cut = [file for file, look in looks.items() if look.cut]
    if all(_largest(file, skip_unreadable) <= _BLACK for file in cut):
        for file in cut:
            line = (
                f"{file} cannot be read: of its 16 bits in colour, or with alpha, Pillow keeps the upper 8, in which "
                "it is black. Save it with 8 bits."
            )
            if not skip_unreadable:
                raise DataError(line)
            faults[file] = line
            del looks[file]
    deep = [file for file, look in looks.items() if look.deep]
    shallow = bool(deep) and all(_largest(file, skip_unreadable) <= np.iinfo(np.uint8).max for file in deep)
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
            image = _opaque(image.convert("RGBA"))
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
        tags = image.tag_v2 if image.format == "TIFF" else image.getexif()  # type: ignore[attr-defined]
        value = tags.get(ExifTags.Base.Orientation)
        if image.format == "TIFF" and isinstance(value, int):
            return 1
        if isinstance(value, tuple | list):
            value = value[0]
        text = value.decode("ascii") if isinstance(value, bytes) else str(value)
        return int(float(text.strip(" \0")))
    return 1


def _largest(file: pathlib.Path, skip_unreadable: bool) -> int:
    """The largest value of a file of 16 bits, whatever its alpha; of a coloured one the upper 8 bits."""
    try:
        with _opened(file) as image:
            return int(np.atleast_3d(np.asarray(image))[..., :3].max())
    except DataError:
        if not skip_unreadable:
            raise
        return 0  # it is left out when it is read


def _as_bytes(image: Image.Image, shallow: bool) -> Image.Image:
    """A grey image of more than 8 bits as one of 8; Pillow would cut its values off at 255."""
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    bits = 8 if shallow else 12 if tags.get(_BITS) == (12,) else 16
    values = np.asarray(image).astype(np.int32)
    grey = (values.clip(0, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # Pillow sees to it in images of at most 8 bits
        grey = 255 - grey
    result = Image.fromarray(grey)
    if isinstance(key := image.info.get("transparency"), int):  # a PNG names the value that is transparent
        result.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return result


def _opaque(image: Image.Image) -> Image.Image:
    """Lays an RGBA image on black or, where what is opaque is darker than half, on white: its ink stays visible."""
    opacity = np.asarray(image.getchannel("A"), np.float64)
    grey = np.asarray(image.convert("RGB").convert("L"), np.float64)
    dark = (grey * opacity).sum() < 255 / 2 * opacity.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if dark else "black"), image)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the pixels of a fitted image lie in its file: point ``r`` of the image is ``scale r + offset`` in the file.

    Points are (row, column), and the middle of the first pixel is (0, 0). The file is taken upright, as it is seen.

    Attributes:
      scale: Pixels of the file for a pixel of the image, ``[2]``.
      offset: Point of the file in the middle of the image's first pixel, ``[2]``.
    """

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, taken: _Pair, fitted: _Pair, corner: _Pair = (0, 0), origin: _Pair = (0, 0)) -> "Placement":
        """That of ``taken`` pixels of the file, from ``origin`` on, as ``fitted`` of the image, from ``corner`` on."""
        scale = np.divide(taken, fitted)
        return cls(scale, scale * (0.5 - np.array(corner)) + origin - 0.5)

    def within(self, other: "Placement") -> "Placement":
        """That of an image in the file, where this one is in a picture that lies in the file as ``other`` says."""
        return Placement(other.scale * self.scale, other.scale * self.offset + other.offset)


def placed(image: np.ndarray, size: int, invert: bool = False, centre: bool = False) -> tuple[np.ndarray, Placement]:
    """The pixels of an image file as a network takes them, and where they lie in the file.

    Args:
      image: Image, ``[H, W, C]`` uint8.
      size: Pixels along a side of the network's images, I.
      invert: Whether black and white change places.
      centre: Whether the image is a digit, to be centred as MNIST's are; its background then becomes black.

    Returns:
      ``[I, I, C]`` uint8, and its placement.
    """
    image, shape = 255 - image if invert else image, image.shape[:2]
    if not centre:
        scaled = _scaled_shape(shape, size)
        return fit_size(image[None], size)[0], Placement.of(shape, scaled, _border_before(scaled, size))
    (picture,) = to_channels(_scaled_down(image[None], _LARGEST_PICTURE), 1)[..., 0]
    digit, placement = _centred(_ink(picture), size)
    return to_channels(digit[..., None], image.shape[-1]), placement.within(Placement.of(shape, picture.shape))


def fit_size(images: np.ndarray, size: int) -> np.ndarray:
    """Makes images ``[N, H, W, C]`` uint8 square, of ``size`` pixels, by scaling them down and by borders.

    An image on a light background gets a border of its colour, every other image a black one. They are scaled first, so
    that a long strip never becomes a large square, and its edge casts no halo onto the border.
    """
    images = _scaled_down(images, size)
    height, width, channels = images.shape[1:]
    if (height, width) == (size, size):
        return images
    top, left = _border_before((height, width), size)
    median = np.median(border(images), axis=1)
    is_light = median.mean(axis=1, keepdims=True) >= _LIGHT
    fitted = np.empty((len(images), size, size, channels), images.dtype)
    fitted[:] = np.where(is_light, median, 0).astype(images.dtype)[:, None, None, :]
    fitted[:, top : top + height, left : left + width] = images
    return fitted


def _border_before(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Pixels of border above an image and left of it."""
    return (size - shape[0]) // 2, (size - shape[1]) // 2


def _scaled_down(images: np.ndarray, size: int) -> np.ndarray:
    """Images of at most ``size`` pixels along their longer side."""
    height, width = _scaled_shape(images.shape[1:3], size)
    if (height, width) == images.shape[1:3]:
        return images
    pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images)
    scaled = [np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)) for picture in pictures]
    return np.stack(scaled).reshape(-1, height, width, images.shape[-1])


def _scaled_shape(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width of an image after ``_scaled_down``."""
    longest = max(shape)
    height, width = (side if longest <= size else max(1, round(side * size / longest)) for side in shape)
    return height, width


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images ``[..., C]`` uint8 with 1 or 3 channels, made grey or repeated as Pillow does it."""
    if images.shape[-1] == channels:
        return images
    if channels == 1:  # by the weights of ITU-R 601-2, in Pillow's fixed-point numbers
        weighted = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        return ((weighted + 2**15) >> 16).astype(np.uint8)[..., None]
    return np.repeat(images, channels, axis=-1)


def _ink(picture: np.ndarray) -> np.ndarray:
    """White ink ``[H, W]`` without its background, most of the border, and stretched to the full range."""
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ink = picture.astype(np.float64) - np.median(edge)
    strongest = ink.max()
    if strongest <= 0:
        return np.zeros_like(picture)
    ink[ink < _FAINT * strongest] = 0
    return np.rint(255 * ink / strongest).astype(np.uint8)


def centred(picture: np.ndarray, size: int) -> np.ndarray:
    """A drawn digit as MNIST has them: fitted into 20 of 28 pixels, its centre of mass in the middle.

    Args:
      picture: Drawing, ``[H, W]`` uint8, white on black.
      size: Pixels along a side of the network's images, I.

    Returns:
      ``[I, I]`` uint8; black where nothing was drawn.

    Raises:
      DataError: The picture has another shape or type, or more than 2000 pixels along a side.
    """
    of_bytes = isinstance(picture, np.ndarray) and picture.ndim == 2 and picture.dtype == np.uint8
    if not of_bytes or not 0 < min(picture.shape) <= max(picture.shape) <= _LARGEST_PICTURE:
        raise DataError(f"picture: must be bytes [H, W], of 1 to {_LARGEST_PICTURE} pixels along a side.")
    return _centred(picture, size)[0]


def _centred(picture: np.ndarray, size: int) -> tuple[np.ndarray, Placement]:
    """A digit as ``centred`` returns it, and where its pixels lie in the drawing; of an empty one the whole of it."""
    canvas = np.zeros((size, size), np.uint8)
    nothing = canvas, Placement.of(picture.shape, canvas.shape)
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    if not rows.size:
        return nothing
    cut = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ink = Image.fromarray(cut)
    ratio = min(_DIGIT_SIZE, size) / max(ink.size)
    ink = ink.resize([max(1, round(ratio * side)) for side in ink.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(ink, np.float64)
    if not pixels.any():  # a trace so faint that it is gone
        return nothing
    weights = [pixels.sum(axis=1), pixels.sum(axis=0)]
    corner = [round(size / 2 - (np.arange(len(w)) + 0.5) @ w / w.sum()) for w in weights]
    corner = [min(max(0, c), size - n) for c, n in zip(corner, pixels.shape)]
    canvas[corner[0] : corner[0] + len(pixels), corner[1] : corner[1] + pixels.shape[1]] = np.asarray(ink)
    return canvas, Placement.of(cut.shape, pixels.shape, corner, (rows[0], columns[0]))
