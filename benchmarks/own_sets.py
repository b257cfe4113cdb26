"""Small image sets, such as people bring, to try the recipe for own images on.

Four sets are made of what packages ship, see ``requirements.txt``; one is drawn; two are copies of public repositories.
Each comes as Pillow images by part and class, the same ones for a seed, and no picture is in both parts. Where one
photograph gives many images, the training part and the test part are cut out of other photographs or other regions.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import gzip
import importlib.util
import math
import pathlib
import pickle
import re
import shutil
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Images = dict[str, list[Image.Image]]  # of each class

_TRAIN, _TEST = 300, 100  # most images of a class in the two parts
_LETTERS = "ABCDEFGHJK"
_TEXTURES = ("brick", "grass", "gravel")
_CELLS = ("RBC", "WBC", "Platelets")
_ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
# Families of fonts, as a package and a pattern of its files. The letters of the test part are of other families.
_TRAIN_FONTS = (
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans*[!y].ttf"),  # the display fonts have no letters
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSerif*[!y].ttf"),
    ("matplotlib", "mpl-data/fonts/ttf/STIXGeneral*.ttf"),
    ("matplotlib", "mpl-data/fonts/ttf/cm[brt]*10.ttf"),
    ("font_roboto", "files/*.ttf"),
    ("font_source_serif_pro", "files/*.ttf"),
    ("font_amatic_sc", "files/*.ttf"),
    ("font_fredoka_one", "files/*.ttf"),
)
_TEST_FONTS = (
    ("font_caladea", "files/*.ttf"),
    ("font_hanken_grotesk", "files/*.otf"),
    ("font_intuitive", "files/*.ttf"),
    ("font_lato", "files/*.ttf"),
    ("font_source_sans_pro", "files/*.ttf"),
)


class MissingSetError(Exception):
    """A set is not on this machine; the message says where it comes from."""


@dataclasses.dataclass(frozen=True)
class OwnSet:
    """A set of images.

    Attributes:
      about: What it shows, and where it comes from.
      load: Images of the training and of the test part, from a random generator and the folder of the repositories'
        copies.
    """

    about: str
    load: Callable[[np.random.Generator, pathlib.Path], tuple[Images, Images]]


def write(name: str, folder: pathlib.Path, per_class: int, seed: int = 0, copies: pathlib.Path = pathlib.Path()) -> int:
    """Writes a set as ``folder/train/CLASS/FILE`` and ``folder/test/CLASS/FILE``, in place of what was there.

    Args:
      name: Name in ``SETS``.
      folder: Folder to write.
      per_class: Training images of each class. Those of a smaller number are among those of a larger one.
      seed: Seed of what is drawn and chosen.
      copies: Folder of the copies of public repositories.

    Returns:
      Number of classes; 0, with nothing written, where a class has fewer training images.

    Raises:
      MissingSetError: The package or the copy that the set comes from is not there.
    """
    train, test = SETS[name].load(np.random.default_rng(seed), copies)
    if min(map(len, train.values())) < per_class:
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    for part, classes, most in (("train", train, per_class), ("test", test, _TEST)):
        for class_, images in classes.items():
            place = folder / part / class_
            place.mkdir(parents=True)
            for number, image in enumerate(images[:most]):
                ending = "jpg" if number % 2 and name == "shapes" else "png"  # people have both
                image.save(place / f"{number:03}.{ending}", quality=90)
    return len(train)


def _shapes(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    del copies
    drawn = {name: [_shape(rng, name) for _ in range(_TRAIN + _TEST)] for name in ("circle", "square", "triangle")}
    return _cut(drawn)


def _shape(rng: np.random.Generator, name: str) -> Image.Image:
    """A turned shape of one colour on another, in an image of any size and proportion."""
    width, height = (int(side) for side in rng.integers(40, 121, 2))
    ground, ink = rng.integers(0, 256, (2, 3))
    while np.abs(ground - ink).sum() < 150:
        ink = rng.integers(0, 256, 3)
    radius = rng.uniform(0.2, 0.45) * min(width, height)
    x, y = (rng.uniform(radius, side - radius) for side in (width, height))
    angle, scale = rng.uniform(0, 2 * math.pi), 2  # drawn larger, so that its edge is smooth
    image = Image.new("RGB", (scale * width, scale * height), tuple(ground.tolist()))
    corners = {"circle": 90, "square": 4, "triangle": 3}[name]
    turns = [angle + 2 * math.pi * corner / corners for corner in range(corners)]
    points = [(scale * (x + radius * math.cos(turn)), scale * (y + radius * math.sin(turn))) for turn in turns]
    ImageDraw.Draw(image).polygon(points, fill=tuple(ink.tolist()))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _letters(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    del copies
    parts = []
    for families, count in ((_TRAIN_FONTS, _TRAIN), (_TEST_FONTS, _TEST)):
        fonts = [sorted(_package(package).glob(pattern)) for package, pattern in families]
        parts.append({letter: [_letter(rng, letter, fonts) for _ in range(count)] for letter in _LETTERS})
    return parts[0], parts[1]


def _letter(rng: np.random.Generator, letter: str, families: list[list[pathlib.Path]]) -> Image.Image:
    """A dark letter anywhere on light paper."""
    files = families[rng.integers(len(families))]
    font = ImageFont.truetype(str(files[rng.integers(len(files))]), int(rng.integers(32, 61)))
    paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 80))
    image = Image.new("L", (80, 80), paper)
    left, top, right, bottom = font.getbbox(letter)
    x, y = (rng.uniform(2, max(3, 78 - side)) for side in (right - left, bottom - top))
    ImageDraw.Draw(image).text((x - left, y - top), letter, fill=ink, font=font)
    return image


def _textures(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    """Crops of 64x64 pixels; those of the test part come from the right third of each photograph."""
    del copies
    train, test = {}, {}
    for name in _TEXTURES:
        with Image.open(_package("skimage") / f"data/{name}.png") as photograph:
            picture = photograph.convert("L")
        border = 2 * picture.width // 3
        train[name] = list(_crops(rng, picture, (0, border), _TRAIN))
        test[name] = list(_crops(rng, picture, (border, picture.width), _TEST))
    return train, test


def _crops(
    rng: np.random.Generator, picture: Image.Image, columns: tuple[int, int], count: int, size: int = 64
) -> Iterator[Image.Image]:
    for _ in range(count):
        x, y = int(rng.integers(columns[0], columns[1] - size + 1)), int(rng.integers(0, picture.height - size + 1))
        yield picture.crop((x, y, x + size, y + size))


def _faces(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    del copies
    pictures = np.rint(255 * np.load(_package("skimage") / "data/lfw_subset.npy")).astype(np.uint8)
    return _cut({name: _shuffled(rng, half) for name, half in zip(("face", "other"), np.split(pictures, 2))}, 40)


def _animals(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    del copies
    folder = _package("animal_mnist") / "data/Animal_MNIST"
    pictures, labels = (
        pickle.loads(gzip.decompress((folder / f"animal_{part}_version_3.gz").read_bytes()))
        for part in ("data", "label")
    )
    _, first = np.unique(pictures.reshape(len(pictures), -1), axis=0, return_index=True)  # it repeats some
    pictures, labels = pictures[first], labels[first]
    return _cut({name: _shuffled(rng, pictures[labels == label]) for label, name in enumerate(_ANIMALS)})


def _hands(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    """The photographs in the order of their files, so that no pupil's hand is in both parts."""
    root = _copy(copies, "ardamavi/Sign-Language-Digits-Dataset") / "Dataset"
    train, test = {}, {}
    for folder in sorted(root.iterdir()):
        files = sorted(folder.glob("*.JPG"), key=lambda file: int(re.sub(r"\D", "", file.stem)))
        border = 3 * len(files) // 4
        # The border itself may cut a pupil's ten photographs, so some files there belong to neither part.
        train[folder.name] = [_opened(files[number]) for number in rng.permutation(border - 2)]
        test[folder.name] = [_opened(file) for file in files[border + 2 :]]
    return train, test


