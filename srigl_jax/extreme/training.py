"""Loss, gradients and updates, a chunk of labels at a time.

The largest temporary is one chunk written out as dense rows. Weights and the state of
their optimizer are updated where they lie if the caller donates them:

    step = jax.jit(partial(train_step, optimizer=adam), donate_argnums=(0, 1))
    x, back = jax.vjp(encoder, params)
    loss, dx, classifier, state = step(classifier, state, x, positives)
    (gradients,) = back(dx)
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from srigl_jax.extreme import forms, losses, optimizer_state, rows, sharding
from srigl_jax.extreme.classifier import Block, Classifier
from srigl_jax.extreme.labels import check_positives

State = tuple[Any, ...]
"""An optimizer's state for each block."""


class Step(NamedTuple):
    """What one step does, as far as it is known before: names and functions."""

    optimizer: optax.GradientTransformation
    loss: losses.Loss
    implementation: str


class Batch(NamedTuple):
    """What one step is about.

    Attributes:
      x: f32[batch, width].
      positives: i32[batch, most], padded with -1.
      scale: f32[], of the losses.
      chosen: labels to visit; None for all.
      places: where in x each feature is, from `rows.places_of`; None if x has all.
    """

    x: jax.Array
    positives: jax.Array
    scale: jax.Array
    chosen: rows.Chosen | None = None
    places: jax.Array | None = None


def init_state(
    optimizer: optax.GradientTransformation, classifier: Classifier
) -> State:
    """The optimizer's state, in the shape of the weights that exist.

    Args:
      optimizer: one that treats every weight by itself: SGD, Adam, AdamW, with any
        schedule. One that looks at all weights, clipping by their norm say, would see
        those of one chunk.
      classifier: whose weights it updates.
    """
    return tuple(optimizer.init(block.weights) for block in classifier.blocks)


def train_step(
    classifier: Classifier,
    state: State,
    x: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    weight: jax.typing.ArrayLike = 1.0,
    features: jax.Array | None = None,
    *,
    optimizer: optax.GradientTransformation,
    loss: str | losses.Loss = "bce",
    negative_weight: float | None = None,
    most_visited: int | None = None,
    implementation: str = "auto",
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array, Classifier, State]:
    """One step of training.

    Args:
      classifier: its weights.
      state: from `init_state`.
      x: f[batch, width], the features.
      positives: i32[batch, most], the labels of each example, padded with -1; a label
        named twice counts once.
      negatives: i32[count] from `labels.sample_negatives`, or None for all labels. If
        given, only these labels and the positive ones are visited and updated.
      weight: f32[], of this loss in a sum of several.
      features: i32[some], ascending, those that the columns of x are, where all others
        are 0, as most words are in a batch of texts; x is then [batch, some], and so is
        its gradient. The last one must not exist, be the width or more: its column, of
        0, is what is read for those that are not there, and its gradient is 0. Loss and
        gradients are those of the whole x, which may be far too large for a processor's
        cache.
      optimizer: that of `init_state`.
      loss: "bce", "squared_hinge" or a function: see `losses`.
      negative_weight: of the loss of every visited label that an example does not have,
        the positives of the others among them, which are the harder ones. None weighs
        each sampled negative with the number of labels that it was drawn from and the
        others' positives not at all, so that the expected loss is that of all labels;
        less lets steps be longer, and moves all logits up alike.
      most_visited: an upper bound, static, of the different labels among positives and
        negatives, if these are given. Without it, there is room for as many as the
        arrays could hold, and rows of padding are worked on too.
      implementation: "auto", "chunk", "slots" or "grouped": see `forms`.
      mesh: of one axis, over which `place` has sharded the labels.

    Returns:
      The loss, f32[]: summed over labels, the mean over examples; its gradient by x;
      the updated classifier and state.

    Raises:
      ValueError: features of the wrong width, an unknown loss or implementation, some
        features for a dense block, which reads all; outside of a jit, positives that
        do not exist, an example without any, or features out of order.
    """
    check_features(classifier, x, features)
    check_positives(positives, classifier.labels)
    how = Step(optimizer, losses.find(loss), implementation)
    chosen = None
    if negatives is not None:
        chosen = rows.choose(
            positives, negatives, classifier.labels, negative_weight, most_visited
        )
    scale = jnp.asarray(weight, jnp.float32) / x.shape[0]
    places = None
    if features is not None:
        places = rows.places_of(features, classifier.width)
    batch = Batch(x.astype(jnp.float32), positives, scale, chosen, places)
    if mesh is None:
        value, dx, classifier, state = _step(how, None, classifier, state, batch)
    else:
        (axis,) = mesh.axis_names[:1]
        split = P(axis), sharding.state_specs(optimizer, state, axis)
        run = sharding.over_labels(
            partial(_step, how, axis),
            mesh,
            (*split, P()),
            (P(), P(), *split),
            classifier,
        )
        value, dx, classifier, state = run(classifier, state, batch)
    if features is not None:  # What is not there was read as the last one.
        dx = dx.at[:, -1].set(0)
    return value, dx.astype(x.dtype), classifier, state


