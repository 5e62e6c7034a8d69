"""ResNet-18 and ResNet-50 (He et al. 2015), for large images and for small ones.

As torchvision has them: the stride of a bottleneck is that of its 3x3 convolution,
known as version 1.5. For images of CIFAR's size the stem is one 3x3 convolution and
nothing is pooled before the end.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from srigl_jax.models.layers import LINEAR_INIT, batch_norm, conv
from srigl_jax.models.links import Link


class ResNet(nnx.Module):
    """A stem, stages of blocks that double the channels, a head.

    All stages but the first halve the image.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        block: type["Block"],
        depths: Sequence[int],
        width: int = 64,
        small_images: bool = False,
        rngs: nnx.Rngs,
    ):
        """Draws the weights.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          block: the class of its blocks.
          depths: blocks of each stage.
          width: channels of the stem, and of the first stage inside its blocks.
          small_images: whether the stem is a 3x3 convolution, not one of 7x7 and a
            max-pooling that shrink the image to a quarter of its height and width.
          rngs: source of the initial weights.
        """
        self.depths = tuple(depths)
        self.small_images = small_images
        size, strides = (3, 1) if small_images else (7, 2)
        self.stem = conv(image_shape[2], width, size=size, strides=strides, rngs=rngs)
        self.stem_norm = batch_norm(width, rngs=rngs)
        self.blocks = nnx.List()
        channels = width
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                strides = 2 if stage > 0 and i == 0 else 1
                inner = width * 2**stage
                self.blocks.append(block(channels, inner, strides, rngs=rngs))
                channels = inner * block.expansion
        self.head = nnx.Linear(
            channels, num_classes, kernel_init=LINEAR_INIT, rngs=rngs
        )

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        del rngs
        x = nnx.relu(self.stem_norm(self.stem(images)))
        if not self.small_images:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        # A block that projects its shortcut adds no part of its input to its output.
        projects = self.blocks[0].projects
        readers = ("blocks/0/conv1", "blocks/0/shortcut") if projects else ()
        links = [Link("stem", readers, "stem_norm", nnx.relu)]
        for i, block in enumerate(self.blocks):
            links += block.links(f"blocks/{i}/")
        return links


class ResNet18(ResNet):
    """Two basic blocks in each of four stages.

    For CIFAR-10, 11,173,962 parameters, of which 11,164,352 are in 21 kernels. With
    `small_images=False` and 1000 classes, torchvision's `resnet18`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 64,
        small_images: bool = True,
        rngs: nnx.Rngs,
    ):
        """Draws the weights; see `ResNet`."""
        super().__init__(
            image_shape,
            num_classes,
            block=BasicBlock,
            depths=(2, 2, 2, 2),
            width=width,
            small_images=small_images,
            rngs=rngs,
        )


class ResNet50(ResNet):
    """3, 4, 6 and 3 bottlenecks in four stages, torchvision's `resnet50`.

    For ImageNet, 25,557,032 parameters, of which 25,502,912 are in 54 kernels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 64,
        small_images: bool = False,
        rngs: nnx.Rngs,
    ):
        """Draws the weights; see `ResNet`."""
        super().__init__(
            image_shape,
            num_classes,
            block=Bottleneck,
            depths=(3, 4, 6, 3),
            width=width,
            small_images=small_images,
            rngs=rngs,
        )


class Block(nnx.Module):
    """The shortcut beside a block's convolutions, 1x1 where the shape changes.

    Attributes:
      expansion: channels of its output over those inside.
      projects: whether there is a convolution in the shortcut.
    """

    expansion = 1

    def __init__(self, channels: int, features: int, strides: int, *, rngs: nnx.Rngs):
        """From `channels` to `features`; strides are those of height and width."""
        self.projects = strides != 1 or channels != features
        if self.projects:
            self.shortcut = conv(channels, features, size=1, strides=strides, rngs=rngs)
            self.shortcut_norm = batch_norm(features, rngs=rngs)

    def add_shortcut(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The block's output f32[batch, h', w', features].

        Args:
          x: f32[batch, h, w, channels], its input.
          y: f32[batch, h', w', features], what its convolutions make of that.
        """
        if self.projects:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + y)

    def links(self, prefix: str) -> list[Link]:
        """How its layers feed each other, named from the root of the network."""
        if not self.projects:
            return []
        return [Link(f"{prefix}shortcut", norm=f"{prefix}shortcut_norm")]


class BasicBlock(Block):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int, inner: int, strides: int, *, rngs: nnx.Rngs):
        """Maps `channels` to `inner`; strides are those of height and width."""
        super().__init__(channels, inner, strides, rngs=rngs)
        self.conv1 = conv(channels, inner, strides=strides, rngs=rngs)
        self.norm1 = batch_norm(inner, rngs=rngs)
        self.conv2 = conv(inner, inner, rngs=rngs)
        self.norm2 = batch_norm(inner, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, h, w, channels] to f32[batch, h', w', inner]."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        return self.add_shortcut(x, self.norm2(self.conv2(y)))

    def links(self, prefix: str) -> list[Link]:
        """How its layers feed each other, named from the root of the network."""
        return [
            Link(f"{prefix}conv1", (f"{prefix}conv2",), f"{prefix}norm1", nnx.relu),
            Link(f"{prefix}conv2", norm=f"{prefix}norm2"),
            *super().links(prefix),
        ]


class Bottleneck(Block):
    """A 3x3 convolution between two of 1x1 that narrow and widen again."""

    expansion = 4

    def __init__(self, channels: int, inner: int, strides: int, *, rngs: nnx.Rngs):
        """Maps `channels` to 4 * inner; strides are those of height and width."""
        features = self.expansion * inner
        super().__init__(channels, features, strides, rngs=rngs)
        self.conv1 = conv(channels, inner, size=1, rngs=rngs)
        self.norm1 = batch_norm(inner, rngs=rngs)
        self.conv2 = conv(inner, inner, strides=strides, rngs=rngs)
        self.norm2 = batch_norm(inner, rngs=rngs)
        self.conv3 = conv(inner, features, size=1, rngs=rngs)
        self.norm3 = batch_norm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, h, w, channels] to f32[batch, h', w', 4 * inner]."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        return self.add_shortcut(x, self.norm3(self.conv3(y)))

    def links(self, prefix: str) -> list[Link]:
        """How its layers feed each other, named from the root of the network."""
        return [
            Link(f"{prefix}conv1", (f"{prefix}conv2",), f"{prefix}norm1", nnx.relu),
            Link(f"{prefix}conv2", (f"{prefix}conv3",), f"{prefix}norm2", nnx.relu),
            Link(f"{prefix}conv3", norm=f"{prefix}norm3"),
            *super().links(prefix),
        ]
