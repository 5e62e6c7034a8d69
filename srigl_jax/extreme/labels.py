"""The labels of examples, as arrays: positives padded with -1, negatives, clusters."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def pad(positives: Sequence[Sequence[int]], labels: int) -> np.ndarray:
    """The positive labels of examples as one array.

    Args:
      positives: for each example the numbers of its labels; one named twice counts
        once.
      labels: how many labels there are.

    Returns:
      i32[examples, most labels of one], filled up with -1.

    Raises:
      ValueError: names the example that has no label, or one that does not exist.
    """
    # A second time would count as a hit of its own in P@k and in frequencies.
    positives = [tuple(dict.fromkeys(own)) for own in positives]
    counts = np.fromiter(map(len, positives), np.int64, len(positives))
    if not counts.all():
        raise ValueError(f"example {int(np.argmin(counts))} has no label: leave it out")
    padded = np.full((len(positives), int(counts.max(initial=1))), -1, np.int64)
    exists = np.arange(padded.shape[1]) < counts[:, None]
    padded[exists] = np.fromiter(itertools.chain(*positives), np.int64)
    _check_numbers(padded, exists & ((padded < 0) | (padded >= labels)), labels)
    return padded.astype(np.int32)


def check_positives(positives: jax.typing.ArrayLike, labels: int) -> None:
    """Verifies positive labels padded with -1: int[examples, most].

    The functions of this package do so themselves. In a jit no values are known, and
    the shape alone is verified: check before it what you give.

    Raises:
      ValueError: names the first example that has a label that does not exist, or none;
        positives of another shape.
    """
    if np.ndim(positives) != 2:
        raise ValueError(
            f"positives must be [examples, most labels of one], padded with -1: they "
            f"have shape {np.shape(positives)}"
        )
    if isinstance(positives, jax.core.Tracer):
        return
    positives = np.asarray(positives)
    _check_numbers(positives, (positives < -1) | (positives >= labels), labels)
    empty = ~(positives >= 0).any(axis=1)
    if empty.any():
        raise ValueError(f"example {int(np.argmax(empty))} has no label: leave it out")


def _check_numbers(positives, wrong, labels):
    if wrong.any():
        example, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"example {example} has label {positives[example, column]}: labels are "
            f"numbered from 0 to {labels - 1}"
        )


def draw_positives(
    rng: np.random.Generator, positives: np.ndarray, most: int
) -> np.ndarray:
    """At most so many labels of each example, at random: int[examples, <= most].

    Args:
      rng: draws nothing if no example has more.
      positives: int[examples, any], padded with -1.
      most: labels of an example.
    """
    if positives.shape[1] <= most:
        return positives
    keys = np.where(positives >= 0, rng.random(positives.shape), 1)
    return np.take_along_axis(positives, np.argsort(keys, axis=1)[:, :most], 1)


def sample_negatives(key: jax.Array, labels: int, count: int) -> jax.Array:
    """Distinct labels, one drawn from each of `count` runs of consecutive labels.

    Training weighs each with the length of its run, so the expected loss is that of
    all labels.

    Returns:
      i32[count], ascending.

    Raises:
      ValueError: more than there are.
    """
    starts, lengths = strata(labels, count)
    return starts + jax.random.randint(key, (count,), 0, lengths)


def strata(labels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First label and length of each run: i32[count] both; lengths differ by 1."""
    if not 1 <= count <= labels:
        raise ValueError(f"{count} negatives of {labels} labels: choose 1 to {labels}")
    edges = np.arange(count + 1, dtype=np.int64) * labels // count
    return edges[:-1].astype(np.int32), np.diff(edges).astype(np.int32)


def cluster(key: jax.Array, labels: int, clusters: int) -> jax.Array:
    """Random clusters of equal size, for an auxiliary head: i32[labels].

    Raises:
      ValueError: more clusters than labels.
    """
    if not 1 <= clusters <= labels:
        raise ValueError(
            f"{clusters} clusters of {labels} labels: choose 1 to {labels}"
        )
    return jax.random.permutation(key, jnp.arange(labels, dtype=jnp.int32) % clusters)


def cluster_positives(clusters: jax.Array, positives: jax.Array) -> jax.Array:
    """The clusters of the positive labels: i32[batch, most], padded with -1.

    The target of an auxiliary classifier whose labels are the clusters, trained beside
    the real one with a weight that decays: `optax.cosine_decay_schedule(0.4, steps)`
    (Ullah et al. 2024, section 3).
    """
    return jnp.where(positives < 0, -1, jnp.asarray(clusters)[positives])
