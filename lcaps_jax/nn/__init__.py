"""Networks as Flax modules.

Adding one takes one file, with a class that derives from ``Network``, and one line in ``table.NETWORKS``. A network
outside of this package is named as ``FILE.py:CLASS`` or ``package.module:CLASS``.
"""

from lcaps_jax.nn.outputs import Geometry, Network, Output
from lcaps_jax.nn.preprocess import Preprocessed
from lcaps_jax.nn.table import NETWORKS, build_network, load_network

__all__ = ["NETWORKS", "Geometry", "Network", "Output", "Preprocessed", "build_network", "load_network"]
