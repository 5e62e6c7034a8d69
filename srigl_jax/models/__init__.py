"""Networks in flax.nnx, by name."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from srigl_jax.models.convnet import ConvNet
from srigl_jax.models.links import Link
from srigl_jax.models.mlp import MLP
from srigl_jax.models.mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from srigl_jax.models.resnet import ResNet18, ResNet50
from srigl_jax.models.vit import ViT, ViTB16
from srigl_jax.models.wide_resnet import WideResNet

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "convnet": ConvNet,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "wide_resnet": WideResNet,
    "mobilenet_v3_small": MobileNetV3Small,
    "mobilenet_v3_large": MobileNetV3Large,
    "vit": ViT,
    "vit_b_16": ViTB16,
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


__all__ = [
    "MLP",
    "MODELS",
    "ConvNet",
    "Link",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "ResNet18",
    "ResNet50",
    "ViT",
    "ViTB16",
    "WideResNet",
    "create",
]
