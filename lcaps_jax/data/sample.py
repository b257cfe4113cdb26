"""The bundled sample: 10,000 digits of MNIST, offline."""

from collections.abc import Sequence
import pathlib

import numpy as np

from lcaps_jax import set_names
from lcaps_jax.data.splits import Source, Split

NAME = set_names.SAMPLE
_FILE = pathlib.Path(__file__).parent / "sample.npz"


def load(
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    keep_going: bool = False,
) -> Source:
    """The sample, 28x28; the arguments are those of every set's loader and are not used."""
    del data_dir, image_size, class_names, keep_going
    with np.load(_FILE) as stored:
        parts = [(stored[f"{part}_images"], stored[f"{part}_labels"]) for part in ("train", "test")]
    train, test = (Split(images[..., None], labels.astype(np.int32)) for images, labels in parts)
    return Source(train, test, tuple("0123456789"), train.images.shape[1])
