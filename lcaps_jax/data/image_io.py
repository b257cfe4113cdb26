"""Image files as the uint8 arrays that a network takes. Axes: ``N`` images of ``H x W`` pixels, ``C`` channels."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
from typing import NamedTuple
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lcaps_jax.data.brightness import border
from lcaps_jax.data.splits import DataError
from lcaps_jax.util.process import say

# Pillow reads more formats, but for PostScript it starts another program.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
_LARGEST_PICTURE = 2000  # pixels along a side of a drawing
_FAINT = 0.2  # share of the strongest ink below which a pixel is background, uneven as that of a photograph
_LIGHT = 128  # from which on a background is light
_DIGIT_SIZE = 20  # pixels of a 28x28 image that MNIST's digits are fitted into
_Pair = Sequence[int] | np.ndarray


class Survey(NamedTuple):
    """What a look at image files finds."""

    files: list[pathlib.Path]  # that can be read, as far as their headers tell
    coloured: list[pathlib.Path]
    faults: dict[pathlib.Path, str]  # a line about each other file
    shallow: bool  # whether the files of 16 bits hold values of 8 bits, none above 255

    @property
    def channels(self) -> int:
        """Channels that hold all the images: 3 where any of them is coloured, else 1."""
        return 3 if self.coloured else 1


def survey(files: Sequence[pathlib.Path], skip_unreadable: bool = False) -> Survey:
    """Looks at the headers of image files; a file that cannot be read is refused (DataError) or noted as a fault."""
    found, largest = Survey([], [], {}, False), 0
    for file in files:
        with _noting(found.faults if skip_unreadable else None, file), _opened(file) as image:
            if _has_colours(image):
                found.coloured.append(file)
            elif image.mode.startswith("I"):
                largest = max(largest, int(np.asarray(image).max()))
            found.files.append(file)
    return found._replace(shallow=0 < largest <= 255)


@contextlib.contextmanager
def _noting(faults: dict[pathlib.Path, str] | None, file: pathlib.Path) -> Iterator[None]:
    """Notes a DataError about a file, where there are faults to add it to."""
    try:
        yield
    except DataError as error:
        if faults is None:
            raise
        faults[file] = str(error)


def read(file: pathlib.Path, channels: int, shallow: bool = False) -> np.ndarray:
    """Decodes an image file, the first of several frames, to ``[H, W, channels]`` uint8, upright; 1 or 3 channels."""
    with _opened(file) as image:
        image.load()
        with contextlib.suppress(Exception):  # damaged metadata leave the pixels as they are
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
            image = Image.fromarray((np.asarray(image) >> (0 if shallow else 8)).astype(np.uint8))
        pixels = np.asarray(_opaque(image).convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_each(
    files: Sequence[pathlib.Path], found: Survey, skip_unreadable: bool = False
) -> Iterator[tuple[pathlib.Path, np.ndarray]]:
    """Files and their pixels; a file that cannot be read is refused (DataError) or noted among the faults found."""
    for file in files:
        with _noting(found.faults if skip_unreadable else None, file):
            yield file, read(file, found.channels, found.shallow)


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
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # of more than 89 million pixels
            # From a stream, because Pillow maps a file that it opens by its name, and then garbles a turned TIFF.
            with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
                # Pillow opens Netpbm's 16 bits as 32. Other such images do not say what is black and what white.
                if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                    raise ValueError("its pixels have 32 bits, of no known range; save it with 8 or 16, unsigned")
                yield image
    except UnidentifiedImageError:
        raise DataError(f"{file} is not an image of a format that is read: {', '.join(FORMATS)}.") from None
    except Exception as error:  # each decoder has exceptions of its own; a damaged size may ask for too much memory
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"{file} cannot be read: {said.rstrip('.')}.") from None


def _has_colours(image: Image.Image) -> bool:
    """Whether an image has colours; those of a palette count where a pixel shows them."""
    if image.mode == "P":
        return bool(np.ptp(np.asarray(_opaque(image).convert("RGB")), axis=-1).any())
    return image.mode not in _GREY_MODES


def _opaque(image: Image.Image) -> Image.Image:
    """Lays a transparent image on black or, where what is opaque is dark, on white: its ink stays visible."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    opacity = np.asarray(image.getchannel("A"), np.float64)
    is_dark = (np.asarray(image.convert("L")) * opacity).sum() < 255 / 2 * opacity.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if is_dark else "black"), image)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the pixels of a fitted image lie in its file, upright: its point ``r`` is ``scale r + offset`` there."""

    scale: np.ndarray  # (row, column) [2], as points are, of which (0, 0) is the middle of the first pixel
    offset: np.ndarray  # [2]

    @classmethod
    def of(cls, taken: _Pair, fitted: _Pair, corner: _Pair = (0, 0), origin: _Pair = (0, 0)) -> "Placement":
        """That of ``taken`` pixels of the file, from ``origin`` on, as ``fitted`` of the image, from ``corner`` on."""
        scale = np.divide(taken, fitted)
        return cls(scale, scale * (0.5 - np.array(corner)) + origin - 0.5)

    def within(self, other: "Placement") -> "Placement":
        """That of an image in the file, where this one is in a picture that lies in the file as ``other`` says."""
        return Placement(other.scale * self.scale, other.scale * self.offset + other.offset)


def placed(image: np.ndarray, size: int, invert: bool = False, centre: bool = False) -> tuple[np.ndarray, Placement]:
    """The pixels ``[H, W, C]`` of an image file as a network takes them, ``[size, size, C]``, and where they lie in it.

    ``invert`` makes black and white change places. ``centre`` is for digits, centred on black as MNIST's are.
    """
    image = 255 - image if invert else image
    scaled = _scaled_down(image[None], _LARGEST_PICTURE if centre else size)
    shape = scaled.shape[1:3]
    if not centre:
        corner = (size - np.array(shape)) // 2
        return fit_size(scaled, size)[0], Placement.of(image.shape[:2], shape, corner)
    digit, placement = _centred(_ink(to_channels(scaled, 1)), size)
    return to_channels(digit[..., None], image.shape[-1]), placement.within(Placement.of(image.shape[:2], shape))


def fit_size(images: np.ndarray, size: int) -> np.ndarray:
    """Makes images ``[N, H, W, C]`` uint8 square, of ``size`` pixels, by scaling them down and then by borders.

    An image on a light background gets a border of its colour, every other image a black one.
    """
    images = _scaled_down(images, size)  # first, so that a long strip never becomes a large square
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    top, left = (size - height) // 2, (size - width) // 2
    median = np.median(border(images), axis=1)
    background = np.where(median.mean(axis=1, keepdims=True) >= _LIGHT, median, 0).astype(np.uint8)
    fitted = np.tile(background[:, None, None], (1, size, size, 1))
    fitted[:, top : top + height, left : left + width] = images
    return fitted


def _scaled_down(images: np.ndarray, size: int) -> np.ndarray:
    """Images ``[N, H, W, C]`` of at most ``size`` pixels along their longer side."""
    if max(images.shape[1:3]) <= size:
        return images
    pictures = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images]
    for picture in pictures:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    scaled = np.stack([np.asarray(picture) for picture in pictures])
    return scaled.reshape(*scaled.shape[:3], images.shape[-1])


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images ``[..., H, W, C]`` uint8 with 1 or 3 channels, made grey or repeated."""
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    tall = Image.fromarray(images.reshape(-1, *images.shape[-2:])).convert("L")
    return np.asarray(tall).reshape(*images.shape[:-1], 1)


