"""Data sets that lie in memory whole: a batch is one gather."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np

from srigl_jax.data.batches import batch_indices, fill, process_rows
from srigl_jax.data.dataset import Batch, Dataset

_CHUNK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of a data set, read-only.

    Attributes:
      images: uint8[N, H, W, C], the stored pixels.
      labels: int32[N], from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        """Takes the right to write from both arrays."""
        self.images.flags.writeable = False
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class InMemoryDataset(Dataset):
    """A data set in memory; see `Dataset`.

    Attributes:
      train: The training split.
      test: The test split.
    """

    train: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.train.images.shape[1:]

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
        for step in itertools.count(start):
            chosen = batch_indices(
                seed, step, num_examples=self.num_train, batch_size=batch_size
            )[rows.start : rows.stop]
            yield {
                "image": self.train.images[chosen],
                "label": self.train.labels[chosen],
            }

    def eval_batches(
        self, batch_size: int, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """Yields every test example once, in order; see `Dataset`."""
        rows = process_rows(batch_size, process_index, process_count)
        for start in range(0, self.num_test, batch_size):
            chosen = slice(start + rows.start, start + rows.stop)
            labels = self.test.labels[chosen]
            yield {
                "image": fill(self.test.images[chosen], len(rows)),
                "label": fill(labels, len(rows)),
                "weight": fill(np.ones(len(labels), np.float32), len(rows)),
            }

    def hold_out(self, examples: int) -> "InMemoryDataset":
        """Puts the last training examples in the place of the test split.

        Mean and std of the result are those of the examples left for training. See
        `Dataset`.
        """
        if not examples:
            return self
        self._check_hold_out(examples)
        images, labels = self.train.images, self.train.labels
        mean, std = moments(images[:-examples])
        return dataclasses.replace(
            self,
            train=Split(images[:-examples], labels[:-examples]),
            test=Split(images[-examples:], labels[-examples:]),
            mean=mean,
            std=std,
        )

    def padded(self, image_shape: tuple[int, int, int]) -> "InMemoryDataset":
        """Gives the images another shape, so that a network made for it can take them.

        Zeros are added around them, evenly, and a grey channel is repeated. Mean and
        std are those of the pixels of the result.

        Args:
          image_shape: Height, width and channels.

        Raises:
          ValueError: The images are larger than that, or have other channels.
        """
        image_shape = tuple(image_shape)
        own = self.image_shape
        if image_shape == own:
            return self
        grows = len(image_shape) == 3 and np.greater_equal(image_shape, own).all()
        if not grows or own[2] not in (1, image_shape[2]):
            channels = "any number of" if own[2] == 1 else own[2]
            raise ValueError(
                f"dataset.image_shape is {image_shape}, but the images of {self.name} "
                f"are {own}: give a height and a width no smaller, and {channels} "
                "channels"
            )
        train = Split(_padded(self.train.images, image_shape), self.train.labels)
        test = Split(_padded(self.test.images, image_shape), self.test.labels)
        mean, std = moments(train.images)
        return dataclasses.replace(self, train=train, test=test, mean=mean, std=std)


def make_dataset(
    name: str, train: Split, test: Split, class_names: tuple[str, ...]
) -> InMemoryDataset:
    """Returns a data set with the mean and std of its training pixels."""
    mean, std = moments(train.images)
    return InMemoryDataset(
        name=name, train=train, test=test, class_names=class_names, mean=mean, std=std
    )


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns each channel's mean and standard deviation, from exact integer sums.

    A floating-point sum would depend on the order of summation, so on the machine.

    Args:
      images: uint8[N, H, W, C].
    """
    channels = images.shape[3]
    sums, squares = np.zeros((2, channels), np.int64)
    for start in range(0, len(images), _CHUNK):  # Squares take room.
        chunk = images[start : start + _CHUNK]
        sums += chunk.sum((0, 1, 2), dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint16).sum((0, 1, 2), dtype=np.int64)
    count = math.prod(images.shape[:3])
    pairs = list(zip(sums.tolist(), squares.tolist(), strict=True))
    mean = tuple(s / count for s, _ in pairs)
    std = tuple(math.sqrt(count * q - s * s) / count for s, q in pairs)
    return mean, std


def _padded(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    padded = np.zeros((len(images), *shape), np.uint8)
    top, left = ((shape[i] - images.shape[i + 1]) // 2 for i in range(2))
    height, width = images.shape[1:3]
    padded[:, top : top + height, left : left + width] = images
    return padded
