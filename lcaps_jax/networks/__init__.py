"""The networks, by the names that ``--model`` knows them by.

Adding a network takes one file, a Flax module that derives from ``Network``, and one line in this table.
"""

from lcaps_jax import frames
from lcaps_jax.networks.base import Geometry, Network, NetworkOutput, Settings
from lcaps_jax.networks.capsnet import CapsNet
from lcaps_jax.networks.cnn import ConvNet
from lcaps_jax.networks.framed import Framed
from lcaps_jax.networks.ladder import LadderCapsNet

NETWORKS: dict[str, type[Network]] = {
    "lcapsnet": LadderCapsNet,
    "capsnet": CapsNet,
    "cnn": ConvNet,
}

__all__ = ["NETWORKS", "Geometry", "Network", "NetworkOutput", "from_config"]


def from_config(config: Settings, classes: int) -> Network:
    """The network of a run's settings.

    Raises:
      ValueError: The settings contradict each other.
    """
    network = NETWORKS[config.model].from_config(config, classes)
    if config.frame == frames.NONE:
        return network
    return Framed(network=network, kind=config.frame, size=config.frame_size, jitter=config.max_shift or 0)
