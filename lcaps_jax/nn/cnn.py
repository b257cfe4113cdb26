"""The convolutional baseline of Sabour, Frosst, Hinton (2017, section 5) as a Flax module.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``J`` classes.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax.nn import layers
from lcaps_jax.nn.outputs import ConvNetOutput, Network
from lcaps_jax.ops.capsules import check_labels

_KERNEL = 5
_DENSE = (328, 192)
_DROPOUT = 0.5


class ConvNet(Network):
    """The convolutional baseline of Sabour et al. (2017, section 5), or a narrower one of the same form.

    The first two convolutions have ``filters`` filters, 256 in Sabour's; the third has half as many.
    """

    classes: int = 10
    filters: int = layers.FILTERS()
    convolution: str = layers.CONVOLUTION()
    dtype: str = layers.DTYPE()

    @classmethod
    def preset(cls, name: str, image_size: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a preset; see ``Network``. ``small`` has an eighth of the filters."""
        return {"filters": 32} if name == "small" else super().preset(name, image_size, given)

    @nn.compact
    def __call__(self, images: jax.Array, labels=None, keys=None, train: bool = False) -> ConvNetOutput:
        """Class probabilities of images ``[B, H, W, C]`` in [0, 1].

        Training drops features by the random key of each image, so that one device and many see the same network.
        """
        del labels
        filters = {"conv1": self.filters, "conv2": self.filters, "conv3": max(1, self.filters // 2)}
        convolutions = [(name, _KERNEL, count, 1) for name, count in filters.items()]
        x = layers.conv_layers(images, convolutions, dtype=self.dtype, method=self.convolution, padding=_KERNEL // 2)
        x = nn.relu(x).reshape(x.shape[0], -1)
        for layer, width in enumerate(_DENSE, start=1):
            x = nn.relu(layers.dense(x, width, self.dtype, f"dense{layer}"))
        if train:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - _DROPOUT, x.shape[1:]))(keys)
            x = jnp.where(kept, x / (1 - _DROPOUT), 0)
        logits = layers.dense(x, self.classes, self.dtype, "logits").astype(jnp.float32)
        return ConvNetOutput(activity=nn.softmax(logits), logits=logits)

    def loss(self, output: ConvNetOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Softmax cross-entropy of each example, ``[B]``; the images are not used."""
        del images
        check_labels(labels, output.logits)
        of_true = jnp.take_along_axis(output.logits, labels[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(output.logits, axis=-1) - of_true
