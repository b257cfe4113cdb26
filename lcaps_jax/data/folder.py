"""Folders of image files as a data set.

The set is ``train/CLASS/FILE`` and, where there is one, ``test/CLASS/FILE`` and ``val/CLASS/FILE``, or ``CLASS/FILE``
alone, in any format that Pillow reads. One colour image makes a set colour.
"""

from collections.abc import Mapping, Sequence
import hashlib
import pathlib

import numpy as np
from PIL import Image

from lcaps_jax.data import image_io
from lcaps_jax.data.splits import DataError, Source, Split, normal_form
from lcaps_jax.data.tfds import TEST_SHARE
from lcaps_jax.util import devices
from lcaps_jax.util.process import say

NAME = "folder"

_TRAIN, _TEST = "train", "test"
_VALIDATION = ("val", "validation", "valid")
# File managers leave these in folders of pictures.
_NOT_DATA = ("Thumbs.db", "desktop.ini")
# Shares of images held out that are called far from a fifth.
_FEW, _MANY = 0.1, 0.3

_Classes = dict[str, list[pathlib.Path]]


def find(data_dir: str | pathlib.Path, part: str | None = None) -> dict[str, _Classes]:
    """The files of each class in each part of a folder, classes and files sorted by name; none is opened.

    Classes that stand in the folder itself, beside no part, are all of the training part. A class is named in Unicode's
    normal form C, so that a folder copied from a Mac is the same class.

    Args:
      data_dir: Folder of the parts or of the classes.
      part: The only part to be found; None for all, the training part always among them.

    Raises:
      DataError: The folder or a part is missing or has no class, a class has no file, or its name is not UTF-8.
    """
    root = pathlib.Path(data_dir)
    forms = f"Images are expected as {root}/{part or _TRAIN}/CLASS/FILE or {root}/CLASS/FILE."
    found = [name for name in (_TRAIN, _TEST, *_VALIDATION) if (root / name).exists()]
    if not found:
        return {_TRAIN: _classes(root, forms, known=Image.registered_extensions())}
    return {name: _classes(root / name, forms) for name in ([part] if part else dict.fromkeys((_TRAIN, *found)))}


def _classes(place: pathlib.Path, forms: str, known: Mapping[str, str] | None = None) -> _Classes:
    """The files of each class in a folder; where endings are ``known``, each class has an image by its name."""
    if not place.is_dir():
        raise DataError(f"{place} is not there. {forms}")
    classes: _Classes = {}
    for path in _folders(place):
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{str(path)!a}: the name of a class must be UTF-8; rename the folder.") from None
        files = [file for file in path.iterdir() if not _is_ignored(file)]
        if not any(known is None or (file.suffix.lower() in known and file.is_file()) for file in files):
            raise DataError(f"{path} has no image in it: put some there, or take it out of {place}. {forms}")
        classes.setdefault(normal_form(path.name), []).extend(files)
    if not classes:
        raise DataError(f"{place} has no folder in it. {forms}")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _folders(place: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in sorted(place.iterdir()) if path.is_dir() and not _is_ignored(path)]


def _is_ignored(path: pathlib.Path) -> bool:
    return path.name.startswith(".") or path.name in _NOT_DATA


def load(
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    skip_unreadable: bool = False,
) -> Source:
    """Loads image files, ``data_dir/train/CLASS/FILE``, and the parts ``test`` and ``val`` where they exist.

    The arguments are those of ``api.load``; without an ``image_size`` the images must be square and of one size.

    Raises:
      DataError: A folder or file cannot be used; the message names it.
    """
    root = _root(data_dir)
    parts = find(root)
    validation = [part for part in _VALIDATION if part in parts]
    if len(validation) > 1:
        raise DataError(f"{root} has the folders {' and '.join(validation)}: keep one as its validation part.")
    if (root / _TRAIN).exists() and (unused := [path.name for path in _folders(root) if path.name not in parts]):
        say(f"Of the folders in {root}, these are not used: {', '.join(unused)}.")
    names = tuple(class_names or parts[_TRAIN])
    if len(names) < 2:
        raise DataError(f"{root} has images of the one class {names[0]}: there must be at least two classes.")
    splits, size = _read(root, parts, names, image_size, skip_unreadable)
    read = {normal_form(names[label]) for label in splits[_TRAIN].labels}
    if empty := [name for name in parts[_TRAIN] if name not in read]:
        raise DataError(f"{root / _TRAIN / empty[0]} has no image that can be read.")
    return Source(splits[_TRAIN], splits[_TEST], names, size, validation=splits[validation[0]] if validation else None)


