"""Image files through a trained network: label, class activities, and where the kept capsules sit."""

from collections.abc import Iterator, Sequence
import dataclasses
import glob
import pathlib

import jax
import numpy as np

from lcaps_jax.data import DataError, folder
from lcaps_jax.data.resize import fit_size
from lcaps_jax.errors import arg
from lcaps_jax.networks import NetworkOutput
from lcaps_jax.runs import Run
from lcaps_jax.views import plots

FOLDER = "classified"
_BATCH = 32  # files that are in memory at a time
_NAMED = 3  # classes that a line names


@dataclasses.dataclass(frozen=True)
class Classified:
    """Output of a network for an image file.

    Attributes:
      file: Path of the file.
      image: Image as the network saw it, ``[I, I, C]`` uint8.
      output: Output of the network, ``B`` = 1.
    """

    file: pathlib.Path
    image: np.ndarray
    output: NetworkOutput

    def line(self, class_names: Sequence[str]) -> str:
        """The label, the activities of the most active classes, and the frame and the angle if there are any."""
        activity = self.output.activity[0]
        best = np.argsort(-activity, kind="stable")[:_NAMED]
        named = ", ".join(f"{class_names[j]} {activity[j]:.3f}" for j in best)
        line = f"{self.file}: {class_names[best[0]]}   ({named})"
        if self.output.frame is not None:
            row, column = self.output.frame.centre[0]
            line += f"   frame at row {row:.1f}, column {column:.1f}"
        if self.output.angle is not None:
            line += f", turned by {self.output.angle[0]:g} degrees"
        return line


def find(pattern: str) -> list[pathlib.Path]:
    """The files that a pattern such as ``"photos/*.png"`` names; ``**`` stands for any folders.

    Raises:
      data.DataError: There is no such file.
    """
    names = [pattern] if pathlib.Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    files = sorted(pathlib.Path(name) for name in names)
    files = [file for file in files if file.is_file()]
    if not files:
        hint = f" It is a folder: {pattern.rstrip('/')}/* are its files." if pathlib.Path(pattern).is_dir() else ""
        raise DataError(f"{arg('images')}={pattern}: no such file.{hint}")
    return files


def classify(run: Run, files: Sequence[pathlib.Path]) -> Iterator[Classified]:
    """Classifies image files, fitted to the size that the network was trained on by black borders or scaling down.

    Raises:
      data.DataError: A file is no image; it is refused before any is classified.
    """
    folder.describe(files)
    for start in range(0, len(files), _BATCH):
        part = files[start : start + _BATCH]
        images = [fit_size(folder.read(file, run.channels)[None], run.config.image_size)[0] for file in part]
        output = run(np.stack(images))
        for i, (file, image) in enumerate(zip(part, images)):
            yield Classified(file, image, jax.tree.map(lambda x, i=i: x[i : i + 1], output))


def draw(run: Run, classified: Classified, workdir: pathlib.Path, number: int) -> pathlib.Path:
    """Draws a file, its kept capsules and its class activities, and returns the path of the picture."""
    picture = plots.classified(classified.image, classified.output, run.geometry, run.class_names, classified.file.name)
    return plots.save(picture, workdir, f"{number:03d}_{classified.file.stem}", FOLDER)
