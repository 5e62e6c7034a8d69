"""The rows of an optimizer's state, whatever the optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import optax

Take = Callable[[jax.Array], jax.Array]


def read(
    optimizer: optax.GradientTransformation, state: Any, before: Any, take: Take
) -> Any:
    """The state of some rows.

    Args:
      optimizer: whose state it is.
      state: of all rows.
      before: the same before this step: where the counters come from, so that all
        chunks of a step count as one.
      take: from an array of all rows to these.
    """
    return _merge(optimizer, lambda whole, _: take(whole), state, before)


def write(
    optimizer: optax.GradientTransformation,
    state: Any,
    rows: Any,
    put: Callable[[jax.Array, jax.Array], jax.Array],
) -> Any:
    """The state of all rows, with that of some put into it; counters are theirs."""
    return _merge(optimizer, put, state, rows)


def is_of_weights(optimizer: optax.GradientTransformation, state: Any) -> Any:
    """Like state: True for what has the shape of the weights."""
    return optax.tree.map_params(
        optimizer,
        lambda _: True,
        state,
        transform_non_params=lambda _: False,
    )


def _merge(optimizer, of_weights, state, other):
    return jax.tree.map(
        lambda flag, a, b: of_weights(a, b) if flag else b,
        is_of_weights(optimizer, state),
        state,
        other,
    )
