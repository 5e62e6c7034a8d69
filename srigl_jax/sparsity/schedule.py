"""When the topology changes, and by how much (RigL, arXiv 1911.11134, section 3)."""

import math

import jax
import jax.numpy as jnp


def t_end(total_steps: int, stop: float = 0.75) -> int:
    """The step from which the topology is left alone: floor(stop * total_steps)."""
    return math.floor(stop * total_steps + 1e-6)


def update_due(
    step: jax.typing.ArrayLike, delta_t: int, t_end: jax.typing.ArrayLike
) -> jax.Array | bool:
    """Whether the topology is updated at this step.

    Args:
      step: i32[], 0-based.
      delta_t: steps between two updates.
      t_end: i32[], updates happen strictly before this step.

    Returns:
      bool[], Python's own for Python's integers: `step % delta_t == 0 and 0 < step <
      t_end`.
    """
    return (step % delta_t == 0) & (step > 0) & (step < t_end)


def drop_fraction(
    step: jax.typing.ArrayLike, alpha: float, t_end: jax.typing.ArrayLike
) -> jax.Array:
    """The share of active weights replaced by an update, annealed by a cosine.

    Args:
      step: i32[], 0-based.
      alpha: the share at step 0.
      t_end: i32[], the share is 0 there and beyond.

    Returns:
      f32[]: `alpha / 2 * (1 + cos(pi * step / t_end))`.
    """
    end = jnp.maximum(jnp.asarray(t_end, jnp.float32), 1)
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / end, 0, 1)
    return jnp.float32(alpha) / 2 * (1 + jnp.cos(jnp.pi * progress))


def pruning_due(
    step: jax.typing.ArrayLike, start: int, end: int, delta_t: int
) -> jax.Array | bool:
    """Whether a dense network is pruned at this step.

    Args:
      step: i32[], 0-based.
      start: the first step at which it is, 0 or later.
      end: the last, no earlier than `start`.
      delta_t: steps between two.

    Returns:
      bool[], Python's own for Python's integers.
    """
    on_time = ((step - start) % delta_t == 0) | (step == end)
    return on_time & (start <= step) & (step <= end)


def pruning_progress(step: jax.typing.ArrayLike, start: int, end: int) -> jax.Array:
    """How much of what gradual pruning removes is gone after this step.

    The cubic schedule of Zhu & Gupta (arXiv 1710.01878, section 3), which prunes fast
    while weights are plenty: `s_t = s_f * progress` from a dense start.

    Args:
      step: i32[], 0-based.
      start: where it is 0.
      end: where it is 1; if that is `start`, it is 1 there.

    Returns:
      f32[]: `1 - (1 - (step - start) / (end - start))^3`, 0 before and 1 after.
    """
    left = jnp.asarray(end - step, jnp.float32) / max(end - start, 1)
    progress = 1 - jnp.clip(left, 0, 1) ** 3
    return jnp.where(jnp.asarray(step) < start, 0, progress)
