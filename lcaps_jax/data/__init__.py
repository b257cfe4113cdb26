"""Image sets as uint8 arrays, and random changes of them. TensorFlow is imported when a set of TFDS is read."""

from lcaps_jax.data.affnist import Affnist
from lcaps_jax.data.api import DataConfig, load, load_test
from lcaps_jax.data.augment import AugmentConfig
from lcaps_jax.data.brightness import Brightness
from lcaps_jax.data.splits import DataError, Source, Split

__all__ = ["Affnist", "AugmentConfig", "Brightness", "DataConfig", "DataError", "Source", "Split", "load", "load_test"]
