"""What a trained network costs and what its topology is, in numbers.

`analyse` gives it as JSON's types, `render_analysis` as text.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from srigl_jax import methods
from srigl_jax.analysis import statistics
from srigl_jax.analysis.costs import (
    Costs,
    layer_costs,
    total_costs,
    training_costs,
)
from srigl_jax.analysis.network import read_network
from srigl_jax.analysis.table import fan_in_cell, quantity, render
from srigl_jax.data import training_steps
from srigl_jax.sparsity import layer_masks, summarize
from srigl_jax.sparsity.exploration import explored_shares
from srigl_jax.trained import Trained

COLUMNS = (
    "layer",
    "FLOPs dense",
    "asked",
    "learned",
    "k",
    "active neurons",
    "explored",
    "bytes dense",
    "condensed",
)


def analyse(trained: Trained) -> dict[str, Any]:
    """Costs and topology of a run.

    Returns:
        `layers`, a dict each: the fields of `LayerSummary`, the keys of `layer_costs`,
        `explored`, the share of weights that ever existed (None where that was not
        recorded), and `fan_in_histogram`, `edges` and `counts` as of
        `statistics.fan_in_histogram` (None in dense layers). `inference`: totals of
        `macs` and `flops`, and `attention`, the FLOPs of the products of activations,
        which are in no total. `training`: as from `training_costs`, with `steps` and
        `batch_size`. `bytes`: of what a network and its training hold. `topology`:
        `active` and `neurons`, and `explored` of all sparse layers together. And the
        `model`, `dataset`, `method` and `sparsity` of the run.
    """
    config, plan = trained.config, trained.plan
    masks = layer_masks(trained.masks, plan)
    network = read_network(trained.model, trained.dataset.image_shape)
    costs = layer_costs(network, plan, masks)
    layers = _layers(trained, costs, masks)
    total = total_costs(costs)
    examples = trained.step * config.batch_size
    steps = training_steps(trained.dataset.num_train, config.batch_size, config.epochs)
    removed = methods.removed_shares(config, trained.step, steps)
    training = training_costs(total, config.method, config.delta_t, examples, removed)
    return {
        "model": config.model.name,
        "dataset": config.dataset.name,
        "method": config.method,
        "sparsity": _sparsity(trained),
        "inference": {
            "macs": total["macs"],
            "flops": total["flops"],
            "attention": network.products,
        },
        "training": {"steps": trained.step, "batch_size": config.batch_size} | training,
        "bytes": _bytes(trained, total["bytes"]),
        "topology": {
            "active": sum(row["active"] for row in layers),
            "neurons": sum(row["neurons"] for row in layers),
            "explored": _explored([row for row in layers if row["sparse"]]),
        },
        "layers": layers,
    }


def render_analysis(found: dict[str, Any]) -> str:
    """What `analyse` found, as a table and the totals below it."""
    lines = [*map(_cells, found["layers"]), _total_cells(found)]
    return "\n".join([render(COLUMNS, lines, words=1), "", *_totals(found)])


def _layers(trained: Trained, costs: Costs, masks) -> list[dict[str, Any]]:
    explored = explored_shares(trained.state.get("explored", {}), trained.plan)
    rows = []
    summaries = summarize(trained.masks, trained.plan)
    for summary, cost in zip(summaries, costs, strict=True):
        row = dataclasses.asdict(summary) | cost
        row["explored"] = explored.get(row["name"])
        if trained.config.method in methods.FIXED and row["sparse"]:
            row["explored"] = row["density_got"]
        if trained.config.method in methods.STARTS_DENSE and row["sparse"]:
            row["explored"] = 1.0
        row["fan_in_histogram"] = None
        if row["name"] in masks:
            edges, counts = statistics.fan_in_histogram(masks[row["name"]])
            row["fan_in_histogram"] = {
                "edges": edges.tolist(),
                "counts": counts.tolist(),
            }
        rows.append(row)
    return rows


def _sparsity(trained: Trained) -> float:
    """Of the config, or of the masks that it names."""
    if trained.config.mask_from is None:
        return trained.config.sparsity
    layers = trained.plan.values()
    budget = sum(layer.budget for layer in layers)
    return 1 - budget / sum(layer.layout.size for layer in layers)


def _bytes(trained: Trained, weights: dict[str, int]) -> dict[str, int]:
    """Bytes of what the network is in either form, and of what training holds."""
    state = trained.state
    masks = _size(trained.masks)
    kernels = sum(layer.layout.size for layer in trained.plan.values())
    parameters = jax.tree.leaves(nnx.state(trained.model, nnx.Param))
    others = sum(leaf.size for leaf in parameters) - kernels
    return {
        "weights_dense": weights["dense"],
        "weights_condensed": weights["condensed"],
        "other_parameters": others * 4,
        "masks": masks,
        "optimizer": _size(state["opt_state"]) - masks,
        "averages": _size(state.get("ema", {})),
        "explored": _size(state.get("explored", {})),
    }


def _size(tree: Any) -> int:
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


def _explored(sparse: list[dict[str, Any]]) -> float | None:
    if not sparse or any(row["explored"] is None for row in sparse):
        return None
    sizes = [float(np.prod(row["shape"])) for row in sparse]
    shares = [row["explored"] for row in sparse]
    return float(np.average(shares, weights=sizes))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        *(quantity(row["flops"][kind]) for kind in ("dense", "asked", "learned")),
        fan_in_cell(row),
        f"{row['active']:,} / {row['neurons']:,}",
        _share(row["explored"]) if row["sparse"] else "",
        f"{row['bytes']['dense']:,}",
        f"{row['bytes']['condensed']:,}" if row["sparse"] else "dense",
    ]


def _total_cells(found: dict[str, Any]) -> list[str]:
    topology, sizes = found["topology"], found["bytes"]
    flops = found["inference"]["flops"]
    is_sparse = any(row["sparse"] for row in found["layers"])
    return [
        "total",
        *(quantity(flops[kind]) for kind in ("dense", "asked", "learned")),
        "",
        f"{topology['active']:,} / {topology['neurons']:,}",
        _share(topology["explored"]) if is_sparse else "",
        f"{sizes['weights_dense']:,}",
        f"{sizes['weights_condensed']:,}",
    ]


def _totals(found: dict[str, Any]) -> Iterator[str]:
    inference, training, sizes = found["inference"], found["training"], found["bytes"]
    flops, each, run = inference["flops"], training["per_example"], training["run"]
    yield (
        f"inference, FLOPs per example: {quantity(flops['dense'])} dense, "
        f"{quantity(flops['asked'])} asked ({flops['asked'] / flops['dense']:.2%}), "
        f"{quantity(flops['learned'])} learned "
        f"({flops['learned'] / flops['dense']:.2%})"
    )
    if inference["attention"]:
        yield (
            f"attention's own products, in none of these: "
            f"{quantity(inference['attention'])} FLOPs per example"
        )
    yield _spent("per example", each, found["method"])
    steps = f"in {training['steps']:,} steps of {training['batch_size']:,}"
    yield _spent(steps, run, found["method"])
    yield (
        f"weights: {sizes['weights_dense']:,} bytes dense, "
        f"{sizes['weights_condensed']:,} condensed; other parameters: "
        f"{sizes['other_parameters']:,}"
    )
    yield (
        f"training holds besides: masks {sizes['masks']:,} bytes, optimizer "
        f"{sizes['optimizer']:,}, averaged weights {sizes['averages']:,}, explored "
        f"weights {sizes['explored']:,}"
    )


def _spent(what: str, spent: dict[str, float], method: str) -> str:
    text = f"training, FLOPs {what}: {quantity(spent['dense'])} dense"
    if method == "dense":
        return text
    share = spent["method"] / spent["dense"]
    return f"{text}, {quantity(spent['method'])} {method} ({share:.2%})"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"
