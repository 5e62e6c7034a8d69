"""Temporaries of the compiled programs; nothing of that size is allocated."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from srigl_jax.extreme import (
    grow_by_gradient,
    grow_randomly,
    init,
    init_state,
    top_labels,
    train_step,
)

WIDTH, K, BATCH = 768, 32, 64
OPTIMIZER = optax.adam(1e-3)


def temporaries(function, labels, *args, donate=True, **options):
    """MiB, beside the arguments, of which classifier and state may be donated."""
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    make = partial(init, labels=labels, width=WIDTH, k=K, **options)
    classifier = jax.eval_shape(make, key)
    state = jax.eval_shape(partial(init_state, OPTIMIZER), classifier)
    donated = jax.jit(function, donate_argnums=(0, 1) if donate else ())
    compiled = donated.lower(classifier, state, *args).compile()
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes / 2**20


def batch(*leading):
    x = jax.ShapeDtypeStruct((*leading, BATCH, WIDTH), jnp.float32)
    return x, jax.ShapeDtypeStruct((*leading, BATCH, 8), jnp.int32)


@pytest.mark.parametrize(
    ("form", "group"), [("chunk", 1), ("slots", 1), ("grouped", 16)]
)
def test_a_step_on_131072_labels(form, group):
    step = partial(train_step, optimizer=OPTIMIZER, implementation=form)
    assert temporaries(step, 131_072, *batch(), group=group) < 16


def test_a_step_on_sampled_labels_does_not_copy_the_weights():
    # 131,072 labels have weights of 16 MiB.
    negatives = jax.ShapeDtypeStruct((2048,), jnp.int32)
    step = partial(train_step, optimizer=OPTIMIZER)
    assert temporaries(step, 131_072, *batch(), negatives) < 16


def test_a_step_on_some_features_does_not_copy_the_indices():
    # Those of a million labels have 61 MiB.
    x = jax.ShapeDtypeStruct((BATCH, 512), jnp.float32)
    features = jax.ShapeDtypeStruct((512,), jnp.int32)
    negatives = jax.ShapeDtypeStruct((2048,), jnp.int32)
    positives = batch()[1]

    def step(*args):
        *args, features = args
        return train_step(*args, features=features, optimizer=OPTIMIZER)

    assert temporaries(step, 10**6, x, positives, negatives, features) < 16


def test_growth_by_gradient_on_670091_labels():
    grow = partial(grow_by_gradient, optimizer=OPTIMIZER)
    fraction = jax.ShapeDtypeStruct((), jnp.float32)
    assert temporaries(grow, 670_091, *batch(16), fraction) < 64


def test_random_growth_on_670091_labels():
    grow = partial(grow_randomly, optimizer=OPTIMIZER)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    fraction = jax.ShapeDtypeStruct((), jnp.float32)
    assert temporaries(grow, 670_091, key, fraction) < 64


def test_prediction_on_670091_labels():
    def predict(classifier, state, x):
        return top_labels(classifier, x, 5)

    assert temporaries(predict, 670_091, batch()[0], donate=False) < 16
