"""Data sets, and their batches as a pure function of seed and step."""

from srigl_jax.data.batches import batch_indices, steps_per_epoch, training_steps
from srigl_jax.data.dataset import Batch, Dataset, MissingFilesError
from srigl_jax.data.datasets import DATASETS, load
from srigl_jax.data.in_memory import InMemoryDataset, Split
from srigl_jax.data.streamed import StreamedDataset

__all__ = [
    "DATASETS",
    "Batch",
    "Dataset",
    "InMemoryDataset",
    "MissingFilesError",
    "Split",
    "StreamedDataset",
    "batch_indices",
    "load",
    "steps_per_epoch",
    "training_steps",
]
