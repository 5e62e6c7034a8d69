"""Vision Transformers (Dosovitskiy et al. 2020)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from srigl_jax.models.layers import LINEAR_INIT
from srigl_jax.models.links import Link

_XAVIER = nnx.initializers.xavier_uniform()
# Query, key and value are one matrix in the definition, three times as wide.
_XAVIER_OF_THREE = nnx.initializers.variance_scaling(0.5, "fan_in", "uniform")


class ViT(nnx.Module):
    """Patches to tokens, pre-norm blocks, one token or their mean to the classes.

    The kernels `query`, `key` and `value` of each block are sparse like the others;
    the pattern "query|key|value" keeps them dense.
    """

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
        class_token: bool = False,
        rngs: nnx.Rngs,
    ):
        """Draws the weights as torchvision does; those of the head are 0.

        Args:
          image_shape: (height, width, channels).
          num_classes: width of the output layer.
          patch: height and width of a patch; divides those of the image.
          width: of a token.
          depth: blocks.
          heads: of an attention; divides width.
          mlp_ratio: hidden neurons of a block's MLP, over width.
          class_token: whether the head reads a token that is learned, the first one,
            and not the mean of all.
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
        tokens = (height // patch) * (image_width // patch) + class_token
        self.patch = patch
        self.patch_embed = nnx.Linear(patch * patch * channels, width, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, width))) if class_token else None
        position = nnx.initializers.normal(0.02)(rngs.params(), (tokens, width))
        self.position = nnx.Param(position)
        self.blocks = nnx.List(
            Block(width, heads, mlp_ratio * width, rngs=rngs) for _ in range(depth)
        )
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(
            width, num_classes, kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Maps f32[batch, height, width, channels] to logits f32[batch, classes]."""
        del rngs
        batch, height, width, channels = images.shape
        rows, columns = height // self.patch, width // self.patch
        x = images.reshape(batch, rows, self.patch, columns, self.patch, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        x = self.patch_embed(x)
        if self.class_token is not None:
            first = jnp.broadcast_to(self.class_token[...], (batch, 1, x.shape[-1]))
            x = jnp.concatenate([first, x], axis=1)
        x = x + self.position[...]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(axis=1) if self.class_token is None else x[:, 0])

    def links(self) -> list[Link]:
        """How its layers feed each other."""
        return [
            Link(f"blocks/{i}/up", (f"blocks/{i}/down",), activation=_gelu)
            for i in range(len(self.blocks))
        ]


class ViTB16(ViT):
    """ViT-B/16, torchvision's `vit_b_16`: 86,567,656 parameters for ImageNet.

    86,292,480 are in kernels, 65,058,816 of them in the 38 other than query, key and
    value. Those are 36 kernels here, but 12 where each block has them as one matrix:
    74 in all, or 50.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, rngs: nnx.Rngs
    ):
        """Draws the weights; see `ViT`."""
        super().__init__(
            image_shape,
            num_classes,
            patch=16,
            width=768,
            depth=12,
            heads=12,
            class_token=True,
            rngs=rngs,
        )


class Block(nnx.Module):
    """Attention and an MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        """Tokens of `width`, an MLP of `hidden` neurons."""
        bias_init = nnx.initializers.normal(1e-6)
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads,
            width,
            kernel_init=_XAVIER_OF_THREE,
            out_kernel_init=LINEAR_INIT,
            decode=False,
            keep_rngs=False,
            rngs=rngs,
        )
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up = nnx.Linear(
            width, hidden, kernel_init=_XAVIER, bias_init=bias_init, rngs=rngs
        )
        self.down = nnx.Linear(
            hidden, width, kernel_init=_XAVIER, bias_init=bias_init, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, tokens, width] to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(_gelu(self.up(self.norm2(x))))


_gelu = partial(nnx.gelu, approximate=False)
