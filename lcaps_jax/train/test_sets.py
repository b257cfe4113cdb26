"""Test sets for a network: at its image size, in its number of channels, with its class labels."""

from collections.abc import Mapping, Sequence
import math

from lcaps_jax.data import api, folder
from lcaps_jax.data.brightness import Brightness, brightness
from lcaps_jax.data.image_io import to_channels
from lcaps_jax.data.splits import Split, check_split
from lcaps_jax.train.config import Config
from lcaps_jax.util.process import say

_LOOKED_AT = 1000  # images of a test set whose brightness is compared


def load_test_set(
    dataset: str,
    config: Config,
    class_names: Sequence[str],
    channels: int,
    *,
    data_dir: str | None = None,
    affnist_variants: int | None = None,
    skip_unreadable: bool = False,
    invert: bool = False,
) -> Split:
    """The test part of a set (see ``data.api.load_test``) for a network with these settings, classes and channels.

    Coloured images become grey for a network of grey ones, and the other way round, which is said. A network with a
    canonical frame sees other sets at their own size. ``data_dir`` and ``affnist_variants`` are the settings' where
    they are None. Raises DataError where the set cannot be loaded or its labels are not the network's.
    """
    any_size = config.network.frame is not None and dataset not in (config.data.dataset, folder.NAME)
    place, size = data_dir or config.data.data_dir, None if any_size else config.data.image_size
    variants = affnist_variants or config.evaluation.affnist_variants
    split = api.load_test(dataset, place, size, variants, class_names, skip_unreadable=skip_unreadable, invert=invert)
    check_split(split, len(class_names), f"{dataset}, for a network of {len(class_names)} classes,")
    if split.channels == channels:
        return split
    have, become = ("in colour", "grey") if channels == 1 else ("grey", "coloured")
    say(f"{dataset}: its images are {have} and become {become}, as the network's are.")
    return Split(to_channels(split.images, channels), split.labels)


def compare_brightness(trained: Brightness | None, tests: Mapping[str, Split]) -> None:
    """Says of which test sets most images are far darker or brighter than the training data, as if inverted."""
    for name, split in tests.items() if trained is not None else ():
        some = split.images[:: math.ceil(len(split) / _LOOKED_AT)]
        if warning := trained.warning(name, brightness(some), share=1 / 2):
            say(warning)
