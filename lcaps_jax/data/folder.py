"""Folders of image files as a data set.

The set is ``train/CLASS/FILE`` and, where there is one, ``test/CLASS/FILE`` and ``val/CLASS/FILE``, or ``CLASS/FILE``
alone, in any format that Pillow reads. One colour image makes a set colour.
"""

from collections.abc import Mapping, Sequence
import hashlib
import pathlib

import numpy as np
from PIL import Image

from lcaps_jax import parallel, set_names
from lcaps_jax.data import pictures
from lcaps_jax.data.resize import prepared
from lcaps_jax.data.splits import DataError, Source, Split, normal_form
from lcaps_jax.data.tfds import TEST_SHARE
from lcaps_jax.errors import arg
from lcaps_jax.runtime import say

NAME = set_names.FOLDER

_TRAIN, _TEST = "train", "test"
_VALIDATION = ("val", "validation", "valid")
# File managers leave these in folders of pictures.
_NOT_DATA = ("Thumbs.db", "desktop.ini")
# Shares of images held out that are called far from a fifth.
_FEW, _MANY = 0.1, 0.3

_Classes = dict[str, list[pathlib.Path]]


def find(folder: pathlib.Path, part: str) -> dict[str, list[pathlib.Path]]:
    """The files of each class in ``folder/part``, classes and files sorted by name.

    A class is named in Unicode's normal form C, so that a folder copied from a Mac is the same class.

    Raises:
      DataError: The folder is missing or has no class, a class has no file, or its name is not UTF-8.
    """
    place = folder / part
    if not place.is_dir():
        raise DataError(f"{place} is not there: images are expected as {place}/CLASS/FILE.")
    classes: _Classes = {}
    for path in sorted(place.iterdir()):
        if not path.is_dir() or _is_ignored(path):
            continue
        name, files = _class_of(path), [file for file in path.iterdir() if not _is_ignored(file)]
        if not files:
            raise DataError(f"{path} has no image: put some there, or remove the folder.")
        classes.setdefault(name, []).extend(files)
    if not classes:
        raise DataError(f"{place} has no folder in it: images are expected as {place}/CLASS/FILE.")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def fault_of(data_dir: str | pathlib.Path, part: str = _TRAIN) -> str | None:
    """What keeps a folder from holding images as ``PART/CLASS/FILE`` or ``CLASS/FILE``, by the names of its files.

    Args:
      data_dir: Folder.
      part: Name of the part.

    Returns:
      Sentences that name what is at fault and both forms; None where nothing is.
    """
    root = pathlib.Path(data_dir)
    place = root / part if (root / part).is_dir() else root
    forms = f"Images are expected as {root}/{part}/CLASS/FILE or {root}/CLASS/FILE."
    if not place.is_dir():
        return f"{place} is not there. {forms}"
    known = Image.registered_extensions()
    folders = [path for path in sorted(place.iterdir()) if path.is_dir() and not _is_ignored(path)]
    without = [
        path for path in folders if not any(file.suffix.lower() in known for file in path.iterdir() if file.is_file())
    ]
    if without == folders:
        return f"{place} has no folder with image files in it. {forms}"
    if without:
        return f"{without[0]} has no image file in it: put some there, or take it out of {place}. {forms}"
    return None


def _parts(root: pathlib.Path, part: str | None = None) -> dict[str, _Classes]:
    """The files of each class in each part, or in one part alone.

    Classes that stand in the folder itself, beside no part, are all of the training part.
    """
    found = [name for name in (_TRAIN, _TEST, *_VALIDATION) if (root / name).exists()]
    if not found:
        if fault := fault_of(root, part or _TRAIN):
            raise DataError(fault)
        return {_TRAIN: find(root, ".")}
    return {name: find(root, name) for name in ([part] if part else dict.fromkeys((_TRAIN, *found)))}


def _is_ignored(path: pathlib.Path) -> bool:
    return path.name.startswith(".") or path.name in _NOT_DATA


def _class_of(path: pathlib.Path) -> str:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(path)!a}: the name of a class must be UTF-8; rename the folder.") from None
    return normal_form(path.name)


