"""How slices and gathers of JAX are written as nodes of ONNX."""

from typing import Any

import numpy as np

from srigl_jax.onnx_writer.graph import Dimension, Graph, Value


def slice_part(graph: Graph, eqn: Any, x: Value) -> str:
    """Takes a range of each axis, in steps."""
    for size, length in zip(eqn.outvars[0].aval.shape, x.shape, strict=True):
        _check_whole_batch(size, length)
    strides = eqn.params["strides"] or (1,) * len(x.shape)
    limits = eqn.params["limit_indices"]
    ends = [d if isinstance(d, int) else np.iinfo(np.int64).max for d in limits]
    parts = (eqn.params["start_indices"], ends, range(len(x.shape)), strides)
    return graph.node("Slice", [graph.whole(x), *map(graph.integers, parts)])


def gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> str:
    """Takes positions that are known: one slice, or some positions of one axis."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if indices.is_constant and not numbers.operand_batching_dims:
        starts = graph.ordered(indices).held
        if starts.ndim == 1:
            starts = dict(zip(numbers.start_index_map, starts.tolist(), strict=True))
            name = _slice_from(graph, x, starts, sizes)
            return graph.reshape(name, eqn.outvars[0].aval.shape)
        if len(numbers.start_index_map) == 1:
            (axis,) = numbers.start_index_map
            rest = [a for a in range(len(x.shape)) if a != axis]
            taken = range(axis, axis + starts.ndim - 1)
            around = [
                a for a in range(len(eqn.outvars[0].aval.shape)) if a not in taken
            ]
            is_whole = all(sizes[a] == x.shape[a] for a in rest) and sizes[axis] == 1
            if is_whole and list(numbers.offset_dims) == around:
                _check_within(starts, 1, x.shape[axis])
                positions = graph.constant(starts[..., 0].astype(np.int64))
                return graph.node("Gather", [graph.whole(x), positions], axis=axis)
    raise ValueError("the primitive 'gather' cannot be written as ONNX in this form")


def _slice_from(graph, x, starts: dict[int, int], sizes) -> str:
    for axis, start in starts.items():
        _check_whole_batch(sizes[axis], x.shape[axis])
        _check_within(np.array(start), sizes[axis], x.shape[axis])
    axes = sorted(a for a in starts if isinstance(sizes[a], int))
    parts = (
        [starts[a] for a in axes],
        [starts[a] + sizes[a] for a in axes],
        axes,
    )
    return graph.node("Slice", [graph.whole(x), *map(graph.integers, parts)])


def _check_whole_batch(size: Dimension, length: Dimension) -> None:
    if not isinstance(length, int) and size != length:
        raise ValueError(f"a part of the batch, {size}, cannot be written as ONNX")


def _check_within(starts: np.ndarray, size, length) -> None:
    # JAX would move them inside, or fill with NaN; ONNX counts from the end.
    if starts.size and not 0 <= starts.min() <= starts.max() <= length - size:
        raise ValueError("a gather outside its array cannot be written as ONNX")
