"""Single image files: their range, transparency, orientation and size, and every way in which they cannot be read."""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from lcaps_jax.data import Brightness, DataError, image_io, mnist
from lcaps_jax.data.brightness import brightness
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


def test_any_format_mode_and_size(tmp_path):
    """Each file shows a white left half on black."""
    half = np.zeros((10, 20), np.uint8)
    half[:, :10] = 255
    grey = Image.fromarray(half)
    clear = np.zeros((10, 20, 4), np.uint8)  # white where it is opaque
    clear[..., :3], clear[:, :10, 3] = 255, 255
    files = {
        "a.bmp": grey, "b.gif": grey, "c.webp": grey.convert("RGB"),
        "d.tif": Image.fromarray(half.astype(np.uint16) * 257), "e.png": Image.fromarray(clear),
        "f.jpg": grey.resize((20, 10)), "g.png": grey.convert("1"), "h.png": grey.convert("P"),
        "i.pgm": Image.fromarray(half.astype(np.uint16) * 257),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name, **({"quality": 100} if name == "f.jpg" else {}))
        for channels in (1, 3):
            pixels = image_io.read(tmp_path / name, channels)
            assert pixels.shape == (10, 20, channels) and pixels.dtype == np.uint8
            assert (pixels[:, :8] > 240).all() and (pixels[:, 12:] < 15).all(), name
    assert image_io.survey([tmp_path / name for name in ("a.bmp", "d.tif", "f.jpg", "g.png", "i.pgm")]).channels == 1
    assert image_io.survey([tmp_path / "a.bmp", tmp_path / "c.webp"]).channels == 3


def test_sixteen_bits_that_hold_eight_are_read_as_eight(tmp_path, capsys):
    shallow = [_save(tmp_path / name, _HALF.astype(np.uint16)) for name in ("a.png", "b.tif", "c.pgm")]
    full = _save(tmp_path / "full.png", _HALF.astype(np.uint16) * 257)
    assert image_io.survey(shallow).shallow
    assert f"3 files of 16 bits, as {shallow[0]}" in capsys.readouterr().out
    assert all(_is_half(image_io.read(file, 1, shallow=True)) for file in shallow)
    # The set decides, so that a dark image among bright ones stays dark.
    assert not image_io.survey([*shallow, full]).shallow
    assert not image_io.read(shallow[0], 1).any() and _is_half(image_io.read(full, 1))


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
    assert _is_half(image_io.read(full, 1))
    assert image_io.survey([full]).channels == (1 if channels == 2 else 3)
    with pytest.raises(DataError, match=f"{shallow}.*16 bits"):
        image_io.survey([shallow])
    grey = _save(tmp_path / "grey.png", _HALF)
    found = image_io.survey([shallow, grey], skip_unreadable=True)
    assert found.files == (grey,) and list(found.faults) == [shallow] and found.channels == 1
    # The set decides, so that a dark image among bright ones stays dark.
    assert image_io.survey([shallow, full]).files == (shallow, full)


def test_a_palette_of_greys_is_grey(tmp_path):
    grey = _save(tmp_path / "grey.png", Image.fromarray(_HALF).convert("P"))
    coloured = Image.fromarray(_HALF).convert("P")
    coloured.putpalette([255, 0, 255] + [255] * 3 * 255)
    # What is transparent is not seen.
    clear = _save(tmp_path / "clear.gif", coloured, transparency=0)
    seen = _save(tmp_path / "seen.gif", coloured)
    assert image_io.survey([grey, clear]).channels == 1 and _is_half(image_io.read(grey, 1))
    assert image_io.survey([grey, seen]).coloured == (seen,)


@pytest.mark.parametrize("factor", [1, 257])
def test_where_the_smallest_number_is_white(tmp_path, factor):
    file = _save(tmp_path / "a.tif", (255 - _HALF).astype(np.uint16) * factor)
    photometric = [struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0)]
    assert photometric[0] in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(*photometric))
    assert image_io.survey([file]).shallow == (factor == 1)
    assert _is_half(image_io.read(file, 1, shallow=factor == 1))