def load_test(
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    skip_unreadable: bool = False,
    invert: bool = False,
) -> tuple[Split, tuple[str, ...]]:
    """Loads the test part alone, or what ``load`` holds out where there is none, and the names of its classes.

    The arguments are those of ``api.load_test``.

    Raises:
      DataError: A folder or file cannot be used; the message names it.
    """
    root = _root(data_dir)
    has_train = (root / _TRAIN).exists()
    parts = find(root, _TRAIN if has_train and not (root / _TEST).exists() else _TEST)
    classes = find(root, _TRAIN)[_TRAIN] if has_train and not class_names else next(iter(parts.values()))
    names = tuple(class_names or classes)
    splits, _ = _read(root, parts, names, image_size, skip_unreadable, invert, wanted=[_TEST])
    return splits[_TEST], names


def _root(data_dir: str | None) -> pathlib.Path:
    if not data_dir:
        raise DataError(f"data_dir: must be the folder that holds train/CLASS/FILE, for dataset={NAME}.")
    return pathlib.Path(data_dir)


def _read(
    root: pathlib.Path,
    parts: Mapping[str, _Classes],
    names: Sequence[str],
    image_size: int | None,
    skip_unreadable: bool,
    invert: bool = False,
    wanted: Sequence[str] = (),
) -> tuple[dict[str, Split], int]:
    """Reads all or the wanted parts, of images of one size, which it finds; holds out a test part where none is."""
    labels = {normal_form(name): label for label, name in enumerate(names)}
    for part, classes in parts.items():
        if unknown := sorted(set(classes) - set(labels)):
            raise DataError(f"{root / part / unknown[0]}: must be one of the classes {', '.join(names)}.")
    files = [file for classes in parts.values() for file in _files(classes)]
    survey, size = _survey(root, files, image_size, skip_unreadable)
    good = set(survey.files)
    parts = {
        part: {name: [file for file in files if file in good] for name, files in classes.items()}
        for part, classes in parts.items()
    }
    if _TEST not in parts:
        parts[_TRAIN], parts[_TEST] = _hold_out_files(parts[_TRAIN], root)
    faults = dict(survey.faults)
    splits = {}
    for part in wanted or parts:
        of_class = {file: labels[name] for name, files in parts[part].items() for file in files}
        images = {}
        for file in of_class:
            try:
                pixels = image_io.read(file, survey.channels, survey.shallow)
            except DataError as error:
                if not skip_unreadable:
                    raise
                faults[file] = str(error)
            else:
                images[file], _ = image_io.placed(pixels, size, invert)
        if not images:
            raise DataError(f"{root / part} has no image that can be read.")
        # Mixed, always in the same way, so that the first images, and training without shuffling, meet every class.
        order = np.random.default_rng(0).permutation(len(images))
        read = np.array([of_class[file] for file in images], np.int32)
        splits[part] = Split(np.stack(list(images.values()))[order], read[order])
    image_io.list_faults(faults, len(files))
    return splits, size


def _survey(
    root: pathlib.Path, files: Sequence[pathlib.Path], image_size: int | None, skip_unreadable: bool
) -> tuple[image_io.Survey, int]:
    """Looks at all the files, and finds the pixels along a side that their images get."""
    survey = image_io.survey(files, skip_unreadable)
    if not survey.files:
        raise DataError(f"{root} has no image that can be read: {next(iter(survey.faults.values()))}")
    if 0 < len(survey.coloured) < len(survey.files):
        say(
            f"{len(survey.coloured)} of the {len(survey.files)} images in {root} are in colour, as "
            f"{survey.coloured[0]}: all are read in colour."
        )
    sizes = list(survey.sizes.items())
    if image_size is None and (len(sizes) > 1 or len(set(sizes[0][0])) > 1):
        seen = ", ".join(f"{width}x{height} ({file})" for (width, height), file in sizes[:2])
        raise DataError(f"image_size: must be given, because the images in {root} are not square of one size: {seen}.")
    size = image_size or sizes[0][0][0]
    devices.check_fits(len(survey.files) * size**2 * survey.channels, f"The set in {root}")
    return survey, size


def _files(classes: _Classes) -> list[pathlib.Path]:
    return [file for files in classes.values() for file in files]


def _hold_out_files(classes: _Classes, root: pathlib.Path) -> tuple[_Classes, _Classes]:
    """Makes a test part for a folder that has none: some of each class's files, but never all.

    A file's own content decides, so that it stays in its part when others are added, removed or renamed: a network is
    never tested on what it was trained on. Whatever decides for each file alone cannot hold out an exact share.
    """
    train, test = {}, {}
    for name, files in classes.items():
        digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
        held = [int.from_bytes(digest, "big") % TEST_SHARE == 0 for digest in digests]
        if all(held):
            held = [False] * len(files)
        train[name] = [file for file, out in zip(files, held) if not out]
        test[name] = [file for file, out in zip(files, held) if out]
    images, count = len(_files(test)), len(_files(classes))
    if not images:
        raise DataError(f"{root} has too few images to hold some out as a test part; give them in {root / _TEST}.")
    line = f"{root} has no test part: {images} of its {count} images, always the same, are held out as one."
    if not _FEW <= images / count <= _MANY:
        line += f" They are {100 * images / count:.0f} %, far from a fifth: put those to test on into {root / _TEST}."
    say(line)
    return train, test
