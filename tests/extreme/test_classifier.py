import jax
import numpy as np
import problems
import pytest

from srigl_jax.extreme import densify, draw, init


def distinct_rows(indices):
    ascending = np.sort(np.asarray(indices), axis=1).astype(int)
    return bool((np.diff(ascending, axis=1) > 0).all())


@pytest.mark.parametrize("k", [1, 5, problems.WIDTH])
def test_every_label_has_k_distinct_positions(k):
    (block,) = problems.classifier(37, k=k).blocks
    assert block.indices.shape == (40, k)
    assert distinct_rows(block.indices)
    assert np.asarray(block.indices).max() < problems.WIDTH


def test_wide_features_have_wide_indices():
    key = jax.random.key(0)
    assert init(key, 3, 2**16, 2).blocks[0].indices.dtype == np.uint16
    assert init(key, 3, 2**16 + 1, 2).blocks[0].indices.dtype == np.int32


def test_subsets_are_uniform():
    drawn = np.asarray(draw.distinct(jax.random.key(0), 6000, 2, 4))
    assert distinct_rows(drawn)
    pairs = np.sort(drawn, axis=1) @ [4, 1]
    _, counts = np.unique(pairs, return_counts=True)
    assert len(counts) == 6  # Four standard deviations of 29 around 1000.
    np.testing.assert_allclose(counts, 1000, atol=116)


def test_positions_that_are_not_kept_are_drawn_from_all_others():
    indices = np.tile(np.array([[4, 0, 2]], np.int32), (3000, 1))
    kept = np.tile([[True, False, True]], (3000, 1))
    drawn = np.asarray(draw.absent(jax.random.key(0), indices, kept, 5))[:, 0]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0, 1, 3]
    np.testing.assert_allclose(counts, 1000, atol=104)


def test_labels_of_a_group_share_positions():
    made = problems.classifier(37, group=4)
    rows, _ = densify(made)
    exists = np.asarray(rows[:36] != 0).reshape(9, 4, -1)
    assert (exists == exists[:, :1]).all()


def test_dense_labels_come_first():
    made = problems.classifier(37, dense_labels=11)
    assert [(b.first, b.labels) for b in made.blocks] == [(0, 11), (11, 26)]
    rows, bias = densify(made)
    assert (rows.shape, bias.shape) == ((37, problems.WIDTH), (37,))
    expected = [problems.WIDTH] * 11 + [problems.K] * 26
    assert np.count_nonzero(rows, axis=1).tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 13}, "k=13 weights of each label: choose from 1 to 12"),
        ({"k": 0}, "k=0"),
        ({"dense_labels": 38}, "labels=37 and dense_labels=38"),
        ({"group": 3}, "chunk=8 must be a positive multiple of group=3"),
        ({"shards": 0}, "shards=0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        problems.classifier(37, **options)
