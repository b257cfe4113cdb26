"""What eval.py does with --images: classifies image files, prints a record of each, and draws a picture of each."""

import contextlib
import pathlib
import re
import sys

from lcaps_jax.infer import image_files
from lcaps_jax.infer.model import Model
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import say, write_line
from lcaps_jax.viz import style, transforms

_FOLDER = "classified"
_PICTURE = re.compile(r"\d{3,}_.*\.png")


def classify_files(
    model: Model, pattern: str, workdir: pathlib.Path | None, format_: str = image_files.TEXT,
    output_dir: pathlib.Path | None = None, **options: bool,
) -> None:  # fmt: skip
    """Prints the label of each file of a pattern such as ``"photos/*.png"``, and draws a picture of each.

    Pictures go into ``output_dir`` or the run's folder, where they replace those of earlier files; without either into
    the folder ``classified``. Programs read the formats ``json`` and ``csv``, so there all else goes to standard error
    and pictures are drawn into an ``output_dir`` alone. Where they cannot be written, ConfigError is raised after the
    last label. For ``options`` and DataError see ``infer.image_files.classify``.
    """
    for_people, records = format_ == image_files.TEXT, sys.stdout
    drawn, failure = for_people or output_dir is not None, None
    own = workdir / style.FOLDER / _FOLDER if workdir else pathlib.Path(_FOLDER)
    place = output_dir or own
    with contextlib.nullcontext() if for_people else contextlib.redirect_stdout(sys.stderr):
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
