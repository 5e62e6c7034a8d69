"""What the layers of a network are given and give, without running it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Call(NamedTuple):
    """One use of a layer: what it was given and what it gave."""

    given: jax.ShapeDtypeStruct
    gave: jax.ShapeDtypeStruct


def layer_calls(
    model: nnx.Module, names: list[str], shape: tuple[int, ...]
) -> dict[str, list[Call]]:
    """The uses of each layer when the network is given f32[shape]; runs nothing.

    Args:
      model: in evaluation mode; its arrays may be abstract.
      names: paths of layers; those that are not called are left out.
      shape: of the network's input, batch included.
    """
    definition, state = nnx.split(model)
    found: dict[str, list[Call]] = {}

    def forward(state, x):
        traced = nnx.merge(definition, state)
        for name in names:
            set_module(traced, name, _Recorder(get_module(traced, name), name, found))
        return traced(x)

    jax.eval_shape(forward, state, jax.ShapeDtypeStruct(shape, jnp.float32))
    return found


def get_module(model: nnx.Module, name: str) -> nnx.Module:
    """The module at a path, `blocks/0/conv1`."""
    for step in name.split("/"):
        is_list = isinstance(model, nnx.List)
        model = model[int(step)] if is_list else getattr(model, step)
    return model


def set_module(model: nnx.Module, name: str, module: nnx.Module) -> None:
    """Puts another module at a path."""
    *outer, last = name.split("/")
    parent = get_module(model, "/".join(outer)) if outer else model
    if isinstance(parent, nnx.List):
        parent[int(last)] = module
    else:
        setattr(parent, last, module)


class _Recorder(nnx.Module):
    def __init__(self, module, name, found):
        self.module = module
        # In a closure, because nnx would take a dict for a part of the module.
        self.record = lambda *call: found.setdefault(name, []).append(Call(*call))

    def __call__(self, x, *args, **options):
        y = self.module(x, *args, **options)
        self.record(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, y)))
        return y
