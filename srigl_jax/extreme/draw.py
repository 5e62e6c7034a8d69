"""Distinct random positions without an array of rows x width."""

import jax
import jax.numpy as jnp


def distinct(key: jax.Array, rows: int, count: int, width: int) -> jax.Array:
    """Uniform subsets of `range(width)`, one for each row: i32[rows, count].

    Floyd's algorithm (Bentley and Floyd, CACM 30(9), 1987): after step i the first
    i + 1 columns are a uniform subset of `range(width - count + i + 1)`.
    """
    ends = width - count + jnp.arange(count)
    drawn = jax.random.randint(key, (rows, count), 0, ends + 1)

    def step(i, chosen):
        seen = jnp.any(chosen == drawn[:, i][:, None], axis=1)
        return chosen.at[:, i].set(jnp.where(seen, ends[i], drawn[:, i]))

    return jax.lax.fori_loop(0, count, step, jnp.full((rows, count), -1, jnp.int32))


def absent(
    key: jax.Array, indices: jax.Array, kept: jax.Array, width: int
) -> jax.Array:
    """Distinct uniform positions that are not kept, as many as are not kept.

    Args:
      key: PRNG key.
      indices: i32[rows, k], distinct in each row.
      kept: bool[rows, k], as many in each row.
      width: positions lie in `range(width)`.

    Returns:
      i32[rows, k]: of a row with n slots that are not kept the first n are drawn; the
      others mean nothing.
    """
    rows, k = indices.shape
    # Ranks among the positions that are not kept. There are width - k + n of those, so
    # n steps of Floyd's algorithm end at the same numbers as k steps of width do.
    ranks = distinct(key, rows, k, width)
    # The i-th kept position p, ascending, has p - i free ones before it.
    ascending = jnp.sort(jnp.where(kept, indices, width + k), axis=1)
    free_before = ascending - jnp.arange(k)
    passed = free_before[:, None, :] <= ranks[:, :, None]
    return ranks + jnp.sum(passed, axis=2, dtype=jnp.int32)
