"""The settings of a run in three forms: flags, ``Config`` and JSON.

A setting is a field of ``Config``. Its flag, its check, its help and its place in ``config.json`` follow from that
field. A bad setting is refused here, before any work is done.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import pathlib
import types
import typing
from typing import Any

from absl import flags

from lcaps_jax import frames, networks, parallel
from lcaps_jax.convolution import METHODS
from lcaps_jax.data import augment, folder
from lcaps_jax.errors import ArgumentError, ConfigError, arg
from lcaps_jax.files import write_json
from lcaps_jax.flagfiles import read_flagfiles
from lcaps_jax.networks import base, ladder, released
from lcaps_jax.precision import HIGHEST, MATMUL_PRECISIONS

PRECISIONS = ("float32", "bfloat16")
FRESH, FIXED = PLACEMENTS = ("fresh", "fixed")
CONFIG_FILE = "config.json"
_LARGEST = 2**31 - 1  # integer setting; JAX counts in 32 bits, seeds among them
_AFFNIST_VARIANTS = 32  # of each digit, in the official set

# What follows from the number of training images where it is not given; see docs/own_images.md.
_BATCH, _LEAST_BATCH, _STEPS_PER_EPOCH = 100, 20, 20
_EPOCHS, _FEW_STEPS, _SMALL_SET_STEPS = 10, 500, 800
_FEW_IMAGES = 5000  # of one's own, for which small layers do
_DECAY_STEPS, _DECAYS, _LEAST_DECAY_STEPS = 1000, 20, 40
_EVALUATIONS, _STEPS_BETWEEN_EVALUATIONS = 20, 40


def _setting(
    default, help_: str, *, choices: Sequence[str] | Mapping = (), minimum=None, maximum=None, may_change: bool = False
):
    metadata = {
        "help": help_,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "may_change": may_change,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Every setting of a run. ``None`` stands for a default that follows from other settings; see ``resolved``."""

    model: str = _setting(
        "lcapsnet",
        "Network to train: the Ladder CapsNet, CapsNet with dynamic routing, or a CNN.",
        choices=networks.NETWORKS,
    )
    variant: str = _setting(
        released.PAPER,
        "Form of the ladder network: paper; released, which is what the authors' released graph computes; or, as "
        "ablations, paper+CHOICE+..., the paper's network with some choices of that graph: "
        f"{', '.join(released.RELEASED_CHOICES)}.",
    )
    layers: str | None = _setting(
        None,
        "Sizes of the layers where you set none: the paper's, or small ones. Default: small for fewer than 5,000 "
        "images of a 'folder' and a network of which you set nothing else; the paper's for all others.",
        choices=base.LAYERS,
    )
    k: int = _setting(70, "Primary capsules that the pruning layer keeps (K).", minimum=1)
    conv1_kernel: int = _setting(9, "Kernel size of the first convolution.", minimum=1)
    primary_kernel: int = _setting(9, "Kernel size of the primary capsules' convolution.", minimum=1)
    conv2_kernel: int = _setting(
        0,
        "Kernel size of a second convolution of stride 2 between those two, so that the primary capsules' has stride "
        "1; 0 for none, as in the paper.",
        minimum=0,
    )
    channels: int = _setting(base.CONV1_CHANNELS, "Channels of the first convolution.", minimum=1)
    capsule_types: int = _setting(base.CAPSULE_TYPES, "Primary capsules at each position.", minimum=1)
    capsule_dim: int = _setting(base.CAPSULE_DIM, "Dimension of a primary capsule.", minimum=1)
    pose_dim: int = _setting(base.POSE_DIM, "Dimension of a class capsule.", minimum=1)
    activity: str = _setting(
        ladder.AGREEMENT,
        "Activity of a class: the ladder's agreement or, as an ablation without the ladder, the length of the pose.",
        choices=ladder.ACTIVITIES,
    )
    selection: str = _setting(
        ladder.ACTIVE,
        "Capsules to keep: the most active ones; balanced, as many of each type; biased, each type as often; or, as an "
        "ablation, random ones.",
        choices=ladder.SELECTIONS,
    )
    operators: str = _setting(
        ladder.CODE,
        "Operators of the ladder layer: made from the code vector by networks of each class, as in the paper; or own "
        "ones of each capsule, which the code vector selects.",
        choices=ladder.OPERATORS,
    )
    routing_iterations: int = _setting(3, "Iterations of CapsNet's routing.", minimum=1)
    decoder: bool = _setting(True, "CapsNet also reconstructs its images.")

    ground: str | None = _setting(
        None,
        "Ground of the images, which is the median of an image's border: kept; removed, so that it is 0 to the "
        "network, as MNIST's is; or the network sees each pixel's distance from it, so that colours do not count. "
        "Default: removed for a 'folder', kept for all others.",
        choices=base.GROUNDS,
    )
    frame: str = _setting(
        frames.NONE,
        "Frame in which the network sees an image, read off the image itself: its centre (centre), its centre, size "
        "along both axes and shear (affine), or none.",
        choices=frames.KINDS,
    )
    frame_size: int = _setting(28, "Pixels along a side of an image in its frame.", minimum=1)

    dataset: str = _setting(
        "sample",
        "Training set: 'sample' (10,000 bundled MNIST digits, offline), 'folder' (your image files, as "
        "DATA_DIR/train/CLASS/FILE and DATA_DIR/test/CLASS/FILE), 'expanded_mnist' (MNIST on a 40x40 canvas, "
        "shifted by up to 6 pixels), or any image classification set of TensorFlow Datasets, such as 'mnist'.",
    )
    data_dir: str | None = _setting(
        None,
        "Folder of prepared TensorFlow Datasets, by default ~/tensorflow_datasets; for 'folder', of your image files.",
        may_change=True,
    )
    keep_going: bool = _setting(
        False,
        "Leave out and list those image files of 'folder' that cannot be read, rather than stop at the first.",
        may_change=True,
    )
    image_size: int | None = _setting(
        None,
        "Pixels along a side; smaller images are padded, larger ones scaled down. Default: the set's own.",
        minimum=1,
    )
    max_shift: int | None = _setting(
        None,
        "Training images are shifted at random by up to this many pixels, with a frame in their frame. Default: 6 for "
        "expanded_mnist without a frame, else 0.",
        minimum=0,
    )
    flip: str = _setting(
        augment.NO_FLIP,
        "Training images are mirrored at random: left and right (horizontal), top and bottom (vertical), both, or "
        "none.",
        choices=augment.FLIPS,
    )
    max_rotation: float = _setting(
        0.0,
        "Training images are turned at random by up to this many degrees each way, before they are shifted.",
        minimum=0.0,
        maximum=180.0,
    )
    max_scale: float = _setting(
        1.0,
        "Training images are scaled at random by up to this factor, up or down, before they are shifted.",
        minimum=1.0,
        maximum=4.0,
    )
    max_brightness: float = _setting(
        0.0,
        "The brightness of training images is multiplied at random by 1 plus or minus up to this.",
        minimum=0.0,
        maximum=1.0,
    )
    placement: str = _setting(
        FRESH,
        "Random shifts of the training images: fresh ones each time or, as an ablation, fixed ones for the whole run.",
        choices=PLACEMENTS,
    )
    validation_size: int = _setting(
        0,
        "Training images to hold out, drawn at random; the best checkpoint is then kept too. 0 holds none out, and the "
        "images of DATA_DIR/val of a 'folder' take their place.",
        minimum=0,
    )
    train_size: int = _setting(
        0, "Training images to use, drawn at random from those that are not held out; 0 uses all.", minimum=0
    )
    shuffle: bool | None = _setting(
        None,
        "Draw a new order of the images every epoch. Default: on for the paper's network, off for the released one.",
    )

    batch_size: int | None = _setting(
        None,
        "Images of a step, over all devices. Default: 100; with fewer than 2,000 training images a twentieth of them, "
        "but at least 20.",
        minimum=1,
    )
    epochs: int | None = _setting(
        None,
        "Passes over the training set; a larger number continues a finished run. Default: 10, or 800 steps' "
        "worth where 10 epochs are fewer than 500 steps.",
        minimum=1,
        may_change=True,
    )
    learning_rate: float = _setting(1e-3, "Adam's learning rate at the start.")
    decay_rate: float = _setting(0.9, "Factor of the learning rate's exponential decay.")
    decay_steps: int | None = _setting(
        None,
        "Steps over which the learning rate decays by one factor. Default: 1000; where 10 epochs are fewer than "
        "500 steps, a twentieth of all steps, but at least 40.",
        minimum=1,
    )
    decay_staircase: bool = _setting(False, "Decay in jumps every decay_steps rather than smoothly.")
    seed: int = _setting(
        0,
        "Seed of the initial weights, the images' order and shifts, the parts held out or drawn, and dropout.",
        minimum=0,
    )
    precision: str = _setting(
        "float32", "Number type in convolutions and class networks; all else is float32.", choices=PRECISIONS
    )
    matmul_precision: str = _setting(
        HIGHEST,
        "Precision of float32 products on TPUs and GPUs: highest (six bfloat16 passes on a TPU, float32 on a GPU), "
        "high (three passes, TensorFloat-32) or default (one pass, TensorFloat-32). On a CPU it changes nothing.",
        choices=MATMUL_PRECISIONS,
    )
    convolution: str = _setting(
        "auto",
        "Method of the convolutions: spectral (fast on a CPU), polyphase (fast on NVIDIA's GPUs), direct (XLA's own), "
        "or auto, by platform.",
        choices=METHODS,
    )

    eval_datasets: tuple[str, ...] | None = _setting(
        None,
        "Test sets to evaluate after every epoch, 'affnist' and 'affnist_official' among them. Default: that of the "
        "training set.",
        may_change=True,
    )
    affnist_variants: int = _setting(
        1,
        "Variants of each test digit in the set 'affnist'; the official one has 32.",
        minimum=1,
        maximum=_AFFNIST_VARIANTS,
        may_change=True,
    )
    stop_at_error: float = _setting(
        0.0,
        "Error in percent at which training stops: after the first epoch that reaches it on the training set's own "
        "test images, as in Sabour's comparison on affNIST (0.77). This looks at the test set, and the results say "
        "so. 0: never.",
        may_change=True,
    )
    patience: int = _setting(
        0,
        "Epochs without a lower validation error after which training stops; eval.py then evaluates the best "
        "checkpoint. Needs a validation_size, or images in DATA_DIR/val of a 'folder'. 0: never.",
        minimum=0,
        may_change=True,
    )
    eval_every: int | None = _setting(
        None,
        "Epochs between evaluations, before each of which a checkpoint is saved. Default: 1; more where epochs are "
        "many and shorter than 40 steps.",
        minimum=1,
        may_change=True,
    )
    log_every: int = _setting(
        20, "Steps between lines of the log, which the devices run in one call.", minimum=1, may_change=True
    )
    checkpoint_every: int | None = _setting(
        None,
        "Steps between checkpoints, rounded up to log_every. Default: one before each evaluation.",
        minimum=1,
        may_change=True,
    )

    def __post_init__(self):
        """Raises ConfigError for a setting that cannot be run."""
        for field in dataclasses.fields(self):
            self._check_value(field.name, **{name: field.metadata[name] for name in ("choices", "minimum", "maximum")})
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"{arg('learning_rate')}={self.learning_rate}: must be positive and finite.")
        if not 0 < self.decay_rate <= 1:
            raise ConfigError(f"{arg('decay_rate')}={self.decay_rate}: must be above 0 and at most 1.")
        stop = f"{arg('stop_at_error')}={self.stop_at_error}"
        if not 0 <= self.stop_at_error < 100:
            raise ConfigError(f"{stop}: must be a percentage, from 0 to below 100.")
        if self.stop_at_error and self.dataset not in (self.eval_datasets or (self.dataset,)):
            raise ConfigError(f"{stop}: {arg('eval_datasets')} must name {self.dataset}.")
        with _as_config_error():
            networks.from_config(self, classes=2)
        if self.image_size is not None:
            self.check_geometry(self.image_size)

    def _check_value(self, name: str, choices: Sequence[str] | Mapping, minimum, maximum) -> None:
        value = getattr(self, name)
        if choices and value is not None and value not in choices:
            raise ConfigError(f"{arg(name)}={value}: must be one of {', '.join(choices)}.")
        if minimum is not None and value is not None and value < minimum:
            raise ConfigError(f"{arg(name)}={value}: must be at least {minimum}.")
        if maximum is None and type(value) is int:
            maximum = _LARGEST
        if maximum is not None and value is not None and value > maximum:
            raise ConfigError(f"{arg(name)}={value}: must be at most {maximum}.")

    @property
    def framed(self) -> bool:
        """Whether the network sees images in their frames."""
        return self.frame != frames.NONE

    def _unused(self) -> list[str]:
        """Settings that other networks read and the chosen one does not."""
        all_ = dict.fromkeys(name for network in networks.NETWORKS.values() for name in network.settings)
        return [name for name in all_ if name not in networks.NETWORKS[self.model].settings]

    def check_settings_are_used(self) -> None:
        """Raises ConfigError for a setting that would do nothing, as one of another network than the chosen one."""
        if not self.framed and self.frame_size != Config.frame_size:
            raise ConfigError(f"{arg('frame_size')}={self.frame_size}: does nothing without a {arg('frame')}.")
        if self.framed and self.placement == FIXED:
            raise ConfigError(
                f"{arg('placement')}={FIXED}: does nothing with a {arg('frame')}, which follows the image."
            )
        for name in self._unused():
            value = getattr(self, name)
            if value != getattr(Config, name):
                users = [model for model, network in networks.NETWORKS.items() if name in network.settings]
                raise ConfigError(
                    f"{arg(name)}={value}: does nothing to the network {self.model}; it is a setting of "
                    f"{' and '.join(users)} ({arg('model')})."
                )

    def without_unused(self) -> "Config":
        """The same settings, with those that the chosen network does not read at their defaults."""
        return dataclasses.replace(self, **{name: getattr(Config, name) for name in self._unused()})

    def check_geometry(self, image_size: int) -> None:
        """Raises ConfigError where kernels or K do not fit images of that size."""
        with _as_config_error():
            networks.from_config(self, classes=2).geometry(image_size)

    def given(self) -> dict:
        """The settings that are not at their defaults, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value != getattr(Config, name)}

    def resolved(self, image_size: int, max_shift: int, images: int | None = None) -> "Config":
        """The same settings with every open default filled in, some of them by the data set.

        Args:
          image_size: Pixels along a side of the images.
          max_shift: Pixels by which the data set's training images are meant to be shifted.
          images: Number of training images; None for a large set.

        Raises:
          ConfigError: The network does not fit the images, or shifts would move their content out of them.
        """
        config = dataclasses.replace(
            self,
            image_size=image_size,
            max_shift=(0 if self.framed else max_shift) if self.max_shift is None else self.max_shift,
            ground=self.ground or (base.REMOVED if self.dataset == folder.NAME else base.KEPT),
            shuffle=self.variant != released.RELEASED if self.shuffle is None else self.shuffle,
            eval_datasets=self.eval_datasets or (self.dataset,),
            **self._schedule(images),
            **self._layers(image_size, images),
        )
        config.check_geometry(image_size)
        seen = config.frame_size if config.framed else image_size
        if config.max_shift >= seen:
            raise ConfigError(
                f"{arg('max_shift')}={config.max_shift}: would move the content out of images of {seen} pixels; it "
                f"must be smaller than {seen}."
            )
        return config

    def _schedule(self, images: int | None) -> dict[str, typing.Any]:
        """Batch, epochs, decay and evaluations, which follow from the number of training images where not given.

        A large set gets batches of 100 and ten epochs. A small one, of which ten epochs are fewer than 500 steps, gets
        smaller batches and 800 steps, over which the learning rate falls to an eighth.
        """
        batch = self.batch_size or (_BATCH if images is None else _default_batch(images))
        per_epoch = _FEW_STEPS if images is None else max(1, images // batch)
        is_small = _EPOCHS * per_epoch < _FEW_STEPS
        epochs = self.epochs or (-(-_SMALL_SET_STEPS // per_epoch) if is_small else _EPOCHS)
        decay = max(_LEAST_DECAY_STEPS, epochs * per_epoch // _DECAYS) if is_small else _DECAY_STEPS
        between = min(epochs // _EVALUATIONS, -(-_STEPS_BETWEEN_EVALUATIONS // per_epoch))
        return {
            "batch_size": batch,
            "epochs": epochs,
            "decay_steps": self.decay_steps or decay,
            "eval_every": self.eval_every or max(1, between),
        }

    def _layers(self, image_size: int, images: int | None) -> dict[str, typing.Any]:
        """Sizes of the layers, which follow from the number of training images where not given.

        The paper's network has millions of weights for each class. A small set of one's own images gets layers that
        train in a tenth of the time, and a ladder with operators of each capsule's own; see docs/own_images.md.
        """
        layers = self.layers
        if layers is None:
            is_small = self.dataset == folder.NAME and images is not None and images < _FEW_IMAGES
            layers = base.SMALL if is_small and not self._of_network(given=True) else base.PAPER
        if layers == base.PAPER:
            return {"layers": layers}
        with _as_config_error():
            sizes = networks.NETWORKS[self.model].small_layers(self, self.frame_size if self.framed else image_size)
        return {"layers": layers, **{name: sizes[name] for name in self._of_network(given=False) if name in sizes}}

    def _of_network(self, given: bool) -> list[str]:
        """Settings of the chosen network that are given, or those that are at their defaults."""
        names = ("channels", *networks.NETWORKS[self.model].settings)
        return [name for name in names if (getattr(self, name) != getattr(Config, name)) == given]

    def with_defaults_of(self, earlier: "Config") -> "Config":
        """The same settings; those left open, and those that do nothing, are taken from the run that they continue."""
        open_ = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is None]
        if earlier.layers == base.SMALL and self.layers != base.PAPER:
            open_ += self._of_network(given=False)
        return dataclasses.replace(self, **{name: getattr(earlier, name) for name in (*open_, *self._unused())})

    def to_json(self) -> dict:
        """The settings as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, settings: Mapping) -> "Config":
        """The Config that ``to_json`` wrote; unknown settings are refused.

        Raises:
          ConfigError: Some settings are of another version of this code, or damaged; the message names them.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - names)
        if unknown:
            raise ConfigError(
                f"The run was made by another version: it has the settings {', '.join(unknown)}, unknown here."
            )
        # Runs of before these settings have these values.
        settings = {"eval_every": 1, "layers": base.PAPER, "ground": base.KEPT, **settings}
        hints = typing.get_type_hints(cls)
        for name, value in settings.items():
            if not _fits(value, hints[name]):
                raise ConfigError(f"The run's {name} is {value!r}: the settings are damaged, or of another version.")
        if settings.get("eval_datasets") is not None:
            settings["eval_datasets"] = tuple(settings["eval_datasets"])
        return cls(**settings)

    def check_continues(self, earlier: "Config", workdir: pathlib.Path) -> None:
        """Raises ConfigError unless the run in ``workdir``, begun with ``earlier``, can go on with these settings."""
        for field in dataclasses.fields(self):
            before, now = getattr(earlier, field.name), getattr(self, field.name)
            if before != now and not field.metadata["may_change"] and field.name not in self._unused():
                raise ConfigError(
                    f"{arg(field.name)}={now}: the run in {workdir} was begun with {field.name}={before}, and "
                    f"changing it would change what is computed. Keep {before}, or give another {arg('workdir')}."
                )
        if None not in (self.epochs, earlier.epochs) and self.epochs < earlier.epochs:
            raise ConfigError(
                f"{arg('epochs')}={self.epochs}: the run in {workdir} is set to {earlier.epochs} epochs; "
                "they can only grow."
            )


def _default_batch(images: int) -> int:
    """A twentieth of the images in tens, from 20 to 100, that divides among the devices."""
    tens = images // _STEPS_PER_EPOCH // 10 * 10
    batch = parallel.round_up(min(max(_LEAST_BATCH, tens), _BATCH, max(1, images)))
    return batch if batch <= images else max(1, parallel.round_down(images))


def _fits(value, hint) -> bool:
    """Whether a value of JSON can be a setting of that type."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(type(part) is str for part in value)
    return type(value) is hint or (hint is float and type(value) is int)


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    """Turns what a network refuses into a ConfigError."""
    try:
        yield
    except ArgumentError as error:
        raise ConfigError(error.marked) from None


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag for each setting. Only entry points call this: importing the library defines no flag."""
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        kinds = [
            kind for kind in (*typing.get_args(hints[field.name]), hints[field.name]) if kind in (bool, int, float, str)
        ]
        help_, default = field.metadata["help"], typing.cast(typing.Any, field.default)
        if field.metadata["choices"]:
            flags.DEFINE_enum(field.name, default, list(field.metadata["choices"]), help_, flag_values=values)
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
      ConfigError: A setting cannot be run; see Config.
    """
    settings = {field.name: values[field.name].value for field in dataclasses.fields(Config)}
    settings["eval_datasets"] = tuple(settings["eval_datasets"] or ()) or None  # an empty list is none
    of_network = ("channels", *networks.NETWORKS[settings["model"]].settings)
    at_default = [name for name in of_network if values[name].present and settings[name] == getattr(Config, name)]
    # Which a Config cannot tell from what was not given. It matters to folders of images, which data_dir may name.
    may_be_small = settings["dataset"] == folder.NAME or settings["data_dir"]
    if at_default and may_be_small and settings["layers"] is None:
        settings["layers"] = base.PAPER
    return Config(**settings)


