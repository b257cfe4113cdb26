"""A trained network: called with images it gives the network's output."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import math
import operator
import pathlib
from typing import cast

import jax
import numpy as np

from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.data.brightness import Brightness
from lcaps_jax.data.splits import DataError
from lcaps_jax.nn import Geometry, Output, Preprocessed
from lcaps_jax.ops.frames import Frame
from lcaps_jax.train import workdir as folders
from lcaps_jax.train.checkpoint import BEST, LAST, Checkpoints
from lcaps_jax.train.config import Config
from lcaps_jax.train.steps import init_params
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError

# The most images that are computed at a time.
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions for N images."""

    labels: tuple[str, ...]  # name of the most active class of each image
    activity: np.ndarray  # [N, J] of each class
    pose: np.ndarray | None  # [N, J, D] class capsules; None without capsules
    frame: Frame | None = None  # canonical frame of each image, in its pixels; None for a network without one
    angle: np.ndarray | None = None  # [N] degrees that a rotation search chose; None without a search


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network; ``network.apply({"params": params}, images)`` is differentiable."""

    network: Preprocessed
    params: dict
    config: Config  # settings that the network was trained with
    class_names: tuple[str, ...]
    channels: int  # of the images
    step: int  # number of training steps done
    checkpoint: str = LAST  # or "best"
    results: Mapping[str, dict] = dataclasses.field(default_factory=dict)  # by test set, as in results.json
    brightness: Brightness | None = None  # of the training images and their borders; None where it is not known

    @property
    def image_size(self) -> int:
        """Pixels along a side of the training images; a network with a canonical frame takes images of any size."""
        return self.config.data.image_size

    @property
    def geometry(self) -> Geometry | None:
        """Grid of the network's primary capsules; None without capsules."""
        return self.network.geometry(self.image_size)

    def __call__(self, images: np.ndarray) -> Output:
        """The network's output, NumPy arrays ``[N, ...]``, for images ``[N, I, I, C]``, uint8 or float in [0, 1].

        Raises DataError where there is no image, or the images have another shape, type or range.
        """
        return jax.tree.map(lambda *parts: np.concatenate(parts), *self.batches(images))

    def batches(self, images: np.ndarray) -> Iterator[Output]:
        """As a call, but part by part, so that the outputs of many images need not fit in memory."""
        images = self._checked(images)
        # Sizes are powers of two, so that calls with many different numbers of images compile few programs.
        size = min(_BATCH, 2 ** math.ceil(math.log2(len(images))))
        for start in range(0, len(images), size):
            part = images[start : start + size]
            black = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            output = jax.device_get(_apply(self.network, self._on_device, np.concatenate([part, black])))
            yield jax.tree.map(operator.itemgetter(slice(len(part))), output)

    def predict(self, images: np.ndarray) -> Predictions:
        """Classifies images ``[N, I, I, C]``, or grey ones ``[N, I, I]``, uint8 or float in [0, 1]; N may be 0.

        Raises DataError where they have another shape, type or range.
        """
        try:
            images = np.asarray(images)
        except ValueError as error:  # NumPy's, for a list of images that differ in size
            raise DataError(f"images: must be one array of images of one size ({error}).") from None
        if images.ndim == 3 and self.channels == 1:
            images = images[..., None]
        count = images.shape[0] if images.ndim else 0
        if images.ndim == 4 and not count:  # one image stands in, so that the results get their shapes
            images = np.zeros((1, *images.shape[1:]), images.dtype)
        views = ((output, output.view) for output in self.batches(images))
        kept = [(each.activity, each.pose, view and view.frame, view and view.angle) for each, view in views]
        activity, pose, frame, angle = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *kept)
        labels = tuple(self.class_names[label] for label in activity.argmax(axis=1))
        return Predictions(labels, activity, pose, frame, angle)

    def with_rotation_search(self, angles: Sequence[float]) -> "Model":
        """The same model with a rotation search; see ``Preprocessed.with_rotation_search``."""
        return dataclasses.replace(self, network=self.network.with_rotation_search(angles))

    @functools.cached_property
    def _on_device(self) -> dict:
        return jax.device_put(self.params)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        size, framed = self.image_size, self.network.frame is not None
        taken = images.shape[1:3] if framed else (size, size)
        if images.ndim != 4 or images.shape[1:] != (*taken, self.channels) or not images.size:
            wanted = "any height, any width" if framed else f"{size}, {size}"
            raise DataError(
                f"images: of the shape {images.shape}, must be [N, {wanted}, {self.channels}] with N of at least 1."
            )
        if images.dtype == np.uint8:
            return images
        if not np.issubdtype(images.dtype, np.floating) or not 0 <= images.min() <= images.max() <= 1:
            raise DataError(
                f"images: {images.dtype} from {images.min():g} to {images.max():g}, must be uint8 from 0 to 255, or "
                "float from 0 to 1."
            )
        return images.astype(np.float32)


# All models share this function, so that models of the same network compile it once.
@functools.partial(jax.jit, static_argnums=0)
def _apply(network: Preprocessed, params: dict, images: np.ndarray) -> Output:
    return cast(Output, network.apply({"params": params}, to_unit_range(images)))


def load_run(workdir: str | pathlib.Path, checkpoint: str | None = None) -> Model:
    """Loads the network of a training run, from its ``"last"`` checkpoint or the ``"best"`` by validation error.

    By default that is the best one of a run that was to stop by its validation error (``patience``), else the last.
    Raises ConfigError where the folder holds no run or no such checkpoint, CheckpointError for a damaged one.
    """
    workdir = pathlib.Path(workdir)
    stored = folders.read_run(workdir)
    config = stored.config
    checkpoint = checkpoint or (BEST if config.evaluation.patience else LAST)
    shape = (config.data.image_size, config.data.image_size, stored.channels)
    target = devices.like_replicated(jax.eval_shape(lambda: init_params(config.network, shape)))
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        restored = checkpoints.restore_params(target, checkpoint)
    if restored is None:
        hint = " It is kept where validation_size was above 0, or a folder had a validation part."
        raise ConfigError(f"checkpoint={checkpoint}: {workdir} has none yet.{hint if checkpoint == BEST else ''}")
    params, step = restored
    return Model(
        config.network, params, config, stored.class_names, stored.channels, step, checkpoint,
        folders.read_results(workdir), stored.brightness,
    )  # fmt: skip
