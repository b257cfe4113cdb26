"""Any image classification set as uint8 arrays, the order of an epoch, and random shifts inside jit."""

import contextlib
import dataclasses
import math
import os
import pathlib
import urllib.parse

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import requests

from lcaps_jax import parallel
from lcaps_jax.config import Config

SAMPLE = "sample"
EXPANDED_MNIST = "expanded_mnist"
EXPANDED_SIZE = 40
EXPANDED_SHIFT = 6
# Of the places of expanded MNIST's test digits, and of test parts held out: part of the data set, so not a setting.
_PLACE_SEED = 0
_TEST_SEED = 0
_TEST_SHARE = 5  # one image in so many, where a set has no test part of its own
_SAMPLE_FILE = pathlib.Path(__file__).parent / "sample.npz"
_REACH_SECONDS = 5


class DataError(ValueError):
    """Data that cannot be used; the message names the set or value, and what would do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
      images: ``[N, I, I, C]`` uint8.
      labels: ``[N]`` int32.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set as its images come.

    Attributes:
      train, test: parts.
      class_names: J of them.
      image_size: that the images are meant for.
      max_shift: pixels by which training images are meant to be shifted at random.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    image_size: int
    max_shift: int = 0

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.train.images.shape[-1]


def load(name: str, data_dir: str | None = None, image_size: int | None = None) -> Source:
    """Loads a data set.

    Args:
      name: ``"sample"``, ``"expanded_mnist"`` or the name of a TFDS set.
      data_dir: of prepared TFDS sets; None for TFDS's own.
      image_size: pad or scale images to this size; None for the set's own.

    Returns:
      Source.

    Raises:
      DataError: for a set that does not exist, cannot be downloaded, holds no labelled images, or is damaged.
    """
    if name == SAMPLE:
        with np.load(_SAMPLE_FILE) as stored:
            parts = [(stored[f"{part}_images"], stored[f"{part}_labels"]) for part in ("train", "test")]
        train, test = (Split(images[..., None], labels.astype(np.int32)) for images, labels in parts)
        source = Source(train, test, tuple("0123456789"), train.images.shape[1])
    elif name == EXPANDED_MNIST:
        source = _load_tfds("mnist", data_dir, EXPANDED_SIZE)
        train = Split(fit_size(source.train.images, EXPANDED_SIZE), source.train.labels)
        test = Split(place(fit_size(source.test.images, EXPANDED_SIZE), EXPANDED_SHIFT), source.test.labels)
        source = Source(train, test, source.class_names, EXPANDED_SIZE, EXPANDED_SHIFT)
    else:
        source = _load_tfds(name, data_dir, image_size)
    for part, split in (("train", source.train), ("test", source.test)):
        check_split(split, len(source.class_names), f"The {part} part of {name}")
    size = image_size or source.image_size
    resized = (Split(fit_size(split.images, size), split.labels) for split in (source.train, source.test))
    return Source(*resized, source.class_names, size, source.max_shift)


def check_split(split: Split, classes: int, what: str) -> None:
    """Raises DataError for an empty part or labels that are no classes; ``what`` names the part."""
    if not len(split):
        raise DataError(f"{what} has no images.")
    bad = split.labels[(split.labels < 0) | (split.labels >= classes)]
    if bad.size:
        raise DataError(f"{what} has the label {bad[0]}: labels must be 0 to {classes - 1}.")


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Divides a training part at random into what is left and ``count`` validation images.

    Raises:
      DataError: unless images are left.
    """
    if count >= len(split):
        raise DataError(
            f"--validation_size={count}: the training part has {len(split)} images, so at most {len(split) - 1}."
        )
    order = np.random.default_rng(seed).permutation(len(split))
    chosen, left = np.sort(order[:count]), np.sort(order[count:])
    return Split(split.images[left], split.labels[left]), Split(split.images[chosen], split.labels[chosen])


def fit_size(images: np.ndarray, size: int) -> np.ndarray:
    """Makes images ``[N, H, W, C]`` uint8 square, of ``size`` pixels, by black borders or by scaling down."""
    height, width = images.shape[1:3]
    side = max(height, width, size)
    top, left = (side - height) // 2, (side - width) // 2
    borders = ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0))
    images = np.pad(images, borders) if (height, width) != (side, side) else images
    if side == size:
        return images
    scaled = [np.asarray(_pillow(image).resize((size, size), Image.Resampling.LANCZOS)) for image in images]
    return np.stack(scaled).reshape(-1, size, size, images.shape[3])


def _pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def place(images: np.ndarray, max_shift: int) -> np.ndarray:
    """Shifts each image ``[N, I, I, C]`` once, by up to ``max_shift`` pixels each way, by a fixed seed.

    What is pushed out at one border comes in at the other: for canvases whose borders of that width are black.
    """
    shifts = np.random.default_rng(_PLACE_SEED).integers(-max_shift, max_shift + 1, (len(images), 2))
    return np.stack([np.roll(image, shift, axis=(0, 1)) for image, shift in zip(images, shifts)])