def from_flagfile(path: str | pathlib.Path) -> Config:
    """The Config of a flagfile; its --workdir is ignored.

    Raises:
      ConfigError: A setting cannot be run, see Config; or the file cannot be read.
      absl.flags.Error: A line is no flag.
    """
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(["", *read_flagfiles([f"--flagfile={path}"])])
    return from_flags(values)


def write_config(workdir: pathlib.Path, config: Config, about: Mapping) -> None:
    """Writes ``config.json``: the settings, and other facts about the run."""
    write_json(workdir / CONFIG_FILE, {"settings": config.to_json(), **about})


def read_config(workdir: pathlib.Path) -> tuple[Config, dict]:
    """The settings of a run, and what ``write_config`` wrote beside them.

    Raises:
      ConfigError: The folder holds no run, a damaged one, or one of another version.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    try:
        about = json.loads(path.read_text())
        settings = about.pop("settings")
        if not isinstance(settings, dict):
            raise ValueError("the settings are no object")
        for name, is_right in _ABOUT.items():
            if not is_right(about[name]):
                raise ValueError(f"{name} is {about[name]!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{workdir} is not a run of lcaps_jax: cannot read {path} ({error}).") from None
    return Config.from_json(settings), about


def _is_count(value) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


# What stands beside the settings of every run, and whether a value of it can be right.
_ABOUT: dict[str, Callable[[Any], bool]] = {
    "class_names": lambda names: (
        isinstance(names, list) and len(names) > 1 and all(type(name) is str for name in names)
    ),
    "channels": _is_count,
    "train_images": _is_count,
}
