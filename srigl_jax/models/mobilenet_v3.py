"""MobileNetV3 small and large (Howard et al. 2019), as torchvision has them.

Squeeze-and-excite layers are 1x1 convolutions, and sparse like all others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import nnx

from srigl_jax.models.layers import conv
from srigl_jax.models.links import Link


class Row(NamedTuple):
    """A block, as a line of the paper's tables 1 and 2.

    Attributes:
      size: of the depthwise convolution's window.
      expanded: channels inside the block.
      features: channels of its output.
      excites: whether there are squeeze-and-excite layers.
      activation: "relu" or "hard_swish".
      strides: of the depthwise convolution.
    """

    size: int
    expanded: int
    features: int
    excites: bool
    activation: str
    strides: int


SMALL = (
    Row(3, 16, 16, True, "relu", 2),
    Row(3, 72, 24, False, "relu", 2),
    Row(3, 88, 24, False, "relu", 1),
    Row(5, 96, 40, True, "hard_swish", 2),
    Row(5, 240, 40, True, "hard_swish", 1),
    Row(5, 240, 40, True, "hard_swish", 1),
    Row(5, 120, 48, True, "hard_swish", 1),
    Row(5, 144, 48, True, "hard_swish", 1),
    Row(5, 288, 96, True, "hard_swish", 2),
    Row(5, 576, 96, True, "hard_swish", 1),
    Row(5, 576, 96, True, "hard_swish", 1),
)

LARGE = (
    Row(3, 16, 16, False, "relu", 1),
    Row(3, 64, 24, False, "relu", 2),
    Row(3, 72, 24, False, "relu", 1),
    Row(5, 72, 40, True, "relu", 2),
    Row(5, 120, 40, True, "relu", 1),
    Row(5, 120, 40, True, "relu", 1),
    Row(3, 240, 80, False, "hard_swish", 2),
    Row(3, 200, 80, False, "hard_swish", 1),
    Row(3, 184, 80, False, "hard_swish", 1),
    Row(3, 184, 80, False, "hard_swish", 1),
    Row(3, 480, 112, True, "hard_swish", 1),
    Row(3, 672, 112, True, "hard_swish", 1),
    Row(5, 672, 160, True, "hard_swish", 2),
    Row(5, 960, 160, True, "hard_swish", 1),
    Row(5, 960, 160, True, "hard_swish", 1),
)


class MobileNetV3(nnx.Module):
    """A stem, inverted residual blocks, a last 1x1 convolution, two linear layers."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rows: Sequence[Row],
        hidden: int,
        multiplier: float = 1.0,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ):
        """Draws the weights.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          rows: its blocks, for a multiplier of 1.
          hidden: neurons of the linear layer before the last, likewise.
          multiplier: of all widths, which are rounded to multiples of 8.
          dropout: share of that layer's activations dropped in training.
          rngs: source of the initial weights.
        """
        channels = _scaled(16, multiplier)
        self.stem = conv(image_shape[2], channels, strides=2, rngs=rngs)
        self.stem_norm = _norm(channels, rngs=rngs)
        self.blocks = nnx.List()
        for row in rows:
            row = row._replace(
                expanded=_scaled(row.expanded, multiplier),
                features=_scaled(row.features, multiplier),
            )
            self.blocks.append(InvertedResidual(channels, row, rngs=rngs))
            channels = row.features
        self.last = conv(channels, 6 * channels, size=1, rngs=rngs)
        self.last_norm = _norm(6 * channels, rngs=rngs)
        init = nnx.initializers.normal(0.01)
        hidden = _scaled(hidden, multiplier)
        self.hidden = nnx.Linear(6 * channels, hidden, kernel_init=init, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(hidden, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        x = nnx.hard_swish(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        x = nnx.hard_swish(self.last_norm(self.last(x))).mean(axis=(1, 2))
        x = nnx.hard_swish(self.hidden(x))
        return self.head(self.dropout(x, rngs=rngs))

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        links = [
            Link("stem", norm="stem_norm", activation=nnx.hard_swish),
            Link("last", ("hidden",), "last_norm", nnx.hard_swish),
            Link("hidden", ("head",), activation=nnx.hard_swish),
        ]
        for i, block in enumerate(self.blocks):
            links += block.links(f"blocks/{i}/")
        return links


class MobileNetV3Small(MobileNetV3):
    """Torchvision's `mobilenet_v3_small`: 2,542,856 parameters for ImageNet."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        multiplier: float = 1.0,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ):
        """Draws the weights; see `MobileNetV3`."""
        super().__init__(
            image_shape,
            num_classes,
            rows=SMALL,
            hidden=1024,
            multiplier=multiplier,
            dropout=dropout,
            rngs=rngs,
        )


class MobileNetV3Large(MobileNetV3):
    """Torchvision's `mobilenet_v3_large`: 5,483,032 parameters for ImageNet."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        multiplier: float = 1.0,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ):
        """Draws the weights; see `MobileNetV3`."""
        super().__init__(
            image_shape,
            num_classes,
            rows=LARGE,
            hidden=1280,
            multiplier=multiplier,
            dropout=dropout,
            rngs=rngs,
        )


class InvertedResidual(nnx.Module):
    """Channels expanded, convolved one by one, weighed, and projected.

    The input is added where the shape stays. Without more channels inside than in the
    input there is no expansion.
    """

    def __init__(self, channels: int, row: Row, *, rngs: nnx.Rngs):
        """Maps `channels` to those of the row."""
        expanded, features = row.expanded, row.features
        self.expands = expanded != channels
        self.excites = row.excites
        self.adds_input = row.strides == 1 and channels == features
        self.activation = getattr(nnx, row.activation)
        if self.expands:
            self.expand = conv(channels, expanded, size=1, rngs=rngs)
            self.expand_norm = _norm(expanded, rngs=rngs)
        self.depthwise = conv(
            expanded,
            expanded,
            size=row.size,
            strides=row.strides,
            groups=expanded,
            rngs=rngs,
        )
        self.depthwise_norm = _norm(expanded, rngs=rngs)
        if self.excites:
            squeezed = _divisible_by_8(expanded // 4)
            self.squeeze = conv(expanded, squeezed, size=1, use_bias=True, rngs=rngs)
            self.excite = conv(squeezed, expanded, size=1, use_bias=True, rngs=rngs)
        self.project = conv(expanded, features, size=1, rngs=rngs)
        self.project_norm = _norm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, h, w, channels] to f32[batch, h', w', features]."""
        y = x
        if self.expands:
            y = self.activation(self.expand_norm(self.expand(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        if self.excites:
            weight = nnx.relu(self.squeeze(y.mean(axis=(1, 2), keepdims=True)))
            y = y * nnx.hard_sigmoid(self.excite(weight))
        y = self.project_norm(self.project(y))
        return x + y if self.adds_input else y

    def links(self, prefix: str) -> list[Link]:
        """How its layers feed each other, named from the root of the network.

        What is weighed by the excitation is not constant even where a neuron is, so
        the depthwise convolution has no consumers then.
        """
        depthwise, project = f"{prefix}depthwise", f"{prefix}project"
        links = [Link(project, norm=f"{project}_norm")]
        readers = () if self.excites else (project,)
        links.append(Link(depthwise, readers, f"{depthwise}_norm", self.activation))
        if self.expands:
            expand = f"{prefix}expand"
            links.append(Link(expand, (depthwise,), f"{expand}_norm", self.activation))
        if self.excites:
            links.append(
                Link(f"{prefix}squeeze", (f"{prefix}excite",), activation=nnx.relu)
            )
        return links


def _norm(features: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.99, epsilon=1e-3, rngs=rngs)


def _scaled(channels: int, multiplier: float) -> int:
    return _divisible_by_8(channels * multiplier)


def _divisible_by_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never below 90 %."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
