"""The nodes of an ONNX graph, and values that change shape only when they must.

ONNX broadcasts as numpy does, so an array is spelled out only where an operator needs
it whole. ONNX's convolutions number the channels before height and width, JAX's after
them: an array stays as a convolution left it until something needs it otherwise, so a
chain of convolutions has no transpositions between them.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Dimension = Any
"""An int, or jax.export's symbol for the batch size."""


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the graph, or a constant, or either not yet broadcast or transposed.

    Attributes:
      shape: it stands for.
      dtype: of its elements.
      held: the tensor's name, or the constant.
      held_shape: the shape of what is held: `shape`, with 1 where it is not broadcast,
        in the order of `order`.
      order: axis i of what is held is axis order[i] of the value.
    """

    shape: tuple[Dimension, ...]
    dtype: np.dtype
    held: str | np.ndarray
    held_shape: tuple[Dimension, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, aval: Any, name: str, order: Iterable[int] | None = None) -> "Value":
        """The tensor of that name, not to be broadcast."""
        order = tuple(range(len(aval.shape)) if order is None else order)
        held_shape = tuple(aval.shape[a] for a in order)
        return cls(aval.shape, aval.dtype, name, held_shape, order)

    @classmethod
    def constant(cls, value: Any) -> "Value":
        """An array whose elements are known."""
        array = np.asarray(value)
        return cls(array.shape, array.dtype, array, array.shape, _plain(array.ndim))

    @property
    def is_constant(self) -> bool:
        """Whether the elements are known."""
        return isinstance(self.held, np.ndarray)

    @property
    def is_in_order(self) -> bool:
        """Whether what is held has the value's order of axes."""
        return self.order == _plain(len(self.order))


class Graph:
    """The nodes and constants written so far.

    Attributes:
      nodes: in the order of execution.
      initializers: the constants.
    """

    def __init__(self, input_name: str):
        """Starts a graph whose one input has the batch size on its first axis."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names = (f"t{i}" for i in itertools.count())
        self._input_name = input_name
        self._batch_size: str | None = None

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Adds a node; returns the name of its first output."""
        outputs = outputs or [self.new_name()]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    def new_name(self) -> str:
        """A name that no tensor has yet."""
        return next(self._names)

    def constant(self, array: np.ndarray) -> str:
        """Adds a constant; returns its name."""
        name = self.new_name()
        array = np.array(array, order="C")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, values: Iterable[int]) -> str:
        """Adds a constant vector of int64; returns its name."""
        return self.constant(np.array([*values], np.int64))

    def held(self, value: Value) -> str:
        """The name of the tensor that is held."""
        return self.constant(value.held) if value.is_constant else value.held

    def ordered(self, value: Value, order: Iterable[int] | None = None) -> Value:
        """The value held in another order, its own unless given."""
        order = _plain(len(value.shape)) if order is None else tuple(map(int, order))
        if value.order == order:
            return value
        axes = [value.order.index(a) for a in order]
        if value.is_constant:
            held = value.held.transpose(axes)
        else:
            held = self.node("Transpose", [value.held], perm=axes)
        held_shape = tuple(value.held_shape[a] for a in axes)
        return Value(value.shape, value.dtype, held, held_shape, order)

    def whole(self, value: Value, order: Iterable[int] | None = None) -> str:
        """The name of a tensor that is neither to be broadcast nor transposed."""
        value = self.ordered(value, order)
        sizes = []
        for axis, held in zip(value.order, value.held_shape, strict=True):
            size = value.shape[axis]
            if isinstance(size, int):
                sizes.append(self.integers([size]) if size != held else None)
            else:
                sizes.append(self._batch() if isinstance(held, int) else None)
        if not any(sizes):
            return self.held(value)
        # Expand leaves an axis alone that is asked to have length 1.
        sizes = [size or self.integers([1]) for size in sizes]
        shape = self.node("Concat", sizes, axis=0)
        return self.node("Expand", [self.held(value), shape])

    def reshape(self, name: str, shape: tuple[Dimension, ...]) -> str:
        """Adds a Reshape to a shape of which one axis may depend on the batch size."""
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        if sizes.count(-1) > 1:
            raise ValueError(f"an array of shape {shape} cannot be written as ONNX")
        return self.node("Reshape", [name, self.integers(sizes)])

    def elementwise(self, op: str, aval: Any, *inputs: Value) -> Value:
        """Adds a node whose operands broadcast; the result has the aval's shape."""
        rank = len(aval.shape)
        orders = [x.order for x in inputs if len(x.shape) == rank]
        # The first other order, a convolution's, is kept as long as possible.
        order = next((o for o in orders if o != _plain(rank)), _plain(rank))
        inputs = [self.ordered(x, order) if len(x.shape) == rank else x for x in inputs]
        shapes = [(1,) * (rank - len(x.shape)) + x.held_shape for x in inputs]
        held_shape = tuple(_broadcast(sizes) for sizes in zip(*shapes, strict=True))
        name = self.node(op, [self.held(x) for x in inputs])
        return Value(aval.shape, aval.dtype, name, held_shape, order)

    def _batch(self) -> str:
        if self._batch_size is None:
            self._batch_size = self.node("Shape", [self._input_name], start=0, end=1)
        return self._batch_size


def onnx_dtype(dtype: Any) -> int:
    """ONNX's number of a dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _plain(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


def _broadcast(sizes: tuple[Dimension, ...]) -> Dimension:
    return next((d for d in sizes if not isinstance(d, int) or d != 1), 1)
