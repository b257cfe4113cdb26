"""Image files through a trained network: finding, reading and classifying them, and records for people and programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import dataclasses
import glob
import io
import itertools
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
from lcaps_jax.nn import Output
from lcaps_jax.ops import frames
from lcaps_jax.train.log import rounded
from lcaps_jax.util.process import say

TEXT, JSON, CSV = FORMATS = ("text", "json", "csv")
_BATCH = 32  # files in memory at a time
_NAMED = 3  # classes in a line of text
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet runs as a formula begins with one of these


@dataclasses.dataclass(frozen=True)
class Classified:
    """A classified image file."""

    file: pathlib.Path
    image: np.ndarray  # as the network saw it, [I, I, C] uint8
    output: Output  # of the network, B = 1
    placement: Placement  # where the pixels of the image are in the file
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

    def record(self) -> dict[str, Any]:
        """The file, its label and all activities, and the frame and its angle where the network uses one."""
        activity = dict(zip(self.class_names, map(rounded, self.output.activity[0])))
        record: dict[str, Any] = {"file": str(self.file), "label": self.label, "activity": activity}
        if (frame := self.frame) is not None:
            row, column = map(rounded, frame.centre)
            matrix = [list(map(rounded, line)) for line in frame.matrix]
            record["frame"] = {"row": row, "column": column, "matrix": matrix, "empty": bool(frame.empty)}
            if (angle := self.output.view.angle) is not None:
                record["angle"] = rounded(float(angle[0]))
        return record

    def line(self) -> str:
        """The record as a line of text, with the most active classes alone."""
        record, activity = self.record(), self.output.activity[0]
        best = np.argsort(-activity, kind="stable")[:_NAMED]
        line = f"{self.file}: {self.label}   ({', '.join(f'{self.class_names[j]} {activity[j]:.3f}' for j in best)})"
        if frame := record.get("frame"):
            (a, b), (c, d) = frame["matrix"]
            line += f"   frame at row {frame['row']:.1f}, column {frame['column']:.1f}, "
            line += f"matrix [{a:.2f} {b:.2f}; {c:.2f} {d:.2f}]{' (the image is empty)' if frame['empty'] else ''}"
        return line + (f", rotated by {record['angle']:g} degrees" if "angle" in record else "")


def formatted(found: Iterable[Classified], form: str) -> Iterator[tuple[str, Classified]]:
    """Each classified file after its text in one of ``FORMATS``; the first line of CSV comes with a header above it."""
    for number, classified in enumerate(found):
        if form == CSV:
            cells = _flat(classified.record())
            header = "" if number else f"{_csv(cells)}\n"
            yield header + _csv(cells.values()), classified
        else:
            yield classified.line() if form == TEXT else json.dumps(classified.record()), classified


def _flat(group: Mapping | Sequence, prefix: str = "") -> dict[str, Any]:
    """The values of nested groups by names such as ``frame_matrix_0_1``."""
    cells: dict[str, Any] = {}
    for part, value in group.items() if isinstance(group, Mapping) else enumerate(group):
        name = f"{prefix}{part}"
        cells.update(_flat(value, f"{name}_") if isinstance(value, dict | list) else {name: value})
    return cells


def _csv(cells: Iterable) -> str:
    """A line of CSV in which text that a spreadsheet would run as a formula begins with an apostrophe."""
    text = io.StringIO()
    safe = [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells]
    csv.writer(text, lineterminator="").writerow(safe)
    return text.getvalue()


def find(pattern: str) -> list[pathlib.Path]:
    """The files that match a pattern such as ``"photos/*.png"``; ``**`` stands for any folders. None is a DataError."""
    names = [pattern] if pathlib.Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    files = [path for path in sorted(map(pathlib.Path, names)) if path.is_file()]
    if not files:
        hint = f" It is a folder: {pattern.rstrip('/')}/* matches its files." if pathlib.Path(pattern).is_dir() else ""
        raise DataError(f"images={pattern}: no such file.{hint}")
    return files


def classify(
    model: Model, files: Sequence[pathlib.Path], *, invert=False, centre=False, skip_unreadable=False
) -> Iterator[Classified]:
    """Classifies image files, which are scaled down and padded to the network's size.

    ``invert`` exchanges black and white; ``centre`` cuts digits out and centres them as MNIST's are. A file that is not
    an image is a DataError before any is classified; ``skip_unreadable`` leaves such files out and lists them at the
    end. There also comes a warning about images whose brightness differs from that of the training data.
    """
    dataset = model.config.data.dataset
    if centre and dataset not in MNIST_FORM:
        raise DataError(f"centre=True: is for networks trained on {', '.join(MNIST_FORM)}; this one knows {dataset}.")
    surveyed = survey(files, skip_unreadable)

    def readable() -> Iterator[tuple[pathlib.Path, np.ndarray, Placement]]:
        for file in surveyed.files:
            try:
                yield file, *placed(read(file, model.channels, surveyed.shallow), model.image_size, invert, centre)
            except DataError as error:
                if not skip_unreadable:
                    raise
                surveyed.faults[file] = str(error)

    pictures, measured = readable(), []
    while batch := list(itertools.islice(pictures, _BATCH)):
        images = np.stack([image for _, image, _ in batch])
        measured.append(brightness(images))
        output = model(images)
        for i, (file, image, placement) in enumerate(batch):
            one = jax.tree.map(lambda x, i=i: x[i : i + 1], output)
            yield Classified(file, image, one, placement, model.class_names)
    list_faults(surveyed.faults, len(files))
    if model.brightness and measured and (warning := model.brightness.warning("images", np.concatenate(measured))):
        say(warning)