def _ink(image: np.ndarray) -> np.ndarray:
    """White ink ``[H, W]`` of an image ``[1, H, W, 1]`` without its background, stretched to the full range."""
    ink = image[0, ..., 0] - np.median(border(image))
    strongest = max(ink.max(), 1.0)
    return np.rint(255 * np.where(ink < _FAINT * strongest, 0, ink) / strongest).astype(np.uint8)


def centred(picture: np.ndarray, size: int) -> np.ndarray:
    """A digit ``[H, W]`` uint8, white on black, as MNIST has it: in the middle of ``[size, size]``, 20 pixels large."""
    of_bytes = isinstance(picture, np.ndarray) and picture.ndim == 2 and picture.dtype == np.uint8
    if not of_bytes or not 0 < min(picture.shape) <= max(picture.shape) <= _LARGEST_PICTURE:
        raise DataError(f"picture: must be bytes [H, W], of 1 to {_LARGEST_PICTURE} pixels along a side.")
    return _centred(picture, size)[0]


def _centred(picture: np.ndarray, size: int) -> tuple[np.ndarray, Placement]:
    """A digit as ``centred`` returns it, and where its pixels lie in the drawing; of an empty one the whole of it."""
    canvas = np.zeros((size, size), np.uint8)
    box = Image.fromarray(picture).getbbox()
    ink = Image.fromarray(picture).crop(box)
    ratio = min(_DIGIT_SIZE, size) / max(ink.size)
    pixels = np.asarray(ink.resize([max(1, round(ratio * side)) for side in ink.size], Image.Resampling.LANCZOS))
    if box is None or not pixels.any():  # nothing, or a trace so faint that it is gone
        return canvas, Placement.of(picture.shape, canvas.shape)
    weights = [pixels.sum(axis=1, dtype=float), pixels.sum(axis=0, dtype=float)]
    corner = [round(size / 2 - (np.arange(len(w)) + 0.5) @ w / w.sum()) for w in weights]
    corner = [min(max(0, c), size - n) for c, n in zip(corner, pixels.shape)]
    canvas[corner[0] : corner[0] + len(pixels), corner[1] : corner[1] + pixels.shape[1]] = pixels
    return canvas, Placement.of(ink.size[::-1], pixels.shape, corner, (box[1], box[0]))
