"""The condensed product in plain XLA: every platform, and the reference.

Two formulations, chosen by the batch size, when a program is traced, or, exported for
any size, when it is compiled:

- *gather*, for a few examples: read k inputs for each neuron, multiply, sum.
- *densify*, for batches: write a chunk of neurons out as dense rows, and let XLA's
  own matrix product do the rest. On a CPU gathering costs XLA more than the dense
  product; see `experiments/benchmark_condensed.py`.

Both walk over chunks of neurons, whose share of temporaries is at most `CHUNK_BYTES`
(or one neuron's, if that is more).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

CHUNK_BYTES = 2**23
"""Bound of a chunk's temporary, in bytes."""

GATHER_BATCH = 4
"""The largest batch that is gathered."""


def product(
    x: jax.Array, values: jax.Array, indices: jax.Array, fan_in: int
) -> jax.Array:
    """y[b, i] = sum_j values[i, j] * x[b, indices[i, j]], summed in float32.

    Args:
      x: f[batch, fan_in].
      values: f[active, k].
      indices: u16 or i32[active, k].
      fan_in: width of x.

    Returns:
      f[batch, active], of the type that x and values promote to.
    """
    if fan_in == 0:
        dtype = jnp.promote_types(x.dtype, values.dtype)
        return jnp.zeros((x.shape[0], values.shape[0]), dtype)
    # Where weights are constants XLA would compute the dense layer as it compiles.
    values, indices = jax.lax.optimization_barrier((values, indices))
    batch = x.shape[0]
    if not isinstance(batch, int):
        # One of the branches is gone once the size is known and the program compiled.
        is_small = jnp.asarray(batch) <= GATHER_BATCH
        y = jax.lax.cond(is_small, _by_gathering, _by_densifying, x, values, indices)
    elif batch <= GATHER_BATCH:
        y = _by_gathering(x, values, indices)
    else:
        y = _by_densifying(x, values, indices)
    return y.T.astype(jnp.promote_types(x.dtype, values.dtype))


def input_gradient(
    dy: jax.Array, values: jax.Array, indices: jax.Array, fan_in: int
) -> jax.Array:
    """Gradient of `product` by x: f32[batch, fan_in], for dy f[batch, active]."""

    def add_chunk(dx, chunk):
        dy, values, indices = chunk
        rows = _dense_rows(values, indices, fan_in)
        return dx + jnp.matmul(
            dy.T, rows.astype(dy.dtype), preferred_element_type=jnp.float32
        )

    zero = jnp.zeros((dy.shape[0], fan_in), jnp.float32)
    return _fold_chunks(add_chunk, zero, 4 * fan_in, dy.T, values, indices)


def value_gradient(x: jax.Array, dy: jax.Array, indices: jax.Array) -> jax.Array:
    """Gradient of `product` by values: f32[active, k].

    One pass for each of the k columns, so that no [batch, active, k] array exists.

    Args:
      x: f[batch, fan_in].
      dy: f[batch, active].
      indices: u16 or i32[active, k].
    """
    inputs, dy = x.T, dy.T

    def column(indices):
        return jnp.sum(inputs[indices] * dy, 1, dtype=jnp.float32)

    return jax.lax.map(column, indices.T.astype(jnp.int32)).T


def _by_gathering(x, values, indices):
    batch = x.shape[0] if isinstance(x.shape[0], int) else GATHER_BATCH
    row_bytes = 4 * batch * values.shape[1]
    return _over_chunks(partial(_gathered, x), row_bytes, values, indices)


def _by_densifying(x, values, indices):
    return _over_chunks(partial(_densified, x), 4 * x.shape[1], values, indices)


def _gathered(x, values, indices):
    inputs = jnp.take(x, indices.astype(jnp.int32), axis=1, mode="clip")
    return jnp.einsum("bik,ik->ib", inputs, values, preferred_element_type=jnp.float32)


def _densified(x, values, indices):
    rows = _dense_rows(values, indices, x.shape[1])
    return jnp.matmul(rows, x.T, preferred_element_type=jnp.float32)


def _dense_rows(values, indices, fan_in):
    neurons = jnp.arange(values.shape[0])[:, None]
    rows = jnp.zeros((values.shape[0], fan_in), values.dtype)
    return rows.at[neurons, indices.astype(jnp.int32)].add(values, mode="drop")


def _over_chunks(rows_of: Callable, row_bytes: int, *arrays: jax.Array) -> jax.Array:
    """`rows_of(*chunk)` for chunks of the leading axis, concatenated."""
    rows = arrays[0].shape[0]
    chunk = max(1, min(rows, CHUNK_BYTES // max(1, row_bytes)))
    if chunk >= rows:
        return rows_of(*arrays)
    whole = rows - rows % chunk
    split = [a[:whole].reshape(whole // chunk, chunk, *a.shape[1:]) for a in arrays]
    y = jax.lax.map(lambda parts: rows_of(*parts), split)
    y = y.reshape(whole, *y.shape[2:])
    if whole < rows:
        y = jnp.concatenate([y, rows_of(*(a[whole:] for a in arrays))])
    return y


def _fold_chunks(fold: Callable, start, row_bytes: int, *arrays: jax.Array):
    """`fold(carry, chunk)` over chunks of the leading axis."""
    rows = arrays[0].shape[0]
    chunk = max(1, min(rows, CHUNK_BYTES // max(1, row_bytes)))
    whole = rows - rows % chunk
    shape = whole // chunk, chunk
    split = tuple(a[:whole].reshape(*shape, *a.shape[1:]) for a in arrays)
    carry, _ = jax.lax.scan(lambda c, part: (fold(c, part), None), start, split)
    if whole < rows:
        carry = fold(carry, tuple(a[whole:] for a in arrays))
    return carry
