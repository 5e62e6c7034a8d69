"""Every form computes what autodiff of the plain formula computes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from srigl_jax.extreme import forms as forms_lib
from srigl_jax.extreme import (
    init_state,
    labels,
    loss_and_gradients,
    rows,
    sample_negatives,
    train_step,
)

CASES = {
    "one chunk, whole": {"labels": 8},
    "many chunks, padded": {"labels": 37},
    "all inputs": {"labels": 17, "k": problems.WIDTH},
    "all dense": {"labels": 37, "dense_labels": 37},
    "dense and groups, padded for three shards": {
        "labels": 37,
        "dense_labels": 9,
        "group": 2,
        "shards": 3,
    },
}


def forms(made):
    grouped = all(b.indices is None or b.group > 1 for b in made.blocks)
    return ("auto", "chunk", "slots", *(("grouped",) if grouped else ()))


@pytest.fixture(params=CASES, ids=list(CASES))
def made(request):
    return problems.classifier(**CASES[request.param])


@pytest.fixture
def mixed():
    """A dense block and a block of groups, both with padding."""
    return problems.classifier(37, dense_labels=9, group=2)


@pytest.mark.parametrize("loss", ["bce", "squared_hinge"])
def test_loss_and_gradients_are_those_of_the_plain_formula(made, loss):
    x, positives = problems.batch(made.labels)
    value, (own, dx) = jax.value_and_grad(problems.plain_loss, (1, 2))(
        made, problems.weights(made), x, positives, loss
    )
    for form in forms(made):
        got = loss_and_gradients(made, x, positives, loss=loss, implementation=form)
        problems.assert_close(got, (value, dx, own), 1e-5)


def test_a_position_that_comes_twice_has_two_weights():
    made = problems.classifier(19)
    (block,) = made.blocks
    twice = block.indices.at[:, 1].set(block.indices[:, 0])
    made = dataclasses.replace(
        made, blocks=(dataclasses.replace(block, indices=twice),)
    )
    x, positives = problems.batch(19)
    expected = jax.grad(problems.plain_loss, 1)(
        made, problems.weights(made), x, positives, "bce"
    )
    for form in ("chunk", "slots"):
        got = loss_and_gradients(made, x, positives, implementation=form)
        problems.assert_close(got[2], expected)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.01),
    "adamw, scheduled": optax.adamw(optax.linear_schedule(0.1, 0.0, 3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_are_those_of_the_optimizer_on_the_plain_formula(mixed, name):
    optimizer = OPTIMIZERS[name]
    step = jax.jit(partial(train_step, optimizer=optimizer), donate_argnums=(0, 1))
    expected, got = (
        (m, init_state(optimizer, m)) for m in (mixed, jax.tree.map(jnp.copy, mixed))
    )
    for seed in range(3):
        x, positives = problems.batch(mixed.labels, seed=seed)
        expected = problems.plain_step(*expected, x, positives, optimizer)
        _, _, *got = step(*got, x, positives)
    problems.assert_close(tuple(got), expected, 1e-4)


def test_padding_stays_as_it_is():
    made = problems.classifier(37)
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    x, positives = problems.batch()
    _, _, after, _ = train_step(
        made, init_state(optimizer, made), x, positives, optimizer=optimizer
    )
    assert after.blocks[0].values.shape[0] == 40
    jax.tree.map(
        lambda a: np.testing.assert_array_equal(a[37:], 0), after.blocks[0].weights
    )


def test_a_weight_scales_loss_and_gradients():
    made = problems.classifier(37)
    x, positives = problems.batch()
    whole = loss_and_gradients(made, x, positives)
    half = loss_and_gradients(made, x, positives, weight=0.5)
    problems.assert_close(half, jax.tree.map(lambda a: a / 2, whole))


def test_half_precision_features_have_half_precision_gradients():
    made = problems.classifier(37)
    x, positives = problems.batch()
    value, dx, gradients = loss_and_gradients(made, x.astype(jnp.bfloat16), positives)
    assert (value.dtype, dx.dtype) == (jnp.float32, jnp.bfloat16)
    assert gradients[0]["values"].dtype == jnp.float32


def test_all_labels_sampled_are_all_labels(mixed):
    x, positives = problems.batch(mixed.labels)
    everything = sample_negatives(jax.random.key(0), mixed.labels, mixed.labels)
    expected = loss_and_gradients(mixed, x, positives)
    for form in ("grouped", "slots"):
        got = loss_and_gradients(mixed, x, positives, everything, implementation=form)
        problems.assert_close(got, expected, 1e-5)


def test_sampled_negatives_weigh_as_much_as_the_labels_they_stand_for(mixed):
    x, positives = problems.batch(mixed.labels)
    count = 3
    negatives = sample_negatives(jax.random.key(1), mixed.labels, count)
    importance = np.zeros(mixed.labels)
    importance[np.asarray(negatives)] = labels.strata(mixed.labels, count)[1]
    expected = jax.value_and_grad(problems.plain_loss, (1, 2))(
        mixed, problems.weights(mixed), x, positives, "bce", importance
    )
    value, dx, own = loss_and_gradients(mixed, x, positives, negatives)
    problems.assert_close((value, (own, dx)), expected, 1e-5)


def test_room_for_the_labels_there_are_is_enough(mixed):
    x, positives = problems.batch()
    negatives = sample_negatives(jax.random.key(1), mixed.labels, 11)
    step = partial(loss_and_gradients, mixed, x, positives, negatives)
    count = len(np.union1d(positives, negatives)) - 1  # Without -1.
    problems.assert_close(step(most_visited=count), step())


def test_no_rows_are_visited_beyond_the_room(mixed, monkeypatch):
    x, positives = problems.batch()
    negatives = sample_negatives(jax.random.key(1), mixed.labels, 11)
    visited = set()

    def split(chosen, size, split=rows.split):
        visited.add(chosen.labels.size)
        return split(chosen, size)

    monkeypatch.setattr(rows, "split", split)
    loss_and_gradients(mixed, x, positives, negatives, most_visited=20)
    assert visited == {21}  # One for padding.


def test_sampled_labels_of_groups_are_computed_as_labels_of_their_own(monkeypatch):
    made, (x, positives) = problems.classifier(37, group=2), problems.batch()
    used = []

    def product(form, *args, product=forms_lib.product):
        used.append(form)
        return product(form, *args)

    monkeypatch.setattr(forms_lib, "product", product)
    for ratio in (1, 16):  # Times 5 weights: below and above the width.
        monkeypatch.setattr(forms_lib, "CPU_SLOTS_RATIO", ratio)
        for form in ("auto", "grouped"):
            loss_and_gradients(
                made, x, positives, jnp.array([3, 20]), implementation=form
            )
    assert used == ["slots", "slots", "chunk", "chunk"]


def test_the_weight_of_negatives_can_be_given(mixed):
    x, positives = problems.batch()
    everything = sample_negatives(jax.random.key(0), mixed.labels, mixed.labels)
    value, _, _ = loss_and_gradients(
        mixed, x, positives, everything, negative_weight=0.25
    )
    expected = problems.plain_loss(
        mixed, problems.weights(mixed), x, positives, "bce", importance=0.25
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_given_weight_is_that_of_the_other_examples_positives_too(mixed):
    x, positives = problems.batch()
    negatives = jnp.array([3, 20])
    value, _, _ = loss_and_gradients(
        mixed, x, positives, negatives, negative_weight=0.25
    )
    visited = np.isin(np.arange(mixed.labels), [*np.ravel(positives), 3, 20])
    expected = problems.plain_loss(
        mixed, problems.weights(mixed), x, positives, "bce", importance=0.25 * visited
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_those_features_that_are_not_0_teach_what_all_do(group, sampled):
    made = problems.classifier(37, group=group)
    optimizer = optax.adam(0.1)
    state = init_state(optimizer, made)
    x, positives, features, whole = problems.some_features()
    negatives = jnp.array([3, 20]) if sampled else None
    step = partial(train_step, made, state, optimizer=optimizer)
    value, whole_dx, *rest = step(whole, positives, negatives)
    loss, dx, *after = step(x, positives, negatives, features=features)
    own_dx = jnp.pad(whole_dx[:, features[:4]], ((0, 0), (0, 2)))
    problems.assert_close((loss, dx, *after), (value, own_dx, *rest), 1e-5)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 4, 3, 9, 12, 12], r"must ascend from 0 on, each once: .* \[ 0  4  3  9"),
        ([0, 3, 3, 9, 12, 12], "must ascend from 0 on, each once"),
        ([-1, 3, 4, 9, 12, 12], "must ascend from 0 on, each once"),
        ([0, 3, 4, 9, 10, 11], "the last of the features is 11: add one that does"),
        ([[0, 3, 4, 9, 12, 12]], r"features has shape \(1, 6\): give \[some\]"),
    ],
)
def test_features_out_of_order_are_refused(numbers, message):
    x, positives, _, _ = problems.some_features()
    with pytest.raises(ValueError, match=message):
        loss_and_gradients(
            problems.classifier(37), x, positives, features=jnp.array(numbers)
        )


def test_negative_features_are_no_features_in_a_jit_either():
    made = problems.classifier(37)
    x, positives, features, _ = problems.some_features()
    expected = loss_and_gradients(made, x, positives, features=features)
    x = jnp.pad(x, ((0, 0), (1, 0)), constant_values=7.0)
    features = jnp.concatenate([jnp.array([-1]), features])
    run = jax.jit(partial(loss_and_gradients, made))
    value, dx, own = run(x, positives, None, 1.0, features)
    problems.assert_close((value, dx[:, 1:], own), expected, 1e-5)


def test_a_dense_block_reads_all_features(mixed):
    x, positives, features, _ = problems.some_features()
    with pytest.raises(ValueError, match="a dense block reads all features"):
        loss_and_gradients(mixed, x, positives, features=features)


def test_labels_that_are_not_sampled_keep_their_weights_and_moments():
    made = problems.classifier(37)
    optimizer = optax.adam(0.1)
    x, _ = problems.batch()
    positives = jnp.full((problems.BATCH, 1), 3)
    state = init_state(optimizer, made)
    _, _, after, state = train_step(
        made, state, x, positives, jnp.array([9, 30]), optimizer=optimizer
    )
    changed = np.flatnonzero((after.blocks[0].values != made.blocks[0].values).any(1))
    assert changed.tolist() == [3, 9, 30]
    mu = state[0][0].mu["values"]
    assert np.flatnonzero(np.any(mu != 0, axis=1)).tolist() == [3, 9, 30]


def test_a_loss_of_your_own():
    made = problems.classifier(37)
    x, positives = problems.batch()

    def squares(logits, targets):
        return (logits - targets) ** 2

    value, dx, own = loss_and_gradients(made, x, positives, loss=squares)
    expected = jax.value_and_grad(problems.plain_loss, (1, 2))(
        made, problems.weights(made), x, positives, squares
    )
    problems.assert_close((value, (own, dx)), expected, 1e-5)


def test_features_of_the_wrong_width_are_refused():
    made = problems.classifier(37)
    x, positives = problems.batch()
    with pytest.raises(ValueError, match=r"shape \(4, 11\).*reads \[batch, 12\]"):
        loss_and_gradients(made, x[:, 1:], positives)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge': choose bce or squared_hinge"),
        ({"implementation": "dense"}, "implementation is 'dense': choose from auto"),
        ({"implementation": "grouped"}, "every label has its own indices"),
    ],
)
def test_names_that_do_not_exist_are_refused(options, message):
    x, positives = problems.batch()
    with pytest.raises(ValueError, match=message):
        loss_and_gradients(problems.classifier(37), x, positives, **options)


def test_labels_that_do_not_exist_are_refused_where_their_values_are_known():
    made = problems.classifier(37)
    x, positives = problems.batch()
    with pytest.raises(ValueError, match="example 2 has label 37: labels are numbered"):
        loss_and_gradients(made, x, positives.at[2, 0].set(37))
    with pytest.raises(ValueError, match="example 0 has no label"):
        train_step(
            made,
            init_state(optax.sgd(0.1), made),
            x,
            jnp.full_like(positives, -1),
            optimizer=optax.sgd(0.1),
        )
