"""Settings: fields of dataclasses and Flax modules that a flag can set.

A setting is declared where it is used, with its default, help and limits. From a tree of such classes this file makes
flat dictionaries (for flags and JSON) and builds the tree again from them.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import operator
from typing import Any

from lcaps_jax.util.errors import ConfigError

_LARGEST = 2**31 - 1  # JAX counts in 32 bits
_LIMITS = {
    "minimum": ("at least", operator.ge), "maximum": ("at most", operator.le),
    "above": ("above", operator.gt), "below": ("below", operator.lt),
}  # fmt: skip


def setting(
    default, help_: str, *, minimum: float | None = None, maximum: float | None = None, above: float | None = None,
    below: float | None = None, choices: tuple[str, ...] = (), may_change: bool = False,
):  # fmt: skip
    """Declares a field that a flag of the same name, with this help, can set.

    The default also gives the type: bool, int, float, str, or tuple of str. Accepted are values from ``minimum`` to
    ``maximum`` (by default 2^31 - 1 for integers), ``above`` and ``below`` the limits of those names, and where there
    are ``choices`` only those. ``may_change`` lets a continued run have another value than it was begun with.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help_, "may_change": may_change, **limits})


def part(options: Mapping[str, Any] | type, help_: str = "", *, flag: str | None = None, default: str | None = None):
    """Declares a field that holds another object: a nested group of settings, or one of several by a flag.

    ``options`` is the class of the nested object; or the classes and values to choose from, by their names on the
    command line, by a flag with the name ``flag`` (by default the field's) and ``default`` (by default the first).
    """
    if not isinstance(options, Mapping):
        return dataclasses.field(default_factory=options, metadata={"part": options})
    default = default or next(iter(options))
    chosen, metadata = options[default], {"options": options, "help": help_, "flag": flag, "default": default}
    if isinstance(chosen, type):
        return dataclasses.field(default_factory=chosen, metadata=metadata)
    return dataclasses.field(default=chosen, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting as the command line knows it."""

    name: str  # name of the flag
    default: Any  # default value
    metadata: Mapping[str, Any]  # help and limits, as setting stores them
    owner: type  # class whose field it is

    def check(self, value) -> None:
        """Raises ConfigError for a value of another type or beyond the limits; the message says what is accepted."""
        if fault := self._fault(value):
            raise ConfigError(f"{self.name}={value}: must be {fault}.")

    def _fault(self, value) -> str | None:
        limits, kind = self.metadata, type(self.default)
        if kind is tuple:
            right = isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
            return None if right else "names, with commas between"
        if not (type(value) is kind or (kind is float and type(value) is int)):
            return f"of the type {kind.__name__}"
        if limits["choices"] and value not in limits["choices"]:
            return f"one of {', '.join(limits['choices'])}"
        if isinstance(value, bool | str):
            return None
        if not math.isfinite(value):
            return "a finite number"
        for name, (words, fits) in _LIMITS.items():
            limit = _LARGEST if name == "maximum" and kind is int and limits[name] is None else limits[name]
            if limit is not None and not fits(value, limit):
                return f"{words} {limit}"
        return None


def declared(cls: type) -> Iterator[Setting]:
    """All settings of a class and of what can be nested in it, options that are not chosen included."""
    for field in dataclasses.fields(cls):
        if "part" in field.metadata:
            yield from declared(field.metadata["part"])
        elif options := field.metadata.get("options"):
            metadata = {"choices": tuple(options), "may_change": False, **dict.fromkeys(_LIMITS), **field.metadata}
            yield Setting(field.metadata["flag"] or field.name, field.metadata["default"], metadata, cls)
            for option in options.values():
                if isinstance(option, type):
                    yield from declared(option)
        elif "help" in field.metadata:
            yield Setting(field.name, field.default, field.metadata, cls)


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """Builds a class and everything nested in it from values by name; those that are missing take their defaults.

    Names that belong to no field are ignored, so that facts of the data, such as ``classes``, reach every such field.
    """
    arguments = {}
    for field in dataclasses.fields(cls):
        name = field.metadata.get("flag") or field.name
        if "part" in field.metadata:
            arguments[field.name] = build(field.metadata["part"], values)
        elif options := field.metadata.get("options"):
            option = options[values.get(name, field.metadata["default"])]
            arguments[field.name] = build(option, values) if isinstance(option, type) else option
        elif name in values and field.init:
            value = values[name]
            arguments[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)


def flatten(instance: Any) -> dict[str, Any]:
    """The settings of a built object and of everything nested in it, by name: the inverse of ``build``."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name, None)
        if "part" in field.metadata:
            flat.update(flatten(value))
        elif options := field.metadata.get("options"):
            kind = type(value)
            named = [name for name, option in options.items() if option is value or option is kind]
            flat[field.metadata["flag"] or field.name] = named[0] if named else f"{kind.__module__}:{kind.__name__}"
            if dataclasses.is_dataclass(value):
                flat.update(flatten(value))
        elif "help" in field.metadata:
            flat[field.name] = value
    return flat
