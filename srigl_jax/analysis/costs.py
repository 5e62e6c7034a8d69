"""What a network costs three times over: dense, as it was asked for, as it was learned.

- `dense`: every weight exists.
- `asked`: the plan's densities, not floored, by which published figures are counted.
- `learned`: what the masks leave: the fan-in after flooring, no ablated neuron, and
  nothing that only ablated neurons read or feed (`srigl_jax.analysis.remaining`).

All is of one example, in the units of `srigl_jax.analysis.flops`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srigl_jax.analysis import flops
from srigl_jax.analysis.network import NetworkShape
from srigl_jax.analysis.remaining import remaining
from srigl_jax.sparsity import Plan

KINDS = ("dense", "asked", "learned")

Costs = list[dict[str, Any]]
"""A dict a layer: `name`; `positions`; `macs` and `flops`, each a dict of `KINDS`;
`needed`, the weights that the masks leave; `bytes`, a dict of `dense` and
`condensed`."""


def layer_costs(
    network: NetworkShape,
    plan: Plan,
    masks: Mapping[str, np.ndarray],
    *,
    itemsize: int = 4,
) -> Costs:
    """The costs of each layer.

    Args:
      network: its layers.
      plan: of its parameters.
      masks: bool[fan_in, neurons] of each sparse layer, as `layer_masks` gives them.
      itemsize: bytes of a weight.
    """
    full = {
        layer.name: np.ones((layer.fan_in, layer.neurons), bool)
        for layer in network.layers
        if layer.name not in masks
    }
    left = remaining(full | dict(masks), network.feeds)
    return [
        _costs(layer, plan[layer.name], left[layer.name], itemsize)
        for layer in network.layers
    ]


def total_costs(costs: Costs) -> dict[str, Any]:
    """The sums over layers, with the keys of a layer but for its name and positions."""
    return {
        "needed": sum(row["needed"] for row in costs),
        **{
            key: {kind: sum(row[key][kind] for row in costs) for kind in kinds}
            for key, kinds in (
                ("macs", KINDS),
                ("flops", KINDS),
                ("bytes", ("dense", "condensed")),
            )
        },
    }


def training_costs(
    total: Mapping[str, Any],
    method: str,
    delta_t: int,
    examples: int,
    removed: Sequence[float] = (),
) -> dict[str, dict[str, float]]:
    """FLOPs of training, of the dense network and by the method.

    Args:
      total: as from `total_costs`.
      method: see `flops.training_flops`.
      delta_t: steps from one topology update to the next.
      examples: seen in the whole training, steps times batch size.
      removed: see `flops.training_flops`.

    Returns:
      `per_example` and `run`, each a dict of `dense` and `method`.
    """
    dense, asked = total["flops"]["dense"], total["flops"]["asked"]
    each = {
        "dense": flops.training_flops("dense", dense, dense),
        "method": flops.training_flops(method, dense, asked, delta_t, removed),
    }
    return {
        "per_example": each,
        "run": {name: examples * value for name, value in each.items()},
    }


def _costs(layer, planned, mask: np.ndarray, itemsize: int) -> dict[str, Any]:
    density = planned.density if planned.is_sparse else 1.0
    fan_ins = np.count_nonzero(mask, axis=0)
    weights = int(fan_ins.sum())
    dense = layer.size * itemsize
    condensed = flops.condensed_bytes(mask, itemsize) if planned.is_sparse else dense
    return {
        "name": layer.name,
        "positions": layer.positions,
        "needed": weights,
        "macs": {
            "dense": flops.macs(layer),
            "asked": flops.macs(layer, density),
            "learned": weights * layer.positions,
        },
        "flops": {
            "dense": flops.inference_flops(layer),
            "asked": flops.inference_flops(layer, density),
            "learned": flops.masked_flops(layer, fan_ins),
        },
        "bytes": {"dense": dense, "condensed": condensed},
    }
