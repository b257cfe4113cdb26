"""The convolutional baseline of Sabour, Frosst, Hinton (2017, section 5) as a Flax module.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``J`` classes.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax import capsules
from lcaps_jax.convolution import conv_stack
from lcaps_jax.networks import base
from lcaps_jax.networks.base import CONV1_CHANNELS, NetworkOutput
from lcaps_jax.precision import matmul_precision

_KERNEL = 5
_DENSE = (328, 192)
_DROPOUT = 0.5


class ConvNet(base.Network):
    """The convolutional baseline of Sabour et al. (2017, section 5), or a narrower one of its form.

    Attributes:
      classes: Number of classes, J.
      channels: Output channels of the first and the second convolution, 256 in Sabour's; the third has half as many.
      convolution: Method of the convolutions; see ``strided_conv``.
      dtype: Type of the computation; the softmax is float32.
    """

    classes: int = 10
    channels: int = CONV1_CHANNELS
    convolution: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @classmethod
    def small_layers(cls, config: base.Settings, image_size: int) -> dict[str, Any]:
        """Settings of small layers: an eighth of the channels."""
        del config, image_size
        return {"channels": CONV1_CHANNELS // 8}

    @nn.compact
    def __call__(
        self, images: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> NetworkOutput:
        """Class probabilities of images.

        Args:
          images: Images in [0, 1], ``[B, H, W, C]``.
          labels: Not used by this network.
          keys: Random keys of the dropout, ``[B]``, as in training; None leaves the dropout out. Each image draws by
            its own key, so that one device and many see the same network.

        Returns:
          Activity, which is the probability of each class, and logits.
        """
        del labels
        widths = (self.channels, self.channels, max(1, self.channels // 2))
        ins = (images.shape[-1], *widths)
        parameters = [
            base.ConvolutionParameters(width, _KERNEL, self.dtype, name=f"conv{layer}")(ins[layer - 1])
            for layer, width in enumerate(widths, start=1)
        ]
        kernels, biases = zip(*parameters)
        x = images.astype(self.dtype)
        x = nn.relu(conv_stack(x, kernels, biases, strides=(1, 1, 1), padding=_KERNEL // 2, method=self.convolution))
        x = x.reshape(x.shape[0], -1)
        dense = functools.partial(
            nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform(), precision=matmul_precision()
        )
        for layer, width in enumerate(_DENSE, start=1):
            x = nn.relu(dense(width, name=f"dense{layer}")(x))
        if keys is not None:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - _DROPOUT, x.shape[1:]))(keys)
            x = jnp.where(kept, x / (1 - _DROPOUT), 0)
        logits = dense(self.classes, name="logits")(x).astype(jnp.float32)
        return NetworkOutput(activity=nn.softmax(logits), logits=logits)

    def loss(self, output: NetworkOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Softmax cross-entropy of each example, ``[B]``, of integer labels ``[B]``; the images are not used."""
        del images
        capsules.check_labels(labels, output.logits)
        of_true = jnp.take_along_axis(output.logits, labels[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(output.logits, axis=-1) - of_true
