"""Images brought to the size that a network takes."""

import numpy as np
from PIL import Image

from lcaps_jax.data.splits import DataError

_LARGEST_PICTURE = 2000  # pixels along a side that are taken at all
_DIGIT_SIZE = 20  # pixels of a 28x28 image that MNIST's digits are fitted into


def fit_size(images: np.ndarray, size: int) -> np.ndarray:
    """Makes images ``[N, H, W, C]`` uint8 square, of ``size`` pixels, by scaling them down and by black borders.

    They are scaled first: a long strip so never becomes a large square, and its edge casts no halo onto the border.
    """
    height, width, channels = images.shape[1:]
    if (longest := max(height, width)) > size:
        height, width = (max(1, round(side * size / longest)) for side in (height, width))
        scaled = [np.asarray(_pillow(image).resize((width, height), Image.Resampling.LANCZOS)) for image in images]
        images = np.stack(scaled).reshape(-1, height, width, channels)
    if (height, width) == (size, size):
        return images
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(images, ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0)))


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
    canvas = np.zeros((size, size), np.uint8)
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    if not rows.size:
        return canvas
    ink = Image.fromarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    ratio = min(_DIGIT_SIZE, size) / max(ink.size)
    ink = ink.resize([max(1, round(ratio * side)) for side in ink.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(ink, np.float64)
    if not pixels.any():  # a trace so faint that it is gone
        return canvas
    weights = [pixels.sum(axis=1), pixels.sum(axis=0)]
    corner = [round(size / 2 - (np.arange(len(w)) + 0.5) @ w / w.sum()) for w in weights]
    corner = [min(max(0, c), size - n) for c, n in zip(corner, pixels.shape)]
    canvas[corner[0] : corner[0] + len(pixels), corner[1] : corner[1] + pixels.shape[1]] = np.asarray(ink)
    return canvas
