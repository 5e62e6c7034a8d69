import numpy as np
import pytest

from srigl_jax.data import batches, datasets

N = 10


@pytest.fixture
def split():
    images = np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1)
    return datasets.Split(images, np.arange(N, dtype=np.int32))


@pytest.fixture
def dataset(split):
    return datasets.Dataset("ten", split, split, ("0",) * N, (4.5,), (1.0,))


def indices(step, seed=0, batch_size=3):
    return batches.batch_indices(seed, step, num_examples=N, batch_size=batch_size)


def epoch(number, seed=0):
    return np.concatenate([indices(3 * number + i, seed) for i in range(3)]).tolist()


def test_a_last_partial_batch_is_dropped():
    assert batches.steps_per_epoch(10, 3) == 3


def test_indices_are_known_values():
    # A change here changes every run that resumes across it.
    assert indices(0, batch_size=10).tolist() == [8, 0, 3, 7, 6, 4, 1, 5, 2, 9]
    assert indices(1, batch_size=10).tolist() == [1, 5, 6, 4, 8, 7, 9, 3, 2, 0]


def test_indices_do_not_depend_on_what_was_asked_before():
    first = indices(7).tolist()
    for step in (0, 3, 100):
        indices(step)
    assert indices(7).tolist() == first


def test_an_epoch_holds_no_example_twice():
    assert len(set(epoch(0))) == 9


def test_an_epoch_of_whole_batches_holds_every_example():
    steps = [indices(step, batch_size=5) for step in (4, 5)]
    assert sorted(np.concatenate(steps).tolist()) == list(range(N))


def test_epochs_differ():
    assert epoch(0) != epoch(1)


def test_seeds_differ():
    assert epoch(0, seed=0) != epoch(0, seed=1)


def test_indices_cannot_be_changed_for_the_next_caller():
    with pytest.raises(ValueError, match="read-only"):
        indices(0)[0] = 0


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_batch_size_out_of_range_is_an_error(batch_size):
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size}.*1 and.*10"):
        indices(0, batch_size=batch_size)


def test_negative_seed_is_an_error():
    with pytest.raises(ValueError, match="seed is -1"):
        indices(0, seed=-1)


def test_negative_step_is_an_error():
    with pytest.raises(ValueError, match="step is -1"):
        indices(-1)


def test_train_batch_pairs_images_with_their_labels(dataset):
    batch = batches.train_batch(dataset, seed=0, step=4, batch_size=3)
    assert batch["image"].shape == (3, 1, 1, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["label"].tolist() == indices(4).tolist()
    assert batch["image"].ravel().tolist() == indices(4).tolist()


def test_eval_batches_hold_every_example_once_in_order(split):
    seen = [b["label"][b["weight"] == 1] for b in batches.eval_batches(split, 4)]
    assert np.concatenate(seen).tolist() == list(range(N))


def test_eval_batches_all_have_one_shape(split):
    shapes = {b["image"].shape for b in batches.eval_batches(split, 4)}
    assert shapes == {(4, 1, 1, 1)}


def test_filling_of_the_last_eval_batch_has_weight_zero(split):
    *_, last = batches.eval_batches(split, 4)
    assert last["weight"].tolist() == [1, 1, 0, 0]
    assert last["weight"].dtype == np.float32
    assert last["label"].tolist() == [8, 9, 0, 0]


def test_eval_batch_may_exceed_the_split(split):
    (only,) = batches.eval_batches(split, 16)
    assert only["weight"].sum() == N


def test_eval_batch_size_below_one_is_an_error(split):
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(batches.eval_batches(split, 0))
