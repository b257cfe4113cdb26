"""Single image files: their range, transparency, orientation and size, and every way in which they cannot be read."""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from lcaps_jax.data import DataError, ground, pictures, resize, sample
import workloads

# A white left half on black.
_HALF = np.repeat(np.array([[255] * 10 + [0] * 10], np.uint8), 10, axis=0)
_ON_ITS_SIDE = 6  # EXIF's orientation of a picture that is to be turned clockwise


def _save(file: pathlib.Path, pixels, **options) -> pathlib.Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **options)
    return file


def _is_half(pixels: np.ndarray) -> bool:
    return pixels.shape[:2] == (10, 20) and (pixels[:, :9] > 240).all() and (pixels[:, 11:] < 15).all()


def test_sixteen_bits_that_hold_eight_are_read_as_eight(tmp_path, capsys):
    shallow = [_save(tmp_path / name, _HALF.astype(np.uint16)) for name in ("a.png", "b.tif", "c.pgm")]
    full = _save(tmp_path / "full.png", _HALF.astype(np.uint16) * 257)
    assert pictures.survey(shallow).shallow
    assert "3 files of 16 bits, as" in capsys.readouterr().out
    assert all(_is_half(pictures.read(file, 1, shallow=True)) for file in shallow)
    # The set decides, so that a dark image among bright ones stays dark.
    assert not pictures.survey([*shallow, full]).shallow
    assert not pictures.read(shallow[0], 1).any() and _is_half(pictures.read(full, 1))


def _of_16_bits(file: pathlib.Path, values: np.ndarray) -> pathlib.Path:
    """A file ``[H, W, C]`` of 16 bits, which Pillow does not write: a PNG of greys or colours with alpha, or a PPM."""
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1)
    if file.suffix == ".ppm":
        file.write_bytes(b"P6 %d %d 65535\n" % (width, height) + rows.tobytes())
        return file
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
             for kind, body in chunks]  # fmt: skip
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


@pytest.mark.parametrize("ending, channels", [("png", 2), ("png", 3), ("png", 4), ("ppm", 3)])
def test_colours_of_16_bits_that_hold_8_are_refused_and_not_read_as_black(tmp_path, ending, channels):
    values = np.repeat(_HALF[..., None], channels, axis=-1).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = 255
    shallow = _of_16_bits(tmp_path / f"a.{ending}", values)
    full = _of_16_bits(tmp_path / f"full.{ending}", 257 * values)
    assert _is_half(pictures.read(full, 1))
    assert pictures.survey([full]).channels == (1 if channels == 2 else 3)
    with pytest.raises(DataError, match=f"a.{ending} cannot be read: of its 16 bits .* Save it with 8 bits"):
        pictures.survey([shallow])
    grey = _save(tmp_path / "grey.png", _HALF)
    found = pictures.survey([shallow, grey], keep_going=True)
    assert found.files == (grey,) and list(found.faults) == [shallow] and found.channels == 1
    # The set decides, so that a dark image among bright ones stays dark.
    assert pictures.survey([shallow, full]).files == (shallow, full)


def test_a_palette_of_greys_is_grey(tmp_path):
    grey = _save(tmp_path / "grey.png", Image.fromarray(_HALF).convert("P"))
    coloured = Image.fromarray(_HALF).convert("P")
    coloured.putpalette([255, 0, 255] + [255] * 3 * 255)
    # What is transparent is not seen.
    clear = _save(tmp_path / "clear.gif", coloured, transparency=0)
    seen = _save(tmp_path / "seen.gif", coloured)
    assert pictures.survey([grey, clear]).channels == 1 and _is_half(pictures.read(grey, 1))
    assert pictures.survey([grey, seen]).coloured == (seen,)


@pytest.mark.parametrize("factor", [1, 257])
def test_where_the_smallest_number_is_white(tmp_path, factor):
    file = _save(tmp_path / "a.tif", (255 - _HALF).astype(np.uint16) * factor)
    photometric = [struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0)]
    assert photometric[0] in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(*photometric))
    assert pictures.survey([file]).shallow == (factor == 1)
    assert _is_half(pictures.read(file, 1, shallow=factor == 1))


