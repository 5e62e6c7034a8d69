"""Losses of one logit against a target of 0 or 1."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""`(logits, targets) -> losses`, elementwise, targets 0 or 1."""


def squared_hinge(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """`max(0, 1 - s * logit)^2` with s = 1 for positives and -1 for negatives."""
    return jnp.square(jnp.maximum(0, 1 - (2 * targets - 1) * logits))


LOSSES: dict[str, Loss] = {
    "squared_hinge": squared_hinge,
    "bce": optax.sigmoid_binary_cross_entropy,
}


def find(loss: str | Loss) -> Loss:
    """A loss by name, or the function itself.

    Raises:
      ValueError: no loss has that name.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(
            f"loss is {loss!r}: choose {' or '.join(sorted(LOSSES))}, or pass one"
        )
    return LOSSES[loss]


def value_and_gradient(
    loss: Loss, logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of the losses, f32[], and its gradient, shaped like logits."""
    losses, pull = jax.vjp(lambda logits: loss(logits, targets), logits)
    (gradient,) = pull(weights)
    return jnp.sum(losses * weights), gradient
