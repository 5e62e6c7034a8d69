"""A condensed layer arranged for few examples, on CPUs with permute instructions.

At batch 1 a condensed product is bound by looking inputs up one by one. Here a vector
of neurons looks one input each up with a few instructions: in every step the lanes read
from one window of neighbouring inputs that fits the registers, and a lane without a
weight there multiplies by 0. A window is loaded once for several vectors of neurons,
those with similar inputs, and slides to the least input that is still to be read. In
N:M sparsity lanes advance together by themselves, and few are idle.
"""

import ctypes
import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from srigl_jax.condensed import native
from srigl_jax.condensed.representation import Condensed, check_condensed

MOST_WEIGHTS = 2**26
"""Of a layer: the kernels count in 32 bits, and idle lanes take room as well."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("packed", "bias"),
    meta_fields=("fan_in", "outputs", "width", "lanes", "blocks", "groups", "dtype"),
)
@dataclasses.dataclass(frozen=True)
class Windows:
    """One layer arranged for this machine's vectors; a pytree.

    It is one array of the bits of five, since each argument makes a call slower:

    - values, f32[blocks, 4, lanes]: those of four steps, for all lanes of a group;
    - offsets, u32[blocks, lanes]: where in the window each lane reads, a byte a step;
    - bases, i32[blocks, 4]: where the window of inputs begins, in vectors;
    - starts, i32[groups + 1]: the blocks of each group of neurons;
    - neurons, i32[groups, lanes]: which outputs they are; -1 for an empty lane.

    Attributes:
      packed: u32[...], the five.
      bias: f[outputs] or None.
      fan_in: width of the input.
      outputs: neurons, ablated ones included.
      width: floats in a vector.
      lanes: neurons of a group, of one to four vectors.
      blocks: of four steps.
      groups: of neurons.
      dtype: of the condensed layer's values.
    """

    packed: jax.Array
    bias: jax.Array | None
    fan_in: int
    outputs: int
    width: int
    lanes: int
    blocks: int
    groups: int
    dtype: np.dtype


def arrange(c: Condensed) -> Windows:
    """Arranges a layer for this machine.

    Takes time quadratic in the neurons up to 2,048, then linear: measured, 0.3 s for
    2,048 neurons of 300 weights, 0.4 s for 16,384 of 61.

    Raises:
      ValueError: the layer is damaged, or has more than `MOST_WEIGHTS`.
      MemoryError: there is no room for the arrangement.
      RuntimeError: the C++ kernels are not built.
    """
    native.require()
    check_condensed(c)
    if c.values.size > MOST_WEIGHTS:
        raise ValueError(
            f"a layer of {c.values.size:,} weights is too large to be arranged "
            f"({MOST_WEIGHTS:,} at most): use condensed_matmul"
        )
    library, _ = native.load()
    values = np.ascontiguousarray(c.values, np.float32)
    indices = np.ascontiguousarray(c.indices, np.int32)
    active = np.ascontiguousarray(c.active, np.int32)
    made = ctypes.c_void_p(
        library.srigl_arrange(
            *(ctypes.c_void_p(a.ctypes.data) for a in (values, indices, active)),
            *map(ctypes.c_int64, (*values.shape, c.layout.fan_in)),
        )
    )
    if not made.value:
        raise MemoryError(f"no memory to arrange a layer of shape {c.layout.shape}")
    try:
        found = (ctypes.c_int64 * 4)()
        library.srigl_arranged_sizes(made, found)
        lanes, blocks, groups, length = found
        packed = np.empty(length, np.uint32)
        library.srigl_arranged_pack(made, ctypes.c_void_p(packed.ctypes.data))
    finally:
        library.srigl_arranged_free(made)
    return Windows(
        packed=jnp.asarray(packed),
        bias=c.bias,
        fan_in=c.layout.fan_in,
        outputs=c.layout.neurons,
        width=library.srigl_width(),
        lanes=lanes,
        blocks=blocks,
        groups=groups,
        dtype=np.dtype(c.values.dtype),
    )


def windows_matmul(x: jax.Array, w: Windows) -> jax.Array:
    """Multiplies by a layer arranged in windows and adds its bias; on CPUs alone.

    Args:
      x: f[..., fan_in], any leading dimensions; few examples in all, since each goes
        through the layer by itself.
      w: the layer, arranged on a machine with vectors of the same width.

    Returns:
      f[..., outputs], of the type that x and the condensed values promote to, computed
      in float32. Not differentiable: train and differentiate the `Condensed` form.

    Raises:
      ValueError: the width of x is not the fan-in.
      RuntimeError: the C++ kernels are not built.
    """
    native.require()
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != w.fan_in:
        raise ValueError(
            f"x has shape {x.shape}: its last axis must be the layer's fan-in, "
            f"{w.fan_in}"
        )
    # An empty bias stands for none.
    bias = jnp.zeros(0, jnp.float32) if w.bias is None else w.bias.astype(jnp.float32)
    sizes = {"width": w.width, "lanes": w.lanes, "blocks": w.blocks, "groups": w.groups}

    def call(x, packed, bias):
        shape = jax.ShapeDtypeStruct((x.shape[0], w.outputs), jnp.float32)
        multiply = jax.ffi.ffi_call(
            native.TARGETS["srigl_windows"], shape, vmap_method="sequential"
        )
        return multiply(x, packed, bias, **sizes)

    rows = x.reshape(math.prod(x.shape[:-1]), w.fan_in).astype(jnp.float32)
    y = native.folding_batches(call)(rows, w.packed, bias)
    dtype = jnp.promote_types(x.dtype, w.dtype)
    return y.reshape(*x.shape[:-1], w.outputs).astype(dtype)
