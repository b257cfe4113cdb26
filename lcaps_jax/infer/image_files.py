"""Image files through a trained network: finding, reading and classifying them, and records for people and programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import dataclasses
import glob
import io
import json
import pathlib
from typing import Any

import jax
import numpy as np

from lcaps_jax.data.brightness import brightness
from lcaps_jax.data.image_io import Placement, list_faults, placed, read, survey
from lcaps_jax.data.mnist import MNIST_FORM
from lcaps_jax.data.splits import DataError
from lcaps_jax.infer.model import Model
from lcaps_jax.nn.outputs import Output
from lcaps_jax.ops import frames
from lcaps_jax.train.log import rounded
from lcaps_jax.util.process import say

TEXT, JSON, CSV = FORMATS = ("text", "json", "csv")
_BATCH = 32  # files in memory at a time
_NAMED = 3  # classes in a line of text
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet runs as a formula begins with one of these


@dataclasses.dataclass(frozen=True)
class Classified:
    """A classified image file.

    Attributes:
      file: Path of the file.
      image: Image as the network saw it, ``[I, I, C]`` uint8.
      output: Output of the network, ``B`` = 1.
      placement: Where the pixels of the image are in the file.
      class_names: Names of the classes.
    """

    file: pathlib.Path
    image: np.ndarray
    output: Output
    placement: Placement
    class_names: Sequence[str]

    @property
    def label(self) -> str:
        """Name of the most active class."""
        return self.class_names[int(np.argmax(self.output.activity[0]))]

    @property
    def frame(self) -> frames.Frame | None:
        """Canonical frame in the pixels of the file, without a batch axis; None where the network uses none."""
        if self.output.view is None:
            return None
        frame = jax.tree.map(lambda x: x[0], self.output.view.frame)
        return jax.device_get(frames.scaled(frame, self.placement.scale, self.placement.offset))

    def line(self) -> str:
        """The label, the most active classes, and the frame and its angle where the network uses one."""
        activity = self.output.activity[0]
        best = np.argsort(-activity, kind="stable")[:_NAMED]
        line = f"{self.file}: {self.label}   ({', '.join(f'{self.class_names[j]} {activity[j]:.3f}' for j in best)})"
        if (frame := self.frame) is not None:
            (row, column), ((a, b), (c, d)) = frame.centre, frame.matrix
            line += f"   frame at row {row:.1f}, column {column:.1f}, matrix [{a:.2f} {b:.2f}; {c:.2f} {d:.2f}]"
            line += " (the image is empty)" if frame.empty else ""
            if (angle := self.output.view.angle) is not None:
                line += f", rotated by {angle[0]:g} degrees"
        return line

    def record(self) -> dict[str, Any]:
        """The file, its label and all activities, and the frame and its angle where the network uses one."""
        activity = {name: rounded(value) for name, value in zip(self.class_names, self.output.activity[0])}
        record: dict[str, Any] = {"file": str(self.file), "label": self.label, "activity": activity}
        if (frame := self.frame) is not None:
            row, column = map(rounded, frame.centre)
            matrix = [list(map(rounded, line)) for line in frame.matrix]
            record["frame"] = {"row": row, "column": column, "matrix": matrix, "empty": bool(frame.empty)}
            if (angle := self.output.view.angle) is not None:
                record["angle"] = rounded(float(angle[0]))
        return record


def formatted(found: Iterable[Classified], form: str) -> Iterator[tuple[str, Classified]]:
    """Each classified file after its text: a line to read, a JSON object, or a line of CSV, the first with a header.

    Args:
      found: Classified files.
      form: One of ``FORMATS``.
    """
    for number, classified in enumerate(found):
        if form == TEXT:
            text = classified.line()
        elif form == JSON:
            text = json.dumps(classified.record())
        else:
            cells = _flat(classified.record())
            text = _csv(list(cells.values()) if number else list(cells), *([] if number else [list(cells.values())]))
        yield text, classified


def _flat(group: Mapping | Sequence, prefix: str = "") -> dict[str, Any]:
    """The values of nested groups by names such as ``frame_matrix_0_1``."""
    cells: dict[str, Any] = {}
    for part, value in group.items() if isinstance(group, Mapping) else enumerate(group):
        name = f"{prefix}{part}"
        cells.update(_flat(value, f"{name}_") if isinstance(value, dict | list) else {name: value})
    return cells


def _csv(*rows: Sequence) -> str:
    """Lines of CSV in which text that a spreadsheet would run as a formula begins with an apostrophe."""
    text = io.StringIO()
    safe = [
        [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row] for row in rows
    ]
    csv.writer(text, lineterminator="\n").writerows(safe)
    return text.getvalue().removesuffix("\n")


def find(pattern: str) -> list[pathlib.Path]:
    """The files that match a pattern such as ``"photos/*.png"``, in which ``**`` stands for any folders.

    Raises:
      DataError: There is no such file.
    """
    names = [pattern] if pathlib.Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    files = [path for path in sorted(map(pathlib.Path, names)) if path.is_file()]
    if not files:
        hint = f" It is a folder: {pattern.rstrip('/')}/* matches its files." if pathlib.Path(pattern).is_dir() else ""
        raise DataError(f"images={pattern}: no such file.{hint}")
    return files


def classify(
    model: Model,
    files: Sequence[pathlib.Path],
    *,
    invert: bool = False,
    centre: bool = False,
    skip_unreadable: bool = False,
) -> Iterator[Classified]:
    """Classifies image files, which are scaled down and padded to the network's size.

    After the last file it warns about images whose brightness differs from that of the training data.

    Args:
      model: Trained network.
      files: Image files.
      invert: Whether to exchange black and white.
      centre: Whether each image is a digit, to be cut out and centred as MNIST's digits are.
      skip_unreadable: Whether files that cannot be read are left out and listed after the last file.

    Raises:
      DataError: A file is not an image, which is found before any is classified; or ``centre`` is given for a network
        that was not trained on MNIST's digits.
    """
    dataset = model.config.data.dataset
    if centre and dataset not in MNIST_FORM:
        raise DataError(
            f"centre={centre}: the network was trained on {dataset}; centring is for networks trained on "
            f"{', '.join(MNIST_FORM)}."
        )
    surveyed = survey(files, skip_unreadable)
    faults, measured = dict(surveyed.faults), []
    for start in range(0, len(surveyed.files), _BATCH):
        seen = {}
        for file in surveyed.files[start : start + _BATCH]:
            try:
                seen[file] = placed(read(file, model.channels, surveyed.shallow), model.image_size, invert, centre)
            except DataError as error:
                if not skip_unreadable:
                    raise
                faults[file] = str(error)
        if not seen:
            continue
        images = np.stack([image for image, _ in seen.values()])
        measured.append(brightness(images))
        output = model(images)
        for i, (file, (image, placement)) in enumerate(seen.items()):
            yield Classified(
                file, image, jax.tree.map(lambda x, i=i: x[i : i + 1], output), placement, model.class_names
            )
    list_faults(faults, len(files))
    if model.brightness and measured and (warning := model.brightness.warning("images", np.concatenate(measured))):
        say(warning)
