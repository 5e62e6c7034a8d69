"""Tiny training runs for tests, and what they leave behind."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from srigl_jax.config import get_config

STEPS_PER_EPOCH = 22  # 1,437 digits in batches of 64.

# How long something took and how fast it was is all that may differ between runs.
CLOCK = ("seconds", "steps_per_second")


def tiny(data_dir: Path, **fields) -> ConfigDict:
    """One hidden layer of 16 on digits, 66 steps; `fields` with __ for a dot."""
    config = get_config()
    config.model.widths = (16,)
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
        return {
            name: np.asarray(array)
            for name, array in ocp.load_checkpointables(path)["state"].items()
        }


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
