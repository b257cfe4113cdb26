"""What eval.py does with --images: classifies image files, prints a record of each, and draws a picture of each."""

import contextlib
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


def classify_files(
    model: Model,
    pattern: str,
    workdir: pathlib.Path | None,
    format_: str = image_files.TEXT,
    output_dir: pathlib.Path | None = None,
    **options: bool,
) -> None:
    """Prints the label of each image file, and draws a picture of each.

    Programs read the formats ``json`` and ``csv``, so there all else goes to standard error and pictures are drawn into
    an ``output_dir`` alone. Where the pictures cannot be written, the labels of all files come nevertheless.

    Args:
      model: Model to classify with.
      pattern: Files, such as ``"photos/*.png"``.
      workdir: Folder of the run, whose pictures of earlier files are replaced; None for the folder ``classified``.
      format_: Form of the records, one of ``infer.image_files.FORMATS``.
      output_dir: Folder of the pictures instead of the run's own.
      **options: Options of ``infer.image_files.classify``.

    Raises:
      DataError: There is no such file, or one is not an image.
      ConfigError: The pictures could not be written, which is raised after the last label.
    """
    for_people = format_ == image_files.TEXT
    drawn, failure = for_people or output_dir is not None, None
    own = workdir / style.FOLDER / _FOLDER if workdir else pathlib.Path(_FOLDER)
    place = output_dir or own
    with contextlib.nullcontext() if for_people else messages_on_stderr() as records:
        found = image_files.classify(model, image_files.find(pattern), **options)
        for number, (text, classified) in enumerate(image_files.formatted(found, format_)):
            if not devices.is_main():
                continue
            write_line(text, records)
            if drawn and failure is None:
                try:
                    if number == 0 and workdir and not output_dir:
                        for path in own.glob("*.png"):  # of earlier files
                            if _PICTURE.fullmatch(path.name):
                                path.unlink()
                    transforms.draw_classified(classified, model.geometry, place, number)
                except OSError as error:
                    failure = error
        if failure is not None:
            raise ConfigError(f"output_dir={place}: cannot be written ({failure}). The labels above are complete.")
        if drawn:
            say(f"The pictures are in {place}.")