def test_twelve_bits_are_read_over_their_range(tmp_path):
    """Pillow writes no such file: two values in three bytes, and the tag of the bits."""
    packed = bytes.fromhex("ffffff") * 5 + bytes(15)
    tags = [(256, 20), (257, 10), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 8 + 4), (278, 10), (279, 300)]
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(header + entries + bytes(4) + packed * 10)
    assert _is_half(pictures.read(tmp_path / "a.tif", 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_transparent_images_lie_on_a_ground_that_shows_their_ink(tmp_path, mode):
    for ink in (0, 255):
        file = tmp_path / f"{mode}{ink}.png"
        if mode == "I;16":  # one value is named as the transparent one
            ground = 1000
            keyed = np.where(_HALF > 0, ink * 257, ground).astype(np.uint16)
            _save(file, keyed, transparency=ground)
        else:
            image = Image.fromarray(np.full_like(_HALF, ink)).convert(mode)
            image.putalpha(Image.fromarray(_HALF))
            _save(file, image)
        for channels in (1, 3):
            pixels = pictures.read(file, channels)
            assert (pixels[:, :9] == ink).all() and (pixels[:, 11:] == 255 - ink).all()
    clear = _save(tmp_path / "clear.png", Image.new("LA", (3, 3), (200, 0)))
    assert not pictures.read(clear, 1).any()


def _exif(value: bytes, kind: int) -> bytes:
    """EXIF with an orientation of a type of TIFF's: 2 is text, 3 a number of two bytes."""
    count = len(value) // {2: 1, 3: 2}[kind]
    entry = struct.pack("<HHI4s", 0x0112, kind, count, value)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize(
    "exif, turned",
    [
        (_exif(b"6\0", 2), True),
        (_exif(struct.pack("<H", _ON_ITS_SIDE), 3), True),
        (_exif(struct.pack("<HH", _ON_ITS_SIDE, 1), 3), True),
        (_exif(b"up\0", 2), False),
        (_exif(b"", 2), False),
        (b"Exif\0\0II*\0\xff\xff\xff", False),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_orientation_is_read_in_whatever_form(tmp_path, exif, turned, ending):
    tall = Image.fromarray(_HALF).rotate(90, expand=True)
    file = _save(tmp_path / f"a.{ending}", tall, exif=exif, quality=100)
    size = (20, 10) if turned else (10, 20)
    assert list(pictures.survey([file]).sizes) == [size]
    pixels = pictures.read(file, 1)
    assert _is_half(pixels) if turned else pixels.shape == (20, 10, 1)


def test_a_tiff_is_turned_once(tmp_path):
    tall = Image.fromarray(_HALF).rotate(90, expand=True)
    file = _save(tmp_path / "a.tif", tall, tiffinfo={0x0112: _ON_ITS_SIDE})
    assert list(pictures.survey([file]).sizes) == [(20, 10)] and _is_half(pictures.read(file, 1))


def test_a_file_with_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 1000000 81 255\n")
    with pytest.raises(DataError, match="a.pgm cannot be read: it has 1000000x81 pixels; at most 80 million are read"):
        pictures.survey([tmp_path / "a.pgm"])


def test_whatever_pillow_raises_is_one_line_about_the_file(tmp_path, monkeypatch):
    file = _save(tmp_path / "a.png", _HALF)

    class Odd(Exception):
        pass

    for raised, line in ((Odd("two\nlines."), "two."), (Odd(), "Odd."), (MemoryError(), "MemoryError.")):
        monkeypatch.setattr(Image, "open", lambda file, raised=raised: (_ for _ in ()).throw(raised))
        with pytest.raises(DataError) as caught:
            pictures.read(file, 1)
        assert str(caught.value) == f"{file} cannot be read: {line}"
    monkeypatch.setattr(Image, "open", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pictures.read(file, 1)


def test_faults_are_noted_when_the_rest_is_wanted(tmp_path, capsys):
    good, bad = _save(tmp_path / "good.png", _HALF), tmp_path / "bad.png"
    bad.write_text("no")
    found = pictures.survey([bad, good], keep_going=True)
    assert found.files == (good,) and list(found.faults) == [bad]
    pictures.list_faults(found.faults, 2)
    assert capsys.readouterr().out == (
        f"1 of 2 image files cannot be read and are left out:\n  {bad} is not an image that Pillow can read.\n"
    )


def test_a_digit_on_paper_becomes_one_of_mnist_s():
    (digit,) = sample.load().test.images[:1, ..., 0]
    large = np.asarray(Image.fromarray(digit).resize((112, 112), Image.Resampling.LANCZOS), np.float64)
    paper = np.full((200, 150, 3), 235, np.uint8)
    paper += np.random.default_rng(0).integers(0, 10, paper.shape, np.uint8)  # uneven, as a photograph's
    paper[60:172, 20:132] = (235 - 0.9 * large)[..., None]
    as_mnist = resize.centred(digit, 28)[..., None].astype(float)
    assert np.abs(resize.prepared(paper, 28, invert=True, centre=True)[..., :1] - as_mnist).mean() < 12
    assert np.abs(resize.prepared(paper, 28)[..., :1] - as_mnist).mean() > 100
    assert resize.prepared(paper, 28, invert=True, centre=True).shape == (28, 28, 3)
    assert not resize.prepared(np.full((2100, 30, 1), 9, np.uint8), 28, centre=True).any()  # no ink


def test_channels_are_changed_as_pillow_does():
    colour = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(resize.to_channels(colour, 1)[0, ..., 0], Image.fromarray(colour[0]).convert("L"))
    grey = colour[..., :1]
    np.testing.assert_array_equal(resize.to_channels(resize.to_channels(grey, 3), 1), grey)


def test_images_on_another_ground_are_told_from_those_of_the_set():
    images = workloads.random_split(20).images
    images[:, [0, -1]] = 0
    known = ground.Ground.of(images)
    measured = ground.brightness(images)
    np.testing.assert_allclose(measured[:, 0], images.mean(axis=(1, 2, 3)) / 255)
    np.testing.assert_allclose(known.mean, measured.mean(axis=0), atol=1e-4)
    assert known.warning("these", measured) is None
    inverted = ground.brightness(255 - images)
    assert known.unlike(inverted).all()
    mixed = np.concatenate([measured, inverted[:1]])
    line = known.warning("these", mixed)
    assert line.startswith("these: the ground of 1 of 21 images is unlike the training data's (brightness 0.8")
    assert line.endswith("Inverted, as by eval.py --invert, they are like it.")
    assert known.warning("these", mixed, share=1 / 2) is None
