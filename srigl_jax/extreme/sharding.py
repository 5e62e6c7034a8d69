"""Labels over the devices of a mesh: each works on its own, and sums meet."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from srigl_jax.extreme import optimizer_state
from srigl_jax.extreme.classifier import Classifier, check_shards

Firsts = tuple[jax.Array, ...]
"""The label of each block's first row on a device."""


def firsts(classifier: Classifier, axis: str | None = None) -> Firsts:
    """Where each block begins here: on this device of the axis, or as a whole."""
    device = 0 if axis is None else jax.lax.axis_index(axis)
    return tuple(
        jnp.int32(block.first + device * block.values.shape[0])
        for block in classifier.blocks
    )


def state_specs(
    optimizer: optax.GradientTransformation, state: tuple[Any, ...], axis: str
) -> tuple[Any, ...]:
    """Like the blocks' states: what is of weights is split, counters are everywhere."""

    def of_block(state):
        flags = optimizer_state.is_of_weights(optimizer, state)
        return jax.tree.map(lambda flag: P(axis) if flag else P(), flags)

    return tuple(map(of_block, state))


def over_labels(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Sequence[Any],
    out_specs: Any,
    classifier: Classifier,
) -> Callable[..., Any]:
    """`function` on every device, with its own share of the labels.

    Raises:
      ValueError: the mesh has several axes, or a device would get half a chunk.
    """
    if len(mesh.axis_names) != 1:
        raise ValueError(
            f"mesh has the axes {', '.join(mesh.axis_names)}: labels are sharded over "
            "a mesh of one"
        )
    for block in classifier.blocks:
        check_shards(block, mesh.size)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(in_specs),
        out_specs=out_specs,
        check_vma=False,
    )
