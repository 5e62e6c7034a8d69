"""Batches as a pure function of (seed, step).

The whole state of the input is one integer, the step: a resumed run asks for the next
step and gets the batch it would have got. Each epoch is a fresh permutation of the
training set, cut into batches of one size; the examples that do not fill a last batch
are left out of that epoch.
"""

import functools

import numpy as np


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


def training_steps(num_examples: int, batch_size: int, epochs: float) -> int:
    """Returns the number of steps in so many epochs, to the nearest one.

    Raises:
      ValueError: As `steps_per_epoch`, or it would be none.
    """
    steps = round(epochs * steps_per_epoch(num_examples, batch_size))
    if not steps:
        raise ValueError(
            f"epochs is {epochs}, which is no step at all: one is "
            f"{1 / steps_per_epoch(num_examples, batch_size):.2g} epochs."
        )
    return steps


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


def process_rows(batch_size: int, process_index: int, process_count: int) -> range:
    """Returns the rows of each batch that one of several processes holds.

    They are consecutive and in the order of the processes, as a batch is laid out on
    the devices of all hosts.

    Raises:
      ValueError: There is no such process, `batch_size` is below 1, or not a multiple
        of `process_count`.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}, but must lie between 0 and one less "
            f"than process_count, {process_count}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}, but {process_count} processes share each "
            f"batch: give a multiple of {process_count}."
        )
    rows = batch_size // process_count
    return range(process_index * rows, (process_index + 1) * rows)


def fill(array: np.ndarray, length: int) -> np.ndarray:
    """Returns the array with zeros behind, up to a length of its first axis."""
    missing = length - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))


# The current epoch and, for evaluation in between or a second run, another one.
@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # The bit generator is named: numpy may change what `default_rng` stands for.
    generator = np.random.Generator(np.random.Philox((seed, epoch)))
    permutation = generator.permutation(num_examples)
    permutation.flags.writeable = False
    return permutation
