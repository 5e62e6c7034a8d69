"""The text format of the Extreme Classification Repository.

The first line has the numbers of points, features and labels; each other line is a
point: its labels by commas, then its features that are not 0 as `number:value`.
"""

import math
import os
import re

import numpy as np
import scipy.sparse

from srigl_jax.extreme import labels as label_arrays
from srigl_jax.extreme.data.points import Points

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""Of a value: `float` accepts more, 1_0 and nan among it."""


def load(path: str | os.PathLike[str], *, skip_unlabelled: bool = False) -> Points:
    """Reads a file.

    Args:
      path: of the file.
      skip_unlabelled: leave out points without labels, which some sets have; else one
        is an error.

    Raises:
      ValueError: names file and line of what is not of the format: too few lines, one
        without its end, a number out of range, a value that is not finite, a point
        without labels.
    """
    lists, values, columns, ends = [], [], [], [0]
    with open(path, "rb") as file:
        points, features, labels = _header(path, file.readline())
        line_number = 1
        for line_number, line in enumerate(file, 2):
            try:
                own, pairs = _point(_decoded(line), features, labels)
                if not own and not skip_unlabelled:
                    raise ValueError(
                        "has no label (skip_unlabelled=True leaves it out)"
                    )
            except ValueError as error:
                raise ValueError(f"{path}, line {line_number}: {error}") from None
            if own:
                lists.append(own)
                columns.extend(pairs)
                values.extend(pairs.values())
                ends.append(len(columns))
    if line_number - 1 != points:
        raise ValueError(
            f"{path}, line {line_number}: is the last one, after {line_number - 1} "
            f"points, but line 1 promises {points}: the file may be truncated"
        )
    matrix = scipy.sparse.csr_matrix(
        (np.array(values, np.float32), np.array(columns, np.int32), np.array(ends)),
        shape=(len(lists), features),
    )
    return Points(matrix, label_arrays.pad(lists, labels), labels)


def _header(path, line):
    fields = line.split()
    if len(fields) != 3 or not all(map(bytes.isdigit, fields)):
        text = line.strip()[:60].decode(errors="replace")
        raise ValueError(
            f"{path}, line 1: must have the numbers of points, features and labels, "
            f"but is {text!r}"
        )
    return map(int, fields)


def _decoded(line):
    if not line.endswith(b"\n"):
        raise ValueError("does not end, the file may be truncated")
    try:
        return line.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("has other bytes than ASCII, the file is damaged") from None


def _point(line, features, labels):
    """Labels, and features by number, of one line."""
    if not line.strip():
        raise ValueError("is empty")
    # A line that begins with a space has no labels.
    head, *tail = line.rstrip("\r\n").split(" ")
    own = [_number(text, labels, "label") for text in head.split(",")] if head else []
    pairs = {}
    for field in filter(None, tail):
        index, colon, value = field.partition(":")
        index = _number(index, features, "feature")
        if not colon or not value:
            raise ValueError(f"feature {field!r} has no value, it may be truncated")
        if not NUMBER.fullmatch(value) or not math.isfinite(number := float(value)):
            raise ValueError(f"feature {field!r} has no finite number as value")
        pairs[index] = number
    return own, pairs


def _number(text, count, what):
    if not text.isdigit():
        raise ValueError(f"{what} {text!r} is no number")
    if int(text) >= count:
        raise ValueError(f"{what} {text} is out of range: there are {count}")
    return int(text)
