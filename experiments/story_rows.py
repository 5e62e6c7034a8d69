"""What is kept of a trained network: its row, and of some its weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from story_matrix import NETWORK, ROW
from story_train import Trained

from srigl_jax import data, methods, starts
from srigl_jax.analysis.costs import layer_costs, total_costs, training_costs
from srigl_jax.analysis.network import read_network
from srigl_jax.parts import make_model
from srigl_jax.sparsity import layer_masks, summarize
from srigl_jax.step import evaluated
from srigl_jax.workdir import write_atomically

_HEAD = "head/kernel"


def make_row(trained: Trained, dataset: data.InMemoryDataset) -> dict[str, Any]:
    """The facts of a network as JSON's types.

    Returns:
      `accuracy` and `loss`, None where it diverged, on the `split`; `layers`, the
      fields of `LayerSummary` and `fan_ins`, the number of neurons of each fan-in, None
      where dense; `flops`, of inference as of `total_costs`; `training_flops` of an
      example, as of `training_costs`.
    """
    config = trained.config
    masks = layer_masks(trained.masks, trained.plan)
    network = read_network(
        nnx.eval_shape(lambda: make_model(config, dataset)), dataset.image_shape
    )
    total = total_costs(layer_costs(network, trained.plan, masks))
    steps = data.training_steps(dataset.num_train, config.batch_size, config.epochs)
    removed = methods.removed_shares(config, steps, steps)
    training = training_costs(total, config.method, config.delta_t, 1, removed)
    loss, accuracy = trained.scores["loss"], trained.scores["accuracy"]
    return {
        "accuracy": accuracy,
        "loss": loss if np.isfinite(loss) else None,
        "split": "validation" if config.dataset.validation else "test",
        "steps": steps,
        "layers": [
            dataclasses.asdict(row) | {"fan_ins": _fan_ins(masks.get(row.name))}
            for row in summarize(trained.masks, trained.plan)
        ],
        "flops": total["flops"],
        "training_flops": training["per_example"],
    }


def active_share(row: dict[str, Any]) -> float | None:
    """The share of inner neurons that have a weight; None of a dense network.

    Of every sparse layer but the output, whether the method ablates or not.
    """
    inner = [layer for layer in inner_layers(row["layers"]) if layer["sparse"]]
    neurons = sum(layer["neurons"] for layer in inner)
    return sum(layer["active"] for layer in inner) / neurons if neurons else None


def inner_layers(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the output layer: the head of a network that has one, else the last."""
    names = [layer["name"] for layer in layers]
    output = _HEAD if _HEAD in names else names[-1]
    return [layer for layer in layers if layer["name"] != output]


def _fan_ins(mask: np.ndarray | None) -> dict[str, int] | None:
    if mask is None:
        return None
    sizes, neurons = np.unique(mask.sum(axis=0), return_counts=True)
    return {str(k): int(n) for k, n in zip(sizes, neurons, strict=True)}


def write_row(row: dict[str, Any], directory: Path) -> None:
    """Makes a cell a finished one."""
    write_atomically(directory / ROW, json.dumps(row) + "\n")


def write_network(trained: Trained, directory: Path) -> None:
    """Keeps parameters, batch statistics and masks."""
    state = evaluated(trained.state)
    kept = {name: state[name] for name in ("params", "model_state")}
    leaves = starts.named_leaves(kept | {"masks": trained.masks})
    starts.write_leaves(directory / NETWORK, leaves)
