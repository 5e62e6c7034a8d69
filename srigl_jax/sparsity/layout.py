"""Which leaves of a parameter pytree are kernels, and which of their axes are which.

Every rule works on one view of a kernel: `[fan_in, neurons]`. Leaves are recognised
by path and shape alone, so abstract arrays, plain dicts, Linen parameters, nnx states
and Equinox modules are all read the same way.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_ATTENTION_INPUTS = {"query", "key", "value", "q", "k", "v", "qkv", "kv"}
_ATTENTION_INPUTS |= {"q_proj", "k_proj", "v_proj", "qkv_proj", "kv_proj"}
_NOT_KERNELS = re.compile(
    r"(^|_)(bias|scale|gamma|beta|mean|var|cls|pos|position|tokens?|embed(dings?)?)"
    r"(_|\d|$)",
    re.IGNORECASE,
)
# Modules whose `weight` is none. A patch embedding is a linear layer or a convolution.
_NOT_LAYERS = re.compile(
    r"(^|_)((layer|batch|group|instance|rms)?_?norms?|ln|bn)(_|\d|$)"
    r"|^embed_tokens$|(?<!patch_)(?<!patch)embed(dings?)?_?\d*$",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a kernel.

    Attributes:
      shape: the kernel's shape.
      neuron_axes: the axes that together number the output features, ascending; all
        others number the inputs of one neuron.
    """

    shape: tuple[int, ...]
    neuron_axes: tuple[int, ...]

    @property
    def fan_in_axes(self) -> tuple[int, ...]:
        """The axes over which one neuron sums."""
        return tuple(a for a in range(len(self.shape)) if a not in self.neuron_axes)

    @property
    def fan_in(self) -> int:
        """Inputs of one neuron when dense."""
        return math.prod(self.shape[a] for a in self.fan_in_axes)

    @property
    def neurons(self) -> int:
        """Output features."""
        return math.prod(self.shape[a] for a in self.neuron_axes)

    @property
    def size(self) -> int:
        """Weights when dense."""
        return math.prod(self.shape)

    def to_matrix(self, kernel: jax.Array) -> jax.Array:
        """The kernel as `[fan_in, neurons]`."""
        axes = self.fan_in_axes + self.neuron_axes
        return kernel.transpose(axes).reshape(self.fan_in, self.neurons)

    def from_matrix(self, matrix: jax.Array) -> jax.Array:
        """Undoes `to_matrix`."""
        axes = self.fan_in_axes + self.neuron_axes
        inverse = sorted(range(len(axes)), key=axes.__getitem__)
        return matrix.reshape([self.shape[a] for a in axes]).transpose(inverse)


def leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's path as text, `encoder/layers/0/kernel`."""
    return jax.tree_util.keystr(_strip_variable(path), simple=True, separator="/")


def is_kernel(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf is a weight matrix or convolution that can be made sparse.

    It must be floating point with two or more axes. A leaf called `kernel` is one; a
    bias, norm parameter, embedding, class token or position embedding, told by its
    name, is not, nor is what a module holds that is called a norm or an embedding;
    anything else with such a shape is.
    """
    if len(leaf.shape) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False
    names = [_key_name(key) for key in _strip_variable(path)]
    names = [name for name in names if not name.isdigit()]
    *parents, name = names or [""]
    if name == "value" and parents:  # A variable's, or one of an attention layer.
        *parents, name = parents
    if name == "kernel":
        return True
    return not (
        _NOT_KERNELS.search(name) or (parents and _NOT_LAYERS.search(parents[-1]))
    )


def infer_layout(
    path: tuple[Any, ...],
    shape: tuple[int, ...],
    neuron_axes: Mapping[str, tuple[int, ...]] | None = None,
) -> Layout:
    """Finds the neuron axes of a kernel.

    Flax keeps neurons on the last axis: Linear `(in, out)`, Conv `(kh, kw, in, out)`,
    grouped and depthwise ones included, attention output `(heads, head_dim, out)`.
    An attention input projection, told by its name (query, key, value, qkv), has them
    on all but the first: `(in, heads, head_dim)`, or fused `(in, 3, heads, head_dim)`.
    A module attribute called `weight`, as in Equinox, has them on the first, `(out, in,
    ...)`. Layers stacked on a leading axis, as `scan` makes them, look like none of
    these: name their axes, `{"mlp": (0, 2)}` for `(layers, in, out)`.

    Args:
      path: the leaf's key path.
      shape: the kernel's shape.
      neuron_axes: `{pattern: axes}` for kernels laid out otherwise; the first pattern
        found in the leaf's name (`re.search`) decides.

    Raises:
      ValueError: `neuron_axes` names axes that the kernel does not have.
    """
    name = leaf_name(path)
    for pattern, axes in (neuron_axes or {}).items():
        if re.search(pattern, name):
            return _explicit_layout(name, shape, axes)
    path = _strip_variable(path)
    names = [_key_name(key) for key in path]
    if len(shape) >= 3 and _ATTENTION_INPUTS & set(names[-2:]):
        # Not so a convolution, whose window is square.
        if len(shape) == 3 or shape[0] > shape[1]:
            return Layout(shape, tuple(range(1, len(shape))))
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
        if names[-1].startswith("weight"):
            return Layout(shape, (0,))
    return Layout(shape, (len(shape) - 1,))


def _explicit_layout(name, shape, axes) -> Layout:
    rank = len(shape)
    normalized = tuple(sorted(a % rank for a in axes if -rank <= a < rank))
    if len(set(normalized)) != len(axes) or not 0 < len(axes) < rank:
        raise ValueError(
            f"neuron_axes gives {tuple(axes)} for {name} of shape {shape}: give one "
            f"or more distinct axes below {rank}, leaving one for the fan-in"
        )
    return Layout(shape, normalized)


def _strip_variable(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Drops the `.value` (or index) under which an nnx Variable holds its array.

    An attention layer's own `value` is a dict key or comes before its `kernel`.
    """
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
        if path[-1].name in ("value", "raw_value"):
            return path[:-1]
    return path


def _key_name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)
