import numpy as np
import pytest

from srigl_jax.data import batches

N = 10


def indices(step, seed=0, batch_size=3):
    return batches.batch_indices(seed, step, num_examples=N, batch_size=batch_size)


def epoch(number, seed=0):
    return np.concatenate([indices(3 * number + i, seed) for i in range(3)]).tolist()


def test_a_last_partial_batch_is_dropped():
    assert batches.steps_per_epoch(10, 3) == 3


def test_a_share_of_an_epoch_is_so_many_steps():
    assert batches.training_steps(10, 3, 2) == 6
    assert batches.training_steps(10, 3, 1.4) == 4
    assert batches.training_steps(60_000, 32, 300 / 1875) == 300


def test_less_than_a_step_is_an_error_that_says_what_one_is():
    with pytest.raises(ValueError, match="^epochs is 0.1, .* one is 0.33 epochs"):
        batches.training_steps(10, 3, 0.1)


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


@pytest.mark.parametrize("count", [1, 2, 4])
def test_rows_of_all_processes_are_the_batch_in_order(count):
    rows = [batches.process_rows(8, index, count) for index in range(count)]
    assert [row for part in rows for row in part] == list(range(8))


def test_a_batch_that_processes_cannot_share_is_an_error():
    with pytest.raises(ValueError, match="batch_size is 10.* give a multiple of 4"):
        batches.process_rows(10, 0, 4)


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_process_that_there_is_not_is_an_error(index, count):
    with pytest.raises(ValueError, match=f"process_index is {index}.*{count}"):
        batches.process_rows(8, index, count)
