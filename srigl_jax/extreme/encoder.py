"""From bags of features to what the classifier reads, linearly.

The features themselves; or each one hashed to a few positions (Weinberger et al., ICML
2009); or an embedding that begins as that and is trained, the rows of a batch alone.
Features of short texts are mostly zero and each means a word, hashed a few words, so a
label's weights can be chosen: it needs the positions that its examples have.

Linear, because positive features would move the logits of all examples alike.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from srigl_jax.extreme import optimizer_state
from srigl_jax.extreme.data.features import Bags, Packed, embed

Encoder = dict[str, jax.Array]
"""`positions` i32[features, hashes] and `signs` f32[features, hashes], or `table`
f32[features, width], or neither; behind that, if it is there, `projection` f32[width,
narrow]."""

Optimizers = Mapping[str, optax.GradientTransformation]
"""Of the table and of the projection."""


def init(
    key: jax.Array,
    features: int,
    width: int | None,
    *,
    hashes: int = 1,
    trained: bool = False,
    narrow: int | None = None,
) -> Encoder:
    """An encoder whose features have about the length of the bags, 1.

    Args:
      key: PRNG key.
      features: that bags are of.
      width: of what it gives; None for the features themselves.
      hashes: positions of each feature; two may be the same.
      trained: with a table instead.
      narrow: width behind a projection.
    """
    keys = jax.random.split(key, 3)
    encoder = {}
    if width is not None:
        shape = features, hashes
        positions = jax.random.randint(keys[0], shape, 0, width, jnp.int32)
        signs = jax.random.rademacher(keys[1], shape, jnp.float32) / hashes**0.5
        encoder = {"positions": positions, "signs": signs}
        if trained:
            table = jnp.zeros((features, width))
            encoder = {
                "table": table.at[jnp.arange(features)[:, None], positions].add(signs)
            }
    if narrow is not None:
        shape = features if width is None else width, narrow
        projection = jax.random.normal(keys[2], shape) / narrow**0.5
        encoder["projection"] = projection
    return encoder


def encode(encoder: Encoder, batch: Bags, width: int) -> jax.Array:
    """f32[rows, the width that the classifier reads].

    Args:
      encoder: from `init`.
      batch: bags.
      width: of the positions, before the projection; or how many features there are.
    """
    if "table" in encoder:
        x = embed(encoder["table"], batch)
    else:
        x = _spread(encoder, batch, width)
    return x @ encoder["projection"] if "projection" in encoder else x


def train(
    encoder: Encoder,
    state: dict[str, Any],
    batch: Bags | Packed,
    width: int,
    learn: Any,
    optimizers: Optimizers,
) -> tuple[Encoder, dict[str, Any], Any]:
    """Encodes a batch, lets the classifier learn from it, and learns what it returns.

    Args:
      encoder: from `init`.
      state: from `init_state`.
      batch: `Packed` if there is a table. Without any encoder it may be, and the
        classifier learns from its columns alone.
      width: as for `encode`.
      learn: from features f32[rows, width] to their gradient and anything.
      optimizers: those of the state.

    Returns:
      The encoder, its state, and that anything.
    """
    encoder, state = dict(encoder), dict(state)
    if "table" in encoder:
        own = jnp.take(
            encoder["table"], batch.features, axis=0, mode="fill", fill_value=0
        )
        hidden = batch.weights @ own
    elif isinstance(batch, Packed):
        hidden = batch.weights
    else:
        hidden = _spread(encoder, batch, width)
    x = hidden @ encoder["projection"] if "projection" in encoder else hidden
    dx, result = learn(x)
    dhidden = dx @ encoder["projection"].T if "projection" in encoder else dx
    if "projection" in encoder:
        updates, state["projection"] = optimizers["projection"].update(
            hidden.T @ dx, state["projection"]
        )
        encoder["projection"] = encoder["projection"] + updates
    if "table" in encoder:

        def take(whole):
            return jnp.take(whole, batch.features, axis=0, mode="fill", fill_value=0)

        def put(whole, rows):
            return whole.at[batch.features].set(rows, mode="drop")

        optimizer = optimizers["table"]
        now = optimizer_state.read(optimizer, state["table"], state["table"], take)
        updates, now = optimizer.update(batch.weights.T @ dhidden, now)
        encoder["table"] = put(encoder["table"], own + updates)
        state["table"] = optimizer_state.write(optimizer, state["table"], now, put)
    return encoder, state, result


def init_state(encoder: Encoder, optimizers: Optimizers) -> dict[str, Any]:
    """The optimizers' state for what is trained of an encoder."""
    return {
        name: optimizer.init(encoder[name])
        for name, optimizer in optimizers.items()
        if name in encoder
    }


def _spread(encoder, batch, width):
    columns = batch.columns
    if columns is None and "positions" not in encoder:
        return batch.weights
    if columns is None:
        columns = jnp.arange(batch.weights.shape[1])[None]
    rows = jnp.arange(batch.weights.shape[0])[:, None, None]
    places, values = columns[..., None], batch.weights[..., None]
    if "positions" in encoder:
        places = encoder["positions"][columns]
        values = encoder["signs"][columns] * values
    x = jnp.zeros((batch.weights.shape[0], width))
    return x.at[rows, places].add(values, mode="promise_in_bounds")
