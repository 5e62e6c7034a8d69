"""How the logits of a chunk of labels and their gradients are computed.

- *chunk*: write the labels out as dense rows and let matrix products do the rest. The
  work of a dense layer, in the memory of a chunk.
- *slots*: one weight of each label at a time; the work of the weights that exist.
- *grouped*: the inputs of a group of labels are gathered once, then small products.

All are exact, and equal up to rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from srigl_jax.extreme.classifier import Block, dense_rows, expand

FORMS = ("auto", "chunk", "slots", "grouped")

CPU_SLOTS_RATIO = 16
"""From this ratio of width to k on, slots are faster on a CPU (measured on two cores,
`experiments/extreme.py --only step`)."""

SLOTS_WIDTH = 4096
"""From this width on, "auto" writes no dense rows on any platform."""

Pull = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""From the gradient of the logits to those of x and of values."""


def choose(implementation: str, block: Block, width: int) -> str:
    """The form that a block is computed in.

    Raises:
      ValueError: unknown, or grouped where labels do not share their indices.
    """
    if implementation not in FORMS:
        raise ValueError(
            f"implementation is {implementation!r}: choose from {', '.join(FORMS)}"
        )
    if block.indices is None:
        return "chunk"
    if implementation == "grouped" and block.group == 1:
        raise ValueError(
            "implementation is 'grouped', but every label has its own indices: "
            "choose another, or call init with group > 1"
        )
    if implementation != "auto":
        return implementation
    if block.group > 1:
        return "grouped"
    most = SLOTS_WIDTH
    if jax.default_backend() == "cpu":
        most = min(most, CPU_SLOTS_RATIO * block.values.shape[1])
    return "chunk" if width < most else "slots"


def product(
    form: str, values: jax.Array, indices: jax.Array | None, group: int, x: jax.Array
) -> tuple[jax.Array, Pull]:
    """Logits without bias, and the way back.

    Args:
      form: "chunk", "slots" or "grouped".
      values: f32[rows, k].
      indices: int[rows // group, k], or None for dense rows.
      group: rows that share indices.
      x: f32[batch, width].

    Returns:
      f32[batch, rows], and a function of their gradient that returns those of x and
      of values.
    """
    if form == "grouped":
        return _grouped(values, indices.astype(jnp.int32), group, x)
    indices = expand(indices, group)
    if form == "slots":
        return _slots(values, indices, x)
    return _chunk(values, indices, x)


def _chunk(values, indices, x):
    rows = dense_rows(values, indices, x.shape[1])

    def pull(g):
        dvalues = g.T @ x
        if indices is not None:
            dvalues = jnp.take_along_axis(
                dvalues, indices, axis=1, mode="promise_in_bounds"
            )
        return g @ rows, dvalues

    return x @ rows.T, pull


def _slots(values, indices, x):
    inputs = x.T
    slots = values.T[..., None], indices.T

    def add(logits, slot):
        weight, index = slot
        return logits + weight * inputs[index], None

    def pull(g):
        g = g.T

        def back(dx, slot):
            weight, index = slot
            return dx.at[index].add(weight * g), jnp.sum(inputs[index] * g, axis=1)

        dx, dvalues = jax.lax.scan(back, jnp.zeros_like(inputs), slots)
        return dx.T, dvalues.T

    start = jnp.zeros((values.shape[0], x.shape[0]), x.dtype)
    logits, _ = jax.lax.scan(add, start, slots)
    return logits.T, pull


def _grouped(values, indices, group, x):
    rows, k = values.shape
    values = values.reshape(-1, group, k)
    inputs = x.T[indices]  # [groups, k, batch]
    logits = jnp.einsum("gnk,gkb->gnb", values, inputs)

    def pull(g):
        g = g.T.reshape(-1, group, x.shape[0])
        dvalues = jnp.einsum("gnb,gkb->gnk", g, inputs).reshape(rows, k)
        dinputs = jnp.einsum("gnk,gnb->gkb", values, g)
        return jnp.zeros_like(x.T).at[indices].add(dinputs).T, dvalues

    return logits.reshape(rows, -1).T, pull
