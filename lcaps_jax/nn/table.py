"""The table of networks, and networks that live outside of this package."""

import importlib
import importlib.util
import pathlib
import sys

from lcaps_jax.nn.capsnet import CapsNet
from lcaps_jax.nn.cnn import ConvNet
from lcaps_jax.nn.ladder import LadderCapsNet
from lcaps_jax.nn.outputs import Network
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import build, declared

# By the names of --model.
NETWORKS: dict[str, type[Network]] = {
    "lcapsnet": LadderCapsNet,
    "capsnet": CapsNet,
    "cnn": ConvNet,
}


def load_network(model: str) -> type[Network]:
    """The class of a network by its name in the table, or as ``FILE.py:CLASS`` or ``package.module:CLASS``.

    A class of another file joins the table under that name. Raises ConfigError where there is no such network.
    """
    if model in NETWORKS:
        return NETWORKS[model]
    source, colon, name = model.rpartition(":")
    try:
        if not colon:
            raise ValueError("there is no such name")
        network = getattr(_module(source), name)
        if not (isinstance(network, type) and issubclass(network, Network)):
            raise TypeError(f"{name} does not derive from lcaps_jax.nn.Network")
    except (ImportError, AttributeError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model={model}: must be one of {', '.join(NETWORKS)}, or a class of your own as FILE.py:CLASS ({error})."
        ) from error
    NETWORKS[model] = network
    return network


def _module(source: str):
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = pathlib.Path(source)
    if not path.is_file():
        raise ImportError(f"there is no file {source}")
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path.resolve()):
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_network(model: str = "lcapsnet", classes: int = 10, preset: str = "paper", **settings) -> Network:
    """A network for J classes from settings by the names that flags have: ``k=50``, ``pruning="top_k_per_type"``, ...

    The preset (paper, small for 28x28 pixels, or released) fills in those that are not given. Raises ConfigError where
    there is no such network, preset or setting, or a setting is beyond its limits.
    """
    network = load_network(model)
    known = {each.name: each for each in declared(network)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"{name}={value}: {model} has no such setting.")
        known[name].check(value)
    return build(network, {**network.preset(preset, 28, settings), **settings, "classes": classes})
