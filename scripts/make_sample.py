"""Makes lcaps_jax/data/sample.npz: 8,000 training and 2,000 test digits, drawn by a fixed seed from MNIST's two parts.

python -m scripts.make_sample --data_dir=FOLDER_OF_TENSORFLOW_DATASETS
"""

from absl import app, flags
import numpy as np

from lcaps_jax import data

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets.")
_OUTPUT = flags.DEFINE_string("output", "lcaps_jax/data/sample.npz", "File to write.")
_COUNTS = {"train": 8000, "test": 2000}


def main(argv):
    del argv
    mnist = data.load("mnist", _DATA_DIR.value)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in _COUNTS.items():
        split = getattr(mnist, part)
        chosen = rng.choice(len(split), count, replace=False)
        arrays[f"{part}_images"] = split.images[chosen, ..., 0]
        arrays[f"{part}_labels"] = split.labels[chosen].astype(np.uint8)
    np.savez_compressed(_OUTPUT.value, **arrays)


if __name__ == "__main__":
    app.run(main)
