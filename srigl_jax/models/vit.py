"""A small Vision Transformer (Dosovitskiy et al. 2020), mean-pooled."""

import jax
from flax import nnx

from srigl_jax.models.links import Link


class ViT(nnx.Module):
    """Patches to tokens, pre-norm blocks, the tokens' mean to the classes."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: int = 4,
        rngs: nnx.Rngs,
    ):
        """Draws the weights.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          patch: height and width of a patch; divides those of the image.
          width: of a token.
          depth: blocks.
          heads: of an attention; divides width.
          mlp_ratio: hidden neurons of a block's MLP, over width.
          rngs: source of the initial weights.

        Raises:
          ValueError: the patches do not tile the image.
        """
        height, image_width, channels = image_shape
        if patch < 1 or height % patch or image_width % patch:
            raise ValueError(
                f"patch is {patch}: it must divide the image's height and width, "
                f"{height} and {image_width}"
            )
        tokens = (height // patch) * (image_width // patch)
        self.patch = patch
        self.patch_embed = nnx.Linear(patch * patch * channels, width, rngs=rngs)
        position = nnx.initializers.normal(0.02)(rngs.params(), (tokens, width))
        self.position = nnx.Param(position)
        self.blocks = nnx.List(
            Block(width, heads, mlp_ratio * width, rngs=rngs) for _ in range(depth)
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        del rngs
        batch, height, width, channels = images.shape
        rows, columns = height // self.patch, width // self.patch
        x = images.reshape(batch, rows, self.patch, columns, self.patch, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        x = self.patch_embed(x) + self.position[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        return [
            Link(f"blocks/{i}/up", (f"blocks/{i}/down",), activation=nnx.gelu)
            for i in range(len(self.blocks))
        ]


class Block(nnx.Module):
    """Attention and an MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        """Tokens of `width`, an MLP of `hidden` neurons."""
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, decode=False, keep_rngs=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, tokens, width] to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))
