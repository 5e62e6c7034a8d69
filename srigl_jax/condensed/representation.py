"""A layer of constant fan-in as the weights that exist and where they read from.

The condensed form of Lasby et al. (2024), section 4.4: row i of `values` and `indices`
holds the k weights of the i-th active neuron and the inputs they multiply,

    y[active[i]] = bias[active[i]] + sum_j values[i, j] * x[indices[i, j]].
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from srigl_jax.sparsity.layout import Layout


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "indices", "active", "bias"),
    meta_fields=("layout",),
)
@dataclasses.dataclass(frozen=True)
class Condensed:
    """One layer in condensed form; a pytree.

    Attributes:
      values: f[active neurons, k].
      indices: u16 or i32[active neurons, k]: positions in the flattened fan-in, for a
        convolution in the order (height, width, channels of the group). They ascend in
        each row; a row shorter than k ends in value 0 at index 0. A gradient there
        is that of a weight at input 0: mask it when training such a layer.
      active: i32[active neurons], which outputs they are, ascending.
      bias: f[neurons] or None. A neuron without weights outputs its bias.
      layout: shape of the dense kernel, and which of its axes number the neurons.
    """

    values: jax.Array
    indices: jax.Array
    active: jax.Array
    bias: jax.Array | None
    layout: Layout

    @property
    def k(self) -> int:
        """Weights of each active neuron."""
        return self.values.shape[1]

    @property
    def all_active(self) -> bool:
        """Whether no neuron is ablated."""
        return len(self.active) == self.layout.neurons


def condense(
    kernel: jax.typing.ArrayLike,
    mask: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike | None = None,
    *,
    neuron_axes: tuple[int, ...] | None = None,
) -> Condensed:
    """The condensed form of a masked kernel.

    A mask whose neurons have different fan-ins, RigL's say, is padded to the largest.

    Args:
      kernel: f[...], any float dtype, kept.
      mask: bool[...], like kernel. Which weights exist; a weight that exists may be 0.
      bias: f[neurons] or None.
      neuron_axes: axes of kernel that number the output features; the last one unless
        given, as in dense and convolutional layers of flax.

    Raises:
      ValueError: shapes that do not fit.
    """
    kernel, mask = np.asarray(kernel), np.asarray(mask, bool)
    axes = (kernel.ndim - 1,) if neuron_axes is None else neuron_axes
    if kernel.shape != mask.shape:
        raise ValueError(f"kernel has shape {kernel.shape} but mask {mask.shape}")
    layout = Layout(kernel.shape, tuple(axes))
    weights, mask = layout.to_matrix(kernel).T, layout.to_matrix(mask).T
    active = np.flatnonzero(mask.any(1))
    weights, mask = weights[active], mask[active]
    k = int(mask.sum(1).max(initial=0))
    # A stable sort of "absent" moves the inputs that exist to the front, in order.
    indices = np.argsort(~mask, axis=1, kind="stable")[:, :k]
    exists = np.take_along_axis(mask, indices, 1)
    values = np.where(exists, np.take_along_axis(weights, indices, 1), 0)
    indices = np.where(exists, indices, 0).astype(index_dtype(layout.fan_in))
    condensed = Condensed(
        jnp.asarray(values, weights.dtype),
        jnp.asarray(indices),
        jnp.asarray(active, jnp.int32),
        None if bias is None else jnp.asarray(bias).reshape(-1),
        layout,
    )
    check_condensed(condensed)
    return condensed


def densify(c: Condensed) -> jax.Array:
    """The dense kernel, f[layout.shape]; 0 where no weight exists."""
    rows = jnp.zeros((len(c.active), c.layout.fan_in), c.values.dtype)
    neurons = jnp.arange(len(c.active))[:, None]
    # Added, not set: padding shares index 0 with a weight that may exist.
    rows = rows.at[neurons, c.indices.astype(jnp.int32)].add(c.values)
    if not c.all_active:
        full = jnp.zeros((c.layout.neurons, c.layout.fan_in), c.values.dtype)
        rows = full.at[c.active].set(rows)
    return c.layout.from_matrix(rows.T)


def narrow(c: Condensed) -> Condensed:
    """The layer without its ablated neurons: as many outputs as active neurons.

    Its consumer must have been narrowed to them too.
    """
    active = c.active
    return Condensed(
        c.values,
        c.indices,
        jnp.arange(len(active), dtype=jnp.int32),
        None if c.bias is None else c.bias[active],
        _with_neurons(c.layout, len(active)),
    )


def index_dtype(fan_in: int) -> type:
    """The narrowest type that numbers the inputs of a neuron: u16 or i32."""
    return np.uint16 if fan_in <= 2**16 else np.int32


def check_condensed(c: Condensed) -> None:
    """Verifies what every back end relies on; for layers that come from a file.

    Args:
      c: with concrete arrays.

    Raises:
      ValueError: names the field and what is wrong with it.
    """
    values, indices, active = map(np.asarray, (c.values, c.indices, c.active))
    fan_in, neurons = c.layout.fan_in, c.layout.neurons
    if max(fan_in, neurons) >= 2**31:
        raise ValueError(
            f"the kernel {c.layout.shape} has fan-in {fan_in} and {neurons} neurons: "
            "both must be below 2**31"
        )
    if values.ndim != 2 or values.shape != indices.shape:
        raise ValueError(
            f"values and indices must both be [active, k]: they have shapes "
            f"{values.shape} and {indices.shape}"
        )
    if indices.dtype not in (np.uint16, np.int32):
        raise ValueError(f"indices are {indices.dtype}: give uint16 or int32")
    if indices.size and not 0 <= indices.min() <= indices.max() < fan_in:
        raise ValueError(
            f"indices must lie in [0, {fan_in}), the fan-in: they reach from "
            f"{indices.min()} to {indices.max()}"
        )
    ascends = np.diff(indices.astype(np.int64), axis=1) > 0
    is_padding = (indices[:, 1:] == 0) & (values[:, 1:] == 0)
    # Padding comes last: what follows it is padding too.
    ends = np.logical_and.accumulate(is_padding[:, ::-1], axis=1)[:, ::-1]
    if not (ascends | ends).all():
        row = int(np.flatnonzero(~(ascends | ends).all(1))[0])
        raise ValueError(
            f"indices must ascend in each row, up to padding with value 0 at index 0: "
            f"those of row {row} do not"
        )
    if active.dtype != np.int32 or active.shape != (len(values),):
        raise ValueError(
            f"active must be int32[{len(values)}], one for each row of values: it is "
            f"{active.dtype}{list(active.shape)}"
        )
    if active.size and not (
        0 <= active[0] and active[-1] < neurons and (np.diff(active) > 0).all()
    ):
        raise ValueError(f"active must ascend within [0, {neurons}), the neurons")
    if c.bias is not None and c.bias.shape != (neurons,):
        raise ValueError(
            f"bias must have shape ({neurons},): it has shape {c.bias.shape}"
        )


def _with_neurons(layout: Layout, neurons: int) -> Layout:
    if len(layout.neuron_axes) > 1:  # Heads may have lost different numbers.
        return Layout((layout.fan_in, neurons), (1,))
    shape = list(layout.shape)
    shape[layout.neuron_axes[0]] = neurons
    return Layout(tuple(shape), layout.neuron_axes)
