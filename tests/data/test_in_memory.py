"""Batches of what lies in memory, and other shapes of it."""

import itertools

import numpy as np
import pytest

from srigl_jax.data import batch_indices
from srigl_jax.data.in_memory import Split, make_dataset

N = 10


@pytest.fixture
def dataset():
    images = np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1)
    split = Split(images, np.arange(N, dtype=np.int32))
    return make_dataset("ten", split, split, ("0",) * N)


def indices(step, batch_size=3):
    return batch_indices(0, step, num_examples=N, batch_size=batch_size).tolist()


def labels(batches, count):
    return [batch["label"].tolist() for batch in itertools.islice(batches, count)]


def test_train_batches_pair_images_with_their_labels(dataset):
    batch = next(dataset.train_batches(seed=0, batch_size=3))
    assert batch["image"].shape == (3, 1, 1, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["label"].tolist() == indices(0)
    assert batch["image"].ravel().tolist() == indices(0)


def test_train_batches_are_those_of_the_steps_in_turn(dataset):
    expected = [indices(step) for step in range(5)]
    assert labels(dataset.train_batches(0, 3), 5) == expected


def test_train_batches_go_on_where_they_are_told(dataset):
    assert labels(dataset.train_batches(0, 3, start=7), 2) == [indices(7), indices(8)]


def test_processes_share_each_train_batch(dataset):
    parts = [
        labels(dataset.train_batches(0, 4, process_index=i, process_count=2), 3)
        for i in range(2)
    ]
    whole = [a + b for a, b in zip(*parts, strict=True)]
    assert whole == [indices(step, batch_size=4) for step in range(3)]


def test_eval_batches_hold_every_example_once_in_order(dataset):
    seen = [b["label"][b["weight"] == 1] for b in dataset.eval_batches(4)]
    assert np.concatenate(seen).tolist() == list(range(N))


def test_eval_batches_all_have_one_shape(dataset):
    assert {b["image"].shape for b in dataset.eval_batches(4)} == {(4, 1, 1, 1)}


def test_filling_of_the_last_eval_batch_has_weight_zero(dataset):
    *_, last = dataset.eval_batches(4)
    assert last["weight"].tolist() == [1, 1, 0, 0]
    assert last["weight"].dtype == np.float32
    assert last["label"].tolist() == [8, 9, 0, 0]


def test_processes_have_equally_many_eval_batches_and_each_example_once(dataset):
    parts = [
        list(dataset.eval_batches(6, process_index=i, process_count=3))
        for i in range(3)
    ]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert {b["image"].shape for part in parts for b in part} == {(2, 1, 1, 1)}
    seen = [b["label"][b["weight"] == 1] for part in parts for b in part]
    assert sorted(np.concatenate(seen).tolist()) == list(range(N))


def test_eval_batch_may_exceed_the_split(dataset):
    (only,) = dataset.eval_batches(16)
    assert only["weight"].sum() == N


def test_eval_batch_size_below_one_is_an_error(dataset):
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(dataset.eval_batches(0))


def test_arrays_are_read_only(dataset):
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.images[0] = 0


def test_padding_is_even_and_repeats_a_grey_channel():
    images = np.full((2, 2, 1, 1), 7, np.uint8)
    split = Split(images, np.zeros(2, np.int32))
    padded = make_dataset("two", split, split, ("0",)).padded((4, 4, 3))
    assert padded.image_shape == (4, 4, 3)
    expected = np.zeros((4, 4), np.uint8)
    expected[1:3, 1] = 7  # Of an odd number of columns, the last has one more.
    for split in (padded.train, padded.test):
        for channel in range(3):
            np.testing.assert_array_equal(split.images[1, ..., channel], expected)


def test_padding_counts_in_the_statistics(dataset):
    padded = dataset.padded((1, 2, 1))
    assert padded.mean == pytest.approx((4.5 / 2,))
    assert padded.std == pytest.approx((padded.train.images.std(),))


def test_the_own_shape_leaves_the_data_set(dataset):
    assert dataset.padded((1, 1, 1)) is dataset


@pytest.mark.parametrize("shape", [(1, 1), (0, 1, 1), (1, 0, 3)])
def test_images_are_not_made_smaller(dataset, shape):
    with pytest.raises(ValueError, match="dataset.image_shape is .* of ten are .1, 1"):
        dataset.padded(shape)


def test_colour_is_not_made_something_else():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    split = Split(images, np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="no smaller, and 3 channels"):
        make_dataset("two", split, split, ("0",)).padded((2, 2, 4))
