"""Weights of torchvision's networks, from safetensors files with torchvision's names.

    safetensors.torch.save_file(torchvision_model.state_dict(), "resnet50.safetensors")

makes such a file, and `load_torchvision` puts it into the network of the same
definition here.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from srigl_jax.models.mobilenet_v3 import MobileNetV3
from srigl_jax.models.resnet import ResNet
from srigl_jax.models.vit import ViT

Named = Iterator[tuple[str, nnx.Module]]


@dataclasses.dataclass(frozen=True)
class _Target:
    """Where a tensor, or a part of it, goes.

    Attributes:
      name: torchvision's, of the tensor.
      shape: it must have.
      variable: that takes it.
      convert: makes of the tensor the variable's value, or a reshape of that.
    """

    name: str
    shape: tuple[int, ...]
    variable: nnx.Variable
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray


def load_torchvision(
    model: nnx.Module, path: str | os.PathLike[str], *, head: bool = True
) -> None:
    """Sets all weights and batch statistics of a network to those in a file.

    Args:
      model: ResNet, MobileNetV3 or ViT with a class token, whose definition is that of
        torchvision's network; also one of shapes alone, as `nnx.eval_shape` makes it.
        It is changed in place, or not at all if there is an error.
      path: a safetensors file of floating-point tensors.
      head: whether to load the output layer. Without, it stays as it is, as it must
        for another number of classes.

    Raises:
      ValueError: there is no such file, torchvision has no such network, or names and
        shapes in the file are not those of the network; they are told.
    """
    targets = list(_targets(model))
    kernel, bias = model.head.kernel, model.head.bias
    heads = {t.name for t in targets if t.variable is kernel or t.variable is bias}
    tensors = _read(path)
    if not head:
        targets = [target for target in targets if target.name not in heads]
        tensors = {name: x for name, x in tensors.items() if name not in heads}
    _check(targets, tensors, heads, path)
    for target in targets:
        value = target.convert(tensors[target.name])
        old = target.variable.get_value()
        target.variable.set_value(jnp.asarray(value, old.dtype).reshape(old.shape))


def _read(path) -> dict[str, np.ndarray]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"no pretrained weights can be read from {path}: {error}; it must be a "
            "safetensors file with torchvision's names"
        ) from error
    # Counts the steps of training, which nothing here does.
    return {
        _current_name(name): tensor
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }


def _current_name(name: str) -> str:
    """Torchvision's published ViT has older names for the layers of its MLPs."""
    return name.replace(".mlp.linear_1.", ".mlp.0.").replace(
        ".mlp.linear_2.", ".mlp.3."
    )


def _check(targets, tensors, heads, path) -> None:
    wanted = {target.name: target.shape for target in targets}
    if missing := [name for name in wanted if name not in tensors]:
        raise ValueError(f"{path} lacks {_some(missing)}, which the network has")
    if surplus := [name for name in tensors if name not in wanted]:
        raise ValueError(f"{path} has {_some(surplus)}, which the network lacks")
    for name, shape in wanted.items():
        found = tensors[name]
        if found.shape != shape:
            hint = ""
            if name in heads:
                hint = (
                    "; for another number of classes leave the head out: head=False, "
                    "in a config pretrained_head"
                )
            raise ValueError(
                f"{path} has {name} of shape {found.shape}, but the network's has "
                f"shape {shape}{hint}"
            )
        if not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"{path} has {name} of type {found.dtype}: it must be floating point"
            )


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _targets(model: nnx.Module) -> Iterator[_Target]:
    if isinstance(model, ResNet):
        named = _resnet(model)
    elif isinstance(model, MobileNetV3):
        named = _mobilenet_v3(model)
    elif isinstance(model, ViT) and model.class_token is not None:
        named = _vit(model)
        width = model.head.in_features
        position = model.position
        yield _Target("class_token", (1, 1, width), model.class_token)
        yield _Target("encoder.pos_embedding", (1, *position.shape), position)
        yield from _patch_embedding("conv_proj", model)
    else:
        raise ValueError(
            f"torchvision has no pretrained {type(model).__name__}: choose a ResNet, a "
            "MobileNetV3, or a ViT with a class token"
        )
    for name, module in named:
        yield from _READERS[type(module)](name, module)


def _resnet(model: ResNet) -> Named:
    yield "conv1", model.stem
    yield "bn1", model.stem_norm
    blocks = iter(model.blocks)
    for stage, depth in enumerate(model.depths, start=1):
        for i in range(depth):
            yield from _residual_block(f"layer{stage}.{i}", next(blocks))
    yield "fc", model.head


