"""Which capsules a network keeps: where they sit, how alike images are in them, and what that says of the network.

Axes: ``B`` or ``N`` images, ``K`` kept capsules of ``n``.
"""

from collections.abc import Iterable
import math

import jax
import numpy as np

from lcaps_jax import frames
from lcaps_jax.data import Split
from lcaps_jax.data.augment import Array, to_unit_range
from lcaps_jax.networks import Geometry, NetworkOutput

# From these on the words say that the network does not do what the idea of capsules promises.
_FEW_TYPES = 1 / 4  # of all
_ALIKE = 1 / 2  # share of the kept capsules that images of different classes have in common
_FOLLOWING = 1 / 2  # pixels by which the kept capsules move for each pixel of the object
_MOVED = 2.0  # pixels that objects must be apart, as the root of the mean square, to tell


def by_place(index: Array, sizes: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Places where capsules ``[K]`` are kept, row by row, and how many at each."""
    return np.unique(np.asarray(index) // sizes.types, return_counts=True)


def centres(output: NetworkOutput, i: int, sizes: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Centres, row and column in pixels ``[P, 2]``, of what the kept capsules of image ``i`` see, and how many are at
    each ``[P]``; where the image was seen in a frame, they lie in it.
    """
    places, counts = by_place(output.index[i], sizes)
    found = sizes.stride * np.stack(np.divmod(places, sizes.grid), axis=1) + (sizes.receptive_field - 1) / 2
    if output.frame is not None:
        found = np.asarray(frames.to_image(jax.tree.map(lambda x: x[i], output.frame), found, output.picture.shape[1]))
    return found, counts


def selection(index: np.ndarray, labels: np.ndarray, sizes: Geometry) -> dict[str, float]:
    """How much the selections of different images have in common.

    Args:
      index: Indices of the capsules that each image keeps, ``[N, K]``.
      labels: Class of each image, ``[N]``.
      sizes: Grid of capsules.

    Returns:
      Counts: ``k``, ``capsules``, ``types``; ``ever``, capsules that any image keeps, and ``types_ever`` of them. Mean
      shares of the K that two images have in common: ``in_common`` of any two, ``in_common_of_class`` of one class,
      ``in_common_of_others`` of different classes, NaN where there are no such two. Selections at random among those
      that are ever kept would have ``k / ever``.
    """
    count, k = index.shape
    is_kept = np.zeros((count, sizes.capsules), bool)
    np.put_along_axis(is_kept, index, True, axis=1)
    ever = np.flatnonzero(is_kept.any(axis=0))

    def shared(groups: Iterable[np.ndarray]) -> tuple[float, int]:
        """Capsules in common, summed over ordered pairs of different images of a group, and the number of pairs."""
        times = [(group.sum(axis=0, dtype=int), len(group)) for group in groups]
        return float(sum(np.sum(each * (each - 1)) for each, _ in times)), sum(size * (size - 1) for _, size in times)

    def share(common: float, pairs: int) -> float:
        return common / (pairs * k) if pairs else math.nan

    common, pairs = shared([is_kept])
    common_of_class, pairs_of_class = shared([is_kept[labels == label] for label in np.unique(labels)])
    return {
        "k": k,
        "capsules": sizes.capsules,
        "types": sizes.types,
        "ever": len(ever),
        "types_ever": len(np.unique(ever % sizes.types)),
        "in_common": share(common, pairs),
        "in_common_of_class": share(common_of_class, pairs_of_class),
        "in_common_of_others": share(common - common_of_class, pairs - pairs_of_class),
    }


def following(images: np.ndarray, output: NetworkOutput, sizes: Geometry) -> float:
    """Pixels by which the middle of the kept capsules moves for each pixel by which the object lies elsewhere.

    It is 1 where the kept capsules sit on the object wherever that lies, and 0 where they stay in one place: the slope
    of the middles of the kept capsules on the centres of the objects, by least squares over the images.

    Args:
      images: Images ``[B, I, I, C]``, as for ``frames.frame_of``.
      output: Output of the network for them.
      sizes: Grid of capsules.

    Returns:
      The slope; NaN where the objects lie too close together to tell.
    """
    objects = frames.frame_of(to_unit_range(images), frames.CENTRE)
    places = [centres(output, i, sizes) for i in range(len(images))]
    middles = np.array([np.average(found, axis=0, weights=counts) for found, counts in places])
    seen = ~np.asarray(objects.empty)
    if not seen.any():
        return math.nan
    moved, middles = np.asarray(objects.centre)[seen], middles[seen]
    moved, middles = moved - moved.mean(axis=0), middles - middles.mean(axis=0)
    square = float(np.sum(moved**2))
    return float(np.sum(moved * middles)) / square if square >= len(moved) * _MOVED**2 else math.nan


def in_words(split: Split, output: NetworkOutput, sizes: Geometry) -> str:
    """Sentences on what the kept capsules of some images say, and where they do not say what capsules promise to.

    Args:
      split: Images and labels.
      output: Output of the network for these images.
      sizes: Grid of the network's primary capsules.
    """
    found = selection(np.asarray(output.index), split.labels, sizes)
    types, ever, others = found["types"], found["types_ever"], found["in_common_of_others"]
    kinds = f"capsules of {ever} of {types} types" if types > 1 else f"{found['k']} of {found['capsules']} capsules"
    words = [f"These {len(split)} images keep {kinds}." if len(split) > 1 else f"This image keeps {kinds}."]
    if types > 1 and ever <= _FEW_TYPES * types:
        words.append("Capsules of the other types are never among the most active here.")
    if not math.isnan(others):
        tells = (
            "so here the code vector says little about the image: images are told apart by what the kept capsules hold"
            if others >= _ALIKE
            else "so the code vector tells images apart"
        )
        words.append(
            f"Two images of different classes share {100 * others:.0f} % of their kept capsules "
            f"({100 * found['k'] / found['capsules']:.0f} % by chance), {tells}."
        )
    if (slope := following(split.images, output, sizes)) < _FOLLOWING:  # not where it is NaN
        words.append(
            f"Where an object lies 10 pixels farther, the middle of the kept capsules moves by {10 * slope:.1f} "
            "pixels: they keep their places on the grid, beside an object that has moved."
        )
    return " ".join(words)
