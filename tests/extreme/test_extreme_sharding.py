"""Eight devices compute what one computes."""

from functools import partial

import jax
import numpy as np
import optax
import problems
import pytest
from jax.sharding import Mesh
from test_extreme_topology import batches

from srigl_jax.extreme import (
    by_label,
    grow_by_gradient,
    grow_by_positives,
    grow_randomly,
    init_state,
    place,
    sample_negatives,
    top_labels,
    train_step,
)

OPTIMIZER = optax.adam(0.01)


@pytest.fixture
def mesh():
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs 8 devices")
    return Mesh(np.array(devices[:8]), ("labels",))


@pytest.fixture
def made():
    """Some devices have only padding of the dense block, one only of the other."""
    return problems.classifier(105, chunk=4, dense_labels=9, group=2, shards=8)


def both(function, mesh, made, *args):
    one = jax.jit(function)(made, init_state(OPTIMIZER, made), *args)
    placed = place(made, mesh)
    run = jax.jit(partial(function, mesh=mesh))
    return one, run(placed, init_state(OPTIMIZER, placed), *args)


@pytest.mark.parametrize("count", [None, 20], ids=["all labels", "sampled"])
def test_training(mesh, made, count):
    x, positives = problems.batch(105)
    negatives = None
    if count is not None:
        negatives = sample_negatives(jax.random.key(0), 105, count)
    step = partial(train_step, optimizer=OPTIMIZER)
    one, many = both(step, mesh, made, x, positives, negatives)
    problems.assert_close(many, one)
    values = many[2].blocks[1].values
    assert len(values.sharding.device_set) == 8
    assert values.addressable_shards[0].data.shape[0] == values.shape[0] // 8


@pytest.fixture
def sparse():
    """Without a dense block, which would read all features."""
    return problems.classifier(105, chunk=4, shards=8)


@pytest.mark.parametrize("count", [None, 20], ids=["all labels", "sampled"])
def test_training_on_some_features(mesh, sparse, count):
    x, positives, features, _ = problems.some_features()
    negatives = None
    if count is not None:
        negatives = sample_negatives(jax.random.key(0), 105, count)
    step = partial(train_step, optimizer=OPTIMIZER, features=features)
    one, many = both(step, mesh, sparse, x, positives, negatives)
    problems.assert_close(many, one)


def test_random_growth(mesh, made):
    grow = partial(grow_randomly, optimizer=OPTIMIZER)
    one, many = both(grow, mesh, made, jax.random.key(0), 0.4)
    jax.tree.map(np.testing.assert_array_equal, many, one)


def test_growth_by_gradient(mesh, made):
    grow = partial(grow_by_gradient, optimizer=OPTIMIZER)
    one, many = both(grow, mesh, made, *batches(), 0.4)
    jax.tree.map(np.testing.assert_array_equal, many, one)


def test_growth_by_gradient_of_some_features(mesh, sparse):
    x, positives, features, _ = problems.some_features()
    grow = partial(grow_by_gradient, features=features[None], optimizer=OPTIMIZER)
    one, many = both(grow, mesh, sparse, x[None], positives[None], 0.4)
    jax.tree.map(np.testing.assert_array_equal, many, one)


def test_growth_by_positives(mesh, made):
    x, positives = problems.batch(105)
    owned = by_label(np.asarray(positives))

    def grow(made, state, x, mesh=None):
        encode = lambda x, examples: x[examples]  # noqa: E731
        return grow_by_positives(
            made, state, encode, x, owned, 0.4, optimizer=OPTIMIZER, mesh=mesh
        )

    one, many = both(grow, mesh, made, x)
    changed = one[0].blocks[1].indices != made.blocks[1].indices
    assert np.any(changed)
    jax.tree.map(np.testing.assert_array_equal, many, one)


def test_prediction_from_some_features(mesh, sparse):
    x, _, features, _ = problems.some_features()
    one = top_labels(sparse, x, 105, features)
    many = top_labels(place(sparse, mesh), x, 105, features, mesh=mesh)
    np.testing.assert_array_equal(many[1], one[1])
    problems.assert_close(many[0], one[0])


def test_prediction(mesh, made):
    x, _ = problems.batch(105)
    one = top_labels(made, x, 105)
    many = top_labels(place(made, mesh), x, 105, mesh=mesh)
    np.testing.assert_array_equal(many[1], one[1])
    problems.assert_close(many[0], one[0])


def test_ties_go_to_the_lower_label(mesh, made):
    made = problems.with_bias(made, lambda block: 0 * block.bias)
    x = np.zeros((1, problems.WIDTH), np.float32)
    _, labels = top_labels(place(made, mesh), x, 30, mesh=mesh)
    assert np.asarray(labels)[0].tolist() == list(range(30))


def test_half_chunks_are_refused(mesh):
    made = problems.classifier(37)
    with pytest.raises(ValueError, match="40 rows in chunks of 8.*init with shards=8"):
        place(made, mesh)


def test_a_mesh_of_two_axes_is_refused(made):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "labels"))
    with pytest.raises(ValueError, match="mesh has the axes data, labels"):
        top_labels(made, np.zeros((1, problems.WIDTH), np.float32), 1, mesh=mesh)
