"""Precision of the top labels, also weighted by how likely a label goes unnoticed.

P@k and PSP@k as the Extreme Classification Repository defines them; propensities of
Jain, Prabhu and Varma (KDD 2016), section 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """Means over examples, each with its ceiling: what a perfect ranking reaches.

    Attributes:
      precision: `{k: P@k}`, shares of 1.
      precision_ceiling: `{k: mean(min(|Y|, k)) / k}`.
      propensity: `{k: PSP@k}`, over what a perfect ranking reaches: at most 1.
    """

    precision: dict[int, float]
    precision_ceiling: dict[int, float]
    propensity: dict[int, float]


def inverse_propensities(
    frequencies: np.ndarray, examples: int, a: float = 0.55, b: float = 1.5
) -> np.ndarray:
    """`1 + C (frequency + b)^-a` with `C = (ln examples - 1)(b + 1)^a`: f64[labels].

    Args:
      frequencies: int[labels], training examples of each label.
      examples: training examples in all.
      a: 0.55; 0.6 for Amazon's sets, 0.5 for Wikipedia's.
      b: 1.5; 2.6 for Amazon's sets, 0.4 for Wikipedia's.
    """
    c = (np.log(examples) - 1) * (b + 1) ** a
    return 1 + c * (np.asarray(frequencies, np.float64) + b) ** -a


def score(
    predicted: np.ndarray,
    positives: np.ndarray,
    weights: np.ndarray | None = None,
    at: Sequence[int] = (1, 3, 5),
) -> Scores:
    """Scores of rankings.

    Args:
      predicted: int[examples, at least max(at)], labels, best first; -1 for none.
      positives: int[examples, most], the true labels, padded with -1.
      weights: f[labels], from `inverse_propensities`; 1 unless given.
      at: the lengths of the rankings.

    Raises:
      ValueError: rankings too short, or of other examples.
    """
    predicted, positives = np.asarray(predicted), np.asarray(positives)
    if len(predicted) != len(positives) or predicted.shape[1] < max(at):
        raise ValueError(
            f"predicted has shape {predicted.shape}: {len(positives)} examples need "
            f"{max(at)} labels each"
        )
    if weights is None:
        weights = np.ones(max(predicted.max(), positives.max()) + 1)
    exists = positives >= 0
    hits = np.zeros(predicted.shape, bool)
    for column in positives.T:  # A column at a time: no [examples, most, k] array.
        hits |= (predicted == column[:, None]) & (column >= 0)[:, None]
    gains = np.where(hits, weights[predicted], 0.0)
    best = -np.sort(-np.where(exists, weights[positives], 0.0), axis=1)
    counts = exists.sum(1)
    return Scores(
        {k: float(hits[:, :k].sum(1).mean() / k) for k in at},
        {k: float(np.minimum(counts, k).mean() / k) for k in at},
        {k: float(gains[:, :k].sum() / best[:, :k].sum()) for k in at},
    )
