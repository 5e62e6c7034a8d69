"""From dense to sparse, around any optimizer: schedules, invariants, exact zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
import tiny_network as tiny

import srigl_jax
from srigl_jax import check_masks, get_masks, make_plan, prune, sr_ste, ticket
from srigl_jax.config import get_config
from srigl_jax.methods import removed_shares
from srigl_jax.sparsity import layer_masks
from srigl_jax.sparsity.schedule import pruning_due, pruning_progress

PLANS = {
    "erk": dict(constant_fan_in=False),
    "global": dict(constant_fan_in=False, distribution="global"),
    "neurons": dict(whole_neurons=True, distribution="uniform"),
}
INNER = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(0.02, weight_decay=0.1),
}


def options(kind):
    return {k: v for k, v in PLANS[kind].items() if k != "constant_fan_in"}


def history(optimizer, steps=tiny.STEPS, params=None):
    """Parameters and state before the first step and after each."""
    params = tiny.params() if params is None else params
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    yield params, state
    for _ in range(steps):
        params, state, _ = step(params, state)
        yield params, state


def count(state):
    return sum(int(mask.sum()) for mask in jax.tree.leaves(get_masks(state)))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("kind", PLANS)
def test_gradual_pruning_ends_on_budget_with_exact_zeros(kind, inner):
    plan = tiny.plan(**PLANS[kind])
    optimizer = prune(
        INNER[inner], tiny.SPARSITY, start=1, end=6, delta_t=2, **options(kind)
    )
    states = list(history(optimizer))
    counts = [count(state) for _, state in states]
    assert counts[0] == sum(p.layout.size for p in plan.values() if p.is_sparse)
    # At step 1 the schedule starts; at step 5 too few weights are left for a neuron.
    changes = [i for i in range(tiny.STEPS) if counts[i + 1] < counts[i]]
    assert changes == ([3, 5] if kind == "neurons" else [3, 5, 6])
    params, state = states[-1]
    check_masks(get_masks(state), plan, params)
    tiny.assert_exactly_sparse(params, state, plan)


@pytest.mark.parametrize("kind", ["erk", "global"])
def test_the_final_sparsity_is_exact(kind):
    *_, (_, state) = history(
        prune(INNER["sgd"], 0.77, start=0, end=4, delta_t=3, **options(kind))
    )
    plan = tiny.plan(sparsity=0.77, **PLANS[kind])
    budget = sum(p.budget for p in plan.values() if p.is_sparse)
    assert count(state) == budget


def test_gradual_pruning_is_the_oracle_step_by_step():
    optimizer = prune(
        optax.sgd(1 / 8), 0.8, start=0, end=4, delta_t=1, distribution="uniform"
    )
    weights = {n: np.asarray(p["kernel"]) for n, p in tiny.params().items()}
    masks = {n: np.ones(w.shape, bool) for n, w in weights.items()}
    params, gradient = tiny.params(), tiny.params(seed=5)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(6):
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name, mask in masks.items():
            g = np.asarray(gradient[name]["kernel"])
            stepped = np.where(mask, weights[name] - g / 8, 0)
            if step <= 4:
                left = oracle.pruned_count(
                    mask.size,
                    oracle.budget(1 - 0.8, mask.size),
                    oracle.pruning_progress(step, 0, 4),
                )
                mask = oracle.largest(oracle.magnitude(stepped), left, mask)
            masks[name], weights[name] = mask, np.where(mask, stepped, 0)
            np.testing.assert_array_equal(get_masks(state)[name]["kernel"], mask)
            np.testing.assert_allclose(params[name]["kernel"], weights[name], rtol=1e-6)


def test_one_shot_pruning_prunes_once():
    counts = [count(s) for _, s in history(prune(INNER["sgd"], 0.5, start=3))]
    assert counts[:4] == [counts[0]] * 4
    assert counts[4:] == [counts[4]] * (tiny.STEPS - 3)
    assert counts[4] < counts[0]


def test_until_it_prunes_training_is_dense_training():
    sparse = [p for p, _ in history(prune(INNER["adamw"], 0.5, start=5), steps=5)]
    params, step = tiny.params(), tiny.make_step(INNER["adamw"])
    state = INNER["adamw"].init(params)
    for _ in range(5):
        params, state, _ = step(params, state)
    for a, b in zip(*map(jax.tree.leaves, (sparse[-1], params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_schedule_by_hand():
    values = [float(pruning_progress(step, 10, 30)) for step in (9, 10, 20, 30, 31)]
    assert values == [0, 0, 1 - 0.5**3, 1, 1]
    assert float(pruning_progress(7, 7, 7)) == 1
    due = [step for step in range(40) if pruning_due(step, 10, 29, 8)]
    assert due == [10, 18, 26, 29]
    for step in range(40):
        expected = oracle.pruning_progress(step, 3, 33)
        assert float(pruning_progress(step, 3, 33)) == pytest.approx(expected, abs=1e-6)


def test_whole_neurons_go_by_norm_and_outputs_stay():
    *_, (params, state) = history(
        prune(INNER["sgd"], 0.5, start=0, whole_neurons=True, distribution="uniform"),
        steps=1,
    )
    mask = np.asarray(get_masks(state)["hidden"]["kernel"])
    assert mask.all(axis=0).sum() == 12 and not mask.any(axis=0).all()
    assert isinstance(get_masks(state)["head"]["kernel"], optax.MaskedNode)
    assert np.all(params["head"]["kernel"])


@pytest.mark.parametrize(
    "steps", [{"start": -1}, {"start": 5, "end": 4}, {"start": 5, "delta_t": 0}]
)
def test_steps_out_of_order_are_refused(steps):
    with pytest.raises(ValueError, match="0 <= start <= end"):
        prune(INNER["sgd"], 0.5, **steps)


def test_a_share_of_training_is_no_step():
    with pytest.raises(ValueError, match="start=0.5: give a step, a whole number, not"):
        prune(INNER["sgd"], 0.5, start=0.5)
    with pytest.raises(ValueError, match="end=0.75: give a step"):
        prune(INNER["sgd"], 0.5, start=0, end=0.75)


def test_a_budget_that_the_outputs_alone_exceed_says_so():
    optimizer = prune(INNER["sgd"], 0.9, start=1, whole_neurons=True)
    with pytest.raises(ValueError, match=r"here \['head/kernel'\], lose no neurons"):
        optimizer.init(tiny.params())


def test_rounds_of_tickets_may_make_a_dense_layer_sparse():
    params, masks, dense = tiny.params(), None, []
    rewound = jax.tree.map(jnp.negative, params)
    for number in range(1, 9):
        plan = tiny.plan(sparsity=1 - 0.9**number, constant_fan_in=False)
        masks, kept = ticket(params, rewound, plan, masks)
        check_masks(masks, plan, kept)
        dense.append(isinstance(masks["head"]["kernel"], optax.MaskedNode))
        mask = masks["hidden"]["kernel"]
        kernel = np.where(mask, -params["hidden"]["kernel"], 0)
        np.testing.assert_array_equal(kept["hidden"]["kernel"], kernel)
        params = jax.tree.map(jnp.negative, kept)  # As if they had been trained.
    assert dense[0] and not dense[-1]


@pytest.mark.parametrize(
    "make", [lambda i: prune(i, 0.5, start=1), lambda i: sr_ste(i, 0.5)]
)
def test_parameters_are_required(make):
    optimizer = make(INNER["sgd"])
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(tiny.params(), optimizer.init(tiny.params()))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("block", [None, 4])
def test_straight_through_parameters_are_n_to_m_after_every_step(block, inner):
    options = dict(block=block, dense="head", distribution="uniform")
    plan = tiny.plan(sparsity=0.5, **options)
    optimizer = sr_ste(INNER[inner], 0.5, **options)
    states = list(history(optimizer))
    for params, state in states[1:]:
        check_masks(get_masks(state), plan, params)
        found = layer_masks(get_masks(state), plan)["hidden/kernel"]
        stored = np.asarray(state.inner.weights["hidden"]["kernel"])
        planned = plan["hidden/kernel"]
        expected = oracle.keep_in_blocks(stored, planned.fan_in_per_block, block or 16)
        np.testing.assert_array_equal(found, expected)
        kept = np.where(expected, stored, 0)
        np.testing.assert_allclose(params["hidden"]["kernel"], kept, atol=1e-6)
    first, last = (np.asarray(get_masks(s)["hidden"]["kernel"]) for _, s in states[::8])
    assert (first != last).any()


def test_straight_through_by_hand():
    """One neuron of four inputs keeps two: 3 and 2, then 3 and the decayed -1.9."""
    params = {"kernel": jnp.float32([[3], [2], [-1.9], [0.5]])}
    gradient = {"kernel": jnp.float32([[0], [1], [0], [1]])}
    optimizer = sr_ste(optax.sgd(0.5), 0.5, decay=0.1)
    state = optimizer.init(params)
    params = srigl_jax.apply_masks(params, get_masks(state))
    np.testing.assert_array_equal(params["kernel"].ravel(), np.float32([3, 2, 0, 0]))
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    # -1.9 decays by 0.5 * 0.1 * 1.9, 0.5 by the gradient and its own decay.
    weights = np.float32([3, 1.5, -1.9 + 0.095, 0.5 - 0.5 - 0.025])
    np.testing.assert_allclose(
        state.inner.weights["kernel"].ravel(), weights, rtol=1e-6
    )
    np.testing.assert_allclose(
        params["kernel"].ravel(), [3, 0, weights[2], 0], rtol=1e-6
    )


def test_without_masks_straight_through_is_the_inner_optimizer():
    params, step = tiny.params(), tiny.make_step(sr_ste(INNER["adamw"], 0.0))
    state = sr_ste(INNER["adamw"], 0.0).init(params)
    dense, dense_step = tiny.params(), tiny.make_step(INNER["adamw"])
    dense_state = INNER["adamw"].init(dense)
    for _ in range(3):
        params, state, _ = step(params, state)
        dense, dense_state, _ = dense_step(dense, dense_state)
    for a, b in zip(*map(jax.tree.leaves, (params, dense)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match="decay=-1"):
        sr_ste(INNER["sgd"], 0.5, decay=-1)


def test_pruning_learns():
    optimizer = prune(optax.adam(0.02), 0.75, start=5, end=60, delta_t=5)
    *_, (params, _) = history(optimizer, steps=100)
    assert tiny.loss(params) < 0.5 * tiny.loss(tiny.params())


def test_memory_of_sr_ste_is_one_more_copy_of_sparse_weights():
    state = sr_ste(optax.sgd(0.1), 0.5, dense="head").init(tiny.params())
    sizes = [leaf.size for leaf in jax.tree.leaves(state.inner.weights)]
    plan = make_plan(tiny.params(), 0.5, dense="head")
    assert sizes == [layer.layout.size for layer in plan.values() if layer.is_sparse]


def test_the_share_removed_follows_the_cubic_schedule_step_by_step():
    config = get_config()
    config.update({"method": "gradual", "delta_t": 2})
    config.pruning.update({"start": 0.2, "end": 0.6})
    shares = removed_shares(config, 9, 10)  # Pruned after steps 2, 4 and 6.
    assert shares == [0, 0, 0, 0, 0, 1 - 0.5**3, 1 - 0.5**3, 1, 1]
