"""Some rows of a block, and what a batch asks of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from srigl_jax.condensed.representation import index_dtype
from srigl_jax.extreme.classifier import Block
from srigl_jax.extreme.labels import strata


class Rows(NamedTuple):
    """Rows of a block that are worked on together.

    Attributes:
      read: takes them from an array of the block.
      write: puts them back: `(array, rows) -> array`.
      columns: from labels, any shape, to their places among these rows, or to the
        number of rows where they are not among them.
      weights: f32[rows], of their losses as negatives; 0 for padding.
      indices: int[rows // group, k], or None for dense rows.
      group: rows that share indices.
    """

    read: Callable[[jax.Array], jax.Array]
    write: Callable[[jax.Array, jax.Array], jax.Array]
    columns: Callable[[jax.Array], jax.Array]
    weights: jax.Array
    indices: jax.Array | None
    group: int


class Chosen(NamedTuple):
    """The labels that a step with sampled negatives visits.

    Attributes:
      labels: i32[count], ascending; at the end there may be ones that do not exist.
      weights: f32[count], of their losses as negatives.
    """

    labels: jax.Array
    weights: jax.Array


def consecutive(
    block: Block, first: jax.Array, i: jax.Array, places: jax.Array | None = None
) -> Rows:
    """The i-th chunk of a block.

    Args:
      block: of labels.
      first: i32[], its first label on this device.
      i: i32[], which chunk.
      places: from `places_of`, if only some features are given.
    """
    start, size = i * block.chunk, block.chunk
    labels = first + start + jnp.arange(size)
    end = block.first + block.labels

    def read(array):
        return jax.lax.dynamic_slice_in_dim(array, start, size)

    def write(array, rows):
        return jax.lax.dynamic_update_slice_in_dim(array, rows, start, 0)

    def columns(wanted):
        place = wanted - (first + start)
        # Beyond the block's end lie padding and, by number, the next block's labels.
        here = (place >= 0) & (place < size) & (wanted < end)
        return jnp.where(here, place, size)

    indices = block.indices
    if indices is not None:
        groups = size // block.group
        indices = jax.lax.dynamic_slice_in_dim(indices, i * groups, groups)
        indices = placed(indices, places)
    exists = (labels < end).astype(jnp.float32)
    return Rows(read, write, columns, exists, indices, block.group)


def scattered(
    block: Block,
    first: jax.Array,
    chosen: Chosen,
    places: jax.Array | None = None,
) -> Rows:
    """Those of the chosen labels that lie in a block; the others are never written.

    The arguments are those of `consecutive`.
    """
    size, rows = chosen.labels.shape[0], block.values.shape[0]
    limit = jnp.minimum(first + rows, block.first + block.labels)
    inside = (chosen.labels >= first) & (chosen.labels < limit)
    place = jnp.where(inside, chosen.labels - first, rows)

    def read(array):
        return jnp.take(array, place, axis=0, mode="fill", fill_value=0)

    def write(array, rows):
        return array.at[place].set(rows, mode="drop")

    def columns(wanted):
        column = jnp.searchsorted(chosen.labels, wanted)
        column = jnp.minimum(column, size - 1)
        found = (chosen.labels[column] == wanted) & inside[column]
        return jnp.where(found, column, size)

    indices = block.indices
    if indices is not None:  # They are no whole groups: each row has its own.
        indices = jnp.take(indices, place // block.group, axis=0, mode="clip")
        indices = placed(indices, places)
    return Rows(read, write, columns, jnp.where(inside, chosen.weights, 0), indices, 1)


def places_of(features: jax.Array, width: int) -> jax.Array:
    """Where each of `width` features is among some of them: int[width].

    Those that are not among them are where the last one is, which should not exist.
    """
    last = features.size - 1
    places = jnp.full(width, last, index_dtype(features.size))
    numbers = jnp.arange(features.size, dtype=places.dtype)
    return places.at[existing(features, width)].set(numbers, mode="drop")


def existing(features: jax.Array, width: int) -> jax.Array:
    """Features with `width` for those that do not exist; by number, -1 is the last."""
    return jnp.where(features < 0, width, features)


def placed(indices: jax.Array, places: jax.Array | None) -> jax.Array:
    """The indices at which features are read, from `places_of`."""
    return indices if places is None else places[indices]


def choose(
    positives: jax.Array,
    negatives: jax.Array,
    labels: int,
    weight: float | None = None,
    most: int | None = None,
) -> Chosen:
    """The positives of a batch and sampled negatives, each label once.

    A negative has the weight of the labels that it was drawn from; a label that is only
    there as another example's positive has none as a negative. If a weight is given,
    both kinds have that.

    Args:
      positives: i32[batch, most], padded with -1.
      negatives: i32[count], from `labels.sample_negatives`.
      labels: how many there are.
      weight: of every label as a negative instead.
      most: how many different labels there are at most; as many as the arrays could
        hold unless given.
    """
    everything = jnp.concatenate([positives.ravel(), negatives])
    # A place more for padding: -1 is no label of any block.
    size = everything.size if most is None else min(most + 1, everything.size)
    ids = jnp.unique(everything, size=size, fill_value=labels)
    if weight is None:
        _, lengths = strata(labels, negatives.size)
        places = jnp.searchsorted(ids, negatives)
        weights = jnp.zeros(ids.size).at[places].set(lengths.astype(jnp.float32))
    else:
        weights = jnp.full(ids.size, weight, jnp.float32)
    return Chosen(ids.astype(jnp.int32), weights)


def split(chosen: Chosen, size: int) -> Chosen:
    """In pieces of `size` labels: both arrays become [pieces, size]."""
    padding = -chosen.labels.size % size
    end = jnp.iinfo(jnp.int32).max
    labels = jnp.pad(chosen.labels, (0, padding), constant_values=end)
    weights = jnp.pad(chosen.weights, (0, padding))
    return Chosen(labels.reshape(-1, size), weights.reshape(-1, size))


def targets(rows: Rows, positives: jax.Array) -> jax.Array:
    """Which rows are positive: f32[batch, rows] of 0 and 1."""
    batch = positives.shape[0]
    zeros = jnp.zeros((batch, rows.weights.shape[0]), jnp.float32)
    examples = jnp.arange(batch)[:, None]
    return zeros.at[examples, rows.columns(positives)].set(1, mode="drop")
