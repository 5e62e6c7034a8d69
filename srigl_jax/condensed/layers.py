"""A layer of a network as plain arrays, and back as a module, dense or condensed."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax.condensed import convolution, native
from srigl_jax.condensed.modules import (
    ArrangedLinear,
    CondensedConv,
    CondensedLinear,
)
from srigl_jax.condensed.representation import condense
from srigl_jax.condensed.windows import MOST_WEIGHTS


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A `Linear`, `Conv` or `LinearGeneral`, on the host.

    Attributes:
      name: its path.
      kind: "linear", "conv" or "attention" (a `LinearGeneral`).
      kernel: f64[...], 0 off the mask.
      mask: bool, like kernel: all True in a dense layer.
      bias: f64[neurons] or None.
      neuron_axes: of the kernel, trailing.
      dtype: of the weights on the device.
      groups: of a convolution's channels.
      is_padded: whether it reads zeros beyond the border of an image.
      obstacle: why it cannot be condensed; empty if it can.
      is_linkable: whether its inputs and outputs may be folded and narrowed.
    """

    name: str
    kind: str
    kernel: np.ndarray
    mask: np.ndarray
    bias: np.ndarray | None
    neuron_axes: tuple[int, ...]
    dtype: jnp.dtype
    groups: int = 1
    is_padded: bool = False
    obstacle: str = ""
    is_linkable: bool = True

    @property
    def neurons(self) -> int:
        """Output features."""
        return int(np.prod([self.kernel.shape[a] for a in self.neuron_axes]))

    @property
    def inputs(self) -> int:
        """Features of the input, those of all groups; its trailing axes."""
        if self.kind == "conv":
            return self.kernel.shape[-2] * self.groups
        return self.kernel.size // max(1, self.neurons)

    @property
    def fan_ins(self) -> np.ndarray:
        """Weights of each neuron: i64[neurons]."""
        return self.mask.reshape(-1, self.neurons).sum(0)

    @property
    def active(self) -> int:
        """Neurons that have weights."""
        return int(np.count_nonzero(self.fan_ins))

    @property
    def k(self) -> int:
        """Weights of the densest neuron."""
        return int(self.fan_ins.max(initial=0))

    @property
    def density(self) -> float:
        """Share of the kernel that its condensed form stores, padding included."""
        return self.active * self.k / max(1, self.kernel.size)

    def by_input(self, array: np.ndarray, inputs: int) -> np.ndarray:
        """Views an array like the kernel as [positions, inputs, neurons].

        Args:
          array: like the kernel, whose neurons are on its last axis.
          inputs: features of the producer, which a flattened image repeats.
        """
        return array.reshape(-1, inputs, self.neurons)


def read_layer(name: str, module: nnx.Module, mask: np.ndarray | None) -> Layer | None:
    """Reads a module, or returns None if it is no layer with a kernel known here.

    Args:
      name: its path.
      module: the module; weights off the mask may have any value.
      mask: bool, like its kernel, or None if it is dense.
    """
    readers = {
        nnx.Linear: _read_linear,
        nnx.Conv: _read_conv,
        nnx.LinearGeneral: _read_general,
    }
    if type(module) not in readers:
        return None
    stored = module.kernel[...]
    mask = np.ones(stored.shape, bool) if mask is None else mask
    bias = None if module.bias is None else module.bias[...]
    return Layer(
        name=name,
        kernel=np.where(mask, np.asarray(stored, np.float64), 0),
        mask=mask,
        bias=None if bias is None else np.asarray(bias, np.float64).reshape(-1),
        dtype=jnp.dtype(module.dtype or stored.dtype),
        **readers[type(module)](module),
    )


def as_dense(layer: Layer, module: nnx.Module) -> nnx.Module:
    """The layer as a module of the same class as the one it was read from."""
    module = nnx.clone(module)
    module.kernel = nnx.Param(jnp.asarray(layer.kernel, layer.dtype))
    if layer.bias is not None:
        module.use_bias = True
        shape = [layer.kernel.shape[a] for a in layer.neuron_axes]
        module.bias = nnx.Param(jnp.asarray(layer.bias.reshape(shape), layer.dtype))
    if layer.kind == "conv":
        module.kernel_shape = layer.kernel.shape
    if layer.kind != "attention":
        module.in_features, module.out_features = layer.inputs, layer.neurons
    return module


