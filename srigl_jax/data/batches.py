"""Batches as a pure function of (seed, step).

The whole state of the input is one integer, the step: a resumed run asks for the next
step and gets the batch it would have got. Each epoch is a fresh permutation of the
training set, cut into batches of one size; the examples that do not fill a last batch
are left out of that epoch.
"""

import functools
from collections.abc import Iterator

import numpy as np

from srigl_jax.data.datasets import Dataset, Split

Batch = dict[str, np.ndarray]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of whole batches in an epoch.

    Raises:
      ValueError: `batch_size` is below 1 or above `num_examples`.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch_size is {batch_size}, but must lie between 1 and the number of "
            f"training examples, {num_examples}."
        )
    return num_examples // batch_size


def batch_indices(
    seed: int, step: int, *, num_examples: int, batch_size: int
) -> np.ndarray:
    """Returns the training examples of one step.

    Args:
      seed: At least 0.
      step: Counted from 0 over all epochs.
      num_examples: Size of the training set.
      batch_size: Examples in a batch.

    Returns:
      int64[batch_size], read-only, each in [0, num_examples), no two equal; nor are
      any two in all the steps of an epoch.

    Raises:
      ValueError: `seed` or `step` is negative, or `batch_size` is out of range.
    """
    for field, value in (("seed", seed), ("step", step)):
        if value < 0:
            raise ValueError(f"{field} is {value}, but must be at least 0.")
    epoch, position = divmod(step, steps_per_epoch(num_examples, batch_size))
    start = position * batch_size
    return _permutation(seed, epoch, num_examples)[start : start + batch_size]


def train_batch(dataset: Dataset, seed: int, step: int, batch_size: int) -> Batch:
    """Returns the training batch of one step; see `batch_indices`.

    Returns:
      image: uint8[batch_size, H, W, C]; label: int32[batch_size].

    Raises:
      ValueError: As `batch_indices`.
    """
    split = dataset.train
    chosen = batch_indices(seed, step, num_examples=len(split), batch_size=batch_size)
    return {"image": split.images[chosen], "label": split.labels[chosen]}


def eval_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yields every example of a split once, in order, in batches of one shape.

    The last batch is filled up with zeros of weight 0, so one compiled function serves
    all batches and a weighted mean is the mean over the split.

    Yields:
      image: uint8[batch_size, H, W, C]; label: int32[batch_size];
      weight: float32[batch_size], 1 for an example and 0 for filling.

    Raises:
      ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
    for start in range(0, len(split), batch_size):
        chosen = slice(start, start + batch_size)
        labels = split.labels[chosen]
        yield {
            "image": _filled(split.images[chosen], batch_size),
            "label": _filled(labels, batch_size),
            "weight": _filled(np.ones(len(labels), np.float32), batch_size),
        }


# The current epoch and, for evaluation in between or a second run, another one.
@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # The bit generator is named: numpy may change what `default_rng` stands for.
    generator = np.random.Generator(np.random.Philox((seed, epoch)))
    permutation = generator.permutation(num_examples)
    permutation.flags.writeable = False
    return permutation


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    missing = length - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
