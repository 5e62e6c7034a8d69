"""How a run is laid out on many devices: examples over one axis, neurons over another.

Batches are cut over the axis "data". Kernels, with their masks, moments and averages,
are cut over "neurons" where it divides their neurons; all else is copied to every
device. `jax.jit` does the rest: a mean over the batch is one over all devices, batch
statistics are those of the whole batch, and masks are those that one device finds.

On one device there is no mesh, and everything here does nothing.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from srigl_jax.sparsity import Plan
from srigl_jax.sparsity.layout import Layout, leaf_name

DATA, NEURONS = "data", "neurons"


def mesh_shape(
    data: int | None, neurons: int, *, devices: int, processes: int = 1
) -> tuple[int, int]:
    """The sizes of the axes data and neurons.

    Args:
      data: devices that share a batch; None for all that there are.
      neurons: devices that share a layer.
      devices: how many there are, in all processes.
      processes: how many there are, with equally many devices.

    Raises:
      ValueError: there are no such devices, or some of several processes are left out.
    """
    if devices % neurons:
        raise ValueError(
            f"mesh.neurons is {neurons}, which does not divide the {devices} devices: "
            f"give one of {_divisors(devices)}"
        )
    if data is None:
        data = devices // neurons
    if data * neurons > devices:
        raise ValueError(
            f"mesh.data is {data} and mesh.neurons {neurons}, which takes "
            f"{data * neurons} devices, but there are {devices}: lower mesh.data to "
            f"{devices // neurons}, or leave it out"
        )
    if processes > 1 and data * neurons < devices:
        raise ValueError(
            f"mesh.data is {data} and mesh.neurons {neurons}, but several processes "
            f"must use all of their {devices} devices: leave mesh.data out, or start "
            "fewer processes"
        )
    local = devices // processes
    if processes > 1 and neurons % local and local % neurons:
        raise ValueError(
            f"mesh.neurons is {neurons}, but each process has {local} devices: give a "
            "divisor or a multiple of that"
        )
    return data, neurons


def make_mesh(data: int | None, neurons: int) -> Mesh | None:
    """The mesh of this job's devices; None for a single one.

    The devices of a process lie side by side, so that it reads consecutive examples.

    Raises:
      ValueError: as `mesh_shape`.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    shape = mesh_shape(
        data, neurons, devices=len(devices), processes=jax.process_count()
    )
    if math.prod(shape) == 1:
        return None
    grid = np.array(devices[: math.prod(shape)]).reshape(shape)
    return Mesh(grid, (DATA, NEURONS), axis_types=(AxisType.Auto,) * 2)


def check_batch(batch_size: int, accumulate: int, data: int) -> None:
    """Refuses batches that devices cannot share evenly.

    Raises:
      ValueError: names what would do.
    """
    if batch_size % (data * accumulate):
        parts = f", in {accumulate} micro-batches," if accumulate > 1 else ""
        fitting = math.gcd(data, batch_size // accumulate)
        raise ValueError(
            f"batch_size is {batch_size}, which {data} devices (mesh.data) cannot share"
            f"{parts} evenly: give a multiple of {data * accumulate}, or "
            f"mesh.data={fitting}"
        )


def kernel_spec(layout: Layout, neurons: int) -> PartitionSpec:
    """Cuts the first axis of neurons that is a multiple of `neurons`, if there is one.

    Args:
      layout: of the kernel.
      neurons: size of the mesh's axis.
    """
    for axis in layout.neuron_axes:
        if layout.shape[axis] % neurons == 0:
            return PartitionSpec(*[None] * axis, NEURONS)
    return PartitionSpec()


def leaf_spec(
    name: str, shape: tuple[int, ...], plan: Plan, neurons: int
) -> PartitionSpec:
    """How one leaf of a training state is cut.

    Whatever is named and shaped like a kernel (masks, moments, averages) is cut like
    it, and so is the record of what was explored of it, u8[fan_in / 8, neurons].

    Args:
      name: path of the leaf, such as "opt_state/masks/hidden/kernel".
      shape: of the leaf.
      plan: of the network.
      neurons: size of the mesh's axis.
    """
    for kernel, layer in plan.items():
        if f"/{name}".endswith(f"/{kernel}"):
            layout = layer.layout
            if shape == layout.shape:
                return kernel_spec(layout, neurons)
            bits = (-(-layout.fan_in // 8), layout.neurons)
            if shape == bits and layout.neurons % neurons == 0:
                return PartitionSpec(None, NEURONS)
    return PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a run lie.

    Attributes:
      mesh: of `make_mesh`.
      plan: of the network.
    """

    mesh: Mesh | None
    plan: Plan

    @property
    def data(self) -> int:
        """Devices that share a batch."""
        return self.mesh.shape[DATA] if self.mesh else 1

    @property
    def copied(self) -> NamedSharding | None:
        """The whole array on every device."""
        return NamedSharding(self.mesh, PartitionSpec()) if self.mesh else None

    @property
    def share(self) -> dict[str, int]:
        """Which rows of each batch this process reads, as data sets take it.

        Processes that share the neurons of the same examples read the same rows.
        """
        count = min(self.data, jax.process_count())
        index = jax.process_index() * count // jax.process_count()
        return {"process_index": index, "process_count": count}

    def shardings(self, state: Any) -> Any:
        """A sharding for each leaf; None, for all, without a mesh."""
        if self.mesh is None:
            return None
        neurons = self.mesh.shape[NEURONS]

        def sharding(path, leaf):
            spec = leaf_spec(leaf_name(path), leaf.shape, self.plan, neurons)
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(sharding, state)

    def place(self, state: Any) -> Any:
        """The state on its devices; every process has to have the same."""
        if self.mesh is None:
            return state
        return jax.tree.map(place, state, self.shardings(state))

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Each batch on its devices, of the rows that every process has read."""
        if self.mesh is None:
            return iter(batches)
        sharding = NamedSharding(self.mesh, PartitionSpec(DATA))
        shares = self.share["process_count"]

        def whole(rows):
            shape = (len(rows) * shares, *rows.shape[1:])
            return jax.make_array_from_process_local_data(sharding, rows, shape)

        return (jax.tree.map(whole, batch) for batch in batches)


def place(array: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """An array laid out on devices, of other processes too.

    Args:
      array: the whole array, on the host or on devices.
      sharding: None for the default device.
    """
    if sharding is None or sharding.is_fully_addressable or not _is_local(array):
        return jax.device_put(array, sharding)
    # `device_put` would compare the array with that of every other process.
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def gathered(tree: Any) -> Any:
    """The tree with what is spread over processes as whole numpy arrays.

    Every process has to call it. With one process the tree comes back as it is.
    """

    def gather(leaf):
        if _is_local(leaf):
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gather, tree)


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