def _residual_block(name: str, block: nnx.Module) -> Named:
    for i in (1, 2, 3):
        if hasattr(block, f"conv{i}"):
            yield f"{name}.conv{i}", getattr(block, f"conv{i}")
            yield f"{name}.bn{i}", getattr(block, f"norm{i}")
    if block.projects:
        yield f"{name}.downsample.0", block.shortcut
        yield f"{name}.downsample.1", block.shortcut_norm


def _mobilenet_v3(model: MobileNetV3) -> Named:
    yield "features.0.0", model.stem
    yield "features.0.1", model.stem_norm
    for i, block in enumerate(model.blocks, start=1):
        for j, layers in enumerate(_inverted_residual(block)):
            for name, module in layers:
                yield f"features.{i}.block.{j}.{name}", module
    last = len(model.blocks) + 1
    yield f"features.{last}.0", model.last
    yield f"features.{last}.1", model.last_norm
    yield "classifier.0", model.hidden
    yield "classifier.3", model.head


def _inverted_residual(block: nnx.Module) -> Iterator[list[tuple[str, nnx.Module]]]:
    if block.expands:
        yield [("0", block.expand), ("1", block.expand_norm)]
    yield [("0", block.depthwise), ("1", block.depthwise_norm)]
    if block.excites:
        yield [("fc1", block.squeeze), ("fc2", block.excite)]
    yield [("0", block.project), ("1", block.project_norm)]


def _vit(model: ViT) -> Named:
    for i, block in enumerate(model.blocks):
        name = f"encoder.layers.encoder_layer_{i}"
        yield f"{name}.ln_1", block.norm1
        yield f"{name}.self_attention", block.attention
        yield f"{name}.ln_2", block.norm2
        yield f"{name}.mlp.0", block.up
        yield f"{name}.mlp.3", block.down
    yield "encoder.ln", model.norm
    yield "heads.head", model.head


def _conv(name: str, module: nnx.Conv) -> Iterator[_Target]:
    height, width, channels, features = module.kernel.shape
    shape = features, channels, height, width
    yield _Target(f"{name}.weight", shape, module.kernel, _to_channels_last)
    if module.bias is not None:
        yield _Target(f"{name}.bias", (features,), module.bias)


def _linear(name: str, module: nnx.Linear) -> Iterator[_Target]:
    yield _Target(
        f"{name}.weight", module.kernel.shape[::-1], module.kernel, np.transpose
    )
    yield _Target(f"{name}.bias", module.bias.shape, module.bias)


def _batch_norm(name: str, module: nnx.BatchNorm) -> Iterator[_Target]:
    yield from _layer_norm(name, module)
    yield _Target(f"{name}.running_mean", module.mean.shape, module.mean)
    yield _Target(f"{name}.running_var", module.var.shape, module.var)


def _layer_norm(name: str, module: nnx.Module) -> Iterator[_Target]:
    yield _Target(f"{name}.weight", module.scale.shape, module.scale)
    yield _Target(f"{name}.bias", module.bias.shape, module.bias)


def _attention(name: str, module: nnx.MultiHeadAttention) -> Iterator[_Target]:
    width = module.in_features

    def part(i):
        return lambda tensor: tensor[i * width : (i + 1) * width].T

    for i, projection in enumerate((module.query, module.key, module.value)):
        weight, bias = f"{name}.in_proj_weight", f"{name}.in_proj_bias"
        yield _Target(weight, (3 * width, width), projection.kernel, part(i))
        yield _Target(bias, (3 * width,), projection.bias, part(i))
    out = module.out
    yield _Target(f"{name}.out_proj.weight", (width, width), out.kernel, np.transpose)
    yield _Target(f"{name}.out_proj.bias", (width,), out.bias)


def _patch_embedding(name: str, model: ViT) -> Iterator[_Target]:
    layer, patch = model.patch_embed, model.patch
    channels = layer.in_features // patch**2
    shape = layer.out_features, channels, patch, patch
    yield _Target(f"{name}.weight", shape, layer.kernel, _to_channels_last)
    yield _Target(f"{name}.bias", layer.bias.shape, layer.bias)


def _to_channels_last(tensor: np.ndarray) -> np.ndarray:
    """From [features, channels, height, width] to Flax's order, the reverse."""
    return tensor.transpose(2, 3, 1, 0)


_READERS = {
    nnx.Conv: _conv,
    nnx.Linear: _linear,
    nnx.BatchNorm: _batch_norm,
    nnx.LayerNorm: _layer_norm,
    nnx.MultiHeadAttention: _attention,
}
