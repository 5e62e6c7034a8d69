"""Metrics worked by hand."""

import numpy as np
import pytest

from srigl_jax.extreme import inverse_propensities, score

POSITIVES = np.array([[2, -1, -1], [0, 1, 3]])
PREDICTED = np.array([[2, 0, 1], [3, 2, 0]])


def test_precision_counts_hits_and_its_ceiling_knows_how_many_labels_there_are():
    scores = score(PREDICTED, POSITIVES, at=(1, 2, 3))
    # Hits among the first 1, 2, 3: one each; one, one, two.
    assert scores.precision == pytest.approx({1: 1.0, 2: 0.5, 3: 0.5})
    assert scores.precision_ceiling == pytest.approx({1: 1.0, 2: 0.75, 3: 4 / 6})


def test_weighted_precision_is_relative_to_the_best_ranking():
    weights = np.array([1.0, 2.0, 3.0, 5.0])
    scores = score(PREDICTED, POSITIVES, weights, at=(1, 3))
    # Best rankings: [3] and [5, 2, 1].
    assert scores.propensity == pytest.approx({1: 1.0, 3: (3 + 6) / (3 + 8)})


def test_padding_is_no_hit():
    predicted = np.array([[-1, -1]])
    scores = score(predicted, np.array([[0, -1]]), at=(1, 2))
    assert scores.precision == {1: 0.0, 2: 0.0}
    assert scores.propensity == {1: 0.0, 2: 0.0}


def test_inverse_propensities():
    # C = (ln e^3 - 1) (1 + 3)^0.5 = 4: 1 + 4 (1 + 3)^-0.5 and 1 + 4 (13 + 3)^-0.5.
    got = inverse_propensities(np.array([1, 13]), np.exp(3), a=0.5, b=3.0)
    np.testing.assert_allclose(got, [3.0, 2.0])


def test_short_rankings_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\): 2 examples need 5 labels"):
        score(PREDICTED, POSITIVES)
