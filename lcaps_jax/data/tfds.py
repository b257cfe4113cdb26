"""Image classification sets of TensorFlow Datasets (TFDS), which only this file and ``affnist_official`` know.

TensorFlow is imported when a set is read, and only decodes.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import math
import os
import pathlib
import urllib.parse

import numpy as np
import requests

from lcaps_jax import parallel
from lcaps_jax.data.resize import fit_size
from lcaps_jax.data.splits import DataError, Source, Split, hold_out
from lcaps_jax.errors import arg
from lcaps_jax.locks import locked
from lcaps_jax.runtime import say

# The parts that are held out as tests belong to the data set, so the seed is not a setting.
_TEST_SEED = 0
TEST_SHARE = 5  # one image in so many is held out, where a set has no test part of its own
_REACH_SECONDS = 5
_PREPARING_SECONDS = 6 * 3600.0  # to wait for another process that downloads and prepares a set


class UnknownSetError(DataError):
    """TensorFlow Datasets has no set of that name."""


def prepared_builder(name: str, data_dir: str | None, source: str | None = None):
    """The builder of a TFDS set, whose files are downloaded where they are not on disk.

    Args:
      name: Name of the set.
      data_dir: Folder of prepared TFDS sets; None for TFDS's own.
      source: Address of the files of a set of this package; TFDS knows the addresses of its own sets.

    Raises:
      UnknownSetError: There is no such set.
      DataError: The set is no image classification set, or cannot be downloaded.
    """
    # TensorFlow only decodes here. Without these settings it prints warnings about its own arithmetic.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # TensorFlow is in use already, and its user has decided
        tf.config.set_visible_devices([], "GPU")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS has an exception for each way of misnaming a set, its version or its variant
        said = str(error).splitlines() or [type(error).__name__]
        close = "".join(f" {line.strip()}" for line in said if "mean" in line)
        raise UnknownSetError(f"{arg('name')}={name}: no such set ({said[0]}).{close}") from None
    features = builder.info.features
    if not {"image", "label"} <= set(features or {}) or not hasattr(features["label"], "num_classes"):
        raise DataError(
            f"{arg('name')}={name}: is no image classification set: it has the features {sorted(features or {})}."
        )
    if not builder.is_prepared():
        _prepare(builder, name, data_dir, source)
        builder = tfds.builder(name, data_dir=data_dir)  # another process may have prepared it
    return builder


def read_part(builder, part: str, image_size: int | None) -> Split:
    """One part of a prepared set; images that differ in size are fitted to ``image_size``."""
    import tensorflow_datasets as tfds

    shape = builder.info.features["image"].shape
    if None not in shape:
        arrays = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1, shuffle_files=False))
        return Split(arrays["image"], arrays["label"].astype(np.int32))
    examples = tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
    pairs = [(fit_size(example["image"][None], image_size)[0], example["label"]) for example in examples]
    images, labels = zip(*pairs)
    return Split(np.stack(images), np.array(labels, np.int32))


# The last set is kept, because expanded MNIST and affNIST are both made of MNIST, and the experiments load it for every
# run.
@functools.lru_cache(maxsize=1)
def _load(name: str, data_dir: str | None, image_size: int | None) -> Source:
    builder = prepared_builder(name, data_dir)
    if "train" not in builder.info.splits:
        raise DataError(f"{arg('name')}={name}: has no train part, only {sorted(builder.info.splits)}.")
    test_name = _test_name(builder)
    train, *tests = _read_parts(builder, name, ["train", *([test_name] if test_name else [])], image_size)
    train, test = (train, *tests) if tests else _hold_out_test(train, name)
    _freeze(train, test)
    return Source(train, test, tuple(builder.info.features["label"].names), max(train.images.shape[1:3]))


@functools.lru_cache(maxsize=1)
def _load_test(name: str, data_dir: str | None, image_size: int | None) -> tuple[Split, tuple[str, ...]]:
    builder = prepared_builder(name, data_dir)
    test_name = _test_name(builder)
    if test_name is None:
        source = _load(name, data_dir, image_size)
        return source.test, source.class_names
    (test,) = _read_parts(builder, name, [test_name], image_size)
    _freeze(test)
    return test, tuple(builder.info.features["label"].names)


def _test_name(builder) -> str | None:
    """The part to test on; None where one has to be held out."""
    return next((part for part in ("test", "validation") if part in builder.info.splits), None)


def _read_parts(builder, name: str, used: Sequence[str], image_size: int | None) -> list[Split]:
    """Reads parts of a set that together fit into memory."""
    parts, shape = builder.info.splits, builder.info.features["image"].shape
    if image_size is None and None in shape:
        raise DataError(f"{arg('name')}={name}: its images differ in size: give {arg('image_size')}.")
    for part in used:
        if not parts[part].num_examples:
            raise DataError(f"The {part} part of {name} has no images.")
    pixels = shape if None not in shape else (image_size, image_size, 3)
    parallel.check_fits(sum(parts[part].num_examples for part in used) * math.prod(pixels), f"The set {name}")
    if "validation" in used:
        say(f"{name} has no test part: its validation part is used as one.")
    return [read_part(builder, part, image_size) for part in used]


def _freeze(*splits: Split) -> None:
    """Makes arrays read-only, because they are handed out again."""
    for split in splits:
        for array in (split.images, split.labels):
            array.flags.writeable = False


def load(name: str, data_dir: str | None = None, image_size: int | None = None) -> Source:
    """A set of TensorFlow Datasets, as read-only arrays.

    Args:
      name: Name of the set.
      data_dir: Folder of prepared TFDS sets; None for TFDS's own.
      image_size: Size of images that differ in size; None where they do not.

    Raises:
      DataError: The set does not exist, cannot be downloaded, or holds no labelled images.
    """
    return _load(name, data_dir, image_size)


def load_test(name: str, data_dir: str | None = None, image_size: int | None = None) -> tuple[Split, tuple[str, ...]]:
    """The test part of a set alone, which needs no other part, and the names of its classes; see ``load``.

    Raises:
      DataError: See ``load``.
    """
    return _load_test(name, data_dir, image_size)


def _hold_out_test(train: Split, name: str) -> tuple[Split, Split]:
    """Makes a test part for a set that has none."""
    count = len(train) // TEST_SHARE
    say(f"{name} has no test part: {count} of its {len(train)} images, always the same, are held out as one.")
    return hold_out(train, count, _TEST_SEED)


@contextlib.contextmanager
def _preparing(builder) -> Iterator[None]:
    """Lets one process of this machine at a time prepare a set."""
    root = pathlib.Path(str(builder.data_dir_root))
    if "://" in str(builder.data_dir_root):  # a bucket, which knows no locks
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    waiting = f"Another process prepares {builder.name} in {root}; waiting for it."
    with locked(root / f".{builder.name}.lock", seconds=_PREPARING_SECONDS, meanwhile=waiting):
        yield


def _prepare(builder, name: str, data_dir: str | None, source: str | None) -> None:
    """Downloads and prepares a set, or says in seconds why that is impossible; TFDS itself retries for minutes."""
    import tensorflow_datasets as tfds

    has_files = source and builder.has_files()
    urls = [urllib.parse.urlsplit(url) for url in ([source] if source and not has_files else builder.url_infos or {})]
    servers = sorted({f"{url.scheme}://{url.netloc}" for url in urls if url.scheme.startswith("http")})
    place = builder.data_dir
    advice = (
        f"To use {name} offline, prepare it where there is a network ('tfds build {name}'), copy the folder to "
        f"{place}, or give the folder above '{builder.name}/' as {arg('data_dir')}. The set 'sample' needs no network."
    )
    if source:
        advice = f"Put {source.rsplit('/', 1)[1]}, or the batches in it, into {builder.manual_folder}."
    for server in servers:
        try:
            requests.head(server, timeout=_REACH_SECONDS)
        except requests.RequestException as error:
            raise DataError(
                f"{arg('name')}={name}: not prepared at {place}, and {server} cannot be reached ({error}). {advice}"
            ) from None
    try:
        with _preparing(builder):
            if not tfds.builder(name, data_dir=data_dir).is_prepared():
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # TFDS raises what its many sources raise
        sources = ", ".join(servers) or "its source"
        raise DataError(
            f"{arg('name')}={name}: could not be downloaded from {sources} to {place}: {error} {advice}"
        ) from error
