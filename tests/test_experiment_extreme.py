"""What the comparison of output layers takes for equal, and its baselines."""

import dataclasses
import io

import extreme_wordnet
import jax
import numpy as np
import optax
import pytest
import scipy.sparse

from srigl_jax import extreme
from srigl_jax.extreme.data import xmc
from srigl_jax.extreme.data.corpus import Corpus
from srigl_jax.extreme.network import Settings, equal_bottleneck


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
    return Corpus(
        train, positives, test, truth, "test", frequencies, tuple("abcde"), None
    )


def test_neighbours_vote_with_their_cosines(data):
    predicted = extreme_wordnet.neighbours(data, np.arange(3), count=2, piece=2)
    assert sorted(predicted[0][:2].tolist()) == [0, 3]
    assert predicted[1][0] == 1  # 0.8 for label 1, 0.6 for labels 0 and 2.
    assert predicted[2][0] == 0


def test_popularity_is_the_most_frequent_labels(data):
    predicted = extreme_wordnet.popularity(data, np.arange(2))
    assert predicted.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_baselines_are_scored_in_percent(data):
    row = extreme_wordnet.baseline("popularity", data, 0)
    assert (row["P@1"], row["P@5"], row["ceiling@1"]) == (0, 20, 100)


def test_what_omikuji_reads_is_the_training_split(data, tmp_path):
    text = io.StringIO()
    extreme_wordnet.write_xmc(text, data)
    path = tmp_path / "train.txt"
    path.write_text(text.getvalue())
    points = xmc.load(path)
    np.testing.assert_array_equal(points.positives, data.train_positives)
    np.testing.assert_array_equal(points.features.toarray(), data.train.toarray())


OPTIMIZERS = {"sgd": optax.sgd, "adagrad": optax.adagrad, "adam": optax.adam}


@pytest.mark.parametrize("k", [16, 32])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_bottleneck_has_the_bytes_of_the_sparse_layer(k, optimizer):
    rule = OPTIMIZERS[optimizer](1.0)

    def size(width, **options):
        made = extreme.init(jax.random.key(0), 1000, width, min(k, width), **options)
        state = extreme.init_state(rule, made)
        return sum(leaf.nbytes for leaf in jax.tree.leaves((made, state)))

    width = equal_bottleneck(Settings(k=k, optimizer=optimizer))
    dense = size(width, dense_labels=1000, chunk=8)
    assert dense == pytest.approx(size(256, chunk=8), rel=0.03)


@pytest.mark.parametrize("method", ["popularity", "static"])
def test_a_row_has_what_a_method_changes_and_the_peak_of_memory(
    data, method, monkeypatch
):
    monkeypatch.setattr(extreme_wordnet.corpus, "load", lambda *_, **options: data)
    changes = {"width": 16, "k": 8, "batch_size": 4, "negatives": 0}
    plan = extreme_wordnet.Plan("wordnet", Settings(), changes, 1, 0, 0, 0)
    row = extreme_wordnet.measure_row(method, 0, plan)
    assert row["peak_rss_mib"] > 50
    assert row.get("width", 16) == 16


@pytest.mark.parametrize("method", extreme_wordnet.TRAINED)
def test_training_learns_a_tiny_set(data, method):
    small = {"width": 16, "k": 8, "batch_size": 4, "negatives": 0, "delta_t": 10}
    small |= {"growth_batches": 2, "clusters": 2, "hashes": 2, "group": 1}
    small |= {"width": 0, "k": 4} if method == "words" else {}
    small |= {"learning_rate": 4.0}
    settings = dataclasses.replace(
        Settings(), **extreme_wordnet.TRAINED[method] | small
    )
    known = dataclasses.replace(
        data, held_out=data.train, held_out_positives=data.train_positives
    )
    row = extreme_wordnet.train(method, known, settings, 0, 60, 0)
    assert (row["P@1"], row["steps"]) == (100.0, 60)
