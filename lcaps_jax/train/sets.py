"""The image sets of a training or an evaluation, as the network takes them."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any

from lcaps_jax.data import api, folder
from lcaps_jax.data.augment import shift_once
from lcaps_jax.data.brightness import Brightness, brightness
from lcaps_jax.data.image_io import to_channels
from lcaps_jax.data.splits import DataError, Source, Split, check_split, draw, hold_out
from lcaps_jax.train.config import Config
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.process import say

_LOOKED_AT = 1000  # images of a test set whose brightness is compared


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """A data set as a training uses it."""

    source: Source
    train: Split  # images to train on
    validation: Split | None  # images held out


def with_paths(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with absolute paths, and the data set ``folder`` where a data_dir of images stands alone."""
    given, data_dir = dict(given), given.get("data_dir")
    if ".py:" in given.get("model", ""):
        given["model"] = str(pathlib.Path(given["model"]).absolute())
    if not data_dir:
        return given
    if given.get("dataset", "sample") == "sample":
        try:
            folder.find(data_dir)
        except DataError as error:
            if not set(given.get("eval_datasets", ())) - {"sample"}:
                unused = "is not used by the bundled sample, and not a folder of images"
                raise ConfigError(f"data_dir={data_dir}: {unused}. {error}") from None
        else:
            say(f"{data_dir} holds folders of images: --dataset={folder.NAME} is taken.")
            given["dataset"] = folder.NAME
    if "://" not in data_dir:
        given["data_dir"] = str(pathlib.Path(data_dir).absolute())
    return given


def load_training(settings: Mapping[str, Any]) -> TrainingData:
    """The images to train on, and those held out for validation, without which ``patience`` raises ConfigError."""
    options = {name: settings[name] for name in ("data_dir", "image_size", "skip_unreadable") if name in settings}
    source = api.load(settings.get("dataset", "sample"), **options)
    train, validation, seed = source.train, source.validation, settings.get("seed", 0)
    if count := settings.get("validation_size", 0):
        if validation is not None:
            say(f"{count} training images are held out, so the set's own validation part is not used.")
        train, validation = hold_out(source.train, count, seed)
        # Shifted as the set's test images are, because the best checkpoint is to be the best on those.
        validation = Split(shift_once(validation.images, source.max_shift), validation.labels)
    if count := settings.get("train_size", 0):
        train = draw(train, count, seed)
    if settings.get("patience", 0) and validation is None:
        needed = "give validation_size, such as a tenth of the training images, or images in DATA_DIR/val"
        raise ConfigError(f"patience={settings['patience']}: there is no image to validate on; {needed}.")
    return TrainingData(source, train, validation)


def load_tests(config: Config, source: Source, trained: Brightness) -> dict[str, Split]:
    """The test sets of a training by name, checked to fit the network and the devices' memory."""
    data = config.data
    if data.skip_unreadable and folder.NAME not in (data.dataset, *config.evaluation.eval_datasets):
        raise ConfigError(f"skip_unreadable=True: does nothing to dataset={data.dataset}, which has no image files.")
    tests = {
        name: source.test
        if name == data.dataset
        else load_test_set(name, config, source.class_names, source.channels, skip_unreadable=data.skip_unreadable)
        for name in config.evaluation.eval_datasets
    }
    parts = [source.train, *([source.validation] if source.validation else []), *tests.values()]
    devices.check_fits(sum(part.nbytes for part in parts), "The data")
    compare_brightness(trained, tests)
    return tests


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
