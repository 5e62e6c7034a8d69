"""Examples whose features are given as a dense matrix: embeddings of another model.

Four arrays in one directory, of `numpy.save`: train_features.npy and test_features.npy,
f[examples, width]; train_labels.npy and test_labels.npy, int[examples, most], the
labels of each example, padded with -1. There are as many labels as the largest number
says.
"""

import os
import pathlib

import numpy as np

from srigl_jax.extreme import labels as label_arrays
from srigl_jax.extreme.data.points import Points

FILES = ("train_features", "test_features", "train_labels", "test_labels")
PIECE = 4096
"""Rows checked at a time."""


def load(directory: str | os.PathLike[str]) -> tuple[Points, Points]:
    """The training and the test examples; features stay in their files.

    Raises:
      ValueError: names the file that is no array, or of another shape or type, or has
        numbers that are not finite, labels below -1, or an example without labels.
    """
    paths = [pathlib.Path(directory) / f"{name}.npy" for name in FILES]
    train, test = (_features(path) for path in paths[:2])
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"{paths[1]} has {test.shape[1]} features, {paths[0].name} "
            f"{train.shape[1]}: they must have the same"
        )
    numbers = [_numbers(path) for path in paths[2:]]
    for path, own, features in zip(paths[2:], numbers, (train, test), strict=True):
        if len(own) != len(features):
            raise ValueError(
                f"{path} has {len(own)} rows, but there are {len(features)} examples"
            )
    labels = 1 + max(int(own.max()) for own in numbers)
    positives = (
        _positives(path, own, labels)
        for path, own in zip(paths[2:], numbers, strict=True)
    )
    return tuple(
        Points(features, own, labels)
        for features, own in zip((train, test), positives, strict=True)
    )


def _features(path) -> np.ndarray:
    features = _array(path, np.floating, "f[examples, width]")
    for start in range(0, len(features), PIECE):
        with np.errstate(over="ignore"):
            piece = features[start : start + PIECE].astype(np.float32)
        if not (finite := np.isfinite(piece)).all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"{path}: feature {column} of example {start + row} is "
                f"{features[start + row, column]}: all must be finite float32"
            )
    return features


def _numbers(path) -> np.ndarray:
    return _array(path, np.integer, "int[examples, most], padded with -1")


def _positives(path, numbers, labels) -> np.ndarray:
    try:
        label_arrays.check_positives(numbers, labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return label_arrays.pad([own[own >= 0].tolist() for own in numbers], labels)


def _array(path, kind, wanted) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is no array of numpy.save, or truncated: {error}"
        ) from error
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, kind):
        raise ValueError(
            f"{path} is {array.dtype}{list(array.shape)}: it must be {wanted}"
        )
    return array
