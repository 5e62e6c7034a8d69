"""Reads off a flax.nnx model what the cost of its layers follows from; runs nothing."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srigl_jax.analysis.flops import LayerShape, macs
from srigl_jax.analysis.remaining import Feed
from srigl_jax.models.calls import get_module, layer_calls
from srigl_jax.models.links import Link
from srigl_jax.sparsity import make_plan

_KERNEL = "/kernel"


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """The layers of a network.

    Attributes:
      layers: one for each kernel, in the order of the parameters.
      feeds: which layers read which, where neurons can be removed between them.
      products: FLOPs of the products of activations with each other, those of queries
        with keys and of attention with values. They have no weights to remove and are
        in no layer. As elsewhere, a dot product of length L has 2 L - 1; softmax and
        scaling are not counted.
    """

    layers: tuple[LayerShape, ...]
    feeds: tuple[Feed, ...]
    products: int


def read_network(model: nnx.Module, example_shape: tuple[int, ...]) -> NetworkShape:
    """Finds the layers of a model and how often each is used.

    A bias is counted where a layer has one, and where a `Link` names the normalisation
    after it. A ReLU is counted where a `Link` names it; and where the output of a
    normalised layer is given to no layer alone: it goes into a residual sum, whose ReLU
    is counted at every layer that feeds it, shortcuts included. That is RigL's count of
    ResNet-50; a sum without a ReLU gets one operation an output too many. What no link
    tells is not counted.

    Args:
      model: whose `links()`, if it has such a method, tell how layers feed each other.
        Its arrays may be abstract, as `nnx.eval_shape` makes them.
      example_shape: of one example, (height, width, channels) for images.

    Raises:
      ValueError: a kernel that is not in a layer of its own.
    """
    model = nnx.clone(model)
    model.eval()
    plan = make_plan(nnx.state(model, nnx.Param), 0.0, distribution="uniform")
    for name in plan:
        if not name.endswith(_KERNEL):
            raise ValueError(
                f"{name} is not the kernel of a layer of its own, as those of "
                "Linear, Conv and LinearGeneral are: count it by a LayerShape"
            )
    names = [name.removesuffix(_KERNEL) for name in plan]
    calls = layer_calls(model, names, (1, *example_shape))
    links = model.links() if callable(getattr(model, "links", None)) else []
    by_producer = {link.producer: link for link in links}
    layers = []
    for name, layer in zip(names, plan.values(), strict=True):
        outputs = sum(math.prod(call.gave.shape) for call in calls.get(name, ()))
        link = by_producer.get(name)
        layers.append(
            LayerShape(
                name=layer.name,
                fan_in=layer.layout.fan_in,
                neurons=layer.layout.neurons,
                positions=outputs // layer.layout.neurons,
                has_bias=_has_bias(get_module(model, name), link),
                has_relu=link is not None and _has_relu(link),
            )
        )
    return NetworkShape(
        tuple(layers),
        tuple(_feeds(model, links)),
        _products(model, example_shape, layers),
    )


def _has_bias(module: nnx.Module, link: Link | None) -> bool:
    is_normalised = link is not None and link.norm is not None
    return is_normalised or getattr(module, "bias", None) is not None


def _has_relu(link: Link) -> bool:
    if link.activation is None:
        return link.norm is not None and not link.consumers
    return link.activation in (jax.nn.relu, nnx.relu)


def _feeds(model: nnx.Module, links: list[Link]) -> Iterator[Feed]:
    """The links between whose layers neurons can be removed; not of grouped ones."""
    for link in links:
        names = (link.producer, *link.consumers)
        modules = [get_module(model, name) for name in names]
        is_grouped = any(getattr(m, "feature_group_count", 1) > 1 for m in modules)
        if link.consumers and not is_grouped:
            producer, *consumers = (name + _KERNEL for name in names)
            yield Feed(producer, tuple(consumers))


def _products(model: nnx.Module, example_shape, layers: list[LayerShape]) -> int:
    """FLOPs of all products but those with kernels."""
    definition, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((1, *example_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda s, x: nnx.merge(definition, s)(x))(state, x)
    all_macs, all_outputs = _contractions(jaxpr.jaxpr)
    macs_left = all_macs - sum(macs(layer) for layer in layers)
    outputs_left = all_outputs - sum(layer.outputs for layer in layers)
    return 2 * macs_left - outputs_left


def _contractions(jaxpr: Any) -> tuple[int, int]:
    """Multiplications in all products of a jaxpr, and the numbers that these give."""
    total_macs = total_outputs = 0
    for eqn in jaxpr.eqns:
        length = _dot_length(eqn)
        if length is not None:
            outputs = eqn.outvars[0].aval.size
            found = outputs * length, outputs
        else:
            inner = [_contractions(jaxpr) for jaxpr in _jaxprs_inside(eqn)]
            found = tuple(map(sum, zip(*inner, strict=True))) if inner else (0, 0)
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total_macs += repeats * found[0]
        total_outputs += repeats * found[1]
    return total_macs, total_outputs


def _jaxprs_inside(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation calls: of jit, custom_jvp, scan and the like."""
    for value in jax.tree.leaves(list(eqn.params.values())):
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def _dot_length(eqn: Any) -> int | None:
    """The length of an equation's dot products; None if it has none."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        neurons = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return kernel.size // neurons
    return None
