"""The training examples of each label, and sums over them.

A rare label is positive so seldom that no batch tells what its weights should be. All
its examples do, and they are few: going through those of every label costs as much as
there are positives, whatever the number of labels.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srigl_jax.extreme import rows
from srigl_jax.extreme.classifier import Block, Classifier, expand

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


def start_from_examples(
    classifier: Classifier,
    encode: Encode,
    inputs: Any,
    owned: Owners,
    *,
    scale: float,
    power: float,
) -> Classifier:
    """Weights that point at each label's examples, whatever its positions are.

    With v_n the sum of the features of the label's examples, at its positions alone,
    they become `scale * v_n / |v_n|^power`. That is the direction of the first step
    of gradient descent from 0 on all examples. With features of length 1, dense
    weights and power 1 a logit is, without its bias, `scale` times the cosine to the
    mean example; a smaller power prefers labels of many examples.

    Args:
      classifier: keeps its bias; a label without examples gets the weights 0.
      encode: gives the features of examples.
      inputs: of `encode`.
      owned: from `by_label`.
      scale: of the logits.
      power: how far the number of examples is divided out.
    """
    start = jax.jit(
        partial(
            _start_block,
            encode=encode,
            width=classifier.width,
            scale=scale,
            power=power,
        )
    )
    blocks = tuple(start(block, inputs, owned) for block in classifier.blocks)
    return dataclasses.replace(classifier, blocks=blocks)


def _start_block(block: Block, inputs, owned, *, encode, width, scale, power) -> Block:
    first = jnp.int32(block.first)

    def visit(i, values):
        part = rows.consecutive(block, first, i)

        def contribution(examples, row):
            del row
            return encode(inputs, examples)

        total = sums(owned, block, first, i, width, contribution)
        if part.indices is not None:
            indices = expand(part.indices, block.group)
            total = jnp.take_along_axis(total, indices, axis=1)
        length = jnp.linalg.norm(total, axis=1, keepdims=True)
        return part.write(values, scale * total / jnp.maximum(length, 1e-12) ** power)

    chunks = block.values.shape[0] // block.chunk
    values = jax.lax.fori_loop(0, chunks, visit, block.values)
    return dataclasses.replace(block, values=values)


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
