"""Examples whose features are numbers already."""

from typing import NamedTuple

import numpy as np
import scipy.sparse


class Points(NamedTuple):
    """Examples of a file.

    Attributes:
      features: f[points, features], sparse rows or a dense array.
      positives: i32[points, most], the labels of each, padded with -1.
      labels: how many there are.
    """

    features: scipy.sparse.csr_matrix | np.ndarray
    positives: np.ndarray
    labels: int
