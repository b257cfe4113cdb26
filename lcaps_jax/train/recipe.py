"""The recipe: settings that follow from the data where the user gives none."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from lcaps_jax.data import folder
from lcaps_jax.nn import load_network
from lcaps_jax.train.config import Config, check
from lcaps_jax.util.settings import declared

_BATCH, _LEAST_BATCH, _STEPS_PER_EPOCH = 100, 20, 20
_EPOCHS, _FEW_STEPS, _SMALL_SET_STEPS = 10, 500, 800
_FEW_IMAGES = 5000  # of your own, for which small layers do
_DECAY_STEPS, _DECAYS, _LEAST_DECAY_STEPS = 1000, 20, 40
_EVALUATIONS, _STEPS_BETWEEN_EVALUATIONS = 20, 40


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the recipe knows of the data."""

    dataset: str  # name of the data set
    images: int  # number of training images
    image_size: int  # pixels along a side
    max_shift: int = 0  # pixels by which the data set's training images are meant to be shifted
    devices: int = 1  # number of devices that a batch is divided among


def recipe(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that follow from the data and from those that the user gave, none of which is among the results."""
    network = load_network(given.get("model", "lcapsnet"))
    of_network = {each.name for each in declared(network)}
    framed = given.get("frame", "none") != "none"
    is_own = facts.dataset == folder.NAME
    small = is_own and facts.images < _FEW_IMAGES and not of_network & set(given)
    preset = given.get("preset", "small" if small else "paper")
    seen = given.get("frame_size", 28) if framed else facts.image_size
    chosen = {
        "image_size": facts.image_size,
        "max_shift": 0 if framed else facts.max_shift,
        "background": "subtracted" if is_own else "kept",
        "eval_datasets": [facts.dataset],
        "shuffle": preset != "released",  # the authors' script does not shuffle
        "preset": preset,
        **network.preset(preset, seen, {name: value for name, value in given.items() if name in of_network}),
        **_schedule(facts, given),
    }
    return {name: value for name, value in chosen.items() if name not in given}


def _schedule(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """Batch, epochs, decay and evaluations by the number of training images.

    A large set gets batches of 100 and ten epochs. A small one, of which ten epochs are fewer than 500 steps, gets
    smaller batches and 800 steps, over which the learning rate falls to an eighth.
    """
    batch = given.get("batch_size") or _default_batch(facts.images, facts.devices)
    per_epoch = max(1, facts.images // batch)
    is_small = _EPOCHS * per_epoch < _FEW_STEPS
    epochs = given.get("epochs") or (-(-_SMALL_SET_STEPS // per_epoch) if is_small else _EPOCHS)
    decay = max(_LEAST_DECAY_STEPS, epochs * per_epoch // _DECAYS) if is_small else _DECAY_STEPS
    between = min(epochs // _EVALUATIONS, -(-_STEPS_BETWEEN_EVALUATIONS // per_epoch))
    return {"batch_size": batch, "epochs": epochs, "decay_steps": decay, "eval_every": max(1, between)}


def _default_batch(images: int, devices: int) -> int:
    """A twentieth of the images in tens, from 20 to 100, that divides among the devices."""
    tens = images // _STEPS_PER_EPOCH // 10 * 10
    batch = -(-min(max(_LEAST_BATCH, tens), _BATCH, max(1, images)) // devices) * devices
    return batch if batch <= images else max(1, images // devices * devices)


def resolve(given: Mapping[str, Any], facts: Facts, classes: int) -> tuple[Config, dict[str, Any]]:
    """The settings of a new run on data of so many classes, and those among them that the recipe chose.

    Raises ConfigError for a given setting that is beyond its limits, does nothing, or does not fit the data.
    """
    check(given)
    chosen = recipe(facts, given)
    return Config.from_settings({**chosen, **given}, classes), chosen
