"""Wide residual networks (Zagoruyko and Komodakis 2016) for images of CIFAR's size."""

import jax
from flax import nnx

from srigl_jax.models.layers import LINEAR_INIT, batch_norm, conv
from srigl_jax.models.links import Link


class WideResNet(nnx.Module):
    """A stem, three stages of pre-activated blocks, a last normalisation, a head.

    WRN-22-2 unless told otherwise: 22 layers, twice the channels. For CIFAR-10,
    1,079,642 parameters, of which 1,076,912 are in 23 kernels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        depth: int = 22,
        widening: int = 2,
        width: int = 16,
        dropout: float = 0.3,
        rngs: nnx.Rngs,
    ):
        """Draws the weights.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          depth: layers that follow each other, 6 * n + 4 for n blocks in a stage.
          widening: channels of the first stage over those of the stem.
          width: channels of the stem.
          dropout: share of activations dropped in training, between the convolutions
            of a block.
          rngs: source of the initial weights.

        Raises:
          ValueError: there is no network of that depth.
        """
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth is {depth}: give 6 * n + 4, 10 or 16 or 22, say")
        self.stem = conv(image_shape[2], width, rngs=rngs)
        self.blocks = nnx.List()
        channels = width
        for stage in range(3):
            for i in range(blocks):
                strides = 2 if stage > 0 and i == 0 else 1
                features = widening * width * 2**stage
                self.blocks.append(
                    WideBlock(channels, features, strides, dropout, rngs=rngs)
                )
                channels = features
        self.norm = batch_norm(channels, rngs=rngs)
        self.head = nnx.Linear(
            channels, num_classes, kernel_init=LINEAR_INIT, rngs=rngs
        )

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, rngs)
        return self.head(nnx.relu(self.norm(x)).mean(axis=(1, 2)))

    def links(self) -> list[Link]:
        """How its layers feed each other: sums are normalised after, not before."""
        links = []
        if self.blocks[0].projects:
            readers = ("blocks/0/conv1", "blocks/0/shortcut")
            links.append(Link("stem", readers, "blocks/0/norm1", nnx.relu))
        for i in range(len(self.blocks)):
            conv1, norm2, conv2 = (
                f"blocks/{i}/{n}" for n in ("conv1", "norm2", "conv2")
            )
            links.append(Link(conv1, (conv2,), norm2, nnx.relu))
        return links


class WideBlock(nnx.Module):
    """Two 3x3 convolutions, each of a normalised and rectified input.

    Where the channels change, the shortcut is a 1x1 convolution of the same input as
    the first one's; elsewhere it is the block's own input.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        strides: int,
        dropout: float,
        *,
        rngs: nnx.Rngs,
    ):
        """Maps `channels` to `features`; strides are those of height and width."""
        self.norm1 = batch_norm(channels, rngs=rngs)
        self.conv1 = conv(channels, features, strides=strides, rngs=rngs)
        self.norm2 = batch_norm(features, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.conv2 = conv(features, features, rngs=rngs)
        self.projects = strides != 1 or channels != features
        if self.projects:
            self.shortcut = conv(channels, features, size=1, strides=strides, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, h, w, channels] to f32[batch, h', w', features]."""
        y = nnx.relu(self.norm1(x))
        if self.projects:
            x = self.shortcut(y)
        y = nnx.relu(self.norm2(self.conv1(y)))
        return x + self.conv2(self.dropout(y, rngs=rngs))