def loss_and_gradients(
    classifier: Classifier,
    x: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    weight: jax.typing.ArrayLike = 1.0,
    features: jax.Array | None = None,
    *,
    loss: str | losses.Loss = "bce",
    negative_weight: float | None = None,
    most_visited: int | None = None,
    implementation: str = "auto",
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array, tuple[dict[str, jax.Array], ...]]:
    """The loss and its gradients by x and by the weights of each block.

    For an update of your own; `train_step`, which has the same arguments, does without
    a second array of the weights' shape.

    Returns:
      f32[], f[batch, width], and for each block `{"values": f32[rows, k], "bias":
      f32[rows]}`.
    """
    value, dx, _, gradients = train_step(
        classifier,
        init_state(_REMEMBER, classifier),
        x,
        positives,
        negatives,
        weight,
        features,
        optimizer=_REMEMBER,
        loss=loss,
        negative_weight=negative_weight,
        most_visited=most_visited,
        implementation=implementation,
        mesh=mesh,
    )
    return value, dx, gradients


# Changes no weight; its state is the last gradient.
_REMEMBER = optax.GradientTransformation(
    optax.tree.zeros_like,
    lambda gradients, state, params: (optax.tree.zeros_like(gradients), gradients),
)


def check_features(
    classifier: Classifier, x: jax.Array, features: jax.Array | None = None
) -> None:
    """Raises ValueError unless x is [batch, width], or has the given features."""
    width = classifier.width if features is None else features.shape[-1]
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(
            f"x has shape {x.shape}: the classifier reads [batch, {width}]"
        )
    if features is not None:
        _check_numbers(classifier.width, features)
    is_dense = any(block.indices is None for block in classifier.blocks)
    if is_dense and features is not None:
        raise ValueError(
            "a dense block reads all features: give them all, or init the classifier "
            "without dense_labels"
        )


def _check_numbers(width: int, features: jax.Array) -> None:
    """Raises ValueError for features out of order, as far as they are known."""
    if features.ndim != 1:
        raise ValueError(f"features has shape {features.shape}: give [some]")
    if isinstance(features, jax.core.Tracer):
        return
    numbers = np.asarray(features)
    unordered = (np.diff(numbers) <= 0) & (numbers[1:] < width)
    if numbers[0] < 0 or unordered.any():
        raise ValueError(
            "features must ascend from 0 on, each once: they are "
            f"{np.array2string(numbers, threshold=8)}"
        )
    if numbers[-1] < width:
        raise ValueError(
            f"the last of the features is {numbers[-1]}: add one that does not exist, "
            f"{width} or more, and a column of 0 to x"
        )