def _load_tfds(name: str, data_dir: str | None, image_size: int | None) -> Source:
    """A TensorFlow Datasets set; TensorFlow is imported here, where alone it is needed, and takes no GPU."""
    # TensorFlow only decodes here; without these it greets and warns about its own arithmetic.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # already in use by the caller, who has decided
        tf.config.set_visible_devices([], "GPU")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS has an exception for each way of misnaming a set, its version or its variant
        close = [line.strip() for line in str(error).splitlines() if "mean" in line]
        raise DataError(
            f"--dataset={name}: no such set ({str(error).splitlines()[0]}). Accepted are {SAMPLE}, {EXPANDED_MNIST} "
            f"and the image classification sets of TensorFlow Datasets, as mnist or cifar10. {' '.join(close)}"
        ) from None
    features = builder.info.features
    if not {"image", "label"} <= set(features or {}) or not hasattr(features["label"], "num_classes"):
        raise DataError(
            f"--dataset={name}: is no image classification set: it has the features {sorted(features or {})}."
        )
    if image_size is None and None in features["image"].shape:
        raise DataError(f"--dataset={name}: its images differ in size: give --image_size.")
    if not builder.is_prepared():
        _prepare(builder, name, tfds)

    parts = builder.info.splits
    if "train" not in parts:
        raise DataError(f"--dataset={name}: has no train part, only {sorted(parts)}.")
    test_name = next((part for part in ("test", "validation") if part in parts), None)
    pixels = features["image"].shape if None not in features["image"].shape else (image_size, image_size, 3)
    used = [part for part in ("train", test_name) if part]
    for part in used:
        if not parts[part].num_examples:
            raise DataError(f"The {part} part of {name} has no images.")
    parallel.check_fits(sum(parts[part].num_examples for part in used) * math.prod(pixels), f"The set {name}")

    def read(part):
        if None not in features["image"].shape:
            arrays = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1, shuffle_files=False))
            return Split(arrays["image"], arrays["label"].astype(np.int32))
        examples = tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
        pairs = [(fit_size(example["image"][None], image_size)[0], example["label"]) for example in examples]
        images, labels = zip(*pairs)
        return Split(np.stack(images), np.array(labels, np.int32))

    train = read("train")
    if test_name:
        if test_name != "test":
            print(f"{name} has no test part: its {test_name} part is used as one.", flush=True)
        test = read(test_name)
    else:
        count = len(train) // _TEST_SHARE
        print(
            f"{name} has no test part: {count} of its {len(train)} images, always the same, are held out as one.",
            flush=True,
        )
        train, test = hold_out(train, count, _TEST_SEED)
    return Source(train, test, tuple(features["label"].names), max(train.images.shape[1:3]))


def _prepare(builder, name: str, tfds) -> None:
    """Downloads and prepares a set, or says in seconds why it cannot be had; TFDS itself retries for minutes."""
    urls = [urllib.parse.urlsplit(url) for url in builder.url_infos or {}]
    servers = sorted({f"{url.scheme}://{url.netloc}" for url in urls if url.scheme.startswith("http")})
    place = builder.data_dir
    advice = (
        f"To use {name} offline, prepare it where there is a network ('tfds build {name}'), copy the folder to "
        f"{place}, or give the folder above '{builder.name}/' as --data_dir. --dataset={SAMPLE} needs no network."
    )
    for server in servers:
        try:
            requests.head(server, timeout=_REACH_SECONDS)
        except requests.RequestException as error:
            raise DataError(
                f"--dataset={name}: not prepared at {place}, and {server} cannot be reached ({error}). {advice}"
            ) from None
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # TFDS raises what its many sources raise
        sources = ", ".join(servers) or "its source"
        raise DataError(
            f"--dataset={name}: could not be downloaded from {sources} to {place}: {error} {advice}"
        ) from error


@jax.jit(static_argnums=2)
def epoch_order(key: jax.Array, epoch: int, count: int) -> jax.Array:
    """Order of the images in an epoch: a permutation of ``count``, ``[count]`` int32, that depends on nothing else."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def shift(image: jax.Array, offset: jax.Array, max_shift: int) -> jax.Array:
    """Moves an image ``[I, I, C]`` down and right by ``offset [2]``, at most ``max_shift`` pixels, black coming in."""
    padded = jnp.pad(image, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    start = max_shift - offset
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def keys_of(key: jax.Array, positions: jax.Array) -> jax.Array:
    """A key of its own for each of the positions ``[B]`` in a global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def augment(images: jax.Array, key: jax.Array, positions: jax.Array, max_shift: int) -> jax.Array:
    """Shifts training images at random.

    Args:
      images: ``[B, I, I, C]``.
      key: of the step.
      positions: ``[B]`` places of the images in the global batch; each draws by its own, so that one device and many
        see the same images.
      max_shift: pixels.

    Returns:
      ``[B, I, I, C]``.
    """
    if not max_shift:
        return images
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), -max_shift, max_shift + 1))
    offsets = draw(keys_of(key, positions))
    return jax.vmap(shift, (0, 0, None))(images, offsets, max_shift)


def to_unit_range(images: jax.Array) -> jax.Array:
    """uint8 images as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def load_for(config: Config) -> tuple[Source, Config]:
    """The training data of a run, and the run's settings with the defaults that follow from the data.

    Raises:
      DataError: see ``load``.
      ConfigError: where the network does not fit the images.
    """
    source = load(config.dataset, config.data_dir, config.image_size)
    return source, config.resolved(source.image_size, source.max_shift)
