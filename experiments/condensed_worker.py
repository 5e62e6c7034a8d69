"""Measures the grid at one thread count; runs in a process bound to as many cores."""

import dataclasses
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import bursts
import condensed_networks
import condensed_problems
import contenders
import jax
import numpy as np
from condensed_problems import TRAINED, LayerShape, Point, make_problem
from flax import nnx
from foreign import Engine

from srigl_jax.models.calls import get_module, layer_calls
from srigl_jax.sparsity.layout import leaf_name
from srigl_jax.sparsity.masks import is_masked_node
from srigl_jax.trained import load_trained

LARGE_BYTES = 2**28
"""Of arrays that do not fit any cache."""

CHOSEN = "ours: chosen"

Emit = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is to be measured; goes to the process of each thread count as JSON."""

    effort: str
    only: tuple[str, ...]
    threads: int
    is_main: bool
    torch: str | None
    deepsparse: str | None
    torch_compile: bool
    workdir: str | None
    seconds: float


def measure_point(
    point: Point,
    options: Options,
    engines: dict[str, Engine],
    mask: np.ndarray | None = None,
    **most: int,
) -> dict[str, Any]:
    """Times all contenders at a point of the grid; a row of the results.

    Args:
      point: the cell.
      options: of which threads, seconds and torch_compile are used.
      engines: PyTorch's and DeepSparse's.
      mask: a trained one.
      **most: `least` and `most` of `bursts.rounds`.
    """
    problem = make_problem(point, mask)
    made, skipped = contenders.contenders(
        problem, options.threads, engines, options.torch_compile
    )
    times, failed = bursts.rounds(made, options.seconds, **most)
    moved = problem.x.nbytes + 4 * point.batch * point.shape.positions * (
        point.shape.neurons
    )
    sizes = {n: made[n].weights_bytes + moved for n in times if n.startswith("ours")}
    return {
        "threads": options.threads,
        "layer": point.shape.name,
        "kind": point.kind,
        "mask": point.mask,
        "sparsity": point.sparsity,
        "density": round(float(problem.mask.mean()), 5),
        "batch": point.batch,
        **summary(times),
        **_choice(times, made),
        "flops": problem.flops,
        "bytes": sizes,
        "bandwidth_of_bytes": _bandwidths(
            sizes, options, point.batch == 1 and point.kind == "linear"
        ),
        "skipped": skipped | failed,
    }


def summary(times: dict[str, np.ndarray]) -> dict[str, Any]:
    """Medians, quartiles and ratios of f64[rounds, calls] seconds by contender."""
    quartiles = {
        name: np.round(1e6 * np.percentile(t, (25, 50, 75)), 2).tolist()
        for name, t in times.items()
    }
    ours = [name for name in times if name.startswith("ours")]
    peers = {name: name for name in times if name not in ours}
    for title, names in (
        ("best dense", contenders.DENSE),
        ("best CSR", contenders.CSR),
    ):
        if present := [name for name in names if name in times]:
            peers[title] = min(present, key=lambda n: quartiles[n][1])
    found = {
        "microseconds": {name: q[1] for name, q in quartiles.items()},
        "quartiles": {name: [q[0], q[2]] for name, q in quartiles.items()},
        "rounds": {name: len(t) for name, t in times.items()},
        "times_faster": {
            name: {
                title: round(bursts.ratio(times[name], times[peer]), 3)
                for title, peer in peers.items()
            }
            for name in ours
        },
    }
    if best := peers.get("best dense"):
        found["speed_over_best_dense"] = {
            name: round(bursts.ratio(t, times[best]), 3) for name, t in times.items()
        }
    return found


def _choice(
    times: dict[str, np.ndarray], made: dict[str, contenders.Contender]
) -> dict[str, Any]:
    """What autotuning has chosen, and its time over that of the fastest choice."""
    # What differs by chance differs least in the fastest of the rounds.
    best = {
        name: np.median(times[name], axis=1).min()
        for name in contenders.CHOICES
        if name in times
    }
    if CHOSEN not in times or made[CHOSEN].form not in best:
        return {}
    form = made[CHOSEN].form
    slower = best[form] / min(best.values())
    return {"chosen": form, "chosen_over_its_fastest_choice": round(float(slower), 3)}


def measure_network(
    network: condensed_networks.Network,
    batch: int,
    options: Options,
    engines: dict[str, Engine],
) -> dict[str, Any]:
    """Times a whole network; a row of the results."""
    made, skipped, facts = condensed_networks.contenders(
        network, batch, options.threads, engines
    )
    times, failed = bursts.rounds(made, 3 * options.seconds)
    return {
        "threads": options.threads,
        "network": network.name,
        "batch": batch,
        **summary(times),
        **facts,
        "bandwidth_of_bytes": _bandwidths(
            {n: size for n, size in facts["bytes"].items() if n.startswith("ours")},
            options,
            batch == 1 and not _convolutions(network.model),
        ),
        "skipped": skipped | failed,
    }


def _convolutions(model: nnx.Module) -> list[nnx.Module]:
    return [m for _, m in nnx.iter_graph(model) if isinstance(m, nnx.Conv)]


def _bandwidths(
    sizes: dict[str, int], options: Options, is_bound: bool
) -> dict[str, float]:
    """Bytes a second at which as many are read, where that is the limit."""
    if not is_bound:
        return {}
    return {
        name: bursts.read_bandwidth(size, options.threads, 0.01)
        for name, size in sizes.items()
    }


def trained_points(workdir: str, only: tuple[str, ...]) -> Iterator[tuple]:
    """The largest sparse layers of a trained network: (point, mask), at batch 1, 32."""
    trained = load_trained(workdir)
    masks = {
        leaf_name(path).removesuffix("/kernel"): np.asarray(mask)
        for path, mask in jax.tree_util.tree_leaves_with_path(
            trained.masks, is_leaf=is_masked_node
        )
        if not is_masked_node(mask)
    }
    image_shape = trained.dataset.image_shape
    calls = layer_calls(trained.model, list(masks), (1, *image_shape))
    for name in sorted(masks, key=lambda n: -masks[n].size)[:6]:
        mask, side = masks[name], calls[name][0].given.shape
        module = get_module(trained.model, name)
        if mask.ndim == 2 and "layers" in only:
            shape = LayerShape(f"{name} {mask.shape[0]}->{mask.shape[1]}", mask.shape)
        elif mask.ndim == 4 and "convolutions" in only:
            shape = _conv_shape(name, mask.shape, side, module)
        else:
            continue
        for batch in (1, 32):
            sparsity = round(1 - float(mask.mean()), 3)
            yield Point(shape, sparsity, TRAINED, batch), mask


def _conv_shape(name, kernel, side, module) -> LayerShape:
    strides = module.strides or 1
    stride = strides if isinstance(strides, int) else strides[0]
    padding = module.padding
    if isinstance(padding, str):
        window = kernel[:2], (stride, stride), padding
        padding = jax.lax.padtype_to_pads(side[1:3], *window)
    padding = tuple(tuple(map(int, p)) for p in padding)
    title = f"{name} {'x'.join(map(str, kernel))}"
    return LayerShape(title, kernel, tuple(side[1:3]), stride, padding)


def networks(options: Options) -> Iterator[Callable[[], condensed_networks.Network]]:
    """Makers of the networks to measure."""
    yield from condensed_networks.random_networks().values()
    if options.workdir:

        def make():
            trained = load_trained(options.workdir)
            shape = trained.dataset.image_shape
            title = f"trained {trained.config.model.name}"
            return condensed_networks.Network(
                title, shape, trained.model, trained.masks
            )

        yield make


def work(options: Options, emit: Emit) -> None:
    """Measures all of one thread count; runs in a process bound to as many cores."""
    engines, notes, versions = start_engines(options)
    emit(notes=notes, versions=versions, instructions=contenders.instruction_set())
    peak = bursts.peak_flops()
    bandwidth = bursts.read_bandwidth(LARGE_BYTES, options.threads)
    points = [
        (point, None)
        for point in condensed_problems.grid(
            options.effort, options.only, options.is_main
        )
    ]
    if options.workdir and options.is_main:
        try:
            points += trained_points(options.workdir, options.only)
        except ValueError as error:
            emit(notes=[f"trained masks skipped: {error}"])
            options = dataclasses.replace(options, workdir=None)
    is_networked = "networks" in options.only and options.is_main
    makers = list(networks(options)) if is_networked else []
    batches = (1,) if options.effort == "quick" else (1, 32)
    emit(total=len(points) + len(makers) * len(batches))
    for point, mask in points:
        cell = f"{point.shape.name}, {point.mask}, {point.sparsity:.0%}"
        emit(doing=f"{cell}, batch {point.batch}")
        _attempt(emit, "row", measure_point, point, options, engines, mask)
    for make in makers:
        network = make()
        for batch in batches:
            emit(doing=f"{network.name}, batch {batch}")
            _attempt(emit, "network", measure_network, network, batch, options, engines)
    emit(
        limits={
            "threads": options.threads,
            "flops_per_second": max(peak, bursts.peak_flops()),
            "bytes_per_second": max(
                bandwidth, bursts.read_bandwidth(LARGE_BYTES, options.threads)
            ),
        }
    )
    for engine in engines.values():
        engine.close()


def _attempt(emit: Emit, kind: str, function, *arguments) -> None:
    try:
        emit(**{kind: function(*arguments)})
    except Exception as error:  # One cell of hundreds; the others are still wanted.
        emit(lost=bursts.one_line(error))


def start_engines(options: Options) -> tuple[dict, list[str], dict[str, str]]:
    """The engines there are, lines about those there are not, and versions."""
    engines, notes, versions = {}, [], {}
    titles = {"torch": "PyTorch", "deepsparse": "DeepSparse"}
    for name, title in titles.items():
        python = getattr(options, name)
        if python is None:
            notes.append(f"{title} skipped: give a Python that has it, --{name} PYTHON")
            continue
        try:
            engines[name] = Engine(name, python, options.threads)
        except RuntimeError as error:
            notes.append(f"{title} skipped: {error}")
        else:
            versions[name] = engines[name].version
    for name in ("scipy", "onnx", "onnxruntime"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            notes.append(f"{name} is not installed: what needs it is skipped")
    return engines, notes, versions