def _cells(rng: np.random.Generator, copies: pathlib.Path) -> tuple[Images, Images]:
    """Each cell by its box, with a quarter of its surroundings; every third micrograph gives test images."""
    root = _copy(copies, "Shenggan/BCCD_Dataset") / "BCCD"
    parts: tuple[Images, Images] = ({name: [] for name in _CELLS}, {name: [] for name in _CELLS})
    for number, file in enumerate(sorted((root / "Annotations").glob("*.xml"))):
        picture = _opened(root / "JPEGImages" / f"{file.stem}.jpg")
        for cell in ElementTree.parse(file).iter("object"):
            left, top, right, bottom = (
                int(cell.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            margin = max(right - left, bottom - top) // 8
            if min(right - left, bottom - top) >= 8:
                box = (max(0, left - margin), max(0, top - margin), right + margin, bottom + margin)
                box = (*box[:2], min(picture.width, box[2]), min(picture.height, box[3]))
                parts[number % 3 == 2][cell.findtext("name", "")].append(picture.crop(box))
    return tuple({name: _shuffled(rng, images) for name, images in part.items()} for part in parts)  # type: ignore[return-value]


def _shuffled(rng: np.random.Generator, pictures) -> list[Image.Image]:
    """Pictures, as arrays or Pillow images, in a random order."""
    chosen = [pictures[number] for number in rng.permutation(len(pictures))]
    return [picture if isinstance(picture, Image.Image) else Image.fromarray(picture) for picture in chosen]


def _cut(images: Mapping[str, list[Image.Image]], test: int = _TEST) -> tuple[Images, Images]:
    """The first images of each class for tests, all others to train on."""
    return {name: all_[test:] for name, all_ in images.items()}, {name: all_[:test] for name, all_ in images.items()}


def _opened(file: pathlib.Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def _package(name: str) -> pathlib.Path:
    """Folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingSetError(f"The package {name.replace('_', '-')} is missing: see benchmarks/requirements.txt.")
    return pathlib.Path(spec.submodule_search_locations[0])


def _copy(copies: pathlib.Path, repository: str) -> pathlib.Path:
    """Folder of the copy of a public repository on GitHub."""
    folder = copies / repository.split("/")[1]
    if not folder.is_dir():
        raise MissingSetError(f"{folder} is missing: clone {repository} from GitHub into {copies}.")
    return folder


# The sets, those that anyone can make first.
SETS: Mapping[str, OwnSet] = {
    "shapes": OwnSet("3 drawn shapes in two colours, turned, of any size, in PNG and JPEG", _shapes),
    "letters": OwnSet("10 letters on light paper in 8 families of fonts, tested on those of 5 others", _letters),
    "textures": OwnSet("3 photographs of scikit-image in pieces: brick, grass, gravel", _textures),
    "faces": OwnSet("faces and other pieces of photographs (LFW), which scikit-image ships", _faces),
    "animals": OwnSet("silhouettes of 10 animals, which the package animal-mnist ships", _animals),
    "cells": OwnSet("3 kinds of blood cells, from the public repository Shenggan/BCCD_Dataset", _cells),
    "hands": OwnSet("10 signs by hand, from the public repository ardamavi/Sign-Language-Digits-Dataset", _hands),
}
