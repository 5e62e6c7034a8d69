"""What a network hands to the functions of the classifier."""

import jax
import numpy as np
import problems
import pytest
import tiny_wordnet

from srigl_jax.extreme import network as networks
from srigl_jax.extreme import run
from srigl_jax.extreme.config import validate
from srigl_jax.extreme.data import corpus


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_wordnet.write(tmp_path_factory.mktemp("wordnet"))


def task(source, **settings):
    fields = {f"settings__{name}": value for name, value in settings.items()}
    config = tiny_wordnet.config(source, **fields)
    data = corpus.load(**config.dataset.to_dict())
    return run.Task(validate(config), data, seed=0, epochs=2)


def trained(made):
    state = made.init()
    for step in range(made.total_steps):
        state, loss = made.step(state, step)
    return loss, state


@pytest.mark.parametrize("width", [0, 64])
def test_all_labels_as_negatives_teach_what_no_sampling_does(source, width):
    labels = task(source).data.labels
    found = []
    for negatives in (0, labels):
        made = task(source, width=width, negatives=negatives, learning_rate=3.0)
        loss, state = trained(made)
        found.append((loss, [block.weights for block in state["classifier"].blocks]))
    problems.assert_close(*found, 1e-4)


def rooms(made):
    """Of each step, how many labels it visits if 5 are sampled, and the room for it."""
    step, found = made.network._step, []

    def seen(state, batch, positives, most_visited):
        found.append((len(np.unique(positives)) + 5, most_visited))
        return step(state, batch, positives, most_visited)

    made.network._step = seen
    trained(made)
    return found


def test_steps_with_sampled_negatives_have_room_for_what_they_visit(source):
    found = rooms(task(source, width=0, negatives=5))
    assert all(visited <= room == 256 for visited, room in found)


def test_steps_on_all_labels_are_one_program_however_many_are_positive(source):
    assert {room for _, room in rooms(task(source, width=0))} == {None}


def test_the_batches_of_growth_are_packed_once(source, monkeypatch):
    made, calls = task(source, width=0, method="gradient", growth_batches=4), []
    _, state = trained(made)

    def counted(*args, pack=networks.pack):
        calls.append(args)
        return pack(*args)

    monkeypatch.setattr(networks, "pack", counted)
    made.grow(state, made.total_steps)
    assert len(calls) == 4


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_a_bottleneck_behind_an_embedding_learns_at_its_own_rate(source, rate):
    rates = {"encoder_rate": 0.01, "projection_rate": rate}
    made = task(source, method="bottleneck", **rates)
    before = jax.device_get(made.init()["encoder"])
    _, state = trained(made)
    assert np.any(state["encoder"]["table"] != before["table"])
    moved = np.any(state["encoder"]["projection"] != before["projection"])
    assert moved == (rate > 0)
