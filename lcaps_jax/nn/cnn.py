"""The convolutional baseline of Sabour, Frosst, Hinton (2017, section 5) as a Flax module.

Axes: ``B`` batch, ``I`` image size, ``C`` channels, ``J`` classes.
"""

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lcaps_jax.nn import layers
from lcaps_jax.nn.outputs import ConvNetOutput, Network
from lcaps_jax.ops.capsules import check_labels
from lcaps_jax.ops.precision import matmul_precision

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
        filters = (self.filters, self.filters, max(1, self.filters // 2))
        x = nn.relu(
            layers.conv_layers(
                images, ("conv1", "conv2", "conv3"), (_KERNEL,) * 3, filters, strides=(1, 1, 1), dtype=self.dtype,
                method=self.convolution, padding=_KERNEL // 2,
            )
        )  # fmt: skip
        x = x.reshape(x.shape[0], -1)
        dense = functools.partial(
            nn.Dense, dtype=jnp.dtype(self.dtype), kernel_init=nn.initializers.glorot_uniform(),
            precision=matmul_precision(),
        )  # fmt: skip
        for layer, width in enumerate(_DENSE, start=1):
            x = nn.relu(dense(width, name=f"dense{layer}")(x))
        if train:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - _DROPOUT, x.shape[1:]))(keys)
            x = jnp.where(kept, x / (1 - _DROPOUT), 0)
        logits = dense(self.classes, name="logits")(x).astype(jnp.float32)
        return ConvNetOutput(activity=nn.softmax(logits), logits=logits)

    def loss(self, output: ConvNetOutput, labels: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Softmax cross-entropy of each example, ``[B]``, for integer labels ``[B]``; the images are not used."""
        del images
        check_labels(labels, output.logits)
        of_true = jnp.take_along_axis(output.logits, labels[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(output.logits, axis=-1) - of_true
