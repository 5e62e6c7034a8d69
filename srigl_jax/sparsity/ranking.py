"""Masks that keep what scores highest, as many weights as a plan allows.

One ranking serves pruning by magnitude and masks at initialisation alike; the plan says
what is ranked, and against what:

* weights of a layer, for its budget;
* weights of all layers together, for the sum of their budgets (`shared`). Each layer
  keeps at least its best weight, so none ever vanishes;
* weights of each neuron, in each block of inputs (constant fan-in, N:M);
* whole neurons, by the root mean square of their scores (the mean of signed ones),
  which does not depend on how many inputs they have. Also of all layers together, each
  neuron by what it is beside those of its layer, as in Molchanov et al. (arXiv
  1611.06440): weights of layers with few inputs are larger, and would be all that is
  left. Each layer keeps its best neuron.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from srigl_jax.sparsity.plan import LayerPlan, Plan, alike, map_layers
from srigl_jax.sparsity.select import signed_keys, sort_keys, top

Scalar = jax.typing.ArrayLike


def keep_best(
    scores: Any,
    plan: Plan,
    *,
    progress: Scalar = 1.0,
    within: Any = None,
    signed: bool = False,
) -> Any:
    """Masks of the positions with the highest scores.

    Args:
      scores: pytree like the parameters, whatever it holds at dense leaves.
      plan: as made for the parameters.
      progress: f32[], how much of what is to be removed is: 0 keeps every weight, 1
        exactly what the plan allows.
      within: masks outside which nothing is kept, `optax.MaskedNode()` for a layer of
        which everything may be; None for everywhere.
      signed: rank by the scores themselves, instead of by their magnitude.

    Returns:
      Masks like `scores`, `optax.MaskedNode()` at dense leaves. Ties go to the lowest
      position, in global rankings to the layer that comes first.
    """
    matrices, eligible = {}, {}

    def collect(layer, score, *mask):
        matrix = layer.layout.to_matrix(score)
        matrices[layer.name] = matrix
        is_given = mask and not isinstance(mask[0], optax.MaskedNode)
        eligible[layer.name] = (
            layer.layout.to_matrix(mask[0]) if is_given else jnp.ones_like(matrix, bool)
        )
        return score

    map_layers(collect, plan, scores, *([] if within is None else [within]))
    chosen = {}
    shared = [plan[name] for name in matrices if plan[name].shared]
    if shared:
        keys = [
            ranking_keys(layer, matrices[layer.name], eligible[layer.name], signed)
            for layer in shared
        ]
        kept = _keep_across_layers(shared, keys, progress)
        chosen |= zip((layer.name for layer in shared), kept, strict=True)
    for layers in alike(plan):
        names = [layer.name for layer in layers if not layer.shared]
        if not names:
            continue
        stacked = [
            jnp.stack([group[name] for name in names]) for group in (matrices, eligible)
        ]

        def keep(matrix, where, layer=layers[0]):
            keys = ranking_keys(layer, matrix, where, signed)
            return keep_in_layer(layer, keys, progress)

        chosen |= zip(names, jax.vmap(keep)(*stacked), strict=True)
    return map_layers(
        lambda layer, _: layer.layout.from_matrix(chosen[layer.name]), plan, scores
    )


def ranking_keys(
    layer: LayerPlan, scores: jax.Array, where: jax.Array, signed: bool = False
) -> jax.Array:
    """The integers by which a layer's weights or neurons are ranked.

    Args:
      layer: its plan.
      scores: f[fan_in, neurons].
      where: bool[fan_in, neurons], the positions that may be kept.
      signed: as for `keep_best`.

    Returns:
      i32[fan_in, neurons], or i32[1, neurons] of whole neurons.
    """
    if layer.whole_neurons:
        scores = jnp.where(where, scores, 0).astype(jnp.float32)
        mean = jnp.mean(scores if signed else scores**2, axis=0, keepdims=True)
        scores = mean if signed else jnp.sqrt(mean)
        where = jnp.any(where, axis=0, keepdims=True)
        if layer.shared:
            usual = jnp.mean(jnp.abs(scores), where=where)
            scores /= jnp.where(usual > 0, usual, 1)
    return signed_keys(scores, where) if signed else sort_keys(scores, where)


def keep_in_layer(
    layer: LayerPlan, keys: jax.Array, progress: Scalar = 1.0
) -> jax.Array:
    """bool[fan_in, neurons]: what a layer keeps for its own budget.

    Args:
      layer: its plan.
      keys: of `ranking_keys`.
      progress: as for `keep_best`.
    """
    layout = layer.layout
    shape = (layout.fan_in, layout.neurons)
    if layer.whole_neurons:
        count = _allowed(layout.size, layer.budget, progress) // layout.fan_in
        return jnp.broadcast_to(top(keys, count), shape)
    if not layer.constant_fan_in:
        return top(keys, _allowed(layout.size, layer.budget, progress))
    block = layout.fan_in // layer.blocks
    per_block = _allowed(block, layer.fan_in_per_block, progress)
    blocked = keys.reshape(layer.blocks, block, layout.neurons)
    return top(blocked, per_block, axis=1).reshape(shape)


def _keep_across_layers(layers: list[LayerPlan], keys, progress) -> list[jax.Array]:
    size = sum(layer.layout.size for layer in layers)
    allowed = _allowed(size, sum(layer.budget for layer in layers), progress)
    flat = jnp.concatenate([_best_first(key).ravel() for key in keys])
    if layers[0].whole_neurons:
        costs = [
            jnp.full(layer.layout.neurons, layer.layout.fan_in) for layer in layers
        ]
        kept = _prefix(flat, jnp.concatenate(costs), allowed)
    else:
        kept = top(flat, allowed)
    offsets = itertools.accumulate(key.size for key in keys[:-1])
    parts = jnp.split(kept, list(offsets))
    return [
        jnp.broadcast_to(
            part.reshape(key.shape), (layer.layout.fan_in, layer.layout.neurons)
        )
        for layer, key, part in zip(layers, keys, parts, strict=True)
    ]


def _best_first(keys: jax.Array) -> jax.Array:
    """The same keys, the best of which comes before all of other layers."""
    return jnp.where(top(keys, 1), jnp.iinfo(keys.dtype).max - 4, keys)


def _prefix(keys: jax.Array, costs: jax.Array, allowed: jax.Array) -> jax.Array:
    """bool[n]: the best, one after the other, until the next does not fit."""
    order = jnp.argsort(~keys, stable=True)  # Unlike negation, cannot overflow.
    fits = jnp.cumsum(costs[order]) <= allowed
    kept = jnp.zeros_like(fits).at[order].set(fits)
    return kept & (keys > jnp.iinfo(keys.dtype).min)


def _allowed(size: int, budget: int, progress: Scalar) -> jax.Array:
    """i32[]: the weights left when so much of the rest is removed."""
    surplus = jnp.float32(size - budget) * jnp.asarray(progress, jnp.float32)
    removed = jnp.clip(surplus, 0, size - budget).astype(jnp.int32)
    # Float32 cannot count beyond 2^24; the end is to be exact.
    return jnp.where(jnp.asarray(progress) >= 1, budget, size - removed)