def load(
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    keep_going: bool = False,
) -> Source:
    """Loads image files: ``data_dir/train/CLASS/FILE``, and the parts ``test`` and ``val`` where they exist.

    Args:
      data_dir: Folder of the parts.
      image_size: Pixels along a side to fit the images to; None where they are square and of one size.
      class_names: Classes of a trained network; the folders are then among them.
      keep_going: Whether files that cannot be read are listed and left out.

    Raises:
      DataError: A folder or file cannot be used; the message names it.
    """
    root = _root(data_dir)
    parts = _parts(root)
    validation = [part for part in _VALIDATION if part in parts]
    if len(validation) > 1:
        raise DataError(f"{root} has the folders {' and '.join(validation)}: keep one as its validation part.")
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not _is_ignored(path)]
    if (root / _TRAIN).exists() and (unused := [name for name in folders if name not in parts]):
        say(f"Of the folders in {root}, these are not used: {', '.join(unused)}.")
    names = tuple(class_names or parts[_TRAIN])
    if len(names) < 2:
        raise DataError(f"{root / _TRAIN} has the one class {names[0]}: to tell classes apart takes two.")
    splits, size = _read(root, parts, names, image_size, keep_going)
    read = {normal_form(names[label]) for label in splits[_TRAIN].labels}
    if empty := [name for name in parts[_TRAIN] if name not in read]:
        raise DataError(f"{root / _TRAIN / empty[0]} has no image that can be read.")
    own = splits[validation[0]] if validation else None
    return Source(splits[_TRAIN], splits[_TEST], names, size, validation=own)


def load_test(
    data_dir: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    keep_going: bool = False,
    invert: bool = False,
) -> tuple[Split, tuple[str, ...]]:
    """Loads the test part alone; without one, what ``load`` holds out of the training part.

    Args:
      data_dir: Folder of the parts.
      image_size: See ``load``.
      class_names: See ``load``.
      keep_going: See ``load``.
      invert: Whether black and white change places, before an image gets its borders.

    Returns:
      Test part, and the names of its classes.

    Raises:
      DataError: A folder or file cannot be used; the message names it.
    """
    root = _root(data_dir)
    parts = _parts(root, _TRAIN if (root / _TRAIN).exists() and not (root / _TEST).exists() else _TEST)
    own = next(iter(parts.values()))
    if not class_names and (root / _TRAIN).exists():
        own = find(root, _TRAIN)
    names = tuple(class_names or own)
    splits, _ = _read(root, parts, names, image_size, keep_going, invert, wanted=[_TEST])
    return splits[_TEST], names


def _root(data_dir: str | None) -> pathlib.Path:
    if data_dir is None:
        raise DataError(f"The set '{NAME}' needs the folder that holds train/CLASS/FILE: give it as {arg('data_dir')}.")
    return pathlib.Path(data_dir)


def _read(
    root: pathlib.Path,
    parts: Mapping[str, _Classes],
    names: Sequence[str],
    image_size: int | None,
    keep_going: bool,
    invert: bool = False,
    wanted: Sequence[str] = (),
) -> tuple[dict[str, Split], int]:
    """Reads the parts of a folder, or the wanted ones alone; a test part is held out where there is none.

    Returns:
      Parts by name, and the pixels along a side of their images.
    """
    # A run of before names were normalised may spell its classes in another form.
    labels = {normal_form(name): label for label, name in enumerate(names)}
    for part, classes in parts.items():
        if unknown := sorted(set(classes) - set(labels)):
            raise DataError(f"{root / part / unknown[0]}: no such class; there are {', '.join(names)}.")
    survey, size = _survey(
        root, [file for classes in parts.values() for file in _files(classes)], image_size, keep_going
    )
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
                images[file] = prepared(pictures.read(file, survey.channels, survey.shallow), size, invert)
            except DataError as error:
                if not keep_going:
                    raise
                faults[file] = str(error)
        if not images:
            raise DataError(f"{root / part} has no image that can be read.")
        # Mixed, always in the same way, so that the first images, and training without shuffling, meet every class.
        order = np.random.default_rng(0).permutation(len(images))
        read = np.array([of_class[file] for file in images], np.int32)
        splits[part] = Split(np.stack(list(images.values()))[order], read[order])
    pictures.list_faults(faults, len(survey.files) + len(survey.faults))
    return splits, size


def _survey(
    root: pathlib.Path, files: Sequence[pathlib.Path], image_size: int | None, keep_going: bool
) -> tuple[pictures.Survey, int]:
    """Looks at all the files, and finds the pixels along a side that their images get."""
    survey = pictures.survey(files, keep_going)
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
        raise DataError(f"The images in {root} must be square and of one size, or give {arg('image_size')}: {seen}.")
    size = image_size or sizes[0][0][0]
    parallel.check_fits(len(survey.files) * size**2 * survey.channels, f"The set in {root}")
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
        line += (
            f" They are {100 * images / count:.0f} %, far from a fifth, because each file's own content decides and "
            f"there are few: put those to test on into {root / _TEST}."
        )
    say(line)
    return train, test
