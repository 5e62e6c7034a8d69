"""A multilayer perceptron of any widths."""

import math
from collections.abc import Sequence

import jax
from flax import nnx

from srigl_jax.models.links import Link


class MLP(nnx.Module):
    """Linear layers with ReLU between them, over the flattened image."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        widths: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        """Draws the weights from He et al.'s normal distribution.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          widths: neurons of each hidden layer; () is a linear classifier.
          dropout: share of hidden activations dropped in training.
          rngs: source of the initial weights.
        """
        sizes = [math.prod(image_shape), *widths, num_classes]
        self.layers = nnx.List(
            nnx.Linear(
                fan_in, neurons, kernel_init=nnx.initializers.he_normal(), rngs=rngs
            )
            for fan_in, neurons in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        x = images.reshape(images.shape[0], -1)
        for layer in self.layers[:-1]:
            x = self.dropout(nnx.relu(layer(x)), rngs=rngs)
        return self.layers[-1](x)

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        return [
            Link(f"layers/{i}", (f"layers/{i + 1}",), activation=nnx.relu)
            for i in range(len(self.layers) - 1)
        ]
