"""How each primitive of JAX is written as nodes of ONNX."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from srigl_jax.onnx_writer.graph import Graph, Value, onnx_dtype
from srigl_jax.onnx_writer.indexing import gather, slice_part

ELEMENTWISE: dict[str, str] = {
    "abs": "Abs",
    "add": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
"""Primitives that are one operator, by name."""

_LOGIC = {"and": "And", "not": "Not", "or": "Or", "xor": "Xor"}

_REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_sum": "ReduceSum",
}


def broadcast_in_dim(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> Value:
    """Inserts axes of length 1; the rest of the broadcast is left for later."""
    if sizes:
        raise ValueError("a broadcast to a computed shape cannot be written as ONNX")
    x = graph.ordered(x)
    shape = tuple(eqn.params["shape"])
    held_shape = [1] * len(shape)
    axes = eqn.params["broadcast_dimensions"]
    for axis, size in zip(axes, x.held_shape, strict=True):
        held_shape[axis] = size
    held = x.held
    if x.is_constant:
        held = held.reshape(held_shape)
    elif len(shape) != len(x.shape):
        held = graph.reshape(held, held_shape)
    order = tuple(range(len(shape)))
    return Value(shape, x.dtype, held, tuple(held_shape), order)


def _aval(eqn):
    return eqn.outvars[0].aval


def _reshape(graph, eqn, x):
    return graph.reshape(graph.whole(x), _aval(eqn).shape)


def _transpose(graph, eqn, x):
    order = [eqn.params["permutation"].index(a) for a in x.order]
    return Value(_aval(eqn).shape, x.dtype, x.held, x.held_shape, tuple(order))


def _cast(graph, eqn, x):
    dtype = eqn.params["new_dtype"]
    name = graph.node("Cast", [graph.held(x)], to=onnx_dtype(dtype))
    return dataclasses.replace(x, dtype=dtype, held=name)


def _logic(graph, eqn, *inputs):
    op = _LOGIC[eqn.primitive.name]
    is_bool = inputs[0].dtype == np.bool_
    return graph.elementwise(op if is_bool else f"Bitwise{op}", _aval(eqn), *inputs)


def _unequal(graph, eqn, x, y):
    equal = graph.elementwise("Equal", _aval(eqn), x, y)
    return graph.elementwise("Not", _aval(eqn), equal)


def _expm1(graph, eqn, x):
    one = Value.constant(np.array(1, x.dtype))
    power = graph.elementwise("Exp", _aval(eqn), x)
    return graph.elementwise("Sub", _aval(eqn), power, one)


def _round(graph, eqn, x):
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError("rounding half away from zero cannot be written as ONNX")
    return graph.elementwise("Round", _aval(eqn), x)


def _max(graph, eqn, x, y):
    if y.is_constant and y.held.ndim == 0 and y.held == 0:  # Which runtimes fuse.
        return graph.elementwise("Relu", _aval(eqn), x)
    return graph.elementwise("Max", _aval(eqn), x, y)


def _integer_pow(graph, eqn, x):
    exponent = Value.constant(np.array(eqn.params["y"], x.dtype))
    return graph.elementwise("Pow", _aval(eqn), x, exponent)


def _square(graph, eqn, x):
    return graph.elementwise("Mul", _aval(eqn), x, x)


def _rsqrt(graph, eqn, x):
    root = graph.elementwise("Sqrt", _aval(eqn), x)
    return graph.elementwise("Reciprocal", _aval(eqn), root)


def _erfc(graph, eqn, x):
    one = Value.constant(np.array(1, x.dtype))
    erf = graph.elementwise("Erf", _aval(eqn), x)
    return graph.elementwise("Sub", _aval(eqn), one, erf)


def _clamp(graph, eqn, low, x, high):
    raised = graph.elementwise("Max", _aval(eqn), x, low)
    return graph.elementwise("Min", _aval(eqn), raised, high)


def _select(graph, eqn, which, *cases):
    if len(cases) != 2 or which.dtype != np.bool_:
        raise ValueError("a select among more than two cases cannot be written as ONNX")
    return graph.elementwise("Where", _aval(eqn), which, cases[1], cases[0])


def _reduce(graph, eqn, x):
    kept = [a for a in x.order if a not in eqn.params["axes"]]
    order = x.order if kept == sorted(kept) else None
    held_axes = order or range(len(x.shape))
    axes = [i for i, a in enumerate(held_axes) if a in eqn.params["axes"]]
    inputs = [graph.whole(x, order), graph.integers(axes)]
    return graph.node(_REDUCTIONS[eqn.primitive.name], inputs, keepdims=0)


def _argmax(graph, eqn, x):
    (axis,) = eqn.params["axes"]
    found = graph.node("ArgMax", [graph.whole(x)], axis=int(axis), keepdims=0)
    return graph.node("Cast", [found], to=onnx_dtype(eqn.params["index_dtype"]))


def _concatenate(graph, eqn, *parts):
    names = [graph.whole(x) for x in parts]
    return graph.node("Concat", names, axis=eqn.params["dimension"])


def _split(graph, eqn, x):
    names = [graph.new_name() for _ in eqn.outvars]
    sizes = graph.integers(eqn.params["sizes"])
    axis = int(eqn.params["axis"])
    graph.node("Split", [graph.whole(x), sizes], outputs=names, axis=axis)
    pairs = zip(eqn.outvars, names, strict=True)
    return [Value.of(out.aval, name) for out, name in pairs]


def _pad(graph, eqn, x, value):
    low, high, interior = zip(*eqn.params["padding_config"], strict=True)
    if any(interior) or min(*low, *high) < 0:
        raise ValueError("padding between elements, or below 0, is not in ONNX")
    pads = graph.integers([*low, *high])
    return graph.node("Pad", [graph.whole(x), pads, graph.whole(value)])


def _dot_general(graph, eqn, left, right):
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    names = [graph.whole(left), graph.whole(right)]
    dtype = _aval(eqn).dtype
    for i, x in enumerate((left, right)):
        if x.dtype != dtype:
            names[i] = graph.node("Cast", [names[i]], to=onnx_dtype(dtype))
    last = len(left.shape) - 1
    if (tuple(left_sum), tuple(right_sum)) == ((last,), (0,)) and not left_batch:
        if len(right.shape) == 2:
            return graph.node("MatMul", names)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left_axes = [next(letters) for _ in left.shape]
    right_axes = [next(letters) for _ in right.shape]
    pairs = [*zip(left_sum, right_sum, strict=True)]
    for i, j in [*pairs, *zip(left_batch, right_batch, strict=True)]:
        right_axes[j] = left_axes[i]
    out = [left_axes[i] for i in left_batch]
    out += [a for i, a in enumerate(left_axes) if i not in {*left_sum, *left_batch}]
    out += [a for i, a in enumerate(right_axes) if i not in {*right_sum, *right_batch}]
    equation = f"{''.join(left_axes)},{''.join(right_axes)}->{''.join(out)}"
    return graph.node("Einsum", names, equation=equation)


def _conv(graph, eqn, x, kernel):
    params = eqn.params
    order = params["dimension_numbers"]
    pads = params["padding"]
    if {*params["lhs_dilation"], params["batch_group_count"]} != {1}:
        raise ValueError("a transposed convolution cannot be written as ONNX")
    if min(itertools.chain(*pads), default=0) < 0:
        raise ValueError("a convolution with padding below 0 is not in ONNX")
    y = graph.node(
        "Conv",
        [graph.whole(x, order.lhs_spec), graph.whole(kernel, order.rhs_spec)],
        strides=list(params["window_strides"]),
        pads=[low for low, _ in pads] + [high for _, high in pads],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return Value.of(_aval(eqn), y, order.out_spec)


def _pool(graph, eqn, x):
    params = {k: list(v) for k, v in eqn.params.items()}
    window, pads = params["window_dimensions"], params["padding"]
    is_outer_alone = all(
        (window[a], params["window_strides"][a], tuple(pads[a])) == (1, 1, (0, 0))
        for a in (0, -1)
    )
    if len(window) != 4 or set(params["base_dilation"]) != {1} or not is_outer_alone:
        raise ValueError(
            f"a pool over {window} of [batch, height, width, channels] is not in ONNX"
        )
    attributes = {
        "kernel_shape": window[1:3],
        "strides": params["window_strides"][1:3],
        "pads": [low for low, _ in pads[1:3]] + [high for _, high in pads[1:3]],
        "dilations": params["window_dilation"][1:3],
    }
    order = (0, 3, 1, 2)
    x = graph.whole(x, order)
    if eqn.primitive.name == "reduce_window_max":
        y = graph.node("MaxPool", [x], **attributes)
    else:
        if set(attributes.pop("dilations")) != {1}:
            raise ValueError("a dilated average pool is not in ONNX")
        y = graph.node("AveragePool", [x], count_include_pad=1, **attributes)
        size = np.array(math.prod(window), _aval(eqn).dtype)
        y = graph.node("Mul", [y, graph.constant(size)])
    return Value.of(_aval(eqn), y, order)


RULES: dict[str, Callable[..., Value | list[Value] | str]] = {
    "argmax": _argmax,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "convert_element_type": _cast,
    "dot_general": _dot_general,
    "erfc": _erfc,
    "expm1": _expm1,
    "expand_dims": _reshape,
    "gather": gather,
    "integer_pow": _integer_pow,
    "max": _max,
    "ne": _unequal,
    "pad": _pad,
    "reduce_window_max": _pool,
    "reduce_window_sum": _pool,
    "reshape": _reshape,
    "round": _round,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": slice_part,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "transpose": _transpose,
}
RULES |= dict.fromkeys(_LOGIC, _logic) | dict.fromkeys(_REDUCTIONS, _reduce)
"""`rule(graph, eqn, *inputs)` gives the outputs, or the name of the only one."""
