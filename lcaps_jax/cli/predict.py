"""What eval.py does with --images: classifies image files, prints a record of each, and draws a picture of each."""

import contextlib
import dataclasses
import pathlib
import re

from lcaps_jax.infer import image_files
from lcaps_jax.infer.model import Model
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import messages_on_stderr, say, write_line
from lcaps_jax.viz import style, transforms

_FOLDER = "classified"
_PICTURE = re.compile(r"\d{3,}_.*\.png")


@dataclasses.dataclass(frozen=True)
class Options:
    """How image files are read and what is written about them.

    Attributes:
      format: Form of the records, one of ``infer.image_files.FORMATS``. Programs read ``json`` and ``csv``, so that all
        else goes to standard error and pictures are drawn into an ``output_dir`` alone.
      output_dir: Folder of the pictures instead of the run's own.
      invert: Whether black and white change places.
      centre: Whether each image is a digit, to be centred as MNIST's are.
      skip_unreadable: Whether files that cannot be read are left out and listed.
    """

    format: str = image_files.TEXT
    output_dir: pathlib.Path | None = None
    invert: bool = False
    centre: bool = False
    skip_unreadable: bool = False


def classify_files(model: Model, pattern: str, workdir: pathlib.Path | None, options: Options) -> None:
    """Prints the label of each image file, and draws a picture of each.

    The labels do not wait for the pictures: where those cannot be written, the labels of all files come nevertheless.

    Args:
      model: Model to classify with.
      pattern: Files, such as ``"photos/*.png"``.
      workdir: Folder of the run, whose pictures of earlier files are replaced; None for the folder ``classified``.
      options: How files are read, and what is written.

    Raises:
      DataError: There is no such file, or one is not an image.
      ConfigError: The pictures could not be written, which is raised after the last label.
    """
    for_people = options.format == image_files.TEXT
    drawn, failure = for_people or options.output_dir is not None, None
    own = workdir / style.FOLDER / _FOLDER if workdir else pathlib.Path(_FOLDER)
    place = options.output_dir or own
    with contextlib.nullcontext() if for_people else messages_on_stderr() as records:
        found = image_files.classify(
            model, image_files.find(pattern), invert=options.invert, centre=options.centre,
            skip_unreadable=options.skip_unreadable,
        )  # fmt: skip
        for number, (text, classified) in enumerate(image_files.formatted(found, options.format)):
            if not devices.is_main():
                continue
            write_line(text, records)
            if drawn and failure is None:
                try:
                    if number == 0 and workdir and not options.output_dir:
                        _clear(own)
                    transforms.draw_classified(classified, model.geometry, place, number)
                except OSError as error:
                    failure = error
        if failure is not None:
            raise ConfigError(
                f"output_dir={place}: the pictures cannot be written ({failure}). The labels are complete; give "
                "another output_dir."
            )
        if drawn:
            say(f"The pictures are in {place}.")


def _clear(folder: pathlib.Path) -> None:
    """Removes the pictures of earlier files."""
    for path in folder.glob("*.png"):
        if _PICTURE.fullmatch(path.name):
            path.unlink()
