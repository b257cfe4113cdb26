"""Images brought to the size that a network takes."""

from collections.abc import Sequence
import dataclasses

import numpy as np
from PIL import Image

from lcaps_jax.data.ground import border
from lcaps_jax.data.splits import DataError

_LARGEST_PICTURE = 2000  # pixels along a side that are taken at all
_FAINT = 0.2  # share of the strongest ink below which a file's pixel is its ground, uneven as that of a photograph
_LIGHT = 128  # from which on a ground is light
_DIGIT_SIZE = 20  # pixels of a 28x28 image that MNIST's digits are fitted into


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
    def of(
        cls,
        taken: Sequence[int],
        fitted: Sequence[int],
        corner: Sequence[int] = (0, 0),
        origin: Sequence[int] = (0, 0),
    ) -> "Placement":
        """That of ``taken`` pixels of the file, from ``origin`` on, as ``fitted`` of the image, from ``corner`` on."""
        scale = np.divide(taken, fitted)
        return cls(scale, scale * (0.5 - np.array(corner)) + origin - 0.5)

    def within(self, other: "Placement") -> "Placement":
        """That of an image in the file, where this one is in a picture that lies in the file as ``other`` says."""
        return Placement(other.scale * self.scale, other.scale * self.offset + other.offset)


def fit_size(images: np.ndarray, size: int) -> np.ndarray:
    """Makes images ``[N, H, W, C]`` uint8 square, of ``size`` pixels, by scaling them down and by borders.

    An image on a light ground gets a border of that ground, every other image a black one. They are scaled first: a
    long strip so never becomes a large square, and its edge casts no halo onto the border.
    """
    images = _scaled_down(images, size)
    height, width, channels = images.shape[1:]
    if (height, width) == (size, size):
        return images
    top, left = _border_before((height, width), size)
    fitted = np.empty((len(images), size, size, channels), images.dtype)
    fitted[:] = _grounds(images)[:, None, None, :]
    fitted[:, top : top + height, left : left + width] = images
    return fitted


def _border_before(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Pixels of border above an image and left of it."""
    return (size - shape[0]) // 2, (size - shape[1]) // 2


def _grounds(images: np.ndarray) -> np.ndarray:
    """Colour of each image's new border, ``[N, C]``: the median of its own border where that is light, else black."""
    median = np.median(border(images), axis=1)
    is_light = median.mean(axis=1, keepdims=True) >= _LIGHT
    return np.where(is_light, median, 0).astype(images.dtype)


def _scaled_down(images: np.ndarray, size: int) -> np.ndarray:
    """Images of at most ``size`` pixels along their longer side."""
    height, width = _scaled_shape(images.shape[1:3], size)
    if (height, width) == images.shape[1:3]:
        return images
    scaled = [np.asarray(_pillow(image).resize((width, height), Image.Resampling.LANCZOS)) for image in images]
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


def prepared(image: np.ndarray, size: int, invert: bool = False, centre: bool = False) -> np.ndarray:
    """An image file's pixels as a network takes them.

    Args:
      image: Image, ``[H, W, C]`` uint8.
      size: Pixels along a side of the network's images, I.
      invert: Whether black and white change places.
      centre: Whether the image is a digit, to be centred as MNIST's are; its ground then becomes black.

    Returns:
      ``[I, I, C]`` uint8.
    """
    return placed(image, size, invert, centre)[0]


def placed(image: np.ndarray, size: int, invert: bool = False, centre: bool = False) -> tuple[np.ndarray, Placement]:
    """An image as ``prepared`` returns it, and where its pixels lie in the file."""
    image, shape = 255 - image if invert else image, image.shape[:2]
    if not centre:
        scaled = _scaled_shape(shape, size)
        return fit_size(image[None], size)[0], Placement.of(shape, scaled, _border_before(scaled, size))
    (picture,) = to_channels(_scaled_down(image[None], _LARGEST_PICTURE), 1)[..., 0]
    digit, placement = _centred(_ink(picture), size)
    return to_channels(digit[..., None], image.shape[-1]), placement.within(Placement.of(shape, picture.shape))


def _ink(picture: np.ndarray) -> np.ndarray:
    """White ink ``[H, W]`` without its ground, which is what most of the border is, and stretched to the full range."""
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ink = picture.astype(np.float64) - np.median(edge)
    strongest = ink.max()
    if strongest <= 0:
        return np.zeros_like(picture)
    ink[ink < _FAINT * strongest] = 0
    return np.rint(255 * ink / strongest).astype(np.uint8)


def _pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


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
    if not isinstance(picture, np.ndarray) or picture.ndim != 2 or picture.dtype != np.uint8:
        raise DataError("A picture must be an array [H, W] of bytes.")
    if not 0 < max(picture.shape) <= _LARGEST_PICTURE or min(picture.shape) == 0:
        raise DataError(f"A picture must have 1 to {_LARGEST_PICTURE} pixels along a side, got {picture.shape}.")
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
