"""What the comparison of output layers takes for equal, and its baselines."""

import extreme_wordnet
import jax
import numpy as np
import optax
import pytest
import scipy.sparse

from srigl_jax import extreme
from srigl_jax.extreme.data import bags


@pytest.fixture
def data():
    """Four training texts of one word each and three test texts."""
    train = scipy.sparse.csr_matrix(np.eye(4, dtype=np.float32))
    test = scipy.sparse.csr_matrix(
        np.array([[0, 1, 0, 0], [0.8, 0, 0.6, 0], [0, 0, 0, 1]], np.float32)
    )
    positives = np.array([[1, -1], [0, 3], [0, 2], [0, -1]])
    truth = np.array([[3, -1], [1, -1], [2, -1]])
    frequencies = np.array([3, 1, 1, 1, 0])
    return extreme_wordnet.Data(
        train, test, bags(train, 2), bags(test, 2), positives, truth, frequencies
    )


def test_neighbours_vote_with_their_cosines(data):
    predicted = extreme_wordnet.neighbours(data, count=2, rows=2)
    assert sorted(predicted[0][:2].tolist()) == [0, 3]
    assert predicted[1][0] == 1  # 0.8 for label 1, 0.6 for labels 0 and 2.
    assert predicted[2][0] == 0


def test_popularity_is_the_first_labels(data):
    assert extreme_wordnet.popularity(data).tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("k", [16, 32])
def test_the_bottleneck_has_the_bytes_of_the_sparse_layer(k):
    def size(width, **options):
        made = extreme.init(jax.random.key(0), 1000, width, min(k, width), **options)
        state = extreme.init_state(optax.adam(1.0), made)
        return sum(leaf.nbytes for leaf in jax.tree.leaves((made, state)))

    width = extreme_wordnet.equal_bottleneck(k)
    dense = size(width, dense_labels=1000, chunk=8)
    assert dense == pytest.approx(size(256, chunk=8), rel=0.03)


@pytest.mark.parametrize("method", ["SET", "bottleneck"])
def test_training_learns_a_tiny_set(data, method):
    settings = extreme_wordnet.Settings(
        width=16, k=4, batch=4, epochs=60, negatives=0, delta_t=10, learning_rate=0.1
    )
    known = data._replace(
        test=data.train, test_bags=data.train_bags, test_positives=data.train_positives
    )
    row = extreme_wordnet.train(method, known, settings, 0, lambda *_: None)
    assert (row["P@1"], row["steps"]) == (100.0, 60)