def _step(how: Step, axis: str | None, classifier, state, batch: Batch):
    """Visits all blocks; on an axis, each device its own rows."""
    total, dx = jnp.float32(0), jnp.zeros_like(batch.x)
    blocks, states = [], []
    firsts = sharding.firsts(classifier, axis)
    for block, block_state, first in zip(classifier.blocks, state, firsts, strict=True):
        value, row_dx, block, block_state = _block(
            how, batch, first, block, block_state
        )
        total, dx = total + value, dx + row_dx
        blocks.append(block)
        states.append(block_state)
    if axis is not None:
        total, dx = jax.lax.psum((total, dx), axis)
    classifier = dataclasses.replace(classifier, blocks=tuple(blocks))
    return total, dx, classifier, tuple(states)


def _block(how: Step, batch: Batch, first, block: Block, state):
    form = forms.choose(how.implementation, block, batch.x.shape[1])
    places = batch.places
    if batch.chosen is None:
        count = block.values.shape[0] // block.chunk
        rows_at = partial(rows.consecutive, block, first, places=places)
    else:
        size = min(block.chunk, batch.chosen.labels.size)
        pieces = rows.split(batch.chosen, size)
        count = pieces.labels.shape[0]
        if form == "grouped":  # Each label that is visited is a group of its own.
            alone = dataclasses.replace(block, group=1)
            form = forms.choose("auto", alone, batch.x.shape[1])

        def rows_at(i):
            piece = jax.tree.map(lambda a: a[i], pieces)
            return rows.scattered(block, first, piece, places)

    def visit(i, carry):
        total, dx, weights, now = carry
        part = rows_at(i)
        of_rows = jax.tree.map(part.read, weights)
        row_state = optimizer_state.read(how.optimizer, now, state, part.read)
        value, row_dx, gradients = row_gradients(how.loss, form, part, of_rows, batch)
        # A branch, because XLA's CPU compiler fuses across anything else: it would
        # read the state again while it writes it, and copy all of it at every chunk.
        of_rows, row_state = jax.lax.cond(
            i >= 0,
            partial(_updated, how.optimizer),
            lambda of_rows, _, row_state: (of_rows, row_state),
            of_rows,
            gradients,
            row_state,
        )
        weights = jax.tree.map(part.write, weights, of_rows)
        now = optimizer_state.write(how.optimizer, now, row_state, part.write)
        return total + value, dx + row_dx, weights, now

    carry = jnp.float32(0), jnp.zeros_like(batch.x), block.weights, state
    total, dx, weights, state = jax.lax.fori_loop(0, count, visit, carry)
    return total, dx, dataclasses.replace(block, **weights), state


def _updated(optimizer, weights, gradients, state):
    updates, state = optimizer.update(gradients, state, weights)
    return optax.apply_updates(weights, updates), state


def row_gradients(
    loss: losses.Loss, form: str, part: rows.Rows, weights: dict, batch: Batch
) -> tuple[jax.Array, jax.Array, dict]:
    """The loss of some rows and its gradients by x and by their weights."""
    value, g, pull = logit_gradient(loss, form, part, weights, batch)
    dx, dvalues = pull(g)
    return value, dx, {"values": dvalues, "bias": jnp.sum(g, axis=0)}


def logit_gradient(
    loss: losses.Loss, form: str, part: rows.Rows, weights: dict, batch: Batch
) -> tuple[jax.Array, jax.Array, forms.Pull]:
    """The loss of some rows, its gradient by their logits, and the way back.

    Returns:
      f32[], f32[batch, rows], and what `forms.product` returns second.
    """
    logits, pull = forms.product(
        form, weights["values"], part.indices, part.group, batch.x
    )
    truth = rows.targets(part, batch.positives)
    importance = batch.scale * jnp.where(truth > 0, 1, part.weights)
    value, g = losses.value_and_gradient(
        loss, logits + weights["bias"], truth, importance
    )
    return value, g, pull
