"""Which weights ever existed: one bit for each position of each sparse layer.

The share of positions that have been active at some time in training is what Liu et al.
(2021, arXiv 2102.02887) call the in-time over-parametrisation (ITOP) rate.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srigl_jax.sparsity.plan import LayerPlan, Plan, map_layers

Explored = dict[str, jax.Array]
"""Bits by the layer's name, u8[ceil(fan_in / 8), neurons]; shards like the kernel."""


def nothing_explored(plan: Plan) -> Explored:
    """The record before any mask has been seen."""
    return {
        layer.name: jnp.zeros(
            (-(-layer.layout.fan_in // 8), layer.layout.neurons), jnp.uint8
        )
        for layer in plan.values()
        if layer.is_sparse
    }


def explore(explored: Explored, masks: Any, plan: Plan) -> Explored:
    """Adds the positions that are active in `masks`; call it whenever they change."""
    return _explore(explored, masks, tuple(plan.values()))


def explored_shares(explored: Explored, plan: Plan) -> dict[str, float]:
    """The share of each sparse layer's positions that has ever been active."""
    return {
        name: int(np.bitwise_count(np.asarray(bits)).sum()) / plan[name].layout.size
        for name, bits in explored.items()
    }


@partial(jax.jit, static_argnames="layers")
def _explore(explored, masks, layers: tuple[LayerPlan, ...]) -> Explored:
    found = {}

    def add(layer, mask):
        bits = jnp.packbits(layer.layout.to_matrix(mask), axis=0)
        found[layer.name] = explored[layer.name] | bits
        return mask

    map_layers(add, {layer.name: layer for layer in layers}, masks)
    return found
