"""Topology updates of a classifier: prune the smallest weights, grow as many.

Every label keeps exactly k weights at distinct positions, so none is ever lost. Growth
at random is SET's (Mocanu et al. 2018; for this layer Ullah et al. 2024). Growth by
gradient is RigL's (Evci et al. 2020): the dense gradient of one chunk of labels exists
at a time, exact, summed over as many batches as are given.

A label's slots that survive stay where they are; a regrown one starts with the weight 0
and moments of 0. A group of labels decides together, by the sum of their magnitudes.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from srigl_jax.extreme import draw, forms, losses, owners, rows, sharding
from srigl_jax.extreme.classifier import Block, Classifier, expand
from srigl_jax.extreme.labels import check_positives
from srigl_jax.extreme.training import Batch, State, check_features, logit_gradient

Candidates = Callable[[Block, jax.Array, jax.Array, rows.Rows, Any, jax.Array], Any]
"""`(block, first, i, rows of chunk i, their weights, kept) -> positions, usable`.

`kept`: bool[groups, k]. `positions`: int[groups, k], distinct and not kept, best first;
`usable`: bool[groups, k], which of them are worth growing. If some are not, none of
those that are may be the group's already.
"""


def grow_randomly(
    classifier: Classifier,
    state: State,
    key: jax.Array,
    fraction: jax.typing.ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
) -> tuple[Classifier, State]:
    """Replaces a share of each label's weights by ones at random positions (SET).

    Args:
      classifier: its dense block, if any, stays as it is.
      state: from `training.init_state`.
      key: PRNG key.
      fraction: f32[], the share; floor(fraction * k) weights are replaced.
      optimizer: that of the state.
      mesh: over which the labels are sharded; the draws do not depend on it.

    Returns:
      The classifier and the state.
    """

    def candidates(key, block, first, i, part, weights, kept):
        del weights
        number = (first - block.first) // block.chunk + i
        key = jax.random.fold_in(jax.random.fold_in(key, block.first), number)
        indices = part.indices.astype(jnp.int32)
        positions = draw.absent(key, indices, kept, classifier.width)
        return positions, jnp.ones_like(kept)

    return _regrow(classifier, state, fraction, candidates, key, optimizer, mesh)


def grow_by_gradient(
    classifier: Classifier,
    state: State,
    x: jax.Array,
    positives: jax.Array,
    fraction: jax.typing.ArrayLike,
    features: jax.Array | None = None,
    *,
    optimizer: optax.GradientTransformation,
    loss: str | losses.Loss = "bce",
    implementation: str = "auto",
    mesh: Mesh | None = None,
) -> tuple[Classifier, State]:
    """Replaces a share of each label's weights by ones of the largest gradient.

    On one batch the gradient of a rare label is noise: give the features of many. Only
    positions that the label does not have can grow; if fewer of them have a gradient
    than it would grow, it replaces as many.

    Args:
      classifier: its dense block, if any, stays as it is.
      state: from `training.init_state`.
      x: f[batches, batch, width], the features of several batches.
      positives: i32[batches, batch, most], padded with -1.
      fraction: f32[], the share; floor(fraction * k) weights are replaced.
      features: i32[batches, some], those that x has, as in training.
      optimizer: that of the state.
      loss: as in training.
      implementation: of the logits, as in training.
      mesh: over which the labels are sharded.

    Returns:
      The classifier and the state.

    Raises:
      ValueError: features of the wrong width, an unknown loss or implementation, some
        features for a dense block; outside of a jit, positives that do not exist, an
        example without any, or features out of order.
    """
    if x.ndim != 3 or positives.ndim != 3:
        raise ValueError(
            f"x has shape {x.shape} and positives {positives.shape}: give [batches, "
            "batch, width] and [batches, batch, most]"
        )
    if features is not None and features.shape != (x.shape[0], x.shape[2]):
        raise ValueError(
            f"features has shape {features.shape}: x, {x.shape}, needs those of each "
            f"batch, [{x.shape[0]}, {x.shape[2]}]"
        )
    if features is None:
        check_features(classifier, x[0])
    else:
        for own_x, own in zip(x, features, strict=True):
            check_features(classifier, own_x, own)
    check_positives(positives.reshape(-1, positives.shape[2]), classifier.labels)
    loss = losses.find(loss)

    def candidates(batches, block, first, i, part, weights, kept):
        del first, i, kept
        form = forms.choose(implementation, block, x.shape[2])
        gradient = partial(_dense_gradient, loss, form, part, weights, classifier.width)
        total = _summed(gradient, batches, (block.chunk, classifier.width))
        return _largest(total, block, part)

    batches = x.astype(jnp.float32), positives, features
    return _regrow(classifier, state, fraction, candidates, batches, optimizer, mesh)


def grow_by_positives(
    classifier: Classifier,
    state: State,
    encode: owners.Encode,
    inputs: Any,
    owned: owners.Owners,
    fraction: jax.typing.ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    loss: str | losses.Loss = "bce",
    mesh: Mesh | None = None,
) -> tuple[Classifier, State]:
    """Replaces a share of each label's weights by ones of the largest gradient.

    The gradient is that of the loss of all examples that the label is positive for;
    of the negative ones, whose gradients are small and many, it knows nothing. So it is
    exact where `grow_by_gradient` on some batches sees mostly noise, the rare labels,
    and costs one pass over the positives.

    Args:
      classifier: its dense block, if any, stays as it is.
      state: from `training.init_state`.
      encode: gives the features of examples.
      inputs: of `encode`.
      owned: from `owners.by_label`.
      fraction: f32[], the share; floor(fraction * k) weights are replaced.
      optimizer: that of the state.
      loss: as in training.
      mesh: over which the labels are sharded.

    Returns:
      The classifier and the state.

    Raises:
      ValueError: an unknown loss.
    """
    slope = jax.vmap(jax.grad(losses.find(loss)), (0, None))
    width = classifier.width

    def candidates(data, block, first, i, part, weights, kept):
        del kept
        inputs, owned = data
        indices = expand(part.indices, block.group)

        def contribution(examples, row):
            x = encode(inputs, examples).astype(jnp.float32)
            # Out of range, where its gradient does not count, it is the last row.
            slots = jnp.take_along_axis(x, jnp.take(indices, row, 0, mode="clip"), 1)
            values = jnp.take(weights["values"], row, 0, mode="clip")
            bias = jnp.take(weights["bias"], row, mode="clip")
            logits = jnp.sum(slots * values, axis=1) + bias
            return slope(logits, jnp.float32(1))[:, None] * x

        total = owners.sums(owned, block, first, i, width, contribution)
        return _largest(total, block, part)

    data = inputs, owned
    return _regrow(classifier, state, fraction, candidates, data, optimizer, mesh)


def _largest(gradient, block: Block, part: rows.Rows):
    """Positions of the largest summed magnitudes of a group's gradients, none of its.

    Returns:
      int[groups, k], and whether the gradient there is other than 0: bool[groups, k].
    """
    width = gradient.shape[1]
    total = jnp.abs(gradient).reshape(-1, block.group, width).sum(1)
    groups = jnp.arange(total.shape[0])[:, None]
    # Its own are last whatever their gradient; -1 is below every magnitude.
    total = total.at[groups, part.indices.astype(jnp.int32)].set(-1)
    scores, positions = jax.lax.top_k(total, part.indices.shape[1])
    return positions, scores > 0


def _dense_gradient(loss, form, part, weights, width, x, positives, features):
    """Of one batch, by every weight that the rows could have: f32[rows, width]."""
    if features is not None:
        places = rows.places_of(features, width)
        part = part._replace(indices=rows.placed(part.indices, places))
    batch = Batch(x, positives, jnp.float32(1))
    _, g, _ = logit_gradient(loss, form, part, weights, batch)
    gradient = g.T @ x
    if features is None:
        return gradient
    zeros = jnp.zeros((gradient.shape[0], width))
    features = rows.existing(features, width)
    return zeros.at[:, features].set(gradient, mode="drop")


def _summed(function, batches, shape):
    def add(total, batch):
        return total + function(*batch), None

    return jax.lax.scan(add, jnp.zeros(shape), batches)[0]


def _regrow(classifier, state, fraction, candidates, data, optimizer, mesh):
    run = partial(_regrow_here, candidates, optimizer)
    if mesh is None:
        return run(None, classifier, state, fraction, data)
    axis = mesh.axis_names[0]
    split = P(axis), sharding.state_specs(optimizer, state, axis)
    run = sharding.over_labels(
        partial(run, axis), mesh, (*split, P(), P()), split, classifier
    )
    return run(classifier, state, jnp.asarray(fraction, jnp.float32), data)


def _regrow_here(candidates, optimizer, axis, classifier, state, fraction, data):
    blocks, states = [], []
    firsts = sharding.firsts(classifier, axis)
    for block, block_state, first in zip(classifier.blocks, state, firsts, strict=True):
        if block.indices is not None:
            block, block_state = _regrow_block(
                partial(candidates, data),
                optimizer,
                fraction,
                first,
                block,
                block_state,
            )
        blocks.append(block)
        states.append(block_state)
    return dataclasses.replace(classifier, blocks=tuple(blocks)), tuple(states)


def _regrow_block(candidates, optimizer, fraction, first, block: Block, state):
    # The product may fall a rounding error short of a whole number: 0.29 * 100.
    count = jnp.floor(fraction * block.values.shape[1] * (1 + 2.0**-22))

    def visit(i, carry):
        values, indices, state = carry
        now = dataclasses.replace(block, values=values, indices=indices)
        part = rows.consecutive(now, first, i)
        weights = jax.tree.map(part.read, now.weights)
        order = _order(weights["values"], block.group)
        kept = order >= count.astype(jnp.int32)
        positions, usable = candidates(now, first, i, part, weights, kept)
        grown, replaced = _fill(part.indices, order, kept, positions, usable)
        clear = jnp.repeat(replaced, block.group, axis=0)

        def cleared(whole):
            if whole.shape != values.shape:
                return whole
            return part.write(whole, jnp.where(clear, 0, part.read(whole)))

        values, state = jax.tree.map(cleared, (values, state))
        groups = part.indices.shape[0]
        indices = jax.lax.dynamic_update_slice_in_dim(indices, grown, i * groups, 0)
        return values, indices, state

    chunks = block.values.shape[0] // block.chunk
    carry = block.values, block.indices, state
    values, indices, state = jax.lax.fori_loop(0, chunks, visit, carry)
    return dataclasses.replace(block, values=values, indices=indices), state


def _order(values, group):
    """The place of each slot by the size of its weights, smallest first."""
    size = jnp.abs(values).reshape(-1, group, values.shape[1]).sum(1)
    return jnp.argsort(jnp.argsort(size, axis=1), axis=1)  # Ties: the first slot.


def _fill(indices, order, kept, positions, usable):
    """Puts the candidates, best first, into the slots that are not kept.

    The best goes where the smallest weight was; a slot without a candidate stays.
    """
    replaced = ~kept & jnp.take_along_axis(usable, order, axis=1)
    chosen = jnp.take_along_axis(positions, order, axis=1).astype(indices.dtype)
    return jnp.where(replaced, chosen, indices), replaced
