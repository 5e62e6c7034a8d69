"""A small convolutional network with batch normalisation."""

import itertools
import math
from collections.abc import Sequence

import jax
from flax import nnx

from srigl_jax.models.links import Link


class ConvNet(nnx.Module):
    """3x3 convolutions that halve the image, a hidden layer, an output layer.

    BatchNorm and ReLU follow each layer but the last.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        widths: Sequence[int] = (16, 32),
        hidden: int = 128,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        """Draws the weights from He et al.'s normal distribution.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          widths: channels of each convolution.
          hidden: neurons of the hidden layer.
          dropout: share of hidden activations dropped in training.
          rngs: source of the initial weights.
        """
        init = nnx.initializers.he_normal()
        height, width, channels = image_shape
        self.convs = nnx.List()
        for features in widths:
            conv = nnx.Conv(
                channels,
                features,
                kernel_size=(3, 3),
                strides=2,
                use_bias=False,
                kernel_init=init,
                rngs=rngs,
            )
            self.convs.append(conv)
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            channels = features
        self.hidden = nnx.Linear(
            height * width * channels,
            hidden,
            use_bias=False,
            kernel_init=init,
            rngs=rngs,
        )
        self.norms = nnx.List(nnx.BatchNorm(n, rngs=rngs) for n in [*widths, hidden])
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(hidden, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        x = images
        for conv, norm in zip(self.convs, self.norms[:-1], strict=True):
            x = nnx.relu(norm(conv(x)))
        x = self.hidden(x.reshape(x.shape[0], -1))
        x = nnx.relu(self.norms[-1](x))
        return self.head(self.dropout(x, rngs=rngs))

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        layers = [*(f"convs/{i}" for i in range(len(self.convs))), "hidden", "head"]
        return [
            Link(producer, (consumer,), f"norms/{i}", nnx.relu)
            for i, (producer, consumer) in enumerate(itertools.pairwise(layers))
        ]
