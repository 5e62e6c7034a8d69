"""Data sets in memory, and their batches as a pure function of seed and step."""

from srigl_jax.data.batches import (
    batch_indices,
    eval_batches,
    steps_per_epoch,
    train_batch,
)
from srigl_jax.data.datasets import Dataset, Split, hold_out, load
from srigl_jax.data.fashion_mnist import MissingFilesError

__all__ = [
    "Dataset",
    "MissingFilesError",
    "Split",
    "batch_indices",
    "eval_batches",
    "hold_out",
    "load",
    "steps_per_epoch",
    "train_batch",
]
