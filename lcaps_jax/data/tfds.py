"""Image classification sets of TensorFlow Datasets (TFDS), which only this file knows.

TensorFlow is imported when a set is read, and only decodes.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import math
import os
import pathlib
import urllib.parse

import filelock
import numpy as np
import requests

from lcaps_jax.data.image_io import fit_size
from lcaps_jax.data.splits import DataError, Source, Split, hold_out
from lcaps_jax.util import devices
from lcaps_jax.util.files import locked
from lcaps_jax.util.process import say

# The parts that are held out as tests belong to the data set, so the seed is not a setting.
_TEST_SEED = 0
TEST_SHARE = 5  # one image in so many is held out, where a set has no test part of its own
_REACH_SECONDS = 5
_PREPARING_SECONDS = 6 * 3600.0  # to wait for another process that downloads and prepares a set


class UnknownSetError(DataError):
    """TensorFlow Datasets has no set of that name."""


# The last set is kept, because expanded MNIST and affNIST are both made of MNIST, and the experiments load it for every
# training.
@functools.lru_cache(maxsize=1)
def load(dataset: str, data_dir: str | None = None, image_size: int | None = None) -> Source:
    """A set of TensorFlow Datasets, as read-only arrays.

    Args:
      dataset: Name of the set.
      data_dir: Folder of prepared TFDS sets; None for TFDS's own.
      image_size: Size of images that differ in size; None where they do not.

    Raises:
      DataError: The set does not exist, cannot be downloaded, or holds no labelled images.
    """
    builder = _prepared_builder(dataset, data_dir)
    if "train" not in builder.info.splits:
        raise DataError(f"dataset={dataset}: has no train part, only {sorted(builder.info.splits)}.")
    test_name = _test_name(builder)
    train, *tests = _read_parts(builder, dataset, ["train", *([test_name] if test_name else [])], image_size)
    train, test = (train, *tests) if tests else _hold_out_test(train, dataset)
    _freeze(train, test)
    return Source(train, test, tuple(builder.info.features["label"].names), max(train.images.shape[1:3]))


@functools.lru_cache(maxsize=1)
def load_test(
    dataset: str, data_dir: str | None = None, image_size: int | None = None
) -> tuple[Split, tuple[str, ...]]:
    """The test part of a set, which needs no other part, and the names of its classes; see ``load``.

    Raises:
      DataError: See ``load``.
    """
    builder = _prepared_builder(dataset, data_dir)
    test_name = _test_name(builder)
    if test_name is None:
        source = load(dataset, data_dir, image_size)
        return source.test, source.class_names
    (test,) = _read_parts(builder, dataset, [test_name], image_size)
    _freeze(test)
    return test, tuple(builder.info.features["label"].names)


def _prepared_builder(dataset: str, data_dir: str | None):
    """The builder of a TFDS set, whose files are downloaded where they are not on disk."""
    # TensorFlow only decodes here. Without these settings it prints warnings about its own arithmetic.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # TensorFlow is in use already, and its user has decided
        tf.config.set_visible_devices([], "GPU")
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except Exception as error:  # TFDS has an exception for each way of misnaming a set, its version or its variant
        said = str(error).splitlines() or [type(error).__name__]
        close = "".join(f" {line.strip()}" for line in said if "mean" in line)
        raise UnknownSetError(f"dataset={dataset}: no such set ({said[0]}).{close}") from None
    features = builder.info.features
    if not {"image", "label"} <= set(features or {}) or not hasattr(features["label"], "num_classes"):
        raise DataError(
            f"dataset={dataset}: must be an image classification set; it has the features {sorted(features or {})}."
        )
    if not builder.is_prepared():
        _prepare(builder, dataset, data_dir)
        builder = tfds.builder(dataset, data_dir=data_dir)  # another process may have prepared it
    return builder


def _read_part(builder, part: str, image_size: int | None) -> Split:
    """One part of a prepared set; images that differ in size are fitted to ``image_size``."""
    import tensorflow_datasets as tfds

    if None not in builder.info.features["image"].shape:
        arrays = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1, shuffle_files=False))
        return Split(arrays["image"], arrays["label"].astype(np.int32))
    examples = tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
    pairs = [(fit_size(example["image"][None], image_size)[0], example["label"]) for example in examples]
    images, labels = zip(*pairs)
    return Split(np.stack(images), np.array(labels, np.int32))


def _test_name(builder) -> str | None:
    """The part to test on; None where one has to be held out."""
    return next((part for part in ("test", "validation") if part in builder.info.splits), None)


def _read_parts(builder, dataset: str, used: Sequence[str], image_size: int | None) -> list[Split]:
    """Reads parts of a set that together fit into memory."""
    parts, shape = builder.info.splits, builder.info.features["image"].shape
    if image_size is None and None in shape:
        raise DataError(f"image_size: must be given for {dataset}, because its images differ in size.")
    for part in used:
        if not parts[part].num_examples:
            raise DataError(f"dataset={dataset}: its {part} part has no images.")
    pixels = shape if None not in shape else (image_size, image_size, 3)
    devices.check_fits(sum(parts[part].num_examples for part in used) * math.prod(pixels), f"The set {dataset}")
    if "validation" in used:
        say(f"{dataset} has no test part: its validation part is used as one.")
    return [_read_part(builder, part, image_size) for part in used]


def _freeze(*splits: Split) -> None:
    """Makes arrays read-only, because they are handed out again."""
    for split in splits:
        for array in (split.images, split.labels):
            array.flags.writeable = False


def _hold_out_test(train: Split, dataset: str) -> tuple[Split, Split]:
    """Makes a test part for a set that has none."""
    count = len(train) // TEST_SHARE
    say(f"{dataset} has no test part: {count} of its {len(train)} images, always the same, are held out as one.")
    return hold_out(train, count, _TEST_SEED)


@contextlib.contextmanager
def _preparing(builder) -> Iterator[None]:
    """Lets one process of this machine at a time prepare a set."""
    root = pathlib.Path(str(builder.data_dir_root))
    if "://" in str(builder.data_dir_root):  # a bucket, which knows no locks
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = root / f".{builder.name}.lock"
        try:
            stack.enter_context(locked(lock))
        except filelock.Timeout:
            say(f"Another process prepares {builder.name} in {root}; waiting for it.")
            stack.enter_context(locked(lock, seconds=_PREPARING_SECONDS))
        yield


def _prepare(builder, dataset: str, data_dir: str | None) -> None:
    """Downloads and prepares a set, or says in seconds why that is impossible; TFDS itself retries for minutes."""
    import tensorflow_datasets as tfds

    advice = (
        f"To use {dataset} offline, prepare it where there is a network ('tfds build {dataset}'), copy the folder to "
        f"{builder.data_dir}, or give the folder above '{builder.name}/' as data_dir. 'sample' needs no network."
    )
    urls = [urllib.parse.urlsplit(url) for url in builder.url_infos or {}]
    for server in sorted({f"{url.scheme}://{url.netloc}" for url in urls if url.scheme.startswith("http")}):
        try:
            requests.head(server, timeout=_REACH_SECONDS)
        except requests.RequestException as error:
            raise DataError(
                f"dataset={dataset}: not prepared in {builder.data_dir}, and {server} cannot be reached ({error}). "
                f"{advice}"
            ) from None
    try:
        with _preparing(builder):
            if not tfds.builder(dataset, data_dir=data_dir).is_prepared():
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # TFDS raises what its many sources raise
        raise DataError(f"dataset={dataset}: cannot be prepared in {builder.data_dir}: {error} {advice}") from error
