"""Tiny training runs for tests, and what they leave behind."""

import json
import os
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from srigl_jax.config import get_config

STEPS_PER_EPOCH = 22  # 1,437 digits in batches of 64.

# How long something took and how fast it was is all that may differ between runs.
CLOCK = ("seconds", "steps_per_second")


def environ() -> dict[str, str]:
    """Of a process that finds the programs that the tests have compiled."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def tiny(data_dir: Path, **fields) -> ConfigDict:
    """One hidden layer of 16 on digits, 66 steps; `fields` with __ for a dot."""
    config = get_config()
    config.model.widths = (16,)
    config.mesh.data = 1  # Of the eight devices that a test has.
    config.epochs = 3
    config.sparsity = 0.5
    config.delta_t = 7
    config.log_every = 10
    config.eval_every = 25
    config.checkpoint_every = 20
    config.dataset.data_dir = str(data_dir)
    dotted = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(dotted)
    return config


def tiny_convnet(data_dir: Path, **fields) -> ConfigDict:
    """A convolution of 4, a hidden layer of 16, BatchNorm and dropout."""
    config = tiny(data_dir, **fields)
    config.model = ConfigDict(
        {"name": "convnet", "widths": (4,), "hidden": 16, "dropout": 0.2}
    )
    return config


def checkpoint(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, read with nothing but orbax."""
    path = workdir / "checkpoints" / str(step)
    with ocp.Context():
        stored = ocp.checkpointables_metadata(path).metadata["state"]
        # As numpy arrays, for it may be that other devices have written them.
        like = {name: np.empty(x.shape, x.dtype) for name, x in stored.items()}
        return dict(ocp.load_checkpointables(path, {"state": like})["state"])


def bits(workdir: Path, step: int) -> dict[str, tuple]:
    """A checkpoint such that `==` compares dtypes, shapes and bits."""
    return {
        name: (array.dtype.name, array.shape, array.tobytes())
        for name, array in checkpoint(workdir, step).items()
    }


def result(workdir: Path) -> dict:
    """result.json but for its clock."""
    values = json.loads((workdir / "result.json").read_text())
    return {name: value for name, value in values.items() if name not in CLOCK}


def records(workdir: Path, kind: str) -> list[dict]:
    """The records of one kind in metrics.jsonl, in the order of the file."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def recorded_steps(workdir: Path, kind: str) -> list[int]:
    """The steps of the records of one kind."""
    return [record["step"] for record in records(workdir, kind)]


def assert_alike(workdir: Path, expected: Path, step: int) -> None:
    """One checkpoint as another: floats to rounding, masks and the like exactly."""
    arrays, wanted = checkpoint(workdir, step), checkpoint(expected, step)
    assert arrays.keys() == wanted.keys()
    assert any(array.dtype == bool for array in arrays.values())
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(
                array, wanted[name], rtol=1e-3, atol=1e-4, err_msg=name
            )
        else:
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    for kind in ("train", "eval"):
        ours, theirs = records(workdir, kind), records(expected, kind)
        for one, other in zip(ours, theirs, strict=True):
            assert one["step"] == other["step"]
            assert np.isclose(one["loss"], other["loss"], rtol=1e-3)
