"""Strided convolutions whose gradients are fast on CPUs as well as on GPUs and TPUs.

XLA's CPU backend has no fast gradient of a strided convolution with many channels: for the primary capsules it takes
about 25 times as long as necessary. The methods here avoid it:

* ``spectral`` (CPU): small exact Fourier transforms and one batched matrix product, as are its gradients.
* ``polyphase`` (NVIDIA GPU): XLA's convolution with stride 1 over the parities of the pixels.
* ``direct`` (TPU and others): XLA's convolution.
* a matrix product over patches, for inputs with few channels.

Axes: ``B`` images, ``H x W`` pixels, ``C`` input channels, ``O`` output channels, ``k`` kernel size, ``s`` stride,
``h x w`` outputs. A layout names the order of the axes, with ``N`` for the images and ``C`` for either channels.
"""

from lcaps_jax.ops.conv.dispatch import LAYOUTS, METHODS, conv_stack, strided_conv
from lcaps_jax.ops.conv.patches import output_size

__all__ = ["LAYOUTS", "METHODS", "conv_stack", "output_size", "strided_conv"]
