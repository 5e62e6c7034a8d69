"""Timing that survives a shared machine, and results as JSON with their command."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srigl_jax.workdir import write_atomically

RESULTS = Path(__file__).parent / "results"


def interleaved(
    functions: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, np.ndarray]:
    """Seconds of each function, run in turns, so that all meet the same weather.

    Args:
      functions: each is called without arguments and returns arrays to wait for.
      repeats: rounds that count; one more comes first to compile.

    Returns:
      `{name: f64[repeats]}`.
    """
    seconds = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def environment() -> dict[str, Any]:
    """The machine and the versions that figures were measured with."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {
            n: metadata.version(n) for n in ("jax", "jaxlib", "flax", "optax")
        },
    }


def save(name: str, results: dict[str, Any]) -> Path:
    """Writes results/NAME.json with the environment; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"environment": environment(), **results}
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
