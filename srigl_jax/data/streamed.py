"""Data sets too large for memory: encoded images, decoded as they are needed.

Grain runs the decoding in threads or processes, ahead of the training. What it runs is
a pure function of (seed, step, row), so batches depend neither on how many workers
there are nor on where a run was interrupted, and no state but the step is kept.
"""

import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

import grain
import numpy as np
from absl import flags

from srigl_jax.data import pictures
from srigl_jax.data.batches import batch_indices, fill, process_rows, steps_per_epoch
from srigl_jax.data.dataset import Batch, Dataset

_PART = 32  # Rows that are decoded one after the other, by one worker.
_AHEAD = 4  # Parts that wait in each worker process.


class Records(Protocol):
    """Encoded images with their labels. Must be picklable."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, index: int) -> tuple[bytes, int, str]:
        """Returns an encoded image, its label, and what to call it in an error."""


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Some of the records of another."""

    records: Records
    indices: np.ndarray

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[bytes, int, str]:
        """Returns an image as the records do."""
        return self.records[int(self.indices[index])]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StreamedDataset(Dataset):
    """A data set that is decoded on the way; see `Dataset`.

    Training images are random crops resized to one size, evaluation images the centre
    of the image; see `pictures`.

    Attributes:
      train: The training split.
      test: The test split.
      size: Height and width of the images in batches.
      workers: Processes that decode; 0 for threads of this process.
    """

    train: Records
    test: Records
    size: int
    workers: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images in batches."""
        return (self.size, self.size, 3)

    @property
    def num_train(self) -> int:
        """The number of training examples."""
        return len(self.train)

    @property
    def num_test(self) -> int:
        """The number of test examples."""
        return len(self.test)

    def train_batches(
        self,
        seed: int,
        batch_size: int,
        *,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """Yields the training batches of the steps from `start` on; see `Dataset`."""
        rows = process_rows(batch_size, process_index, process_count)
        steps_per_epoch(self.num_train, batch_size)  # Checks, before workers start.
        load = functools.partial(_train_rows, self.train, self.size, seed, batch_size)
        return _batches(load, rows, start, None, self.workers)

    def eval_batches(
        self, batch_size: int, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """Yields every test example once, in order; see `Dataset`."""
        rows = process_rows(batch_size, process_index, process_count)
        load = functools.partial(_eval_rows, self.test, self.size, batch_size)
        count = -(-self.num_test // batch_size)
        return _batches(load, rows, 0, count, self.workers)

    def hold_out(self, examples: int) -> "StreamedDataset":
        """Puts training examples, evenly spaced, in the place of the test split.

        The records may be in the order of their classes, so the last ones are not like
        the others. See `Dataset`.
        """
        if not examples:
            return self
        self._check_hold_out(examples)
        held = (np.arange(examples) * self.num_train) // examples
        rest = np.setdiff1d(np.arange(self.num_train), held)
        return dataclasses.replace(
            self, train=Selection(self.train, rest), test=Selection(self.train, held)
        )


def _train_rows(
    records: Records, size: int, seed: int, batch_size: int, step: int, rows: range
) -> Batch:
    chosen = batch_indices(
        seed, step, num_examples=len(records), batch_size=batch_size
    )[rows.start : rows.stop]
    images = np.empty((len(rows), size, size, 3), np.uint8)
    labels = np.empty(len(rows), np.int32)
    for i, (row, index) in enumerate(zip(rows, chosen.tolist(), strict=True)):
        encoded, labels[i], name = records[index]
        # Ends in 1, since numpy fills up with zeros, and permutations of epochs are
        # drawn from (seed, epoch).
        generator = np.random.Generator(np.random.Philox((seed, step, row, 1)))
        picture = pictures.decode(encoded, name)
        images[i] = pictures.random_resized_crop(picture, size, generator)
    return {"image": images, "label": labels}


def _eval_rows(
    records: Records, size: int, batch_size: int, step: int, rows: range
) -> Batch:
    start = step * batch_size
    chosen = range(
        min(start + rows.start, len(records)), min(start + rows.stop, len(records))
    )
    images = np.zeros((len(rows), size, size, 3), np.uint8)
    labels = np.zeros(len(rows), np.int32)
    for i, index in enumerate(chosen):
        encoded, labels[i], name = records[index]
        images[i] = pictures.central_crop(pictures.decode(encoded, name), size)
    weights = fill(np.ones(len(chosen), np.float32), len(rows))
    return {"image": images, "label": labels, "weight": weights}


def _batches(
    load: Callable[[int, range], Batch],
    rows: range,
    start: int,
    count: int | None,
    workers: int,
) -> Iterator[Batch]:
    """Yields batches of `rows`, put together of parts that are loaded in parallel."""
    parts = [rows[i : i + _PART] for i in range(0, len(rows), _PART)]

    def load_part(position: int) -> Batch:
        step, part = divmod(position, len(parts))
        return load(step, parts[part])

    end = sys.maxsize if count is None else (start + count) * len(parts)
    source = grain.MapDataset.range(start * len(parts), end).map(load_part)
    iterator = iter(_prefetched(source, workers))
    try:
        while batch := list(itertools.islice(iterator, len(parts))):
            yield {
                name: np.concatenate([part[name] for part in batch])
                for name in batch[0]
            }
    finally:
        iterator.close()


def _prefetched(source: grain.MapDataset, workers: int) -> grain.IterDataset:
    if not workers:
        threads = os.cpu_count() or 1
        return source.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        )
    # Grain reads its options from absl's flags, which only a program has parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return source.to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    ).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
    )
