"""Image files through a trained network: label, class activities, and where the kept capsules sit."""

from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import glob
import io
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np

from lcaps_jax import frames
from lcaps_jax.data import MNIST_FORM, DataError, pictures
from lcaps_jax.data.ground import brightness
from lcaps_jax.data.resize import Placement, placed
from lcaps_jax.errors import arg
from lcaps_jax.networks import NetworkOutput
from lcaps_jax.runs import Run
from lcaps_jax.runtime import say
from lcaps_jax.training.metric_log import rounded
from lcaps_jax.views import plots

FOLDER = "classified"
TEXT, JSON, CSV = FORMATS = ("text", "json", "csv")
_BATCH = 32  # files that are in memory at a time
_NAMED = 3  # classes that a line names
_LONGEST = 50  # characters of a file's name that its picture's name has, because file systems bound them
_PICTURE = re.compile(r"\d{3,}_.*\.png")


@dataclasses.dataclass(frozen=True)
class Classified:
    """Output of a network for an image file.

    Attributes:
      file: Path of the file.
      image: Image as the network saw it, ``[I, I, C]`` uint8.
      output: Output of the network, ``B`` = 1.
      placement: Where the pixels of the image lie in the file.
    """

    file: pathlib.Path
    image: np.ndarray
    output: NetworkOutput
    placement: Placement

    @property
    def frame(self) -> frames.Frame | None:
        """Frame in the file's own pixels, without a batch axis; None where the network has none."""
        if self.output.frame is None:
            return None
        frame = jax.tree.map(lambda x: x[0], self.output.frame)
        return jax.device_get(frames.scaled(frame, self.placement.scale, self.placement.offset))

    def line(self, class_names: Sequence[str]) -> str:
        """The label, the activities of the most active classes, and the frame and the angle if there are any."""
        activity = self.output.activity[0]
        best = np.argsort(-activity, kind="stable")[:_NAMED]
        named = ", ".join(f"{class_names[j]} {activity[j]:.3f}" for j in best)
        line = f"{self.file}: {class_names[best[0]]}   ({named})"
        if (frame := self.frame) is not None:
            (row, column), ((a, b), (c, d)) = frame.centre, frame.matrix
            line += f"   frame at row {row:.1f}, column {column:.1f}, matrix [{a:.2f} {b:.2f}; {c:.2f} {d:.2f}]"
            line += " (the image is empty)" if frame.empty else ""
        if self.output.angle is not None:
            line += f", turned by {self.output.angle[0]:g} degrees"
        return line

    def caption(self, class_names: Sequence[str]) -> str:
        """Sentences that say what the picture of the file shows."""
        parts = [
            f"{self.file.name} is taken for {class_names[int(np.argmax(self.output.activity[0]))]}, which is the dark "
            "bar. The bars are the activities of the classes, which need not add up to 1."
        ]
        if self.output.index is not None:
            parts.append("Orange dots are where kept capsules sit.")
        if self.output.frame is not None:
            parts.append(plots.FRAME_CAPTION)
        return " ".join(parts)

    def record(self, class_names: Sequence[str]) -> dict:
        """The file, its label and the activity of every class; the frame and the angle if there are any."""
        activity = self.output.activity[0]
        record: dict[str, Any] = {
            "file": str(self.file),
            "label": class_names[int(np.argmax(activity))],
            "activity": {name: rounded(value) for name, value in zip(class_names, activity)},
        }
        if (frame := self.frame) is not None:
            row, column = map(rounded, frame.centre)
            matrix = [list(map(rounded, line)) for line in frame.matrix]
            record["frame"] = {"row": row, "column": column, "matrix": matrix, "empty": bool(frame.empty)}
        if self.output.angle is not None:
            record["angle"] = rounded(float(self.output.angle[0]))
        return record


def formatted(found: Iterator[Classified], class_names: Sequence[str], form: str) -> Iterator[tuple[str, Classified]]:
    """The text of each classified file: a line to read, a JSON object, or a line of CSV, the first under a header.

    Args:
      found: Classified files.
      class_names: Names of the classes.
      form: One of ``FORMATS``.
    """
    for number, classified in enumerate(found):
        if form == TEXT:
            yield classified.line(class_names), classified
            continue
        record = classified.record(class_names)
        if form == JSON:
            yield json.dumps(record), classified
            continue
        cells = _cells(record)
        rows = [list(cells.values())] if number else [list(cells), list(cells.values())]
        yield _as_csv(rows), classified


def _cells(group: Mapping | Sequence, name: str = "") -> dict[str, Any]:
    """The values of a group by their columns' names, in which those of the groups around them come first."""
    cells: dict[str, Any] = {}
    for part, value in group.items() if isinstance(group, Mapping) else enumerate(group):
        column = f"{name}_{part}" if name else str(part)
        cells.update(_cells(value, column) if isinstance(value, dict | list) else {column: value})
    return cells


def _as_csv(rows: Sequence[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().removesuffix("\n")


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


def classify(
    run: Run, files: Sequence[pathlib.Path], *, invert: bool = False, centre: bool = False
) -> Iterator[Classified]:
    """Classifies image files, fitted to the network's size by scaling down and by borders; see ``resize.fit_size``.

    Files that cannot be read are listed and left out where the run's ``keep_going`` is set. At the end a line says
    where the ground of images is unlike that of the training data.

    Args:
      run: Trained network.
      files: Image files.
      invert: Whether black and white change places.
      centre: Whether each image is a digit, to be centred as MNIST's are.

    Raises:
      data.DataError: A file is no image, which is refused before any is classified; or ``centre`` is asked of a network
        that was trained on other images than MNIST's.
    """
    if centre and run.config.dataset not in MNIST_FORM:
        raise DataError(
            f"{arg('centre')}: the network was trained on {run.config.dataset}; digits are centred for networks that "
            f"were trained on {', '.join(MNIST_FORM)}."
        )
    survey = pictures.survey(files, run.config.keep_going)
    faults = dict(survey.faults)
    measured = []
    for start in range(0, len(survey.files), _BATCH):
        seen = {}
        for file in survey.files[start : start + _BATCH]:
            try:
                image = pictures.read(file, run.channels, survey.shallow)
            except DataError as error:
                if not run.config.keep_going:
                    raise
                faults[file] = str(error)
                continue
            seen[file] = placed(image, run.config.image_size, invert, centre)
        if not seen:
            continue
        stacked = np.stack([image for image, _ in seen.values()])
        measured.append(brightness(stacked))
        output = run(stacked)
        for i, (file, (image, placement)) in enumerate(seen.items()):
            yield Classified(file, image, jax.tree.map(lambda x, i=i: x[i : i + 1], output), placement)
    pictures.list_faults(faults, len(files))
    if run.ground and measured and (warning := run.ground.warning("images", np.concatenate(measured))):
        say(warning)


def place_of(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of a run in which the pictures of its latest classified files lie."""
    return workdir / plots.FOLDER / FOLDER


def clear(place: pathlib.Path) -> None:
    """Removes the pictures of earlier files."""
    for path in place.glob("*.png"):
        if _PICTURE.fullmatch(path.name):
            path.unlink()


def draw(run: Run, classified: Classified, place: pathlib.Path, number: int) -> pathlib.Path:
    """Draws a file, its kept capsules and its class activities into a folder, and returns the path of the picture."""
    picture = plots.classified(classified.image, classified.output, run.geometry, run.class_names, classified.file.name)
    name = f"{number:03d}_{classified.file.stem[:_LONGEST]}"
    return plots.save_in(place, picture, name, classified.caption(run.class_names))
