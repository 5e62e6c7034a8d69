"""What holds after every update, and which weights it exchanges."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from srigl_jax.extreme import (
    by_label,
    grow_by_gradient,
    grow_by_positives,
    grow_randomly,
    init,
    init_state,
    start_from_examples,
    train_step,
)
from srigl_jax.extreme.classifier import row_indices

OPTIMIZER = optax.adam(0.05)
FRACTION = 0.4  # Of 5 weights 2.


def trained(**options):
    made = problems.classifier(37, **options)
    state = init_state(OPTIMIZER, made)
    x, positives = problems.batch()
    _, _, made, state = train_step(made, state, x, positives, optimizer=OPTIMIZER)
    return made, state


def batches(count=3):
    pairs = [problems.batch(seed=seed) for seed in range(count)]
    return tuple(jnp.stack(arrays) for arrays in zip(*pairs, strict=True))


def randomly(made, state, fraction=FRACTION, seed=0):
    key = jax.random.key(seed)
    return grow_randomly(made, state, key, fraction, optimizer=OPTIMIZER)


def by_gradient(made, state, fraction=FRACTION, **options):
    return grow_by_gradient(
        made, state, *batches(), fraction, optimizer=OPTIMIZER, **options
    )


def by_positives(made, state, fraction=FRACTION, **options):
    """Of as many examples as `batches` has, one after another."""
    x, positives = batches()
    x, positives = (a.reshape(-1, a.shape[2]) for a in (x, positives))
    owned = by_label(np.asarray(positives))
    encode = lambda x, examples: x[examples]  # noqa: E731
    return grow_by_positives(
        made, state, encode, x, owned, fraction, optimizer=OPTIMIZER, **options
    )


RULES = {
    "random": randomly,
    "gradient": by_gradient,
    "positives": by_positives,
}


def kept_slots(block, dropped):
    """bool[groups, k]: all but those of the smallest summed magnitudes."""
    size = np.abs(block.values).reshape(-1, block.group, block.values.shape[1]).sum(1)
    kept = np.ones(size.shape, bool)
    np.put_along_axis(kept, np.argsort(size, 1, kind="stable")[:, :dropped], False, 1)
    return kept


@pytest.mark.parametrize("options", [{}, {"group": 4, "dense_labels": 9}])
@pytest.mark.parametrize("rule", RULES)
def test_k_distinct_positions_stay_and_the_largest_weights_with_them(rule, options):
    before, state = trained(**options)
    after, new_state = RULES[rule](before, state)
    for dense, same in zip(before.blocks[:-1], after.blocks[:-1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, dense, same)
    old, new = before.blocks[-1], after.blocks[-1]
    indices = np.asarray(new.indices).astype(int)
    assert (np.diff(np.sort(indices, 1), axis=1) > 0).all()
    assert indices.max() < problems.WIDTH
    kept = kept_slots(old, 2)
    assert (indices == np.asarray(old.indices))[kept].all()
    own = np.repeat(kept, old.group, axis=0)
    np.testing.assert_array_equal(new.values[own], old.values[own])
    np.testing.assert_array_equal(new.bias, old.bias)
    moments = new_state[-1][0]
    np.testing.assert_array_equal(
        moments.mu["values"][own], state[-1][0].mu["values"][own]
    )
    np.testing.assert_array_equal(moments.mu["bias"], state[-1][0].mu["bias"])
    changed = np.asarray(new.values != old.values)
    assert not changed[own].any() and not np.asarray(new.values)[changed].any()
    for moment in (moments.mu, moments.nu):
        assert not np.asarray(moment["values"])[changed].any()


def test_random_growth_clears_exactly_the_dropped_slots():
    before, state = trained()
    after, _ = randomly(before, state)
    cleared = np.asarray(after.blocks[0].values == 0)[:37]
    np.testing.assert_array_equal(cleared, ~kept_slots(before.blocks[0], 2)[:37])


def test_random_growth_reaches_every_position():
    grow = jax.jit(partial(grow_randomly, fraction=FRACTION, optimizer=OPTIMIZER))
    before, state = trained()
    seen = np.zeros((37, problems.WIDTH), bool)
    for seed in range(60):
        (block,) = grow(before, state, jax.random.key(seed))[0].blocks
        np.put_along_axis(seen, np.asarray(block.indices[:37]).astype(int), True, 1)
    assert seen.all()


def dense_gradient(made, x, positives, positives_only):
    """f32[labels, width] summed over batches; the logits are the plain formula's."""
    total = np.zeros((made.labels, problems.WIDTH))
    for features, rows in zip(np.asarray(x), np.asarray(positives), strict=True):
        logits = problems.plain_logits(made, problems.weights(made), features)
        truth = np.zeros(logits.shape)
        for example, row in enumerate(rows):
            truth[example, row[row >= 0]] = 1
        g = np.asarray(jax.nn.sigmoid(logits)) - truth
        total += (g * truth if positives_only else g).T @ features
    return total


