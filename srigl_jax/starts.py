"""What a run starts from, beside random numbers: masks, and with them maybe a state.

A file of masks is safetensors: `masks/LAYER`, bool of the kernel's shape, for each
layer that is sparse, named as in result.json. Every finished run leaves one,
masks.safetensors. A lottery ticket is such a file that also holds the state to rewind
to, `state/LEAF`.

What a run starts from is copied into its workdir, start.safetensors, and read from
there ever after.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from srigl_jax.at_init import drawn_where_zero, grasp, snip
from srigl_jax.data import Dataset
from srigl_jax.sparsity import Plan, init_masks
from srigl_jax.sparsity.plan import map_layers
from srigl_jax.step import Forward, State
from srigl_jax.workdir import write_atomically

START = "start.safetensors"
MASKS = "masks.safetensors"
REWIND = "rewind.safetensors"

_OF_OPTIMIZER = "opt_state/masks/"


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """Masks to start from.

    Attributes:
      masks: bool of the kernel's shape, by the layer's name.
      state: the leaves of a state of training but for its masks, by name; {} where
        training starts anew.
    """

    masks: dict[str, np.ndarray]
    state: dict[str, np.ndarray]

    def resume(self, state: State) -> State:
        """The state of the start in place of the one given, which has its masks.

        Raises:
          ValueError: it is of another network or optimizer.
        """
        if not self.state:
            return state

        def replace(path, leaf):
            name = _name(path)
            if name.startswith(_OF_OPTIMIZER):
                return leaf
            found = self.state.get(name)
            if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
                raise ValueError(
                    f"the ticket holds {_described(found)} as {name}, this run "
                    f"{_described(leaf)}: train it with the settings it was found with"
                )
            return jnp.asarray(found)

        return jax.tree_util.tree_map_with_path(replace, state)


def read_start(config: ConfigDict, workdir: Path) -> Start | None:
    """What the run of a workdir starts from, if `mask_from` or `lottery` say so.

    Of another workdir that is what it started from itself where that is a ticket with
    its state, else the masks it ended with.

    Raises:
      ValueError: there is no such file, or not one of masks.
    """
    if (workdir / START).exists():
        return read_masks(workdir / START)
    if config.mask_from is None:
        return None
    source = Path(config.mask_from)
    if not source.is_dir():
        return read_masks(source)
    if (source / START).exists() and (ticket := read_masks(source / START)).state:
        return ticket
    return read_masks(source / MASKS)


def keep_start(start: Start | None, workdir: Path) -> None:
    """Copies it into the workdir, unless it is there."""
    if start is not None and not (workdir / START).exists():
        write_start(workdir / START, start)


def write_start(path: Path, start: Start) -> None:
    """Writes masks, and the state if there is one."""
    leaves = {f"masks/{name}": mask for name, mask in start.masks.items()}
    leaves |= {f"state/{name}": leaf for name, leaf in start.state.items()}
    write_leaves(path, leaves)


def write_leaves(path: Path, leaves: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as safetensors, whole or not at all."""
    # Safetensors writes the buffer as it lies, whatever the strides; 0-dimensional
    # arrays keep their shape only so.
    contiguous = {n: np.asarray(leaf, order="C") for n, leaf in leaves.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(contiguous))


def named_masks(masks: Any, plan: Plan) -> dict[str, np.ndarray]:
    """The masks of sparse layers by name, of the kernels' shapes, on the host."""
    found = {}

    def collect(layer, mask):
        found[layer.name] = np.asarray(mask)
        return mask

    map_layers(collect, plan, masks)
    return found


def first_masks(
    config: ConfigDict,
    params: Any,
    model_state: Any,
    plan: Plan,
    start: Start | None,
    forward: Forward,
    dataset: Dataset,
) -> Any:
    """The masks before the first step, of a network that starts sparse.

    Those of the start where there is one, by the first batch for SNIP and GraSP, in
    training mode and without augmentation, else random. Kernels of zeros are ranked as
    if they had been drawn.

    Raises:
      ValueError: the start is of another network; scores that rank nothing.
    """
    if start is not None:
        return _masks_like(params, plan, start.masks)
    if config.method not in ("snip", "grasp"):
        return init_masks(params, plan, config.seed)
    batch = next(dataset.train_batches(config.seed, config.batch_size, start=0))
    key = jax.random.key(config.seed)

    def loss(params, batch):
        logits, _ = forward(params, model_state, batch["image"], key)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["label"]
        ).mean()

    find: Callable[..., Any] = {"snip": snip, "grasp": grasp}[config.method]
    ranked = drawn_where_zero(params, plan, config.seed)
    return find(loss, ranked, dict(batch), plan)


def keep_state(path: Path, state: State) -> None:
    """Writes all leaves of a state by name, masks included, to rewind to."""
    write_leaves(path, named_leaves(state))


def named_leaves(state: State) -> dict[str, np.ndarray]:
    """All leaves of a state by name, masks included, on the host."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def masks_in(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The masks by the layers' names, of a state by names."""
    return {
        name.removeprefix(_OF_OPTIMIZER): leaf
        for name, leaf in state.items()
        if name.startswith(_OF_OPTIMIZER)
    }


def without_masks(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The other leaves of a state by names."""
    return {n: leaf for n, leaf in state.items() if not n.startswith(_OF_OPTIMIZER)}


def read_masks(path: Path) -> Start:
    """Reads a file of masks.

    Raises:
      ValueError: there is none, or it holds no masks, or one that leaves nothing.
    """
    try:
        leaves = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"masks cannot be read from {path} ({error}): mask_from names the workdir "
            f"of a finished run, which holds {MASKS}, or such a file"
        ) from error
    parts = {
        part: {
            name.removeprefix(part): leaf
            for name, leaf in leaves.items()
            if name.startswith(part)
        }
        for part in ("masks/", "state/")
    }
    masks = parts["masks/"]
    if not masks or any(mask.dtype != bool for mask in masks.values()):
        raise ValueError(
            f"{path} holds no masks: it should have bool arrays masks/LAYER, of the "
            "shapes of the kernels"
        )
    if empty := sorted(name for name, mask in masks.items() if not mask.any()):
        raise ValueError(f"{path}: the masks of {empty} leave no weight at all")
    return Start(masks, parts["state/"])


def _masks_like(params: Any, plan: Plan, named: Mapping[str, np.ndarray]) -> Any:
    if unknown := sorted(set(named) - set(plan)):
        raise ValueError(
            f"there are masks for {unknown}, but the layers are {sorted(plan)}"
        )
    for name, mask in named.items():
        if mask.shape != plan[name].layout.shape:
            raise ValueError(
                f"the mask of {name} has shape {mask.shape}, the kernel "
                f"{plan[name].layout.shape}: it is of another network"
            )
    return map_layers(lambda layer, _: jnp.asarray(named[layer.name]), plan, params)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _described(leaf) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
