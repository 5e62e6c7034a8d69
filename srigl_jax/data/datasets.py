"""Data sets by name, whole in memory.

`load` prepares a set on first use through its tensorflow-datasets builder, without
TensorFlow, and later finds it prepared. What it returns depends on the name alone: the
same examples in the order of their source, with the same statistics, on every machine.
"""

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds

from srigl_jax.data import decoded, digits, fashion_mnist

_BUILDERS = {
    "digits": digits.Digits,
    "fashion_mnist": fashion_mnist.FashionMNIST,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of a data set, read-only.

    Attributes:
      images: uint8[N, H, W, C], the stored pixels.
      labels: int32[N], from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
      name: The name it was loaded by.
      train: The training split.
      test: The test split.
      class_names: What each label stands for.
      mean: Of the training pixels, for each channel, in units of the stored pixels.
      std: Their standard deviation, likewise.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Labels are below this."""
        return len(self.class_names)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    source_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads a data set, preparing it first if this machine has not yet.

    Args:
      name: "digits" or "fashion_mnist".
      data_dir: Where prepared sets are kept. None means tensorflow-datasets' default:
        the environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      source_dir: Where the original files are, for a set that needs some; looked at
        only when the set is not prepared yet.

    Returns:
      The data set. Several processes may load one at the same time.

    Raises:
      ValueError: The name is unknown, the original files are missing or damaged, the
        prepared copy is damaged, or `data_dir` cannot be written.
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"dataset.name is {name!r}: choose one of {', '.join(_BUILDERS)}"
        )
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = pathlib.Path(root).expanduser()
    directory = root / name / str(_BUILDERS[name].VERSION)
    if not directory.exists():
        _prepare(name, root, directory, source_dir)
    arrays, class_names = _read(name, root, directory)
    for array in arrays.values():
        array.flags.writeable = False
    mean, std = _moments(arrays["train_images"])
    return Dataset(
        name=name,
        train=Split(arrays["train_images"], arrays["train_labels"]),
        test=Split(arrays["test_images"], arrays["test_labels"]),
        class_names=class_names,
        mean=mean,
        std=std,
    )


def hold_out(dataset: Dataset, examples: int) -> Dataset:
    """Puts the last training examples in the place of the test split.

    For choosing settings: what is chosen on the test split overstates its accuracy.

    Args:
      dataset: Its test split is left out of the result.
      examples: How many to hold out. 0 gives the data set as it is.

    Returns:
      A data set whose mean and std are those of the examples left for training.

    Raises:
      ValueError: As many examples as there are, or more.
    """
    if not examples:
        return dataset
    if examples >= len(dataset.train):
        raise ValueError(
            f"dataset.validation is {examples}: hold out fewer than the "
            f"{len(dataset.train)} training examples of {dataset.name}"
        )
    images, labels = dataset.train.images, dataset.train.labels
    mean, std = _moments(images[:-examples])
    return dataclasses.replace(
        dataset,
        train=Split(images[:-examples], labels[:-examples]),
        test=Split(images[-examples:], labels[-examples:]),
        mean=mean,
        std=std,
    )


def _prepare(name, root, directory, source_dir) -> None:
    source = _BUILDERS[name].find_source(source_dir)
    print(
        f"Preparing {name} in {directory}; this happens once and may take a minute.",
        file=sys.stderr,
    )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # In a log each refresh would be a line.
    try:
        # What tensorflow-datasets prints speaks of a download of unknown size.
        with contextlib.redirect_stdout(io.StringIO()):
            _BUILDERS[name](data_dir=root).download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(
                    manual_dir=source, try_download_gcs=False
                ),
            )
    except OSError as error:
        # The set is written aside and then renamed, which fails if another process
        # has just put its own, equal one there.
        if not directory.exists():
            raise ValueError(
                f"{name} cannot be prepared in {directory}: {error}. If it cannot be "
                "written, or is full, choose another place: "
                "--config.dataset.data_dir=DIR"
            ) from error


def _read(name, root, directory) -> tuple[decoded.Arrays, tuple[str, ...]]:
    # Damage surfaces as whatever the protocol buffer, record and PNG readers raise.
    try:
        builder = _BUILDERS[name](data_dir=root)
        if not builder.is_prepared():
            raise FileNotFoundError("it has no dataset_info.json")
        return decoded.read(builder), tuple(builder.info.features["label"].names)
    except Exception as error:
        raise ValueError(
            f"the prepared data set in {directory} is incomplete or damaged "
            f"({type(error).__name__}: {error}). Delete that directory; the next run "
            "prepares it again."
        ) from error


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns each channel's mean and standard deviation, from exact integer sums.

    A floating-point sum would depend on the order of summation, so on the machine.
    """
    axes = (0, 1, 2)
    count = math.prod(images.shape[:3])
    sums = images.sum(axes, dtype=np.int64).tolist()
    squares = np.square(images, dtype=np.uint16).sum(axes, dtype=np.int64).tolist()
    mean = tuple(s / count for s in sums)
    std = tuple(
        math.sqrt(count * q - s * s) / count for s, q in zip(sums, squares, strict=True)
    )
    return mean, std
