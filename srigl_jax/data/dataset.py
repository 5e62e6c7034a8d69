"""What every data set offers, whether it lies in memory or is streamed from files."""

import abc
import dataclasses
from collections.abc import Iterator

import numpy as np

Batch = dict[str, np.ndarray]
"""image: uint8[rows, H, W, C]; label: int32[rows]; for evaluation also weight:
f32[rows], 0 where a row is filling."""


class MissingFilesError(FileNotFoundError, ValueError):
    """The files of a data set are not where they were looked for."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(abc.ABC):
    """A data set for classification; its batches are a function of seed and step.

    Several processes may train on one together: each gives its index and their count,
    and gets its consecutive rows of every batch. What a batch is does not depend on
    their number.

    Attributes:
      name: The name it was loaded by.
      class_names: What each label stands for.
      mean: Of the training pixels, for each channel, in units of the stored pixels.
      std: Their standard deviation, likewise.
    """

    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Labels are below this."""
        return len(self.class_names)

    @property
    @abc.abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images in batches."""

    @property
    @abc.abstractmethod
    def num_train(self) -> int:
        """The number of training examples."""

    @property
    @abc.abstractmethod
    def num_test(self) -> int:
        """The number of test examples."""

    @abc.abstractmethod
    def train_batches(
        self,
        seed: int,
        batch_size: int,
        *,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """Yields the training batches of the steps from `start` on, without end.

        Args:
          seed: At least 0.
          batch_size: Of all processes together.
          start: The step to begin with, which is where a resumed run left off.
          process_index: Which of the processes this is.
          process_count: How many share each batch.

        Yields:
          image: uint8[rows, H, W, C]; label: int32[rows], with
          `batch_size // process_count` rows; see `batches.batch_indices`.

        Raises:
          ValueError: `batch_size` is out of range or not a multiple of
            `process_count`, or the data are damaged.
        """

    @abc.abstractmethod
    def eval_batches(
        self, batch_size: int, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """Yields every test example once, in order, in batches of one shape.

        The last batch is filled up with zeros of weight 0, so one compiled function
        serves all batches, and a weighted mean is the mean over the split.

        Args:
          batch_size: Of all processes together.
          process_index: Which of the processes this is.
          process_count: How many share each batch.

        Yields:
          image: uint8[rows, H, W, C]; label: int32[rows]; weight: f32[rows], 1 for an
          example and 0 for filling.

        Raises:
          ValueError: As `train_batches`.
        """

    @abc.abstractmethod
    def hold_out(self, examples: int) -> "Dataset":
        """Puts training examples in the place of the test split.

        For choosing settings: what is chosen on the test split overstates its accuracy.

        Args:
          examples: How many to hold out. 0 gives the data set as it is.

        Raises:
          ValueError: As many examples as there are, or more.
        """

    def _check_hold_out(self, examples: int) -> None:
        if examples >= self.num_train:
            raise ValueError(
                f"dataset.validation is {examples}: hold out fewer than the "
                f"{self.num_train} training examples of {self.name}"
            )
