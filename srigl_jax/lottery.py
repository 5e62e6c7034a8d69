"""Lottery tickets: rounds of training, pruning and rewinding, each a run of its own.

Iterative magnitude pruning (Frankle & Carbin, arXiv 1803.03635). The first round trains
the dense network. After each round the smallest weights that are left are pruned, the
same share every time, and the others go back to what they were at
`pruning.rewind_step` (Frankle et al., arXiv 1912.05671). The whole state goes back,
moments, learning rate and place in the data, so that a rewound run is one that had
these masks from there on.

What is left after the last pruning is the ticket, which `train` then trains.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import load

from srigl_jax import starts
from srigl_jax.checkpoint import Checkpoints
from srigl_jax.config import check_workdir
from srigl_jax.methods import round_sparsity
from srigl_jax.pruning import ticket
from srigl_jax.sparsity import make_plan
from srigl_jax.sparsity.masks import full_masks
from srigl_jax.sparsity.plan import map_layers

_PARAMS = "params/"

Leaves = dict[str, np.ndarray]


def find_ticket(
    config: ConfigDict, workdir: Path, train: Callable[[ConfigDict, Path], Any]
) -> None:
    """Writes the ticket that the run starts from into its workdir, unless it is there.

    Rounds are runs of the trainer in `round-0`, `round-1`... of the workdir, which go
    on where they were interrupted.

    Raises:
      ValueError: the state to rewind to lies beyond the end of training; as `train`.
    """
    if (workdir / starts.START).exists():
        return
    if (workdir / "config.json").exists():
        check_workdir(workdir, config)
    source = None
    for number in range(config.pruning.rounds):
        directory = workdir / f"round-{number}"
        found = directory / "ticket.safetensors"
        if not found.exists():
            train(round_config(config, source), directory)
            check_workdir(workdir, config)
            rewound, end = _read_round(directory)
            sparsity = round_sparsity(config, number + 1)
            starts.write_start(found, next_start(config, sparsity, rewound, end))
        source = found
    starts.write_start(workdir / starts.START, starts.read_masks(source))


def round_config(config: ConfigDict, source: Path | None = None) -> ConfigDict:
    """The config of a round before the last.

    Args:
      config: of the whole lottery.
      source: file of the ticket that the round starts from; None is the dense network.
    """
    fields = {
        "method": "static",
        "sparsity": 0.0,
        "distribution": "uniform",
        "mask_from": str(source) if source else None,
    }
    this = ConfigDict(config.to_dict())
    this.update(fields)
    if this.pruning.rewind_step is None:
        this.pruning.rewind_step = 0
    return this


def next_start(
    config: ConfigDict, sparsity: float, rewound: Leaves, end: Leaves
) -> starts.Start:
    """The ticket of a round.

    Args:
      config: its `distribution` and `dense` say what is ranked against what.
      sparsity: of the ticket.
      rewound: the leaves by name of the state to go back to.
      end: those of the state at the end of the round.
    """
    params, before = _params(end), _params(rewound)
    plan = make_plan(
        params,
        sparsity,
        distribution=config.distribution,
        constant_fan_in=False,
        dense=config.dense,
    )
    had = starts.masks_in(end)
    within = map_layers(
        lambda layer, full: had.get(layer.name, full), plan, full_masks(params, plan)
    )
    masks, weights = ticket(params, before, plan, within)
    kept = {_PARAMS + name: leaf for name, leaf in _flat(weights).items()}
    return starts.Start(
        starts.named_masks(masks, plan), starts.without_masks(rewound) | kept
    )


def _read_round(directory: Path) -> tuple[Leaves, Leaves]:
    """The states by names of a finished round: the one to rewind to, and the last."""
    path = directory / starts.REWIND
    if not path.exists():
        raise ValueError(
            f"{directory} ended before pruning.rewind_step: give a step within training"
        )
    rewound = load(path.read_bytes())
    with Checkpoints(directory / "checkpoints") as checkpoints:
        _, end = checkpoints.restore_latest(rewound)
    return rewound, end


def _params(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters, nested as the names are."""
    params: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if name.startswith(_PARAMS):
            *parents, last = name.removeprefix(_PARAMS).split("/")
            node = params
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = leaf
    return params


def _flat(params: dict[str, Any], prefix: str = "") -> Leaves:
    flat = {}
    for name, value in params.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat
