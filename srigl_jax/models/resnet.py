"""ResNet-18 (He et al. 2015) as used on small images: a 3x3 stem and no max-pool."""

import jax
from flax import nnx

from srigl_jax.models.links import Link


class ResNet18(nnx.Module):
    """A stem, four stages of two basic blocks that double the channels, a head.

    All stages but the first halve the image. With 3 input channels, 10 classes and
    the width of 64 there are 11,173,962 parameters.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 64,
        rngs: nnx.Rngs,
    ):
        """Draws the weights from He et al.'s normal distribution.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          width: channels of the stem and the first stage.
          rngs: source of the initial weights.
        """
        self.stem = _conv(image_shape[2], width, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(width, rngs=rngs)
        self.blocks = nnx.List()
        channels = width
        for stage in range(4):
            for block in range(2):
                strides = 2 if stage > 0 and block == 0 else 1
                features = width * 2**stage
                self.blocks.append(BasicBlock(channels, features, strides, rngs=rngs))
                channels = features
        init = nnx.initializers.he_normal()
        self.head = nnx.Linear(channels, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        del rngs
        x = nnx.relu(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        links = [Link("stem", norm="stem_norm", activation=nnx.relu)]
        for i, block in enumerate(self.blocks):
            links += block.links(f"blocks/{i}/")
        return links


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut, 1x1 where the shape changes."""

    def __init__(self, channels: int, features: int, strides: int, *, rngs: nnx.Rngs):
        """Maps `channels` to `features`; strides are those of height and width."""
        self.conv1 = _conv(channels, features, strides=strides, rngs=rngs)
        self.norm1 = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = _conv(features, features, rngs=rngs)
        self.norm2 = nnx.BatchNorm(features, rngs=rngs)
        self.projects = strides != 1 or channels != features
        if self.projects:
            self.shortcut = _conv(
                channels, features, size=1, strides=strides, rngs=rngs
            )
            self.shortcut_norm = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, h, w, channels] to f32[batch, h', w', features]."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.projects:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + y)

    def links(self, prefix: str) -> list[Link]:
        """How its layers feed each other, named from the root of the network."""
        links = [
            Link(f"{prefix}conv1", (f"{prefix}conv2",), f"{prefix}norm1", nnx.relu),
            Link(f"{prefix}conv2", norm=f"{prefix}norm2"),
        ]
        if self.projects:
            links.append(Link(f"{prefix}shortcut", norm=f"{prefix}shortcut_norm"))
        return links


def _conv(channels, features, *, size=3, strides=1, rngs) -> nnx.Conv:
    border = (size // 2, size // 2)
    return nnx.Conv(
        channels,
        features,
        kernel_size=(size, size),
        strides=strides,
        # Not "SAME", which would shift the image where a stride halves it.
        padding=(border, border),
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )
