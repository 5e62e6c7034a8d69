"""Networks in flax.nnx, by name."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from srigl_jax.models.convnet import ConvNet
from srigl_jax.models.links import Link
from srigl_jax.models.mlp import MLP
from srigl_jax.models.resnet import ResNet18
from srigl_jax.models.vit import ViT

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "convnet": ConvNet,
    "resnet18": ResNet18,
    "vit": ViT,
}


def create(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Module:
    """Builds a network: images f32[batch, *image_shape] to logits f32[batch, classes].

    Args:
      name: a key of `MODELS`.
      image_shape: (height, width, channels).
      num_classes: width of the output layer.
      rngs: source of the initial weights.
      **options: of that model.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}: choose one of {sorted(MODELS)}")
    return MODELS[name](image_shape, num_classes, rngs=rngs, **options)


__all__ = ["MLP", "MODELS", "ConvNet", "Link", "ResNet18", "ViT", "create"]
