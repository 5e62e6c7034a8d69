"""What one step of the transform does, and when: small cases worked by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
import tiny_network as tiny

from srigl_jax import apply_masks, get_masks, rigl, set_, sparsify, srigl, static


def kernel(rows):
    return {"kernel": jnp.asarray(rows, jnp.float32)}


def mask(rows):
    return {"kernel": jnp.asarray(rows, bool)}


def run(optimizer, params, grads):
    """Takes one step for each gradient; returns the parameters and state of each."""
    state, history = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in grads:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


def rows(tree):
    return np.asarray(tree["kernel"]).tolist()


def changes(optimizer, steps=12):
    """The steps at which a mask changed, under gradients that differ each time."""
    params = tiny.params()
    old, changed = get_masks(optimizer.init(params)), []
    gradients = (tiny.params(seed=seed) for seed in range(steps))
    for step, (_, state) in enumerate(run(optimizer, params, gradients)):
        if not same(old, get_masks(state)):
            changed.append(step)
        old = get_masks(state)
    return changed


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


# One neuron-by-neuron case for RigL, which drops half of 4 weights and grows 2.
# After the step of 0.5 times the gradient the weights are 4, 3, .5 and 1.5. The last
# two go, and the largest gradients outside 4 and 3 are 9 (new) and -5 (at 1.5).
WEIGHTS = kernel([[5, 0], [0, 3], [1, -1]])
START = mask([[1, 0], [0, 1], [1, 1]])
GRADIENT = kernel([[2, 9], [0, 0], [1, -5]])
EARLY = dict(delta_t=1, t_end=2, drop_fraction=lambda step: 0.5)
NOTHING = kernel(np.zeros((3, 2)))


def one_update(inner, **options):
    optimizer = rigl(inner, 0.3, masks=START, **EARLY | options)
    (before, _), (params, state) = run(optimizer, WEIGHTS, [NOTHING, GRADIENT])
    assert rows(before) == rows(WEIGHTS)
    return params, state


def test_the_optimizer_step_is_taken_before_the_topology_changes():
    params, state = one_update(optax.sgd(0.5))
    assert rows(get_masks(state)) == [[1, 1], [0, 1], [0, 1]]
    assert rows(params) == [[4, 0], [0, 3], [0, 1.5]]


def test_a_weight_pruned_and_grown_in_the_same_update_keeps_its_value_and_moments():
    params, state = one_update(optax.sgd(0.5, momentum=0.5))
    assert params["kernel"][2, 1] == 1.5
    assert state.inner[0].trace["kernel"][2, 1] == -5


def test_a_grown_weight_starts_at_zero_without_moments():
    params, state = one_update(optax.adam(0.5))
    assert rows(get_masks(state))[0] == [True, True]
    assert params["kernel"][0, 1] == 0
    assert state.inner[0].mu["kernel"][0, 1] == state.inner[0].nu["kernel"][0, 1] == 0
    assert state.inner[0].nu["kernel"][0, 0] > 0


def test_a_grown_weight_starts_at_zero_even_if_the_inner_optimizer_moves_it():
    noisy = optax.stateless(
        lambda grads, _: jax.tree.map(lambda g: 0.25 + 0 * g, grads)
    )
    optimizer = rigl(noisy, 0.3, masks=START, **EARLY)
    _, (params, state) = run(optimizer, WEIGHTS, [NOTHING, GRADIENT])
    # After two steps 5.5, 3.5, 1.5 and -.5: the last two go, 9 and -5 grow.
    assert rows(get_masks(state)) == [[1, 1], [0, 1], [0, 1]]
    assert rows(params) == [[5.5, 0], [0, 3.5], [0, -0.5]]


def test_a_pruned_weight_leaves_no_moments():
    params, state = one_update(optax.sgd(0.5, momentum=0.5))
    assert rows(params)[2][0] == 0
    assert rows(state.inner[0].trace) == [[2, 0], [0, 0], [0, -5]]


# Without the step the weights are 5, 3, 1 and -1. The tie goes to the earlier position,
# but both of the last are dropped; 9 and -5 grow again.
def test_skip_step_on_update_leaves_weights_and_inner_state_alone():
    params, state = one_update(optax.sgd(0.5, momentum=0.5), skip_step_on_update=True)
    assert rows(get_masks(state)) == [[1, 1], [0, 1], [0, 1]]
    assert rows(params) == [[5, 0], [0, 3], [0, -1]]
    assert rows(state.inner[0].trace) == rows(NOTHING)
    assert state.count == 2


def test_skip_step_on_update_steps_between_updates():
    optimizer = rigl(
        optax.sgd(0.5), 0.3, masks=START, skip_step_on_update=True, delta_t=2, t_end=3
    )
    (params, _), *_ = run(optimizer, WEIGHTS, [GRADIENT])
    assert rows(params) == [[4, 0], [0, 3], [0.5, 1.5]]


# Steps 3 and 4 are the window of the update at step 4. Off the mask, (0, 1) has 9 and
# -9, whose mean is 0; (1, 0) has 2 and 2. Step 2's 50 at (2, 0) is too early.
def test_growth_looks_at_the_signed_mean_of_the_window():
    grads = [NOTHING] * 3
    grads[2] = kernel([[0, 0], [0, 0], [50, 0]])
    grads += [kernel([[0, 9], [2, 0], [1, 0]]), kernel([[0, -9], [2, 0], [1, 0]])]
    options = dict(delta_t=4, t_end=5, drop_fraction=lambda step: 1 / 3)
    options |= dict(masks=mask([[1, 0], [0, 1], [0, 1]]))

    def last_mask(window):
        optimizer = rigl(optax.sgd(0.0), 0.5, gradient_window=window, **options)
        return rows(get_masks(run(optimizer, WEIGHTS, grads)[-1][1]))

    assert last_mask(window=2) == [[1, 0], [1, 1], [0, 0]]
    assert last_mask(window=1) == [[1, 1], [0, 1], [0, 0]]
    assert last_mask(window=3) == [[1, 0], [0, 1], [1, 0]]


# The windows are steps 1 and 2, 3 and 4; the topology stays from step 5 on.
def test_gradients_are_summed_in_windows_alone():
    optimizer = rigl(optax.sgd(0.0), 0.5, gradient_window=2, delta_t=2, t_end=5)
    history = run(optimizer, WEIGHTS, [GRADIENT] * 9)
    sums = [state.gradient_sum["kernel"][0, 1].item() for _, state in history]
    assert sums == [0, 9, 0, 9, 0, 0, 0, 0, 0]


# Step 0's 99 at (2, 0) is one step earlier than the two that update 2 looks at.
def test_the_first_window_is_as_long_as_every_other():
    optimizer = rigl(
        optax.sgd(0.0),
        0.5,
        gradient_window=2,
        delta_t=2,
        t_end=3,
        drop_fraction=lambda step: 1 / 3,
        masks=mask([[1, 0], [0, 1], [0, 1]]),
    )
    grads = [kernel([[0, 0], [0, 0], [99, 0]])] + [kernel([[0, 0], [2, 0], [0, 0]])] * 2
    (_, state) = run(optimizer, WEIGHTS, grads)[-1]
    assert rows(get_masks(state)) == [[1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    "options", [dict(t_end=7), dict(total_steps=10), dict(total_steps=9, t_end=7)]
)
def test_the_topology_changes_exactly_at_the_steps_of_the_schedule(options):
    optimizer = sparsify(optax.sgd(0.1), 0.75, rule=tiny.nudge, delta_t=3, **options)
    assert changes(optimizer) == [3, 6]


def test_t_end_itself_is_too_late():
    optimizer = sparsify(optax.sgd(0.1), 0.75, rule=tiny.nudge, delta_t=3, t_end=6)
    assert changes(optimizer) == [3]


def test_the_default_schedule_ends_at_three_quarters():
    optimizer = sparsify(
        optax.sgd(0.1), 0.75, rule=tiny.nudge, delta_t=1, total_steps=8
    )
    assert changes(optimizer) == [1, 2, 3, 4, 5]


def test_a_static_topology_never_changes():
    assert changes(static(optax.sgd(0.1), 0.75)) == []
    assert changes(static(optax.sgd(0.1), 0.75, total_steps=12, delta_t=1)) == []


def test_the_seed_decides_what_set_grows():
    @jax.jit
    def grown(seed):
        optimizer = set_(optax.sgd(0.5), 0.5, masks=start, seed=seed, **EARLY)
        state = optimizer.init(params)._replace(count=1)
        return get_masks(optimizer.update(params, state, params)[1])

    params = {"kernel": jnp.ones((8, 6))}
    start = {"kernel": jnp.arange(48).reshape(8, 6) % 2 == 0}
    assert same(grown(0), grown(0))
    assert not same(grown(0), grown(1))


def test_layers_of_one_shape_differ_in_masks_and_in_random_growth():
    weights = jnp.ones((8, 6))
    optimizer = set_(
        optax.sgd(0.0), 0.5, delta_t=1, t_end=3, drop_fraction=lambda step: 1.0
    )
    params = {"a": weights, "b": weights}
    masks = [get_masks(optimizer.init(params))]
    masks += [get_masks(s) for _, s in run(optimizer, params, [params] * 3)]
    for step in (0, 2, 3):
        assert not np.array_equal(masks[step]["a"], masks[step]["b"])
    # Each update draws anew: at step 2 other weights than at step 1.
    assert not np.array_equal(masks[2]["a"], masks[3]["a"])


def test_masks_can_be_given():
    state = rigl(optax.sgd(0.1), 0.3, masks=START, **EARLY).init(WEIGHTS)
    assert rows(get_masks(state)) == rows(START)


def test_a_rule_of_ones_own_gets_the_layer_and_its_matrices():
    seen = []

    def rule(layer, weights, grads, mask, *, fraction, key):
        seen.append((layer.name, weights.shape, grads.shape, mask.shape))
        return jnp.flip(mask, axis=0)

    optimizer = sparsify(optax.sgd(0.1), 0.3, rule=rule, masks=START, **EARLY)
    history = run(optimizer, WEIGHTS, [NOTHING, GRADIENT])
    assert seen == [("kernel", (3, 2), (3, 2), (3, 2))]
    assert rows(get_masks(history[-1][1])) == rows(START)[::-1]


# Scores turned round: the two largest weights, 4 and 3, go; 9 and -5 score least.
def test_scores_of_ones_own_decide_what_stays_and_what_grows():
    _, state = one_update(
        optax.sgd(0.5),
        prune_score=lambda weights, grads: 1 / (1 + abs(weights)),
        grow_score=lambda weights, grads: 1 / (1 + abs(grads)),
    )
    # Kept: .5 and 1.5. Grown: the gradients of 0 at (1, 0) and (1, 1).
    assert rows(get_masks(state)) == [[0, 0], [1, 1], [1, 1]]


def test_a_rule_sees_no_weight_where_there_is_none():
    def rule(layer, weights, grads, mask, *, fraction, key):
        return weights != 0

    optimizer = sparsify(optax.sgd(0.5), 0.3, rule=rule, masks=START, **EARLY)
    state = optimizer.init(WEIGHTS)._replace(count=jnp.int32(1))
    _, state = optimizer.update(NOTHING, state, kernel(np.ones((3, 2))))
    assert rows(get_masks(state)) == rows(START)


def test_a_drop_fraction_of_ones_own_decides_how_many_are_replaced():
    _, nothing = one_update(optax.sgd(0.5), drop_fraction=lambda step: 0.0)
    assert rows(get_masks(nothing)) == rows(START)
    _, one = one_update(optax.sgd(0.5), drop_fraction=lambda step: step / 4)
    assert rows(get_masks(one)) == [[1, 1], [0, 1], [0, 1]]


def test_alpha_is_the_share_replaced_early_in_training():
    params = {"kernel": jnp.arange(1.0, 101).reshape(10, 10)}
    optimizer = rigl(optax.sgd(0.0), 0.5, alpha=0.4, delta_t=1, t_end=1000)
    (_, first), (_, second) = run(optimizer, params, [params] * 2)
    old, new = get_masks(first)["kernel"], get_masks(second)["kernel"]
    fraction = oracle.drop_fraction(1, 0.4, 1000)
    weights, grads = np.asarray(params["kernel"] * old), np.asarray(params["kernel"])
    expected = oracle.rigl(weights, grads, old, fraction=fraction)
    np.testing.assert_array_equal(new, expected)


def test_the_gradient_where_there_is_no_weight_is_that_of_a_finite_difference():
    params = tiny.params()
    masks = get_masks(static(optax.sgd(0.1), 0.75).init(params))
    params = apply_masks(params, masks)
    gradient = jax.grad(tiny.loss)(params)["hidden"]["kernel"]
    loss = jax.jit(tiny.loss)
    inactive = np.argwhere(~np.asarray(masks["hidden"]["kernel"]))
    for row, column in inactive[::40]:

        def moved(change, row=row, column=column):
            weights = params["hidden"]["kernel"].at[row, column].add(change)
            return loss(params | {"hidden": params["hidden"] | {"kernel": weights}})

        difference = float(moved(0.01) - moved(-0.01)) / 0.02
        assert gradient[row, column] == pytest.approx(difference, abs=1e-4)


def test_a_state_saved_as_arrays_continues_bit_for_bit():
    optimizer = srigl(
        optax.adam(0.02), 0.75, gradient_window=2, seed=3, **tiny.SCHEDULE
    )
    params = tiny.params()
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    for i in range(tiny.STEPS):
        if i == 4:
            saved = [np.array(leaf) for leaf in jax.tree.leaves((params, state))]
        params, state, _ = step(params, state)
    structure = jax.tree.structure((params, state))
    resumed, resumed_state = jax.tree.unflatten(structure, saved)
    for _ in range(4, tiny.STEPS):
        resumed, resumed_state, _ = step(resumed, resumed_state)
    assert same((resumed, resumed_state), (params, state))


@pytest.mark.parametrize("make", [srigl, rigl, set_])
def test_the_state_costs_one_byte_a_weight_of_sparse_layers_and_a_count(make):
    def size(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    params, inner = tiny.params(), optax.adam(0.02)
    state = make(inner, 0.75, **tiny.SCHEDULE).init(params)
    weights = 16 * 24 + 24 * 10
    assert size(state) - size(inner.init(params)) == weights + 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected kernel"),
        (mask([[1, 0], [0, 1]]), r"shape=\(2, 2\)"),
        (kernel([[1, 0], [0, 1], [1, 1]]), "float32"),
        (mask([[1, 0], [0, 1], [1, 1]]) | {"odd": jnp.ones(2, bool)}, "got odd"),
    ],
    ids=["a layer is missing", "another shape", "not bool", "a layer too many"],
)
def test_given_masks_that_do_not_fit_the_parameters_are_an_error(given, message):
    with pytest.raises(ValueError, match=message):
        rigl(optax.sgd(0.1), 0.3, masks=given, **EARLY).init(WEIGHTS)


def test_given_masks_outlive_the_donation_of_the_state():
    given = mask([[1, 0], [0, 1], [1, 1]])
    optimizer = rigl(optax.sgd(0.1), 0.3, masks=given, **EARLY)
    params = kernel(np.ones((3, 2)))
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=0)
    def step(state, params):
        return optimizer.update(params, state, params)[1]

    step(state, params)
    assert get_masks(state)["kernel"].is_deleted()
    assert rows(given) == [[True, False], [False, True], [True, True]]


def test_given_masks_are_laid_out_like_their_weights():
    params = jax.device_put(kernel(np.ones((3, 2))), jax.devices()[1])
    given = mask([[1, 0], [0, 1], [1, 1]])
    state = rigl(optax.sgd(0.1), 0.3, masks=given, **EARLY).init(params)
    assert get_masks(state)["kernel"].devices() == {jax.devices()[1]}
