"""Folders of image files as a data set: ``PART/CLASS/FILE`` of the parts train, test and val, or ``CLASS/FILE``."""

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
_TRAIN, _TEST, _VALIDATION = "train", "test", ("val", "validation", "valid")
_NOT_DATA = ("Thumbs.db", "desktop.ini")  # which file managers leave in folders of pictures

_Classes = dict[str, list[pathlib.Path]]
_Labelled = dict[pathlib.Path, int]


def find(data_dir: str, for_test: bool = False) -> dict[str, _Classes]:
    """The files of each class in each part of a folder, classes and files sorted by name; none is opened.

    There must be a training part, for a test at least a test part. Classes that stand in the folder itself, beside no
    part, are all of the training part. Names have Unicode's normal form C, so that a copy from a Mac has the same ones.
    """
    if not data_dir:
        raise DataError(f"data_dir: must be the folder that holds train/CLASS/FILE, for dataset={NAME}.")
    root = pathlib.Path(data_dir)
    found = [name for name in (_TRAIN, _TEST, *_VALIDATION) if (root / name).exists()]
    needed = _TEST if for_test and _TRAIN not in found else _TRAIN
    forms = f"Images are expected as {root}/{needed}/CLASS/FILE or {root}/CLASS/FILE."
    if not found:
        return {_TRAIN: _classes(root, forms, by_ending=True)}
    return {name: _classes(root / name, forms) for name in dict.fromkeys((needed, *found))}


def _classes(place: pathlib.Path, forms: str, by_ending: bool = False) -> _Classes:
    """The files of each class in a folder, at least one in each, an image by its ending where that is asked."""
    if not place.is_dir():
        raise DataError(f"{place} is not there. {forms}")
    endings = {ending for ending, format_ in Image.registered_extensions().items() if format_ in image_io.FORMATS}
    classes: _Classes = {}
    for path in filter(pathlib.Path.is_dir, _content(place)):
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{str(path)!a}: the name of a class must be UTF-8; rename the folder.") from None
        files = _content(path)
        if not any(not by_ending or file.suffix.lower() in endings for file in files):
            raise DataError(f"{path} has no image in it: put some there, or take it out of {place}. {forms}")
        classes.setdefault(normal_form(path.name), []).extend(files)
    if not classes:
        raise DataError(f"{place} has no folder in it. {forms}")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _content(place: pathlib.Path) -> list[pathlib.Path]:
    """What is in a folder, but for files of the system."""
    return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.name not in _NOT_DATA)


def load(data_dir: str, image_size: int | None = None, skip_unreadable: bool = False) -> Source:
    """All parts of a folder, in colour if any image is; images not square or unequal need an ``image_size``."""
    parts, root = find(data_dir), pathlib.Path(data_dir)
    validation = [part for part in _VALIDATION if part in parts]
    if len(validation) > 1:
        raise DataError(f"{root} has the folders {' and '.join(validation)}: keep one as its validation part.")
    unused = [path.name for path in _content(root) if path.is_dir() and path.name not in parts]
    if unused and (root / _TRAIN).exists():
        say(f"Of the folders in {root}, these are not used: {', '.join(unused)}.")
    names = tuple(parts[_TRAIN])
    if len(names) < 2:
        raise DataError(f"{root} has images of the one class {names[0]}: there must be at least two classes.")
    splits = _read(root, parts, names, image_size, skip_unreadable)
    if empty := set(range(len(names))) - set(splits[_TRAIN].labels):
        raise DataError(f"{root / _TRAIN / names[min(empty)]} has no image that can be read.")
    size = splits[_TRAIN].images.shape[1]
    return Source(splits[_TRAIN], splits[_TEST], names, size, validation=splits[validation[0]] if validation else None)


