"""The settings of a run: the flags of the entry points, and the frozen Config that they become.

Every check of a setting that needs no data is here, so that a bad one is refused before any work is done.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import pathlib
import typing

from absl import flags

from lcaps_jax import affnist, capsules, models
from lcaps_jax.convolution import METHODS

PRECISIONS = ("float32", "bfloat16")
LCAPSNET, CAPSNET, CNN = MODELS = ("lcapsnet", "capsnet", "cnn")
FRESH, FIXED = PLACEMENTS = ("fresh", "fixed")


class ConfigError(ValueError):
    """A setting that cannot be run; the message names it, its value, and what would be accepted."""


def _setting(default, help_: str, *, choices: tuple[str, ...] = (), minimum=None, may_change: bool = False):
    metadata = {"help": help_, "choices": choices, "minimum": minimum, "may_change": may_change}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Every setting of a run. ``None`` stands for a default that follows from other settings; see ``resolved``."""

    model: str = _setting(
        LCAPSNET, "Network to train: the Ladder CapsNet, CapsNet with dynamic routing, or a CNN.", choices=MODELS
    )
    variant: str = _setting(
        models.PAPER,
        "paper, the network of the paper; released, what the authors' released graph computes; or, as ablations, the "
        f"paper's with some of that graph's choices: paper+CHOICE+..., of {', '.join(models.RELEASED_CHOICES)}.",
    )
    k: int = _setting(70, "Primary capsules that the pruning layer keeps (K).", minimum=1)
    conv1_kernel: int = _setting(9, "Kernel size of the first convolution.", minimum=1)
    primary_kernel: int = _setting(9, "Kernel size of the primary capsules' convolution.", minimum=1)
    channels: int = _setting(models.CONV1_CHANNELS, "Channels of the first convolution.", minimum=1)
    capsule_types: int = _setting(models.CAPSULE_TYPES, "Primary capsules at each position.", minimum=1)
    capsule_dim: int = _setting(models.CAPSULE_DIM, "Dimension of a primary capsule.", minimum=1)
    pose_dim: int = _setting(models.POSE_DIM, "Dimension of a class capsule.", minimum=1)
    activity: str = _setting(
        models.AGREEMENT,
        "A class's activity: the ladder's agreement, or, as an ablation without the ladder, the length of its pose.",
        choices=models.ACTIVITIES,
    )
    selection: str = _setting(
        models.ACTIVE,
        "Capsules that are kept: the most active ones, or, as an ablation, random ones.",
        choices=models.SELECTIONS,
    )
    routing_iterations: int = _setting(3, "Iterations of CapsNet's routing.", minimum=1)
    decoder: bool = _setting(True, "CapsNet also reconstructs its images.")

    dataset: str = _setting(
        "sample",
        "Training set: 'sample' (10,000 bundled MNIST digits, offline), 'folder' (your image files, as "
        "DATA_DIR/train/CLASS/FILE and DATA_DIR/test/CLASS/FILE), 'expanded_mnist' (MNIST on a 40x40 canvas, "
        "shifted by up to 6 pixels), or any image classification set of TensorFlow Datasets, as 'mnist' or 'cifar10'.",
    )
    data_dir: str | None = _setting(
        None,
        "Folder of prepared TensorFlow Datasets, default their own, ~/tensorflow_datasets; or of your image files.",
        may_change=True,
    )
    image_size: int | None = _setting(
        None,
        "Pixels along a side; smaller images are padded, larger ones scaled down. Default: the set's own.",
        minimum=1,
    )
    max_shift: int | None = _setting(
        None,
        "Training images are shifted at random by up to this many pixels. Default: 6 for expanded_mnist, else 0.",
        minimum=0,
    )
    placement: str = _setting(
        FRESH,
        "Random shifts of the training images: fresh ones each time, or, as an ablation, fixed ones for the whole run.",
        choices=PLACEMENTS,
    )
    validation_size: int = _setting(
        0, "Training images to hold out, drawn at random; the best checkpoint is then kept too.", minimum=0
    )
    train_size: int = _setting(
        0, "Train on so many images, drawn at random after those held out; 0 is all of them.", minimum=0
    )
    shuffle: bool | None = _setting(
        None,
        "Draw a new order of the images every epoch. Default: on for the paper's network, off for the released one.",
    )

    batch_size: int = _setting(100, "Images a step, over all devices.", minimum=1)
    epochs: int = _setting(
        10, "Passes over the training set; may grow when a run is continued.", minimum=1, may_change=True
    )
    learning_rate: float = _setting(1e-3, "Adam's learning rate at the start.")
    decay_rate: float = _setting(0.9, "Factor of the learning rate's exponential decay.")
    decay_steps: int = _setting(1000, "Steps that one factor of decay takes.", minimum=1)
    decay_staircase: bool = _setting(False, "Decay in jumps every decay_steps rather than smoothly.")
    seed: int = _setting(
        0,
        "Seed of the initial weights, of the images' order, shifts and parts held out or drawn, and of dropout.",
        minimum=0,
    )
    precision: str = _setting("float32", "Of convolutions and class networks; all else is float32.", choices=PRECISIONS)
    convolution: str = _setting(
        "auto", "spectral (fast on a CPU), direct (XLA's own), or by platform.", choices=METHODS
    )

    eval_datasets: tuple[str, ...] | None = _setting(
        None,
        "Test sets to evaluate after every epoch, 'affnist' and 'affnist_official' among them. Default: that of the "
        "training set.",
        may_change=True,
    )
    affnist_variants: int = _setting(
        1, "Variants of each test digit in the set 'affnist'; the official one has 32.", minimum=1, may_change=True
    )
    stop_at_error: float = _setting(
        0.0,
        "Stop after the first epoch that brings the error on the training set's own test images to this many percent, "
        "as in Sabour's comparison on affNIST (0.77). It looks at the test set, and results say so. 0: never.",
        may_change=True,
    )
    log_every: int = _setting(
        20, "Steps between lines of the log; so many run on the device in one call.", minimum=1, may_change=True
    )
    checkpoint_every: int | None = _setting(
        None, "Steps between checkpoints, rounded up to log_every. Default: one an epoch.", minimum=1, may_change=True
    )

    def __post_init__(self):
        """Raises ConfigError for a setting that cannot be run."""
        for field in dataclasses.fields(self):
            value, choices, minimum = getattr(self, field.name), field.metadata["choices"], field.metadata["minimum"]
            if choices and value not in choices:
                raise ConfigError(f"--{field.name}={value}: must be one of {', '.join(choices)}.")
            if minimum is not None and value is not None and value < minimum:
                raise ConfigError(f"--{field.name}={value}: must be at least {minimum}.")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"--learning_rate={self.learning_rate}: must be positive and finite.")
        if not 0 < self.decay_rate <= 1:
            raise ConfigError(f"--decay_rate={self.decay_rate}: must be above 0 and at most 1.")
        if self.affnist_variants > affnist.VARIANTS:
            raise ConfigError(f"--affnist_variants={self.affnist_variants}: must be at most {affnist.VARIANTS}.")
        try:
            models.choices_of(self.variant)
        except ValueError as error:
            raise ConfigError(f"--variant={self.variant}: {error}") from None
        if self.variant != models.PAPER and self.activity != models.AGREEMENT:
            raise ConfigError(f"--activity={self.activity}: is an ablation of --variant={models.PAPER} alone.")
        if self.model != LCAPSNET:
            for name in ("variant", "activity", "selection"):
                if (value := getattr(self, name)) != getattr(Config, name):
                    raise ConfigError(f"--{name}={value}: is of --model={LCAPSNET}, and does nothing to {self.model}.")
        if not 0 <= self.stop_at_error < 100:
            raise ConfigError(f"--stop_at_error={self.stop_at_error}: must be a percentage, from 0 to below 100.")
        if self.stop_at_error and self.dataset not in (self.eval_datasets or (self.dataset,)):
            raise ConfigError(f"--stop_at_error={self.stop_at_error}: --eval_datasets must name {self.dataset}.")
        if self.image_size is not None:
            self.check_geometry(self.image_size)

    def check_geometry(self, image_size: int) -> None:
        """Raises ConfigError where kernels or K do not fit images of that size."""
        if self.model == CNN:
            return
        try:
            sizes = models.geometry(image_size, self.conv1_kernel, self.primary_kernel, self.capsule_types)
            if self.model == LCAPSNET:
                capsules.check_keep(self.k, sizes.capsules)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def resolved(self, image_size: int, max_shift: int) -> "Config":
        """The same settings with no default left open, given those of the data set.

        Raises:
          ConfigError: where the network does not fit the images.
        """
        config = dataclasses.replace(
            self,
            image_size=image_size,
            max_shift=max_shift if self.max_shift is None else self.max_shift,
            shuffle=self.variant != models.RELEASED if self.shuffle is None else self.shuffle,
            eval_datasets=self.eval_datasets or (self.dataset,),
        )
        config.check_geometry(image_size)
        return config

    def with_defaults_of(self, earlier: "Config") -> "Config":
        """The same settings, with those left open taken from the run that they continue."""
        open_ = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is None]
        return dataclasses.replace(self, **{name: getattr(earlier, name) for name in open_})

    def to_json(self) -> dict:
        """The settings as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, settings: Mapping) -> "Config":
        """The Config that ``to_json`` wrote; settings it does not know are refused.

        Raises:
          ConfigError: naming settings of another version of this code.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - names)
        if unknown:
            raise ConfigError(
                f"The run was made by another version: it has the settings {', '.join(unknown)}, unknown here."
            )
        settings = dict(settings)
        if settings.get("eval_datasets") is not None:
            settings["eval_datasets"] = tuple(settings["eval_datasets"])
        return cls(**settings)

    def check_continues(self, earlier: "Config", workdir: pathlib.Path) -> None:
        """Raises ConfigError unless the run in ``workdir``, begun with ``earlier``, can go on with these settings."""
        for field in dataclasses.fields(self):
            before, now = getattr(earlier, field.name), getattr(self, field.name)
            if not field.metadata["may_change"] and before != now:
                raise ConfigError(
                    f"--{field.name}={now}: the run in {workdir} was begun with {field.name}={before}, and to change "
                    f"it would change what is computed. Keep {before}, or give another --workdir."
                )
        if self.epochs < earlier.epochs:
            raise ConfigError(
                f"--epochs={self.epochs}: the run in {workdir} is set to {earlier.epochs} epochs; they can only grow."
            )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag for each setting. For entry points alone: importing the library defines none."""
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        kinds = [
            kind for kind in (*typing.get_args(hints[field.name]), hints[field.name]) if kind in (bool, int, float, str)
        ]
        help_, default = field.metadata["help"], typing.cast(typing.Any, field.default)
        if field.metadata["choices"]:
            flags.DEFINE_enum(field.name, default, field.metadata["choices"], help_, flag_values=values)
        elif not kinds:
            flags.DEFINE_list(field.name, default, help_, flag_values=values)
        else:
            define: dict[type, Callable] = {
                bool: flags.DEFINE_boolean,
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
                str: flags.DEFINE_string,
            }
            define[kinds[0]](field.name, default, help_, flag_values=values)


def from_flags(values: flags.FlagValues) -> Config:
    """The Config of parsed flags.

    Raises:
      ConfigError: see Config.
    """
    settings = {field.name: values[field.name].value for field in dataclasses.fields(Config)}
    settings["eval_datasets"] = tuple(settings["eval_datasets"] or ()) or None  # an empty list is none
    return Config(**settings)


def from_flagfile(path: str | pathlib.Path) -> Config:
    """The Config of a flagfile; its --workdir is left aside.

    Raises:
      ConfigError: see Config; absl's flags.Error: for a flag that there is not.
    """
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(values.read_flags_from_files(["", f"--flagfile={path}"]))
    return from_flags(values)


CONFIG_FILE = "config.json"
# Added to the name of a file while it is written.
PARTIAL = ".partial"


def write_config(workdir: pathlib.Path, config: Config, about: Mapping) -> None:
    """Writes ``config.json``: the settings, and what else there is to know about the run."""
    write_json(workdir / CONFIG_FILE, {"settings": config.to_json(), **about})


def read_config(workdir: pathlib.Path) -> tuple[Config, dict]:
    """The settings of a run, and what ``write_config`` wrote beside them.

    Raises:
      ConfigError: where the folder holds no run, or that of another version.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    try:
        about = json.loads(path.read_text())
        settings = about.pop("settings")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{workdir} is not a run of lcaps_jax: cannot read {path} ({error}).") from None
    return Config.from_json(settings), about


def write_json(path: pathlib.Path, value, indent: int | None = 2) -> None:
    """Writes a JSON file whole or not at all; in one line without an indent."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(json.dumps(value, indent=indent) + "\n")
    partial.replace(path)