def as_condensed(
    layer: Layer, module: nnx.Module, implementation: str = "auto"
) -> nnx.Module | None:
    """The layer as `CondensedLinear` or `CondensedConv`; None if that cannot be."""
    if layer.obstacle:
        return None
    condensed = condense(
        jnp.asarray(layer.kernel, layer.dtype),
        layer.mask,
        None if layer.bias is None else jnp.asarray(layer.bias, layer.dtype),
        neuron_axes=layer.neuron_axes,
    )
    is_for_conv = implementation in convolution.IMPLEMENTATIONS
    if layer.kind == "conv":
        return CondensedConv(
            condensed,
            strides=_pair(module.strides),
            padding=_padding(module.padding),
            feature_group_count=layer.groups,
            implementation=implementation if is_for_conv else "auto",
        )
    return CondensedLinear(condensed, implementation=implementation, **_axes(layer))


def as_windows(
    layer: Layer, module: nnx.Module, implementation: str = "auto"
) -> nnx.Module | None:
    """The layer as `ArrangedLinear`; None if that cannot be."""
    condensed = as_condensed(layer, module, implementation)
    is_native = implementation in ("auto", "native") and native.available()
    if not isinstance(condensed, CondensedLinear) or not is_native:
        return None
    weights = condensed.condensed.get_value()
    if jax.default_backend() != "cpu" or weights.values.size > MOST_WEIGHTS:
        return None
    return ArrangedLinear(weights, **_axes(layer))


def _axes(layer: Layer) -> dict:
    return {
        "input_axes": layer.kernel.ndim - len(layer.neuron_axes),
        "output_shape": [layer.kernel.shape[a] for a in layer.neuron_axes],
    }


def _read_linear(module: nnx.Linear) -> dict:
    is_plain = module.dot_general is jax.lax.dot_general
    return {
        "kind": "linear",
        "neuron_axes": (1,),
        "obstacle": "" if is_plain else "it has a product of its own",
        "is_linkable": is_plain,
    }


def _read_general(module: nnx.LinearGeneral) -> dict:
    inputs, outputs = len(module.in_features), len(module.out_features)
    obstacle = ""
    if module.batch_axis or tuple(module.axis) != tuple(range(-inputs, 0)):
        obstacle = f"it contracts axes {tuple(module.axis)}, not the last"
    if module.dot_general is not None or module.dot_general_cls is not None:
        obstacle = "it has a product of its own"
    return {
        "kind": "attention",
        "neuron_axes": tuple(range(inputs, inputs + outputs)),
        "obstacle": obstacle,
        "is_linkable": False,
    }


def _read_conv(module: nnx.Conv) -> dict:
    rank = len(module.kernel_size)
    padding = _padding(module.padding)
    is_plain = (
        module.conv_general_dilated is jax.lax.conv_general_dilated
        and module.mask is None
        and padding not in ("CIRCULAR", "REFLECT", "CAUSAL")
        and _is_one(module.input_dilation)
    )
    obstacle = ""
    if not is_plain:
        obstacle = "it is no plain convolution with padding in zeros"
    elif not _is_one(module.kernel_dilation):
        obstacle = f"it is dilated by {module.kernel_dilation}"
    elif rank != 2:
        obstacle = f"its images have {rank} axes, not 2"
    elif not isinstance(padding, str) and min(map(min, padding)) < 0:
        obstacle = "its padding is below 0"
    is_padded = padding != "VALID" and (
        any(n > 1 for n in module.kernel_size)
        if isinstance(padding, str)
        else any(n for side in padding for n in side)
    )
    return {
        "kind": "conv",
        "neuron_axes": (rank + 1,),
        "groups": module.feature_group_count,
        "is_padded": is_padded,
        "obstacle": obstacle,
        "is_linkable": is_plain,
    }


def _is_one(dilation: int | Sequence[int] | None) -> bool:
    return dilation is None or set(np.atleast_1d(dilation)) == {1}


def _pair(strides: int | Sequence[int] | None) -> int | tuple[int, ...]:
    if strides is None or isinstance(strides, int):
        return strides or 1
    return tuple(strides)


def _padding(padding) -> str | tuple[tuple[int, int], ...]:
    """As flax's `Conv` reads it: a name, or a pair for each axis of the image."""
    if isinstance(padding, str):
        return padding
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
