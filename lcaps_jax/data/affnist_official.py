"""The official affNIST (Tieleman 2013), from his file: 32 affine transformations of each test digit, 40x40."""

from collections.abc import Sequence
import io
import os
import pathlib
import zipfile

import numpy as np
import requests
import scipy.io

from lcaps_jax.data import affnist
from lcaps_jax.data.splits import DataError, Split, TestSet, match_classes
from lcaps_jax.util.files import PARTIAL

SOURCE = "https://www.cs.toronto.edu/~tijmen/affNIST/32x/transformed/test_batches.zip"
_REACH_SECONDS = 10
_CHUNK = 2**20


def load_test(
    data_dir: str | None, image_size: int | None, affnist_variants: int = 1, class_names: Sequence[str] | None = None
) -> TestSet:
    """All variants, from ``DATA_DIR/downloads/manual/affnist_official/test_batches.zip``, downloaded where absent.

    The arguments are those of ``affnist.load_test``.

    Raises:
      DataError: The file cannot be downloaded or is damaged, or the network takes images of another size.
    """
    del affnist_variants
    affnist.check_size(affnist.OFFICIAL, image_size)
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    archive = root / "downloads" / "manual" / affnist.OFFICIAL / SOURCE.rsplit("/", 1)[1]
    if not archive.exists():
        _download(archive)
    try:
        images, labels = _read(archive)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(f"{archive} cannot be read ({error}): remove it, to have it downloaded again.") from None
    split = Split(images, labels, {"images": "Tieleman's affNIST", "variants": affnist.VARIANTS})
    return match_classes(affnist.OFFICIAL, split, tuple("0123456789"), class_names)


def _read(archive: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The images ``[N, 40, 40, 1]`` of all batches, 1.mat to 32.mat, and their labels."""
    images, labels = [], []
    with zipfile.ZipFile(archive) as files:
        names = {pathlib.PurePath(name).name: name for name in files.namelist()}
        for number in range(1, affnist.VARIANTS + 1):
            batch = scipy.io.loadmat(io.BytesIO(files.read(names[f"{number}.mat"])))["affNISTdata"][0, 0]
            # Each column is an image, row by row.
            images.append(batch["image"].T.reshape(-1, affnist.CANVAS, affnist.CANVAS, 1).astype(np.uint8))
            labels.append(batch["label_int"].ravel().astype(np.int32))
    return np.concatenate(images), np.concatenate(labels)


def _download(archive: pathlib.Path) -> None:
    partial = archive.with_name(f"{archive.name}.{os.getpid()}{PARTIAL}")
    try:
        with requests.get(SOURCE, stream=True, timeout=_REACH_SECONDS) as response:
            response.raise_for_status()
            archive.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
        partial.replace(archive)
    except (requests.RequestException, OSError) as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"dataset={affnist.OFFICIAL}: cannot be downloaded ({error}). Put the file {SOURCE} at {archive}."
        ) from None
