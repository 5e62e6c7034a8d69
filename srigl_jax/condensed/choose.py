"""Which form a layer runs fastest in: measured here and now, or by a rule.

`CANDIDATES` is the list of forms; add one to have it timed. The rule knows these.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax.condensed import native
from srigl_jax.condensed.layers import Layer, as_condensed, as_dense, as_windows
from srigl_jax.condensed.modules import WINDOWS_EXAMPLES

Candidate = Callable[[Layer, nnx.Module, str], nnx.Module | None]


def _dense(layer: Layer, module: nnx.Module, implementation: str) -> nnx.Module:
    del implementation
    return as_dense(layer, module)


CANDIDATES: dict[str, Candidate] = {
    "dense": _dense,
    "condensed": as_condensed,
    "windows": as_windows,
}
"""Form to `(layer, module it was read from, implementation) -> module`, or None where
a layer cannot take the form."""

CROSSOVERS: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("native", "linear"): ((4, 0.7), (math.inf, 0.5)),
    ("native", "conv"): ((2048, 1.0), (math.inf, 0.7)),
    ("xla", "linear"): ((1, 0.02), (math.inf, 0.0)),
    ("xla", "conv"): ((math.inf, 0.0),),
}
"""(implementation, kind) to (rows of input up to which, density up to which a condensed
layer is the faster one), rows ascending; on CPUs.

Measured on two cores of one machine, by sweeps over densities from 0.3 to 1 at batches
of 1, 4, 32 and 256: windows were ahead of dense layers up to density 0.7 for up to 4
examples, the condensed form up to about 0.5 at 32 and 256, convolutions always for one
image and up to 0.7 or more for 32. Other machines have other crossovers: autotune."""

WINDOWS_DENSITY = 0.01
"""From which density on windows are the faster form, for few rows."""

SECONDS_PER_LAYER = 0.5
"""How long the candidates of a layer are timed, compilation apart."""

MOST_EXAMPLES = 8
"""Up to which windows are worth timing."""

_BURST_SECONDS = 0.01
_HOPELESS = 2.0
_TIE = 0.02
"""Share by which times of the same code differ; the first candidate is the simplest."""


def candidates(
    layer: Layer, module: nnx.Module, implementation: str, rows: int
) -> dict[str, nnx.Module]:
    """The forms that a layer can take, as modules.

    Args:
      layer: as it shall be, folded and narrowed.
      module: it was read from.
      implementation: of condensed layers.
      rows: of its input; windows are for few.
    """
    made = {
        name: make(layer, module, implementation)
        for name, make in CANDIDATES.items()
        if name != "windows" or rows <= MOST_EXAMPLES
    }
    if (windows := made.get("windows")) is not None:
        windows.examples = max(rows, windows.examples)
    return {name: module for name, module in made.items() if module is not None}


def as_asked(layer: Layer, form: str) -> tuple[str, str]:
    """The form asked for, or "dense" where the layer cannot take it; and why."""
    if form != "dense" and layer.obstacle:
        return "dense", layer.obstacle
    return form, "as asked for"


def by_rule(layer: Layer, rows: int, implementation: str) -> tuple[str, str]:
    """Decides by `CROSSOVERS` on a CPU; elsewhere nothing was measured: "dense".

    Args:
      layer: as it shall be.
      rows: of its input: the batch size, times the tokens of a sequence.
      implementation: of condensed layers.

    Returns:
      "dense", "condensed" or "windows", and why.
    """
    if layer.obstacle:
        return "dense", layer.obstacle
    if jax.default_backend() != "cpu":
        platform = jax.default_backend()
        return "dense", f"nothing was measured on {platform}: autotune to choose there"
    kind = "conv" if layer.kind == "conv" else "linear"
    backend = _resolve(implementation)
    limits = CROSSOVERS[backend, kind]
    limit = next(density for most, density in limits if rows <= most)
    is_single = kind == "linear" and rows <= WINDOWS_EXAMPLES and native.available()
    if is_single and backend == "native" and WINDOWS_DENSITY <= layer.density <= limit:
        return (
            "windows",
            f"density {layer.density:.3g} is from {WINDOWS_DENSITY} to {limit}, "
            f"few examples ({backend})",
        )
    if layer.density <= limit:
        return (
            "condensed",
            f"density {layer.density:.3g} is at most {limit} ({backend})",
        )
    if limit == 0:
        return "dense", f"{backend} gains nothing for {kind} at {rows} rows"
    return "dense", f"density {layer.density:.3g} is above {limit} ({backend})"


def by_time(
    layer: Layer,
    modules: Mapping[str, nnx.Module],
    input_shape: tuple[int, ...],
    dtype: Any,
    known: dict[Any, dict[str, float]],
) -> tuple[str, str]:
    """Decides by timing.

    Args:
      layer: as it shall be.
      modules: its candidates by name.
      input_shape: of the layer, batch included.
      dtype: of the input.
      known: measurements so far; a layer like one of them is not timed again.

    Returns:
      The name of the fastest, or of an earlier candidate that takes no longer but for
      noise, and the times of all.
    """
    sizes = layer.kernel.shape, layer.neuron_axes, layer.active, layer.k
    window = [str(vars(modules["dense"]).get(name)) for name in ("strides", "padding")]
    key = (layer.kind, *sizes, layer.groups, layer.dtype, *window, *modules)
    key += input_shape, jnp.dtype(dtype)
    if key not in known:
        known[key] = measure(modules, input_shape, dtype)
    times = known[key]
    order = sorted(times, key=times.__getitem__)
    bound = (1 + _TIE) * times[order[0]]
    chosen = next(name for name in modules if times[name] <= bound)
    tie = " (a tie)" if chosen != order[0] else ""
    said = ", ".join(f"{name} {1e6 * times[name]:.0f} us" for name in order)
    return chosen, said + tie


def measure(
    modules: Mapping[str, nnx.Module], input_shape: tuple[int, ...], dtype: Any
) -> dict[str, float]:
    """Seconds of a call of each module, in turns, so that all share the weather.

    Of bursts of calls the first ones, which find another module's weights in the
    caches, do not count; of the bursts' medians the lower quartile does, since other
    work on the machine only adds to them. Hopeless modules take part twice.

    Args:
      modules: by name.
      input_shape: of all of them, batch included.
      dtype: of the input.
    """
    x = jnp.asarray(np.random.default_rng(0).normal(size=input_shape), dtype)
    calls = {name: _compiled(module, x) for name, module in modules.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + SECONDS_PER_LAYER
    rounds = 0
    while rounds < 5 or (rounds < 100 and time.perf_counter() < deadline):
        best = min((min(t) for t in times.values() if t), default=math.inf)
        for name, call in calls.items():
            if rounds < 2 or min(times[name]) < _HOPELESS * best:
                times[name].append(_burst(call))
        rounds += 1
    return {name: float(np.percentile(seconds, 25)) for name, seconds in times.items()}


def _burst(call: Callable[[], Any]) -> float:
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < 12 and sum(seconds) < _BURST_SECONDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[len(seconds) // 3 :])


def _resolve(implementation: str) -> str:
    if implementation == "auto":
        return "native" if native.available() else "xla"
    return "native" if implementation == "native" else "xla"


def _compiled(module: nnx.Module, x: jax.Array) -> Callable[[], Any]:
    # Weights are constants, as in `srigl_jax.predictor`.
    apply = jax.jit(lambda x: module(x))
    jax.block_until_ready(apply(x))
    return lambda: jax.block_until_ready(apply(x))