@pytest.mark.parametrize("options", [{}, {"group": 4, "dense_labels": 9}])
@pytest.mark.parametrize("rule", ["gradient", "positives"])
def test_what_grows_has_the_largest_gradient_of_all_examples(
    rule, options, monkeypatch
):
    # Pieces so small that the examples of a chunk, and of a label, need several.
    monkeypatch.setattr("srigl_jax.extreme.owners.PIECE", 2)
    before, state = trained(**options)
    x, positives = batches()
    after, _ = RULES[rule](before, state)
    old, new = before.blocks[-1], after.blocks[-1]
    gradient = np.abs(dense_gradient(before, x, positives, rule == "positives"))
    kept = kept_slots(old, 2)
    for i in range(old.labels // old.group):
        label = old.first + i * old.group
        allowed = gradient[label : label + old.group].sum(0)
        allowed[np.asarray(old.indices[i])] = -1
        grown = np.asarray(new.indices[i])[~kept[i]]
        if allowed.max() > 0:
            assert sorted(grown) == sorted(np.argsort(-allowed)[:2])
        else:
            np.testing.assert_array_equal(grown, old.indices[i][~kept[i]])


def test_a_label_named_twice_counts_once():
    owned = by_label(np.array([[2, 0, 2], [2, -1, -1]]))
    assert owned.labels.tolist() == [0, 2, 2]
    assert owned.examples.tolist() == [0, 0, 1]


@pytest.mark.parametrize("options", [{}, {"group": 4, "dense_labels": 9}])
def test_a_classifier_can_start_from_the_examples_of_its_labels(options):
    before = problems.classifier(37, **options)
    x, positives = problems.batch()
    owned = by_label(np.asarray(positives))
    after = start_from_examples(
        before, lambda x, examples: x[examples], x, owned, scale=3.0, power=0.5
    )
    for old, new in zip(before.blocks, after.blocks, strict=True):
        np.testing.assert_array_equal(new.bias, old.bias)
        indices = row_indices(old)
        for row in range(old.labels):
            own = owned.examples[owned.labels == old.first + row]
            total = np.asarray(x)[own].sum(axis=0)
            total = total if indices is None else total[np.asarray(indices[row])]
            expected = 3 * total / max(np.linalg.norm(total), 1e-12) ** 0.5
            np.testing.assert_allclose(new.values[row], expected, rtol=1e-5, atol=1e-6)


def test_a_label_grows_no_more_than_has_a_gradient():
    made = init(jax.random.key(0), 1, 8, 4, chunk=1, scale=0.0)
    x = jnp.zeros((1, 1, 8)).at[0, 0, 5].set(1.0)
    indices = jnp.uint16([[0, 1, 2, 3]])
    block = dataclasses.replace(
        made.blocks[0], indices=indices, values=jnp.array([[1.0, 0.1, 2, 3]])
    )
    made = dataclasses.replace(made, blocks=(block,))
    after, _ = grow_by_gradient(
        made,
        init_state(OPTIMIZER, made),
        x,
        jnp.zeros((1, 1, 1), jnp.int32),
        0.5,
        optimizer=OPTIMIZER,
    )
    assert after.blocks[0].indices.tolist() == [[0, 5, 2, 3]]
    assert after.blocks[0].values.tolist() == [[1, 0, 2, 3]]


def test_a_label_without_gradient_keeps_its_weights():
    before, state = trained()
    x, positives = batches()
    after, _ = by_positives(before, state)
    old, new = before.blocks[0], after.blocks[0]
    absent = np.setdiff1d(np.arange(37), np.asarray(positives))
    assert len(absent) > 5
    np.testing.assert_array_equal(new.values[absent], old.values[absent])
    np.testing.assert_array_equal(new.indices[absent], old.indices[absent])


def test_a_fraction_of_zero_changes_nothing():
    before = trained()
    for rule in RULES.values():
        jax.tree.map(np.testing.assert_array_equal, rule(*before, 0.0), before)


def test_a_fraction_of_one_replaces_all():
    before, state = trained()
    after, _ = randomly(before, state, 1.0)
    assert not np.asarray(after.blocks[0].values).any()
    indices = np.sort(np.asarray(after.blocks[0].indices).astype(int), axis=1)
    assert (np.diff(indices, axis=1) > 0).all()


def test_the_fraction_is_not_a_rounding_error_short():
    before, state = trained(k=10)
    after, _ = randomly(before, state, np.float32(0.7))
    assert (np.asarray(after.blocks[0].values)[:37] == 0).sum(1).tolist() == [7] * 37


def test_training_goes_on_after_growth():
    made, state = by_gradient(*trained())
    x, positives = problems.batch()
    step = jax.jit(partial(train_step, optimizer=OPTIMIZER))
    losses = []
    for _ in range(10):
        loss, _, made, state = step(made, state, x, positives)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("group", [1, 2])
def test_features_that_are_not_0_grow_what_all_do(group):
    before = trained(group=group)
    pieces = [problems.some_features(seed) for seed in range(3)]
    x, positives, features, whole = (jnp.stack(a) for a in zip(*pieces, strict=True))
    grow = partial(grow_by_gradient, *before, optimizer=OPTIMIZER)
    expected = grow(whole, positives, FRACTION)
    got = grow(x, positives, FRACTION, features)
    assert (expected[0].blocks[0].indices != before[0].blocks[0].indices).any()
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_features_of_one_batch_or_out_of_order_are_refused():
    x, positives, features, _ = problems.some_features()
    grow = partial(grow_by_gradient, *trained(), x[None], positives[None], 0.4)
    with pytest.raises(ValueError, match=r"features has shape \(6,\): x, \(1, 4, 6\)"):
        grow(features, optimizer=OPTIMIZER)
    with pytest.raises(ValueError, match="features must ascend"):
        grow(features[None, ::-1], optimizer=OPTIMIZER)


def test_negative_features_do_not_grow_in_a_jit_either():
    x, positives, features, _ = problems.some_features()
    x = jnp.pad(x, ((0, 0), (1, 0)), constant_values=7.0)
    features = jnp.concatenate([jnp.array([-1]), features])
    grow = jax.jit(partial(grow_by_gradient, optimizer=OPTIMIZER))
    args = x[None], positives[None], FRACTION
    got = grow(*trained(), *args, features[None])
    expected = grow(*trained(), x[None, :, 1:], *args[1:], features[None, 1:])
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_flat_batches_are_refused():
    before, state = trained()
    x, positives = problems.batch()
    with pytest.raises(ValueError, match=r"give \[batches, batch, width\]"):
        grow_by_gradient(before, state, x, positives, 0.3, optimizer=OPTIMIZER)
    with pytest.raises(ValueError, match=r"reads \[batch, 12\]"):
        grow_by_gradient(
            before, state, x[None, :, 1:], positives[None], 0.3, optimizer=OPTIMIZER
        )


def test_labels_that_do_not_exist_are_refused():
    x, positives = batches()
    positives = positives.at[1, 2, 0].set(37)
    with pytest.raises(ValueError, match="example 6 has label 37: labels are numbered"):
        grow_by_gradient(*trained(), x, positives, 0.3, optimizer=OPTIMIZER)


def test_positions_of_the_widest_short_indices_are_kept():
    # The width itself, which marks no position, does not fit 16 bits.
    made = init(jax.random.key(0), 4, 2**16, 3, chunk=4)
    indices = jnp.tile(jnp.uint16([0, 1, 2]), (4, 1))
    block = dataclasses.replace(made.blocks[0], indices=indices)
    made = dataclasses.replace(made, blocks=(block,))
    state = init_state(OPTIMIZER, made)
    x = jnp.ones((1, 1, 2**16))
    after, _ = grow_by_gradient(
        made, state, x, jnp.zeros((1, 1, 1), jnp.int32), 0.34, optimizer=OPTIMIZER
    )
    indices = np.sort(np.asarray(after.blocks[0].indices).astype(int), axis=1)
    assert (np.diff(indices, axis=1) > 0).all()
