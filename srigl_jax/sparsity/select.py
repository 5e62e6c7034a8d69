"""Exact top-k masks without a sort.

A topology update asks for "the `count` largest of these millions of scores", never
for their order. Non-negative IEEE floats order like their bit patterns read as
integers, so the smallest selected score is found by bisection on those bits: at most
32 passes that compare and count (64 for float64). That is far cheaper than a sort on
every platform, takes a traced `count`, is exact in the presence of ties, and on
sharded arrays only the counts cross devices.
"""

import math

import jax
import jax.numpy as jnp


def largest(
    scores: jax.Array,
    count: jax.typing.ArrayLike,
    where: jax.Array,
    axis: int | None = None,
) -> jax.Array:
    """Selects the `count` scores of largest magnitude among eligible positions.

    Ties go to the lowest position (row-major over the whole array, or the index
    along `axis`), so the answer is the same on every device. Where fewer than
    `count` positions are eligible all of them are selected.

    Args:
      scores: floating point, any shape; ranked by magnitude, the sign is ignored.
      count: how many to select, i32[]; with an `axis`, anything that broadcasts
        against `scores` reduced over that axis with its dimension kept.
      where: bool, same shape as `scores`: the eligible positions.
      axis: select over this axis separately for each index of the others, or over
        the whole array if None.

    Returns:
      bool, same shape as `scores`.
    """
    return top(sort_keys(scores, where), count, axis)


def sort_keys(
    scores: jax.Array, where: jax.Array, preferred: jax.Array | None = None
) -> jax.Array:
    """Integers that order like the magnitudes of scores, for `top`.

    Args:
      scores: floating point, any shape.
      where: bool, same shape: the eligible positions; all others get the least integer.
      preferred: bool, same shape: positions that come before all others.

    Returns:
      i32 (i64 for float64), same shape.
    """
    if jnp.finfo(scores.dtype).bits < 32:
        scores = scores.astype(jnp.float32)
    integer = jnp.int64 if scores.dtype == jnp.float64 else jnp.int32
    bounds = jnp.iinfo(integer)
    # Masking the sign bit, unlike abs, cannot flush a denormal to zero.
    bits = jax.lax.bitcast_convert_type(scores, integer) & bounds.max
    # Leaves room at both ends for the bisection; only NaNs are that large.
    bits = jnp.minimum(bits, bounds.max - 4)
    keys = bits + (bounds.min + 2)
    if preferred is not None:
        keys = jnp.where(preferred, bits, keys)
    return jnp.where(where, keys, bounds.min)


def signed_keys(scores: jax.Array, where: jax.Array) -> jax.Array:
    """Integers that order like the scores themselves, negative ones last, for `top`.

    Args:
      scores: floating point, any shape, no NaNs.
      where: bool, same shape: the eligible positions; all others get the least integer.

    Returns:
      i32, same shape: of their float32 values.
    """
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    bounds = jnp.iinfo(jnp.int32)
    # Bit patterns of negative floats ascend with their magnitude.
    keys = jnp.where(bits < 0, bits ^ bounds.max, bits)
    return jnp.where(where, jnp.maximum(keys, bounds.min + 2), bounds.min)


def top(
    keys: jax.Array, count: jax.typing.ArrayLike, axis: int | None = None
) -> jax.Array:
    """Selects the `count` largest keys, ties to the lowest position.

    Args:
      keys: as from `sort_keys`, any shape.
      count: as for `largest`.
      axis: as for `largest`.

    Returns:
      bool, same shape as `keys`; never a position that is not eligible.
    """
    bounds = jnp.iinfo(keys.dtype)
    position = _positions(keys.shape, axis)
    eligible = _count(keys > bounds.min, axis)
    count = jnp.minimum(jnp.asarray(count, jnp.int32), eligible)

    # The selection is a cut through the order of (key, position): all keys above some
    # key, and of those that equal it the ones before some position. One bisection
    # finds both, the key first; without ties it is done when the key is found.
    def selected(key, end):
        return (keys > key) | ((keys == key) & (position < end))

    def is_open(cut):
        low, high, first, last = cut
        return jnp.any((low + 1 < high) | (first + 1 < last))

    def narrow(cut):
        low, high, first, last = cut  # (high, first) fits; low and last do not.
        on_key = low + 1 < high
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # Cannot overflow.
        key = jnp.where(on_key, middle, high)
        end = jnp.where(on_key, 0, first + (last - first) // 2)
        total = _count(selected(key, end), axis)
        fits, exact = total <= count, total == count
        high = jnp.where(on_key & fits, key, high)
        low = jnp.where(exact, high - 1, jnp.where(on_key & ~fits, key, low))
        first = jnp.where(~on_key & fits, end, first)
        last = jnp.where(exact, first + 1, jnp.where(on_key | fits, last, end))
        return low, high, first, last

    size = keys.size if axis is None else keys.shape[axis]
    low = jnp.full_like(count, bounds.min, keys.dtype)
    high = jnp.full_like(count, bounds.max - 1, keys.dtype)
    cut = (low, high, jnp.zeros_like(count), jnp.full_like(count, size + 1))
    _, key, end, _ = jax.lax.while_loop(is_open, narrow, cut)
    return selected(key, end)


def _count(selected: jax.Array, axis: int | None) -> jax.Array:
    if axis is not None:
        return jnp.sum(selected, axis=axis, keepdims=True, dtype=jnp.int32)
    if selected.ndim < 2:
        return jnp.sum(selected, dtype=jnp.int32)
    # XLA's CPU backend runs a reduction to a scalar on one thread. Counting columns
    # first, kept apart by the barrier, runs on all of them and twice as fast on one.
    columns = jnp.sum(selected, axis=0, dtype=jnp.int32)
    return jnp.sum(jax.lax.optimization_barrier(columns), dtype=jnp.int32)


def _positions(shape: tuple[int, ...], axis: int | None) -> jax.Array:
    """The rank of every element among tied ones, i32[shape]."""
    if axis is not None:
        return jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    iotas = (jax.lax.broadcasted_iota(jnp.int32, shape, d) for d in range(len(shape)))
    return sum(stride * iota for stride, iota in zip(strides, iotas, strict=True))
