"""The official affNIST as a TFDS builder, ``affnist_official``; importing it imports TensorFlow, and registers it."""

from collections.abc import Sequence
import pathlib

import numpy as np
from scipy import io
import tensorflow_datasets as tfds

from lcaps_jax import set_names
from lcaps_jax.data import affnist
from lcaps_jax.data import tfds as tfds_sets
from lcaps_jax.data.splits import Split, TestSet, match_classes

NAME = set_names.AFFNIST_OFFICIAL
SOURCE = "https://www.cs.toronto.edu/~tijmen/affNIST/32x/transformed/test_batches.zip"
_ARCHIVE = "test_batches.zip"


_BATCHES = range(1, affnist.VARIANTS + 1)


def _batches(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Files of the batches by number, without those of other parts and ``test.mat``, which repeats all images."""
    places = (folder, folder / _ARCHIVE.removesuffix(".zip"))
    found = {number: [place / f"{number}.mat" for place in places] for number in _BATCHES}
    there = {number: [path for path in paths if path.exists()] for number, paths in found.items()}
    return {number: paths[0] for number, paths in there.items() if paths}


class AffnistOfficial(tfds.core.GeneratorBasedBuilder):
    """Test digits of MNIST under 32 random affine transformations each (Tieleman 2013), 40x40."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def manual_folder(self) -> pathlib.Path:
        """Folder where a user may put the archive, the folder in the archive, or its batches 1.mat to 32.mat."""
        return pathlib.Path(self.data_dir).parents[1] / "downloads" / "manual" / self.name

    def has_files(self) -> bool:
        """Whether a user has put files there."""
        return (self.manual_folder / _ARCHIVE).exists() or any(_batches(self.manual_folder))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(40, 40, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~tijmen/affNIST/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        """The user's files are used where they have any; otherwise they are downloaded."""
        if not self.has_files():
            folder = dl_manager.download_and_extract(SOURCE)
        elif (self.manual_folder / _ARCHIVE).exists():
            folder = dl_manager.extract(self.manual_folder / _ARCHIVE)
        else:
            folder = self.manual_folder
        return {"test": self._generate_examples(pathlib.Path(folder))}

    def _generate_examples(self, folder: pathlib.Path):
        batches = _batches(folder)
        if missing := [f"{number}.mat" for number in _BATCHES if number not in batches]:
            raise ValueError(f"{folder}: {', '.join(missing)} of the {len(_BATCHES)} test batches are missing.")
        for path in batches.values():
            batch = io.loadmat(path)["affNISTdata"][0, 0]
            # Each column is an image, row by row.
            images = batch["image"].T.reshape(-1, 40, 40, 1).astype(np.uint8)
            for i, (image, label) in enumerate(zip(images, batch["label_int"].ravel())):
                yield f"{path.stem}_{i}", {"image": image, "label": int(label)}


class OfficialAffnist(Split):
    """Tieleman's images, ``affnist.VARIANTS`` of each test digit of MNIST."""

    @property
    def about(self) -> dict:
        """Facts about the images, which results on them repeat."""
        return {"images": "Tieleman's affNIST", "variants": affnist.VARIANTS}


def load_test(
    data_dir: str | None, image_size: int | None, affnist_variants: int = 1, class_names: Sequence[str] | None = None
) -> TestSet:
    """Tieleman's own files, all variants of them; the arguments are those of ``affnist.load_test``.

    Raises:
      DataError: The files cannot be loaded, or the network takes images of another size.
    """
    del affnist_variants
    affnist.check_size(NAME, image_size)
    builder = tfds_sets.prepared_builder(NAME, data_dir, source=SOURCE)
    split = tfds_sets.read_part(builder, "test", image_size)
    split = match_classes(NAME, split, builder.info.features["label"].names, class_names)
    return OfficialAffnist(split.images, split.labels)
