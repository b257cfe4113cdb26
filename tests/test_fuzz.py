"""Odd flags and damaged image files: each is done, or refused as an error that the user can mend."""

import io
import warnings

from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image

from lcaps_jax.cli.flags import read_flagfile
from lcaps_jax.data import image_io
from lcaps_jax.train.config import declared_settings
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.util.errors import UserError

_ALLOWED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_VALUES = [
    "", " ", "0", "1", "-1", "7", "28", "1000000", "99999999999999999999", "0.5", "1e400", "nan", "inf", "-inf", "true",
    "none", "sample", "paper", "capsnet", "cnn", "a,b", ",", "'quoted'", "ä", "*", "../..", "~", "x" * 300, "%s",
]  # fmt: skip


@_ALLOWED
@given(
    lines=st.lists(
        st.tuples(st.sampled_from([*declared_settings(), "learning_rat", ""]), st.sampled_from(_VALUES) | st.text()),
        max_size=4,
    )
)
def test_odd_flags_are_taken_or_refused(tmp_path, lines):
    path = tmp_path / "odd.flags"
    path.write_text("".join(f"--{name}={value}\n" for name, value in lines), errors="surrogatepass")
    try:
        chosen, _ = read_flagfile(path)
        resolve(chosen, Facts("sample", 8000, 28), classes=10)
    except (UserError, flags.Error, UnicodeError) as error:
        assert str(error)


def _files() -> dict[str, bytes]:
    """Image files of many formats and modes."""
    colours = np.random.default_rng(0).integers(0, 256, (24, 30, 4)).astype(np.uint8)
    grey, deep = colours[..., 0], colours[..., 0].astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "png": [(grey, {}), (colours, {}), (deep, {})],
        "jpeg": [(colours[..., :3], {"exif": turned})],
        "tiff": [(grey, {}), (colours[..., :3], {"compression": "tiff_lzw"})],
        **{form: [(colours[..., :3], {})] for form in ("bmp", "gif", "webp", "ppm", "tga", "pcx", "ico")},
    }
    files = {}
    for form, images in made.items():
        for number, (pixels, options) in enumerate(images):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, form, **options)
            files[f"{number}.{form}"] = stream.getvalue()
    return files


_FILES = _files()


@_ALLOWED
@given(
    name=st.sampled_from(sorted(_FILES)),
    damages=st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=8), st.integers(0, 40)), max_size=3),
    cut=st.none() | st.integers(0, 2**16),
    channels=st.sampled_from([1, 3]),
)
def test_damaged_image_files_are_read_or_refused(tmp_path, name, damages, cut, channels):
    content = _FILES[name]
    for at, inserted, removed in damages:
        at %= len(content) + 1
        content = content[:at] + inserted + content[at + removed :]
    path = tmp_path / name
    path.write_bytes(content if cut is None else content[: cut % (len(content) + 1)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image_io.survey([path])
            image = image_io.read(path, channels)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape[2] == channels
