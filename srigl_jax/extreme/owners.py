"""The training examples of each label, and sums over them.

A rare label is positive so seldom that no batch tells what its weights should be. All
its examples do, and they are few: going through those of every label costs as much as
there are positives, whatever the number of labels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srigl_jax.extreme.classifier import Block

PIECE = 512
"""Examples that are encoded at a time."""

Encode = Callable[[Any, jax.Array], jax.Array]
"""`(inputs, i32[m]) -> f32[m, width]`: the features of the examples of these numbers;
`inputs` is whatever it needs for that, a pytree of arrays."""


class Owners(NamedTuple):
    """Each pair of a label and an example it is positive for, by label; a pytree.

    Attributes:
      labels: i32[pairs], ascending.
      examples: i32[pairs].
    """

    labels: np.ndarray
    examples: np.ndarray


def by_label(positives: np.ndarray) -> Owners:
    """Turns the labels of examples into the examples of labels.

    Args:
      positives: i32[examples, most], padded with -1; a label named twice counts once.
    """
    examples, columns = np.nonzero(positives >= 0)
    pairs = np.stack([positives[examples, columns], examples])
    labels, examples = np.unique(pairs, axis=1).astype(np.int32)
    return Owners(labels, examples)


def sums(
    owned: Owners,
    block: Block,
    first: jax.Array,
    i: jax.Array,
    width: int,
    contribution: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Sums over the examples of each label of a chunk: f32[chunk, width].

    Args:
      owned: from `by_label`.
      block: of the labels.
      first: the label of its first row here.
      i: the number of the chunk.
      width: of the features.
      contribution: `(examples, rows) -> f32[PIECE, width]` for pairs of an example and
        a row of the chunk, both i32[PIECE]; what it gives for a row that is out of
        range does not count.
    """
    start = first + i * block.chunk
    stop = jnp.minimum(start + block.chunk, block.first + block.labels)
    begin, end = jnp.searchsorted(owned.labels, jnp.stack([start, stop]))

    def add(piece, total):
        places = begin + piece * PIECE + jnp.arange(PIECE)
        examples = jnp.take(owned.examples, places, mode="clip")
        row = jnp.take(owned.labels, places, mode="clip") - start
        row = jnp.where(places < end, row, block.chunk)
        return total.at[row].add(contribution(examples, row), mode="drop")

    total = jnp.zeros((block.chunk, width))
    return jax.lax.fori_loop(0, -(-(end - begin) // PIECE), add, total)
