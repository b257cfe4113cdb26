"""Image files through a trained network: label, class activities, and where the kept capsules sit."""

from collections.abc import Iterator, Sequence
import dataclasses
import glob
import pathlib

import jax
import numpy as np

from lcaps_jax import data, figures, folders
from lcaps_jax.config import LCAPSNET
from lcaps_jax.models import NetworkOutput
from lcaps_jax.runs import Run, geometry_of

FOLDER = "classified"
_BATCH = 32
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Classified:
    """What a network makes of a file.

    Attributes:
      file: the file.
      image: ``[I, I, C]`` uint8, as the network saw it.
      output: of the network, ``B`` = 1.
    """

    file: pathlib.Path
    image: np.ndarray
    output: NetworkOutput

    def line(self, class_names: Sequence[str]) -> str:
        """The label and the activities of the most active classes, in words."""
        activity = self.output.activity[0]
        best = np.argsort(-activity, kind="stable")[:_NAMED]
        named = ", ".join(f"{class_names[j]} {activity[j]:.3f}" for j in best)
        return f"{self.file}: {class_names[best[0]]}   ({named})"


def find(pattern: str) -> list[pathlib.Path]:
    """The files that a pattern names, as ``"photos/*.png"``; ``**`` stands for any folders. A file's name is itself.

    Raises:
      data.DataError: where there are none.
    """
    names = [pattern] if pathlib.Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    files = sorted(pathlib.Path(name) for name in names)
    files = [file for file in files if file.is_file()]
    if not files:
        raise data.DataError(f"--images={pattern}: no such file.")
    return files


def classify(run: Run, files: Sequence[pathlib.Path]) -> Iterator[Classified]:
    """Classifies image files, fitted to the size that the network was trained on by black borders or scaling down.

    Raises:
      data.DataError: for a file that is not an image, before any is classified.
    """
    try:
        folders.describe(files)
    except folders.FileError as error:
        raise data.DataError(str(error)) from None
    apply = jax.jit(lambda params, images: run.model.apply({"params": params}, data.to_unit_range(images)))
    params = jax.device_put(run.params)
    for start in range(0, len(files), _BATCH):
        part = files[start : start + _BATCH]
        try:
            images = [folders.read(file, run.channels) for file in part]
        except folders.FileError as error:
            raise data.DataError(str(error)) from None
        fitted = np.concatenate([data.fit_size(image[None], run.config.image_size) for image in images])
        output = jax.device_get(apply(params, data.pad_batch(fitted, _BATCH)))
        for i, file in enumerate(part):
            yield Classified(file, fitted[i], jax.tree.map(lambda x, i=i: x[i : i + 1], output))


def draw(run: Run, classified: Classified, workdir: pathlib.Path, number: int) -> pathlib.Path:
    """Draws a file, its kept capsules and its class activities: the picture's path in the run's folder."""
    config = run.config
    sizes = geometry_of(config) if config.model == LCAPSNET else None
    picture = figures.classified(classified.image, classified.output, sizes, run.class_names, classified.file.name)
    return figures.save(picture, workdir, f"{number:03d}_{classified.file.stem}", FOLDER)
