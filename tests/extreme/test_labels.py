import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srigl_jax.extreme import cluster, cluster_positives, labels, sample_negatives


def test_lists_are_padded():
    padded = labels.pad([[3], [0, 2, 1]], 4)
    assert padded.tolist() == [[3, -1, -1], [0, 2, 1]]
    assert padded.dtype == np.int32


def test_a_label_named_twice_counts_once():
    assert labels.pad([[3, 3], [2, 1, 2]], 4).tolist() == [[3, -1], [2, 1]]


def test_each_label_of_an_example_is_drawn_as_often():
    positives = np.array([[5, 6, 7, 8], [1, 2, -1, -1], [3, -1, -1, -1]])
    counts = np.zeros(9)
    for seed in range(600):
        drawn = labels.draw_positives(np.random.default_rng(seed), positives, 2)
        assert sorted(drawn[1]) == [1, 2] and sorted(drawn[2]) == [-1, 3]
        counts[drawn[0]] += 1
    np.testing.assert_allclose(counts[5:], 300, atol=50)
    assert labels.draw_positives(None, positives, 4) is positives


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[3], [0, 4]], "example 1 has label 4: labels are numbered from 0 to 3"),
        ([[-2]], "example 0 has label -2"),
        ([[-1, 2]], "example 0 has label -1"),
        ([[1], [], [2]], "example 1 has no label: leave it out"),
    ],
)
def test_bad_lists_are_refused(lists, message):
    with pytest.raises(ValueError, match=message):
        labels.pad(lists, 4)


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="example 1 has no label"):
        labels.check_positives(np.array([[0, 1], [-1, -1]]), 4)
    with pytest.raises(ValueError, match="example 0 has label 4"):
        labels.check_positives(np.array([[0, 4]]), 4)
    with pytest.raises(ValueError, match=r"padded with -1: they have shape \(2,\)"):
        labels.check_positives(np.array([0, 1]), 4)


def test_in_a_jit_the_shape_alone_is_verified():
    def check(positives):
        labels.check_positives(positives, 4)
        return positives.sum()

    assert jax.jit(check)(np.array([[0, 9]])) == 9
    with pytest.raises(ValueError, match=r"padded with -1: they have shape \(2,\)"):
        jax.jit(check)(np.array([0, 1]))


def test_negatives_are_distinct_and_every_label_is_as_likely_as_its_weight_says():
    starts, lengths = labels.strata(10, 4)
    assert (starts.tolist(), lengths.tolist()) == ([0, 2, 5, 7], [2, 3, 2, 3])
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = np.asarray(jax.vmap(lambda key: sample_negatives(key, 10, 4))(keys))
    assert (np.diff(drawn, axis=1) > 0).all()
    expected = 3000 / np.repeat(lengths, lengths)
    np.testing.assert_allclose(np.bincount(drawn.ravel()), expected, atol=110)


def test_more_negatives_than_labels_are_refused():
    with pytest.raises(ValueError, match="5 negatives of 4 labels: choose 1 to 4"):
        sample_negatives(jax.random.key(0), 4, 5)


def test_clusters_are_equal_and_positives_map_to_them():
    clusters = cluster(jax.random.key(0), 10, 4)
    assert sorted(np.bincount(clusters).tolist()) == [2, 2, 3, 3]
    positives = jnp.array([[3, -1], [9, 0]])
    mapped = cluster_positives(clusters, positives)
    assert mapped.tolist() == [[clusters[3], -1], [clusters[9], clusters[0]]]