def test_twelve_bits_are_read_over_their_range(tmp_path):
    """Pillow writes no such file: two values in three bytes, and the tag of the bits."""
    packed = bytes.fromhex("ffffff") * 5 + bytes(15)
    tags = [(256, 20), (257, 10), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 8 + 4), (278, 10), (279, 300)]
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(header + entries + bytes(4) + packed * 10)
    assert _is_half(image_io.read(tmp_path / "a.tif", 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_transparent_images_lie_on_a_background_that_shows_their_ink(tmp_path, mode):
    for ink in (0, 255):
        file = tmp_path / f"{mode}{ink}.png"
        if mode == "I;16":  # one value is named as the transparent one
            keyed = np.where(_HALF > 0, ink * 257, 1000).astype(np.uint16)
            _save(file, keyed, transparency=1000)
        else:
            image = Image.fromarray(np.full_like(_HALF, ink)).convert(mode)
            image.putalpha(Image.fromarray(_HALF))
            _save(file, image)
        for channels in (1, 3):
            pixels = image_io.read(file, channels)
            assert (pixels[:, :9] == ink).all() and (pixels[:, 11:] == 255 - ink).all()
    clear = _save(tmp_path / "clear.png", Image.new("LA", (3, 3), (200, 0)))
    assert not image_io.read(clear, 1).any()


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
    assert list(image_io.survey([file]).sizes) == [size]
    pixels = image_io.read(file, 1)
    assert _is_half(pixels) if turned else pixels.shape == (20, 10, 1)


def test_a_tiff_is_turned_once(tmp_path):
    tall = Image.fromarray(_HALF).rotate(90, expand=True)
    file = _save(tmp_path / "a.tif", tall, tiffinfo={0x0112: _ON_ITS_SIDE})
    assert list(image_io.survey([file]).sizes) == [(20, 10)] and _is_half(image_io.read(file, 1))


def test_a_file_with_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 1000000 81 255\n")
    with pytest.raises(DataError, match="a.pgm.*1000000x81"):
        image_io.survey([tmp_path / "a.pgm"])


def test_whatever_pillow_raises_is_one_line_about_the_file(tmp_path, monkeypatch):
    file = _save(tmp_path / "a.png", _HALF)

    class Odd(Exception):
        pass

    for raised, said in ((Odd("two\nlines."), "two"), (Odd(), "Odd"), (MemoryError(), "MemoryError")):
        monkeypatch.setattr(Image, "open", lambda file, raised=raised: (_ for _ in ()).throw(raised))
        with pytest.raises(DataError) as caught:
            image_io.read(file, 1)
        line = str(caught.value)
        assert str(file) in line and said in line and "\n" not in line
    monkeypatch.setattr(Image, "open", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        image_io.read(file, 1)


def test_faults_are_noted_when_the_rest_is_wanted(tmp_path, capsys):
    good, bad = _save(tmp_path / "good.png", _HALF), tmp_path / "bad.png"
    bad.write_text("no")
    found = image_io.survey([bad, good], skip_unreadable=True)
    assert found.files == (good,) and list(found.faults) == [bad]
    image_io.list_faults(found.faults, 2)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1 of 2 ") and str(bad) in second


def test_a_digit_on_paper_becomes_one_of_mnist_s():
    (digit,) = mnist.load_sample().test.images[:1, ..., 0]
    large = np.asarray(Image.fromarray(digit).resize((112, 112), Image.Resampling.LANCZOS), np.float64)
    paper = np.full((200, 150, 3), 235, np.uint8)
    paper += np.random.default_rng(0).integers(0, 10, paper.shape, np.uint8)  # uneven, as a photograph's
    paper[60:172, 20:132] = (235 - 0.9 * large)[..., None]
    prepared, _ = image_io.placed(paper, 28, invert=True, centre=True)
    as_mnist = image_io.centred(digit, 28)[..., None].astype(float)
    assert np.abs(prepared[..., :1] - as_mnist).mean() < 12
    assert prepared.shape == (28, 28, 3)
    assert np.abs(image_io.placed(paper, 28)[0][..., :1] - as_mnist).mean() > 100
    assert not image_io.placed(np.full((2100, 30, 1), 9, np.uint8), 28, centre=True)[0].any()  # no ink


def test_fit_size_pads_and_scales():
    images = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5, 1)
    padded = image_io.fit_size(images, 7)
    assert padded.shape == (2, 7, 7, 1)
    np.testing.assert_array_equal(padded[:, 2:5, 1:6], images)
    assert padded.sum() == images.sum()
    flat = np.full((2, 30, 20, 3), 90, np.uint8)
    scaled = image_io.fit_size(flat, 10)
    assert scaled.shape == (2, 10, 10, 3) and scaled.dtype == np.uint8
    np.testing.assert_array_equal(scaled[:, 4:6, 4:6], 90)  # the middle; the sides are the black borders
    np.testing.assert_array_equal(image_io.fit_size(padded, 7), padded)


def test_borders_have_the_colour_of_a_light_background_and_are_black_else():
    light, dark = np.full((3, 5, 3), (250, 200, 180), np.uint8), np.full((3, 5, 3), (10, 200, 80), np.uint8)
    light[1, 2] = 0  # an object in the middle, and a spot on the border
    light[0, 0] = 0
    fitted = image_io.fit_size(np.stack([light, dark]), 7)
    np.testing.assert_array_equal(fitted[0, [0, 6]], np.full((2, 7, 3), (250, 200, 180)))
    np.testing.assert_array_equal(fitted[1, [0, 6]], 0)
    np.testing.assert_array_equal(fitted[:, 2:5, 1:6], [light, dark])


def test_a_strip_is_scaled_before_it_gets_its_borders():
    strip = np.full((1, 65000, 100, 1), 100, np.uint8)
    fitted = image_io.fit_size(strip, 32)
    assert fitted.shape == (1, 32, 32, 1)
    assert set(np.unique(fitted)) == {0, 100}  # no halo beside it
    assert (fitted[0, :, :, 0] == 100).any(axis=1).all() and (fitted[0, 0] == 100).sum() == 1


@pytest.mark.parametrize("centre", [False, True])
def test_a_placement_finds_a_pixel_of_the_image_in_its_file(centre):
    """A bright block lies where its place in the fitted image says, in pixels of the file."""
    file = np.zeros((90, 200, 1), np.uint8)
    file[40:70, 110:130] = 255
    image, placement = image_io.placed(file, 28, centre=centre)
    rows, columns = np.nonzero(image[..., 0] > 127)
    found = placement.scale * [rows.mean(), columns.mean()] + placement.offset
    np.testing.assert_allclose(found, [54.5, 119.5], atol=placement.scale.max() / 2)


def test_channels_are_changed_as_pillow_does():
    colour = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(image_io.to_channels(colour, 1)[0, ..., 0], Image.fromarray(colour[0]).convert("L"))
    grey = colour[..., :1]
    np.testing.assert_array_equal(image_io.to_channels(image_io.to_channels(grey, 3), 1), grey)


def test_images_on_another_background_are_told_from_those_of_the_set():
    images = workloads.random_split(20).images
    images[:, [0, -1]] = 0
    known = Brightness.of(images)
    measured = brightness(images)
    np.testing.assert_allclose(measured[:, 0], images.mean(axis=(1, 2, 3)) / 255)
    np.testing.assert_allclose(known.mean, measured.mean(axis=0), atol=1e-4)
    assert known.warning("these", measured) is None
    inverted = brightness(255 - images)
    assert known.unlike(inverted).all()
    mixed = np.concatenate([measured, inverted[:1]])
    line = known.warning("these", mixed)
    assert line.startswith("these: ") and "1 of 21" in line and "--invert" in line
    assert known.warning("these", mixed, share=1 / 2) is None
