"""A function of a batch of images as an ONNX model, by way of its jaxpr.

Whatever depends on constants alone is computed here; the rest goes over primitive by
primitive, and one that has no rule is an error which names it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.shape_inference
from jax.extend import core
from onnx import helper

from srigl_jax.onnx_writer.graph import Graph, Value, onnx_dtype
from srigl_jax.onnx_writer.rules import ELEMENTWISE, RULES, broadcast_in_dim

OPSET = 18
INPUT = "images"
OUTPUT = "logits"

_IR_VERSION = 8  # The oldest for this opset, so that older runtimes read it too.
_CALLS = ("jit", "pjit", "closed_call", "remat", "checkpoint")
_CALLS += ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_NO_OPERATION = ("copy", "copy_p", "stop_gradient", "optimization_barrier")


def to_onnx(
    function: Callable[[jax.Array], jax.Array],
    image_shape: tuple[int, int, int],
    *,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Writes `function` as an ONNX model with input "images" and output "logits".

    Args:
      function: maps uint8[batch, *image_shape] to f[batch, classes].
      image_shape: (height, width, channels).
      metadata: goes into the model's properties.

    Returns:
      A model of opset 18 for any batch size, checked by onnx itself.

    Raises:
      ValueError: the function uses a primitive, or a form of one, without a rule, or
        types that ONNX lacks there.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), np.uint8)
    traced = jax.jit(function).trace(images).jaxpr
    graph = Graph(INPUT)
    arguments = [Value.of(images, INPUT)]
    (result,) = _write_jaxpr(graph, traced.jaxpr, traced.consts, arguments)
    graph.node("Identity", [graph.whole(result)], outputs=[OUTPUT])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [_value_info(INPUT, images)],
            [_value_info(OUTPUT, traced.out_avals[0])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="srigl_jax",
    )
    helper.set_model_props(model, dict(metadata or {}))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx refuses what was written: {error}") from error
    return model


def _write_jaxpr(graph, jaxpr, constants, arguments) -> list[Value]:
    """Writes the equations of a jaxpr; returns its outputs."""
    known = dict(zip(jaxpr.constvars, map(Value.constant, constants), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        if isinstance(atom, core.Literal):  # Maybe a Python number.
            return Value.constant(np.asarray(atom.val, atom.aval.dtype))
        return known[atom]

    for eqn in jaxpr.eqns:
        outputs = _write_equation(graph, eqn, [read(atom) for atom in eqn.invars])
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _write_equation(graph, eqn, inputs) -> list[Value]:
    name, aval = eqn.primitive.name, eqn.outvars[0].aval
    if name in _CALLS:
        inner = next(v for k, v in eqn.params.items() if k.endswith("jaxpr"))
        constants = getattr(inner, "consts", ())
        return _write_jaxpr(graph, getattr(inner, "jaxpr", inner), constants, inputs)
    if name in _NO_OPERATION:
        return inputs
    if name == "broadcast_in_dim":
        return [broadcast_in_dim(graph, eqn, *inputs)]
    if name == "dim_as_value":
        raise ValueError("a number made of the batch size cannot be written as ONNX")
    if _is_foldable(eqn, inputs):
        return _fold(graph, eqn, inputs)
    if name in ELEMENTWISE:
        return [graph.elementwise(ELEMENTWISE[name], aval, *inputs)]
    if name not in RULES:
        raise ValueError(
            f"the network uses the primitive {name!r}, which cannot be written as "
            "ONNX: choose another format"
        )
    written = RULES[name](graph, eqn, *inputs)
    if isinstance(written, str):
        written = Value.of(aval, written)
    return [written] if isinstance(written, Value) else written


def _is_foldable(eqn, inputs) -> bool:
    sizes = [size for out in eqn.outvars for size in out.aval.shape]
    return all(x.is_constant for x in inputs) and all(
        isinstance(size, int) for size in sizes
    )


def _fold(graph, eqn, inputs) -> list[Value]:
    inputs = map(graph.ordered, inputs)
    arrays = [jnp.asarray(np.broadcast_to(x.held, x.shape)) for x in inputs]
    outputs = eqn.primitive.bind(*arrays, **eqn.params)
    if not eqn.primitive.multiple_results:
        outputs = [outputs]
    return [Value.constant(x) for x in outputs]


def _value_info(name: str, aval: Any) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in aval.shape]
    return helper.make_tensor_value_info(name, onnx_dtype(aval.dtype), shape)
