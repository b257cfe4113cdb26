"""Single image files: their range, transparency, orientation and size, and every way in which they cannot be read."""

import pathlib
import struct

import numpy as np
from PIL import Image
import pytest

from lcaps_jax.data import Brightness, DataError, image_io, mnist
from lcaps_jax.data.brightness import brightness
import workloads

# A white left half on black.
_HALF = np.repeat(np.array([[255] * 10 + [0] * 10], np.uint8), 10, axis=0)


def _save(file: pathlib.Path, pixels, **options) -> pathlib.Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **options)
    return file


def _is_half(pixels: np.ndarray) -> bool:
    return pixels.shape[:2] == (10, 20) and (pixels[:, :8] > 240).all() and (pixels[:, 12:] < 15).all()


def test_any_format_and_mode(tmp_path):
    """Each file shows a white left half on black."""
    grey, deep = Image.fromarray(_HALF), Image.fromarray(_HALF.astype(np.uint16) * 257)
    clear = Image.merge("LA", [Image.new("L", grey.size, 255), grey])  # white where it is opaque
    files = {
        "a.bmp": grey, "b.gif": grey, "c.webp": grey.convert("RGB"), "d.tif": deep, "e.png": clear, "f.jpg": grey,
        "g.png": grey.convert("1"), "h.png": grey.convert("P"), "i.pgm": deep, "j.png": deep, "k.tga": grey,
    }  # fmt: skip
    for name, image in files.items():
        for channels in (1, 3):
            pixels = image_io.read(_save(tmp_path / name, image, quality=100), channels)
            assert pixels.shape == (10, 20, channels) and pixels.dtype == np.uint8 and _is_half(pixels), name
    assert image_io.survey([tmp_path / name for name in files if name != "c.webp"]).channels == 1
    assert image_io.survey([tmp_path / "a.bmp", tmp_path / "c.webp"]).channels == 3


def test_a_palette_counts_by_the_colours_that_are_seen(tmp_path):
    coloured = Image.fromarray(_HALF).convert("P")
    coloured.putpalette([255, 0, 255] + [255] * 3 * 255)
    clear = _save(tmp_path / "clear.gif", coloured, transparency=0)
    seen = _save(tmp_path / "seen.gif", coloured)
    assert image_io.survey([clear, seen]).coloured == [seen]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_images_lie_on_a_background_that_shows_their_ink(tmp_path, mode):
    for ink in (0, 255):
        image = Image.fromarray(np.full_like(_HALF, ink)).convert(mode)
        image.putalpha(Image.fromarray(_HALF))
        file = _save(tmp_path / f"{mode}{ink}.png", image)
        for channels in (1, 3):
            pixels = image_io.read(file, channels)
            assert (pixels[:, :9] == ink).all() and (pixels[:, 11:] == 255 - ink).all()
    clear = _save(tmp_path / "clear.png", Image.new("LA", (3, 3), (200, 0)))
    assert not image_io.read(clear, 1).any()


def _exif(value: int) -> bytes:
    """EXIF with an orientation; 6 is that of a picture that is to be turned clockwise."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(tmp_path, ending):
    tall = Image.fromarray(_HALF).rotate(90, expand=True)
    options = {"quality": 100} if ending in ("jpg", "webp") else {}
    assert _is_half(image_io.read(_save(tmp_path / f"a.{ending}", tall, exif=_exif(6), **options), 1))
    assert image_io.read(_save(tmp_path / f"b.{ending}", tall, exif=_exif(77), **options), 1).shape == (20, 10, 1)
    if ending != "tif":  # damaged metadata
        pixels = image_io.read(_save(tmp_path / f"c.{ending}", tall, exif=_exif(6)[:17], **options), 1)
        assert pixels.shape == (20, 10, 1)


@pytest.mark.parametrize(
    "name, content, named",
    [
        ("a.pgm", b"P5 1000000 90 255\n", "90000000 pixels"),  # refused by its header
        ("a.png", b"no", "not an image"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} .*{named}"):
        image_io.survey([tmp_path / name])


@pytest.mark.parametrize(
    "raised, said", [(OSError("two\nlines."), "two"), (KeyError(), "KeyError"), (MemoryError(), "Mem")]
)
def test_whatever_pillow_raises_is_one_line_about_the_file(tmp_path, monkeypatch, raised, said):
    file = _save(tmp_path / "a.png", _HALF)
    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(raised))
    with pytest.raises(DataError, match=f"^{file} .*{said}[^\n]*$"):
        image_io.read(file, 1)


def test_faults_are_noted_when_the_rest_is_wanted(tmp_path, capsys):
    good, bad = _save(tmp_path / "good.png", _HALF), tmp_path / "bad.png"
    bad.write_text("no")
    cut = _save(tmp_path / "cut.png", Image.effect_noise((20, 20), 64))
    cut.write_bytes(cut.read_bytes()[:200])
    found = image_io.survey([bad, cut, good], skip_unreadable=True)
    assert [file for file, _ in image_io.read_each(found.files, found, skip_unreadable=True)] == [good]
    assert list(found.faults) == [bad, cut]
    image_io.list_faults(found.faults, 3)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("2 of 3 ") and str(bad) in second and str(cut) in third


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
    scaled = image_io.fit_size(np.full((2, 30, 20, 3), 90, np.uint8), 10)
    np.testing.assert_array_equal(scaled[0, ..., 0], np.tile([0, 90, 0], (10, 1)).repeat([1, 7, 2], axis=1))
    np.testing.assert_array_equal(image_io.fit_size(padded, 7), padded)


def test_borders_have_the_colour_of_a_light_background_and_are_black_else():
    light, dark = np.full((3, 5, 3), (250, 200, 180), np.uint8), np.full((3, 5, 3), (10, 200, 80), np.uint8)
    light[1, 2] = light[0, 0] = 0  # an object in the middle, and a spot on the border
    fitted = image_io.fit_size(np.stack([light, dark]), 7)
    np.testing.assert_array_equal(fitted[0, [0, 6]], np.full((2, 7, 3), (250, 200, 180)))
    np.testing.assert_array_equal(fitted[1, [0, 6]], 0)
    np.testing.assert_array_equal(fitted[:, 2:5, 1:6], [light, dark])


def test_a_strip_is_scaled_before_it_gets_its_borders():
    fitted = image_io.fit_size(np.full((1, 65000, 100, 1), 100, np.uint8), 32)
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


def test_images_on_another_background_are_told_from_those_of_the_set():
    images = workloads.random_split(20).images
    images[:, [0, -1]] = 0
    known = Brightness.of(images)
    measured = brightness(images)
    assert known.warning("these", measured) is None
    inverted = brightness(255 - images)
    assert known.unlike(inverted).all()
    mixed = np.concatenate([measured, inverted[:1]])
    line = known.warning("these", mixed)
    assert line.startswith("these: ") and "1 of 21" in line and "--invert" in line
    assert known.warning("these", mixed, share=1 / 2) is None
