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
import optax
from ml_collections import ConfigDict
from safetensors.numpy import load

from srigl_jax import starts
from srigl_jax.checkpoint import Checkpoints
from srigl_jax.config import check_workdir
from srigl_jax.methods import round_sparsity
from srigl_jax.sparsity import Plan, make_plan
from srigl_jax.sparsity.plan import map_layers
from srigl_jax.sparsity.ranking import keep_best

_PARAMS = "params/"

Leaves = dict[str, np.ndarray]


def find_ticket(
    config: ConfigDict, workdir: Path, train: Callable[[ConfigDict, Path], Any]
) -> None:
    """Writes the ticket that the run starts from into its workdir, unless it is there.

    Rounds are runs of the trainer in `round-0`, `round-1`... of the workdir, which go
    on where they were interrupted.

    Raises:
      ValueError: as `train`.
    """
    if (workdir / starts.START).exists():
        return
    if (workdir / "config.json").exists():
        check_workdir(workdir, config)
    source, ticket_before = None, None
    for number in range(config.pruning.rounds):
        directory = workdir / f"round-{number}"
        found = directory / "ticket.safetensors"
        if not found.exists():
            if source is not None:
                starts.keep_start(starts.read_masks(source), directory)
            sparsity = round_sparsity(config, number + 1)
            print(
                f"round {number + 1} of {config.pruning.rounds}, after which "
                f"{1 - sparsity:.2%} of the weights are left",
                flush=True,
            )
            train(round_config(config, ticket_before), directory)
            check_workdir(workdir, config)
            rewound, end = _read_round(directory)
            starts.write_start(found, next_start(config, sparsity, rewound, end))
        # From one round to the next, whatever the workdir is called.
        source, ticket_before = found, f"../{directory.name}/{found.name}"
    starts.write_start(workdir / starts.START, starts.read_masks(source))


def check_tickets(config: ConfigDict, params: Any) -> None:
    """Refuses tickets that cannot be, before any round is trained.

    Args:
      config: of the whole lottery.
      params: of the network, of which the shapes count.

    Raises:
      ValueError: as `srigl_jax.make_plan`.
    """
    for number in range(config.pruning.rounds):
        _ticket_plan(config, round_sparsity(config, number + 1), params)


def check_rewind_step(config: ConfigDict, total_steps: int) -> None:
    """Refuses a step to rewind to, or to keep, that training does not come to.

    Raises:
      ValueError: names it and the steps there are.
    """
    step = config.pruning.rewind_step
    if step is not None and step >= total_steps:
        raise ValueError(
            f"pruning.rewind_step is {step}, but the training has {total_steps} steps: "
            "give a step below that"
        )


def round_config(config: ConfigDict, source: str | None = None) -> ConfigDict:
    """The config of a round before the last.

    Args:
      config: of the whole lottery.
      source: file of the ticket that the round starts from, as seen from its workdir,
        which has a copy; None is the dense network.
    """
    fields = {
        "method": "static",
        "sparsity": 0.0,
        "distribution": "uniform",
        "mask_from": source,
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
    params = _params(end)
    plan = _ticket_plan(config, sparsity, params)
    had = starts.masks_in(end)
    within = map_layers(
        lambda layer, _: had.get(layer.name, optax.MaskedNode()), plan, params
    )
    masks = starts.named_masks(keep_best(params, plan, within=within), plan)
    return starts.Start(masks, _masked(starts.without_masks(rewound), masks, plan))


def _ticket_plan(config: ConfigDict, sparsity: float, params: Any) -> Plan:
    return make_plan(
        params,
        sparsity,
        distribution=config.distribution,
        constant_fan_in=False,
        dense=config.dense,
    )


def _masked(leaves: Leaves, masks: Leaves, plan: Plan) -> Leaves:
    """The leaves of a state with weights, their moments and averages on the masks."""
    masked = dict(leaves)
    for name, leaf in leaves.items():
        # A name may end in that of a layer of another module, too, but shorter.
        kernel = max((n for n in plan if name.endswith(f"/{n}")), key=len, default=None)
        if kernel in masks and leaf.shape == masks[kernel].shape:
            masked[name] = np.where(masks[kernel], leaf, np.zeros_like(leaf))
    return masked


def _read_round(directory: Path) -> tuple[Leaves, Leaves]:
    """The states by names of a finished round: the one to rewind to, and the last."""
    rewound = load((directory / starts.REWIND).read_bytes())
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
