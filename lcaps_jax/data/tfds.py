"""Image classification sets of TensorFlow Datasets (TFDS), which only this file knows; TensorFlow only decodes."""

from collections.abc import Sequence
import contextlib
import functools
import math
import os
import pathlib
import urllib.parse

import numpy as np
import requests

from lcaps_jax.data.image_io import fit_size
from lcaps_jax.data.splits import DataError, Source, Split, hold_out
from lcaps_jax.util import devices
from lcaps_jax.util.files import locked
from lcaps_jax.util.process import say

_TEST_SEED = 0  # not a setting, because the parts that are held out as tests belong to the data set
TEST_SHARE = 5  # one image in so many is held out, where a set has no test part of its own
_REACH_SECONDS = 5
_PREPARING_SECONDS = 6 * 3600.0  # to wait for another process that downloads and prepares a set


class UnknownSetError(DataError):
    """TensorFlow Datasets has no set of that name."""


@functools.lru_cache(maxsize=1)  # because sets made of MNIST and repeated trainings load it again
def load(dataset: str, data_dir: str = "", image_size: int | None = None) -> Source:
    """A set of TensorFlow Datasets, as read-only arrays; only images that differ in size need an ``image_size``."""
    builder = _prepared_builder(dataset, data_dir)
    if "train" not in builder.info.splits:
        raise DataError(f"dataset={dataset}: has no train part, only {sorted(builder.info.splits)}.")
    train, *tests = _read(builder, dataset, ["train", *_test_part(builder)], image_size)
    if not tests:
        count = len(train) // TEST_SHARE
        say(f"{dataset} has no test part: {count} of its {len(train)} images, always the same, are held out as one.")
        train, *tests = map(_frozen, hold_out(train, count, _TEST_SEED))
    return Source(train, tests[0], tuple(builder.info.features["label"].names), max(train.images.shape[1:3]))


@functools.lru_cache(maxsize=1)
def load_test(dataset: str, data_dir: str = "", image_size: int | None = None) -> tuple[Split, tuple[str, ...]]:
    """The test part of a set, which needs no other part, and the names of its classes; see ``load``."""
    builder = _prepared_builder(dataset, data_dir)
    if not (part := _test_part(builder)):
        source = load(dataset, data_dir, image_size)
        return source.test, source.class_names
    (test,) = _read(builder, dataset, part, image_size)
    return test, tuple(builder.info.features["label"].names)


def _test_part(builder) -> list[str]:
    """The part to test on; none where one has to be held out."""
    return [part for part in ("test", "validation") if part in builder.info.splits][:1]


def _frozen(split: Split) -> Split:
    """The same arrays, made read-only, because they are handed out again."""
    split.images.flags.writeable = split.labels.flags.writeable = False
    return split


def _read(builder, dataset: str, used: Sequence[str], image_size: int | None) -> list[Split]:
    """Reads parts of a prepared set that together fit into memory."""
    import tensorflow_datasets as tfds

    parts, shape = builder.info.splits, builder.info.features["image"].shape
    varied = None in shape
    if image_size is None and varied:
        raise DataError(f"image_size: must be given for {dataset}, because its images differ in size.")
    if empty := [part for part in used if not parts[part].num_examples]:
        raise DataError(f"dataset={dataset}: its {empty[0]} part has no images.")
    pixels = math.prod((image_size, image_size, 3) if varied else shape)
    devices.check_fits(sum(parts[part].num_examples for part in used) * pixels, f"The set {dataset}")
    if "validation" in used:
        say(f"{dataset} has no test part: its validation part is used as one.")
    splits = []
    for part in used:
        if varied:
            examples = tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
            pairs = [(fit_size(example["image"][None], image_size)[0], example["label"]) for example in examples]
            images, labels = map(np.stack, zip(*pairs))
        else:
            arrays = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1, shuffle_files=False))
            images, labels = arrays["image"], arrays["label"]
        splits.append(_frozen(Split(images, labels.astype(np.int32))))
    return splits


def _prepared_builder(dataset: str, data_dir: str):
    """The builder of a TFDS set, whose files are downloaded where they are not on disk."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or TensorFlow warns of its own arithmetic
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # TensorFlow is in use already, and its user has decided
        tf.config.set_visible_devices([], "GPU")
    try:
        builder = tfds.builder(dataset, data_dir=data_dir or None)
    except Exception as error:  # TFDS has an exception for each way of misnaming a set, its version or its variant
        said = str(error).splitlines() or [type(error).__name__]
        close = "".join(f" {line.strip()}" for line in said if "mean" in line)
        raise UnknownSetError(f"dataset={dataset}: no such set of TensorFlow Datasets ({said[0]}).{close}") from None
    features = builder.info.features
    if not {"image", "label"} <= set(features or {}) or not hasattr(features["label"], "num_classes"):
        has = f"it has the features {sorted(features or {})}"
        raise DataError(f"dataset={dataset}: must be an image classification set; {has}.")
    if not builder.is_prepared():
        try:
            _prepare(builder)
        except Exception as error:  # TFDS raises what its many sources raise
            offline = f"To use it offline, give as data_dir the folder in which 'tfds build {dataset}' prepared it"
            raise DataError(
                f"dataset={dataset}: cannot be prepared in {builder.data_dir}: {error} {offline}."
            ) from error
        builder = tfds.builder(dataset, data_dir=data_dir or None)  # another process may have prepared it
    return builder


def _prepare(builder) -> None:
    """Downloads and prepares a set, in one process at a time; offline it fails in seconds, TFDS alone in minutes."""
    import tensorflow_datasets as tfds

    urls = [urllib.parse.urlsplit(url) for url in builder.url_infos or {}]
    for server in sorted({f"{url.scheme}://{url.netloc}" for url in urls if url.scheme.startswith("http")}):
        requests.head(server, timeout=_REACH_SECONDS)
    root = builder.data_dir_root
    root.mkdir(parents=True, exist_ok=True)
    lock = pathlib.Path(root) / f".{builder.name}.lock"
    say(f"{builder.name} is prepared in {root}; if another process does that already, it is waited for.")
    with contextlib.nullcontext() if "://" in str(root) else locked(lock, seconds=_PREPARING_SECONDS):
        # A set that the other process has prepared is left as it is.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
