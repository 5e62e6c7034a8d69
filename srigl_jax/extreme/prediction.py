"""The labels of the largest logits, without all logits at once."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from srigl_jax.extreme import forms, rows, sharding
from srigl_jax.extreme.classifier import Classifier
from srigl_jax.extreme.training import check_features


def top_labels(
    classifier: Classifier,
    x: jax.Array,
    count: int,
    features: jax.Array | None = None,
    *,
    implementation: str = "auto",
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The labels of the `count` largest logits; ties go to the lower label.

    Args:
      classifier: its weights.
      x: f[batch, width], or f[batch, some].
      count: how many.
      features: i32[some], those that x has: see `training.train_step`.
      implementation: see `forms`.
      mesh: over which the labels are sharded.

    Returns:
      Logits f32[batch, count], falling, and labels i32[batch, count].

    Raises:
      ValueError: features of the wrong width, more labels than there are, or some
        features for a dense block.
    """
    check_features(classifier, x, features)
    if not 1 <= count <= classifier.labels:
        raise ValueError(
            f"count={count} of {classifier.labels} labels: choose 1 to "
            f"{classifier.labels}"
        )
    places = None
    if features is not None:
        places = rows.places_of(features, classifier.width)
    inputs = x.astype(jnp.float32), places
    run = partial(_top, implementation, count)
    if mesh is None:
        return run(None, classifier, inputs)
    axis = mesh.axis_names[0]
    specs = (P(axis), P())
    return sharding.over_labels(
        partial(run, axis), mesh, specs, (P(), P()), classifier
    )(classifier, inputs)


def _top(implementation, count, axis, classifier, inputs):
    x, places = inputs
    shape = (x.shape[0], count)
    best = jnp.full(shape, -jnp.inf), jnp.full(shape, classifier.labels, jnp.int32)
    firsts = sharding.firsts(classifier, axis)
    for block, first in zip(classifier.blocks, firsts, strict=True):
        form = forms.choose(implementation, block, x.shape[1])
        visit = partial(_visit, form, block, first, inputs)
        chunks = block.values.shape[0] // block.chunk
        best = jax.lax.fori_loop(0, chunks, visit, best)
    if axis is None:
        return best
    logits, labels = jax.tree.map(
        lambda a: jax.lax.all_gather(a, axis, axis=1, tiled=True), best
    )
    # Every device has some of both blocks: order by label before ties are broken.
    order = jnp.argsort(labels, axis=1)
    return _largest(
        jnp.take_along_axis(logits, order, 1),
        jnp.take_along_axis(labels, order, 1),
        count,
    )


def _visit(form, block, first, inputs, i, best):
    x, places = inputs
    part = rows.consecutive(block, first, i, places)
    values, bias = part.read(block.values), part.read(block.bias)
    logits, _ = forms.product(form, values, part.indices, part.group, x)
    logits = jnp.where(part.weights > 0, logits + bias, -jnp.inf)
    labels = first + i * block.chunk + jnp.arange(block.chunk, dtype=jnp.int32)
    labels = jnp.broadcast_to(labels, logits.shape)
    count = best[0].shape[1]
    # Earlier labels come first, and top_k prefers what comes first.
    logits = jnp.concatenate([best[0], logits], axis=1)
    return _largest(logits, jnp.concatenate([best[1], labels], axis=1), count)


def _largest(logits, labels, count):
    logits, places = jax.lax.top_k(logits, count)
    return logits, jnp.take_along_axis(labels, places, axis=1)
