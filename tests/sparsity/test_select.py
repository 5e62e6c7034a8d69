"""Exact selection of the largest scores: ties, every float, traced counts, axes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srigl_jax.sparsity import select

EVERYWHERE = np.ones(4, bool)
DTYPES = ("float32", "bfloat16", "float16")

largest = jax.jit(select.largest, static_argnames="axis")


def chosen(scores, count, where=None, axis=None):
    """The selection as a list, of scores that are a literal."""
    scores = jnp.asarray(scores, jnp.float32)
    where = np.ones(scores.shape, bool) if where is None else np.array(where, bool)
    selected = largest(scores, count, where, axis=axis)
    assert selected.dtype == bool
    return selected.astype(int).tolist()


def test_takes_the_largest():
    assert chosen([3, 1, 2, 5], 2) == [1, 0, 0, 1]


def test_looks_only_where_it_may():
    assert chosen([3, 1, 2, 5], 2, where=[1, 1, 1, 0]) == [1, 0, 1, 0]


def test_takes_all_if_there_are_fewer():
    assert chosen([3, 1, 2, 5], 3, where=[0, 1, 0, 1]) == [0, 1, 0, 1]


def test_a_count_of_zero_takes_none():
    assert chosen([3, 1, 2, 5], 0) == [0, 0, 0, 0]


def test_nowhere_to_look_takes_none():
    assert chosen([3, 1, 2, 5], 2, where=[0, 0, 0, 0]) == [0, 0, 0, 0]


def test_ties_go_to_the_lowest_position_in_row_major_order():
    assert chosen([[1, 2, 2], [2, 3, 2]], 3) == [[0, 1, 1], [0, 1, 0]]


def test_ties_skip_positions_where_it_may_not_look():
    assert chosen([2, 2, 2, 2], 2, where=[0, 1, 0, 1]) == [0, 1, 0, 1]


def test_zeros_are_taken_in_order_after_everything_else():
    assert chosen([0, 0, 7, 0], 2) == [1, 0, 1, 0]


def test_zeros_alone_are_taken_in_order():
    assert chosen([0, 0, 0, 0], 3) == [1, 1, 1, 0]


def test_infinity_is_the_largest():
    assert chosen([np.finfo("float32").max, np.inf, 1, np.inf], 2) == [0, 1, 0, 1]


def test_infinities_tie():
    assert chosen([np.inf, 1, np.inf, np.inf], 2) == [1, 0, 1, 0]


def test_neighbouring_floats_are_told_apart():
    above = np.nextafter(np.float32(1), np.float32(2))
    assert chosen([1, above, 1, above], 2) == [0, 1, 0, 1]


def test_subnormals_are_larger_than_zero():
    # JAX may flush subnormals when it makes an array, numpy does not.
    scores = np.array([0, 1e-45, 0, 1e-40], np.float32)
    assert largest(scores, 2, EVERYWHERE).tolist() == [False, True, False, True]


def test_subnormals_are_told_apart():
    scores = np.array([1e-45, 3e-45, 1e-45, 1e-40], np.float32)
    assert largest(scores, 2, EVERYWHERE).tolist() == [False, True, False, True]


def test_along_axis_0_each_column_takes_its_own():
    scores = [[1, 5, 2], [3, 5, 2], [2, 4, 2]]
    assert chosen(scores, 2, axis=0) == [[0, 1, 1], [1, 1, 1], [1, 0, 0]]


def test_along_axis_1_each_row_takes_its_own():
    scores = [[1, 5, 2], [3, 3, 3]]
    assert chosen(scores, 2, axis=1) == [[0, 1, 1], [1, 1, 0]]


def test_each_column_may_have_its_own_count():
    scores = [[1, 5, 2], [3, 5, 2], [2, 4, 2]]
    counts = np.array([[0, 1, 3]])
    assert chosen(scores, counts, axis=0) == [[0, 1, 1], [0, 0, 1], [0, 0, 1]]


def test_a_column_with_fewer_candidates_than_its_count_takes_all():
    where = [[1, 0], [1, 0], [1, 1]]
    scores = [[1, 9], [2, 9], [3, 0]]
    assert chosen(scores, 2, where=where, axis=0) == [[0, 0], [1, 0], [1, 1]]


def random_scores(rng, shape, dtype, tied):
    """Nonnegative scores: four values only, or over the whole range of the dtype."""
    if tied:
        scores = rng.integers(0, 4, shape) / 2
    else:
        scores = np.abs(rng.normal(size=shape)) * 2.0 ** rng.integers(-14, 14, shape)
    return np.asarray(jnp.asarray(scores, dtype))


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    tied=st.booleans(),
    count=st.integers(0, 220),
    room=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_layer_equals_a_stable_sort(seed, dtype, tied, count, room):
    rng = np.random.default_rng(seed)
    scores = random_scores(rng, (16, 13), dtype, tied)
    where = rng.random(scores.shape) < room
    expected = oracle.largest(oracle.magnitude(scores), count, where)
    np.testing.assert_array_equal(largest(scores, count, where), expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    tied=st.booleans(),
    room=st.floats(0, 1),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_column_equals_a_stable_sort(seed, dtype, tied, room):
    rng = np.random.default_rng(seed)
    scores = random_scores(rng, (16, 13), dtype, tied)
    where = rng.random(scores.shape) < room
    counts = rng.integers(0, 18, (1, 13))
    selected = largest(scores, counts, where, axis=0)
    for column in range(13):
        expected = oracle.largest(
            oracle.magnitude(scores[:, column]), counts[0, column], where[:, column]
        )
        np.testing.assert_array_equal(selected[:, column], expected)


def test_the_middle_axis_of_blocks_equals_a_stable_sort():
    rng = np.random.default_rng(0)
    scores = random_scores(rng, (3, 8, 5), "float32", tied=True)
    where = rng.random(scores.shape) < 0.8
    counts = rng.integers(0, 9, (3, 1, 5))
    selected = largest(scores, counts, where, axis=1)
    for block, column in np.ndindex(3, 5):
        part = (block, slice(None), column)
        expected = oracle.largest(scores[part], counts[block, 0, column], where[part])
        np.testing.assert_array_equal(selected[part], expected)


def test_a_long_layer_equals_a_stable_sort():
    rng = np.random.default_rng(0)
    scores = random_scores(rng, (400, 500), "bfloat16", tied=False)
    where = rng.random(scores.shape) < 0.5
    expected = oracle.largest(oracle.magnitude(scores), 30_000, where)
    np.testing.assert_array_equal(largest(scores, 30_000, where), expected)


@pytest.mark.parametrize("axis", [None, 0])
def test_traced_counts_and_vmap_give_the_eager_selection(axis):
    rng = np.random.default_rng(1)
    scores = random_scores(rng, (4, 16, 13), "float32", tied=True)
    where = rng.random(scores.shape) < 0.7
    counts = np.array([0, 3, 9, 300])
    batched = jax.jit(jax.vmap(lambda s, c, w: select.largest(s, c, w, axis=axis)))(
        scores, counts, where
    )
    for layer in range(4):
        eager = select.largest(
            jnp.asarray(scores[layer]), int(counts[layer]), where[layer], axis=axis
        )
        np.testing.assert_array_equal(batched[layer], eager)
