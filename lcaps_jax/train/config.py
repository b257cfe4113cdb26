"""The settings of a training run: nested by the parts that own them, and flat for flags and JSON."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from lcaps_jax.data.api import DataConfig
from lcaps_jax.data.augment import AugmentConfig
from lcaps_jax.nn import Preprocessed, load_network
from lcaps_jax.train.evaluate import EvaluationConfig
from lcaps_jax.train.plan import ScheduleConfig
from lcaps_jax.train.steps import OptimizerConfig
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import Setting, build, declared, flatten, part, setting

PRESETS = ("paper", "small", "released")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a training run, each in the part that uses it."""

    network: Preprocessed = part(Preprocessed)  # with its preprocessing, not yet bound to parameters
    data: DataConfig = part(DataConfig)  # data set and what is held out of it
    augment: AugmentConfig = part(AugmentConfig)  # random changes of training images
    optimizer: OptimizerConfig = part(OptimizerConfig)
    schedule: ScheduleConfig = part(ScheduleConfig)  # batch, epochs, and what happens how often
    evaluation: EvaluationConfig = part(EvaluationConfig)  # test sets, and when training ends early
    preset: str = setting(
        "paper",
        "Layers where you set none: the paper's; small ones, which fewer than 5,000 images of your own get by default; "
        "or those of the authors' released graph.",
        choices=PRESETS,
    )

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by the name of its flag, as JSON types."""
        return json.loads(json.dumps(flatten(self)))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], classes: int = 10) -> "Config":
        """The inverse of ``settings``, for a network of ``classes`` classes; what is missing takes its default.

        Raises ConfigError for a setting that is unknown, beyond its limits, or without effect on the chosen network.
        """
        check(settings)
        config = build(cls, {**settings, "classes": classes})
        config._check_used(settings)
        config._check_together()
        return config

    def _check_used(self, settings: Mapping[str, Any]) -> None:
        used = flatten(self)
        for name, value in settings.items():
            if name not in used:
                owners = sorted({each.owner.__name__ for each in declared_settings()[name]})
                belongs = f"it belongs to {', '.join(owners)}"
                raise ConfigError(f"{name}={value}: does nothing with model={used['model']} as it is set; {belongs}.")

    def _check_together(self) -> None:
        size, shift = self.network.seen_size(self.data.image_size), self.augment.max_shift
        if shift >= size:
            raise ConfigError(f"max_shift={shift}: must be below {size}, the side of what the network sees in pixels.")
        stop_at, own = self.evaluation.stop_at_error, self.data.dataset
        if stop_at and own not in (self.evaluation.eval_datasets or (own,)):
            raise ConfigError(f"stop_at_error={stop_at}: eval_datasets must include {own}.")
        self.network.geometry(self.data.image_size)


def declared_settings() -> dict[str, list[Setting]]:
    """All settings by name, those of every network included; several layers may share one."""
    by_name: dict[str, list[Setting]] = {}
    for each in declared(Config):
        by_name.setdefault(each.name, []).append(each)
    return by_name


def check(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for an unknown setting, or one beyond its limits, before any data are loaded."""
    load_network(settings.get("model", "lcapsnet"))
    known = declared_settings()
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"{name}={value}: there is no such setting in this version.")
        known[name][0].check(value)