def load_test(
    data_dir: str, image_size: int | None = None, class_names: Sequence[str] | None = None,
    skip_unreadable: bool = False, invert: bool = False,
) -> tuple[Split, tuple[str, ...]]:  # fmt: skip
    """The test part alone, or what ``load`` holds out where there is none, and its classes; see ``api.load_test``."""
    parts = find(data_dir, for_test=True)
    names = tuple(class_names or next(iter(parts.values())))
    used = _TEST if _TEST in parts else _TRAIN
    splits = _read(pathlib.Path(data_dir), {used: parts[used]}, names, image_size, skip_unreadable, invert, [_TEST])
    return splits[_TEST], names


def _read(
    root: pathlib.Path, parts: Mapping[str, _Classes], names: Sequence[str], image_size: int | None,
    skip_unreadable: bool, invert: bool = False, wanted: Sequence[str] = (),
) -> dict[str, Split]:  # fmt: skip
    """Reads all or the wanted parts, images of one size; holds out a test part where there is none."""
    labels = {normal_form(name): label for label, name in enumerate(names)}
    for part, classes in parts.items():
        if unknown := sorted(set(classes) - set(labels)):
            raise DataError(f"{root / part / unknown[0]}: must be one of the classes {', '.join(names)}.")
    files = [file for classes in parts.values() for of_class in classes.values() for file in of_class]
    survey, size = _survey(root, files, image_size, skip_unreadable)
    good = set(survey.files)
    labelled = {
        part: {file: labels[name] for name, of_class in classes.items() for file in of_class if file in good}
        for part, classes in parts.items()
    }
    if _TEST not in labelled:
        labelled[_TRAIN], labelled[_TEST] = _hold_out_files(labelled[_TRAIN], root)
    splits = {}
    for part in wanted or labelled:
        images = {}
        for file, pixels in image_io.read_each(list(labelled[part]), survey, skip_unreadable):
            height, width, _ = pixels.shape
            if image_size is None and (height, width) != (size, size):
                other = f"not all images are {size}x{size}: {file} has {width}x{height}"
                raise DataError(f"image_size: must be given, because {other}.")
            images[file] = image_io.placed(pixels, size, invert)[0]
        if not images:
            raise DataError(f"{root / part} has no image that can be read.")
        # Mixed, always in the same way, so that the first images, and training without shuffling, meet every class.
        order = np.random.default_rng(0).permutation(len(images))
        read = np.array([labelled[part][file] for file in images], np.int32)
        splits[part] = Split(np.stack(list(images.values()))[order], read[order])
    image_io.list_faults(survey.faults, len(files))
    return splits


def _survey(
    root: pathlib.Path, files: Sequence[pathlib.Path], image_size: int | None, skip_unreadable: bool
) -> tuple[image_io.Survey, int]:
    """Looks at the headers of all files, and at the first image for a size where none is given."""
    survey = image_io.survey(files, skip_unreadable)
    first = next(image_io.read_each(survey.files, survey, skip_unreadable), None)
    if first is None:
        raise DataError(f"{root} has no image that can be read: {next(iter(survey.faults.values()))}")
    if 0 < (coloured := len(survey.coloured)) < len(survey.files):
        some = f"{coloured} of the {len(survey.files)} images in {root}"
        say(f"{some} are in colour, as {survey.coloured[0]}: all are read in colour.")
    size = image_size or max(first[1].shape[:2])
    devices.check_fits(len(survey.files) * size**2 * survey.channels, f"The set in {root}")
    return survey, size


def _hold_out_files(files: _Labelled, root: pathlib.Path) -> tuple[_Labelled, _Labelled]:
    """Divides files into a training and a test part: about a fifth of them, but never all of a class.

    A file's own content decides, so that it stays in its part when others are added, removed or renamed.
    """
    digests = {file: hashlib.sha256(file.read_bytes()).digest() for file in files}
    held = {file for file, digest in digests.items() if int.from_bytes(digest, "big") % TEST_SHARE == 0}
    kept = {label for file, label in files.items() if file not in held}
    test = {file: label for file, label in files.items() if file in held and label in kept}
    if not test:
        raise DataError(f"{root} has too few images to hold some out as a test part; give them in {root / _TEST}.")
    say(f"{root} has no test part: {len(test)} of its {len(files)} images, always the same, are held out as one.")
    return {file: label for file, label in files.items() if file not in test}, test
