"""Whatever optimizer is wrapped, and whatever wraps the result, the network is sparse.

In the spirit of optax's own interoperability tests: one battery that every combination
must pass. Training starts from dense parameters, the topology changes three times.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network as tiny

from srigl_jax import apply_masks, get_masks, rigl, set_, sparsify, srigl, static

sparse = functools.partial(srigl, sparsity=tiny.SPARSITY, **tiny.SCHEDULE)


def train(optimizer, steps=tiny.STEPS, dtype=jnp.float32, plan=None):
    """Trains, checking every step; returns what the whole run showed."""
    params = tiny.params(dtype)
    state = optimizer.init(params)
    plan = plan or tiny.plan()
    start = tiny.loss(apply_masks(params, get_masks(state)))
    step = tiny.make_step(optimizer)
    changed = []
    for _ in range(steps):
        before, count = get_masks(state), int(tiny.sparsity_state(state).count)
        params, state, _ = step(params, state)
        tiny.assert_exactly_sparse(params, state, plan)
        if not trees_equal(before, get_masks(state)):
            changed.append(count)
    assert jax.tree.all(jax.tree.map(lambda p: p.dtype == dtype, params))
    return changed, float(start), float(tiny.loss(params)), step


def trees_equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def only_kernels(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


INNER = {
    "sgd": optax.sgd(0.5),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.02),
    "adamw": optax.adamw(0.02, weight_decay=0.1),
    "rmsprop": optax.rmsprop(0.01, momentum=0.5),
    "lion": optax.lion(0.01),
    "adafactor": optax.adafactor(0.05),
    "adafactor, factored": optax.adafactor(0.05, min_dim_size_to_factor=8),
    "lamb": optax.lamb(0.05),
    "muon": optax.contrib.muon(0.05),
    "schedule-free": optax.contrib.schedule_free_adamw(0.05, warmup_steps=2),
    "radam": optax.radam(0.05),
    "novograd": optax.novograd(0.05),
    "clipping, decay and a schedule": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-2),
        optax.sgd(optax.cosine_decay_schedule(0.5, tiny.STEPS), momentum=0.9),
    ),
    "inject_hyperparams": optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.linear_schedule(0.03, 0.01, tiny.STEPS)
    ),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.02), 3),
    "multi_transform by layer": optax.multi_transform(
        {"adam": optax.adam(0.02), "sgd": optax.sgd(0.1, momentum=0.9)},
        {"hidden": "adam", "head": "sgd"},
    ),
    "multi_transform by leaf": optax.multi_transform(
        {True: optax.adam(0.02), False: optax.sgd(0.1)}, only_kernels
    ),
    "frozen biases": optax.chain(
        optax.masked(optax.adam(0.02), only_kernels),
        optax.masked(
            optax.set_to_zero(),
            lambda params: jax.tree.map(lambda p: p.ndim < 2, params),
        ),
    ),
}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_every_optimizer_trains_exactly_sparse(inner):
    optimizer = sparsify(inner, tiny.SPARSITY, rule=tiny.nudge, **tiny.SCHEDULE)
    changed, start, end, step = train(optimizer)
    assert changed == tiny.UPDATES
    assert end < start
    assert step._cache_size() == 1


@pytest.mark.parametrize("inner", ["momentum", "adamw", "rmsprop", "muon"])
def test_srigl_trains_exactly_sparse(inner):
    changed, start, end, step = train(sparse(INNER[inner]))
    assert changed and set(changed) <= set(tiny.UPDATES)
    assert end < start
    assert step._cache_size() == 1


RULES = {
    "static": static(optax.adam(0.02), tiny.SPARSITY),
    "set": set_(optax.adam(0.02), tiny.SPARSITY, **tiny.SCHEDULE),
    "rigl": rigl(optax.adam(0.02), tiny.SPARSITY, **tiny.SCHEDULE),
    "2:4": sparse(optax.adam(0.02), sparsity=0.5, block=4, distribution="uniform"),
    "no ablation": sparse(optax.adam(0.02), gamma_sal=0.0),
    "window": sparse(optax.adam(0.02), gradient_window=2),
    "skip": sparse(optax.adam(0.02), skip_step_on_update=True),
}
PLANS = {
    "static": tiny.plan(constant_fan_in=False),
    "set": tiny.plan(constant_fan_in=False),
    "rigl": tiny.plan(constant_fan_in=False),
    "2:4": tiny.plan(sparsity=0.5, block=4, distribution="uniform"),
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_trains_exactly_sparse(name):
    changed, start, end, step = train(RULES[name], plan=PLANS.get(name))
    assert changed == ([] if name == "static" else tiny.UPDATES)
    assert end < start
    assert step._cache_size() == 1


@pytest.mark.parametrize("inner", ["momentum", "adamw"])
def test_bfloat16_parameters_stay_bfloat16_and_exactly_sparse(inner):
    changed, start, end, step = train(sparse(INNER[inner]), dtype=jnp.bfloat16)
    assert changed
    assert end < start
    assert step._cache_size() == 1


def test_float32_updates_remove_bfloat16_weights_exactly():
    inner = optax.stateless(
        lambda grads, _: jax.tree.map(lambda g: -0.1 * g.astype(jnp.float32), grads)
    )
    train(sparse(inner), dtype=jnp.bfloat16)


OUTSIDE = {
    "clipping before it": lambda: optax.chain(
        optax.clip_by_global_norm(0.5), sparse(optax.adam(0.02))
    ),
    "hyperparameters injected": lambda: optax.inject_hyperparams(
        lambda learning_rate: sparse(optax.sgd(learning_rate, momentum=0.9))
    )(learning_rate=optax.linear_schedule(0.2, 0.1, tiny.STEPS)),
}


@pytest.mark.parametrize("make", OUTSIDE.values(), ids=OUTSIDE)
def test_what_does_not_touch_the_updates_may_stand_outside(make):
    changed, start, end, step = train(make())
    assert changed and set(changed) <= set(tiny.UPDATES)
    assert end < start
    assert step._cache_size() == 1


def test_multi_steps_outside_counts_accumulated_steps():
    optimizer = optax.MultiSteps(sparse(optax.adam(0.02)), every_k_schedule=2)
    params, plan = tiny.params(), tiny.plan()
    state = optimizer.init(params)
    step = tiny.make_step(optimizer.gradient_transformation())
    changed = []
    for i in range(2 * tiny.STEPS):
        before = get_masks(state)
        params, state, _ = step(params, state)
        if i > 0:  # The first optimizer step is what masks the parameters.
            tiny.assert_exactly_sparse(params, state, plan)
        if not trees_equal(before, get_masks(state)):
            changed.append(i)
    # Optimizer step n happens at the second of its two calls, 2 n + 1.
    assert changed == [5, 9, 13]
    assert step._cache_size() == 1


def test_multi_steps_equals_the_mean_gradient():
    def run(optimizer, repeats):
        params = tiny.params()
        state, step = optimizer.init(params), tiny.make_step(optimizer)
        for _ in range(3 * repeats):
            params, state, _ = step(params, state)
        return params, get_masks(state)

    optimizer = sparse(optax.adam(0.02))
    doubled = optax.MultiSteps(optimizer, every_k_schedule=2)
    twice, masks_twice = run(doubled.gradient_transformation(), 2)
    once, masks_once = run(optimizer, 1)
    assert trees_equal(masks_twice, masks_once)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), twice, once)


@pytest.mark.parametrize("options", [{}, dict(gradient_window=2)], ids=["1", "2"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_apply_if_finite_inside_keeps_the_topology_of_a_bad_step(bad, options):
    optimizer = sparse(optax.apply_if_finite(optax.adam(0.02), 3), **options)
    params, plan = tiny.params(), tiny.plan()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, bad):
        grads = jax.grad(tiny.loss)(params)
        grads["hidden"]["kernel"] = grads["hidden"]["kernel"].at[0, 0].add(bad)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    changed = []
    for i in range(tiny.STEPS):
        before = get_masks(state)
        params, state = step(params, state, bad if i == 4 else 0.0)
        tiny.assert_exactly_sparse(params, state, plan)
        if not trees_equal(before, get_masks(state)):
            changed.append(i)
    assert changed == [2, 6]


def test_apply_if_finite_outside_keeps_the_topology_of_a_bad_step():
    optimizer = optax.apply_if_finite(sparse(optax.adam(0.02)), 3)
    params, plan = tiny.params(), tiny.plan()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, factor):
        grads = jax.grad(lambda p: tiny.loss(p) * factor)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for factor in (1.0, 1.0):
        params, state = step(params, state, factor)
    bad_params, bad_state = step(params, state, jnp.nan)  # Step 2 would update.
    assert trees_equal(bad_params, params)
    assert trees_equal(get_masks(bad_state), get_masks(state))
    params, state = step(bad_params, bad_state, 1.0)
    tiny.assert_exactly_sparse(params, state, plan)
    assert not trees_equal(get_masks(state), get_masks(bad_state))


def test_multi_transform_outside_leaves_the_plain_group_alone():
    labels = {"hidden": "sparse", "head": "plain"}
    plain = optax.adam(0.02)
    optimizer = optax.multi_transform({"sparse": sparse(plain), "plain": plain}, labels)
    params = tiny.params()
    plan = tiny.plan({"hidden": params["hidden"]})
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    start = tiny.loss(params)
    for _ in range(tiny.STEPS):
        params, state, _ = step(params, state)
        tiny.assert_exactly_sparse(params, state, plan)
    assert np.all(params["head"]["kernel"])
    assert tiny.loss(params) < start


def test_freezing_a_layer_outside_keeps_it_as_it_was():
    optimizer = optax.multi_transform(
        {"train": sparse(optax.adam(0.02)), "freeze": optax.set_to_zero()},
        {"hidden": "freeze", "head": "train"},
    )
    params = frozen = tiny.params()
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    for _ in range(4):
        params, state, _ = step(params, state)
    assert trees_equal(params["hidden"], frozen["hidden"])
    plan = tiny.plan({"head": frozen["head"]})
    tiny.assert_exactly_sparse(params, state, plan)


def test_extra_arguments_reach_the_inner_optimizer():
    with pytest.raises(TypeError, match="value"):
        optimizer = sparse(optax.polyak_sgd(0.1))
        params = tiny.params()
        optimizer.update(params, optimizer.init(params), params)
    changed, start, end, _ = train(sparse(optax.polyak_sgd(0.1)))
    assert changed and end < start


def test_extra_arguments_that_the_inner_optimizer_does_not_know_are_dropped():
    optimizer, params = sparse(optax.sgd(0.1)), tiny.params()
    state = optimizer.init(params)
    plain, _ = optimizer.update(params, state, params)
    extra, _ = optimizer.update(params, state, params, value=1.0, batch="unused")
    assert trees_equal(plain, extra)


def test_premasked_and_dense_parameters_train_alike():
    optimizer = sparse(optax.sgd(0.5))
    dense = tiny.params()
    state = optimizer.init(dense)
    masked = apply_masks(dense, get_masks(state))
    grads = jax.grad(tiny.loss)(masked)
    update = jax.jit(lambda params: optimizer.update(grads, state, params))
    from_dense = optax.apply_updates(dense, update(dense)[0])
    from_masked = optax.apply_updates(masked, update(masked)[0])
    assert trees_equal(from_dense, from_masked)


@pytest.mark.parametrize("inner", ["adam", "multi_transform by layer", "muon"])
def test_optax_finds_the_parameters_in_the_state(inner):
    optimizer = sparse(INNER[inner], gradient_window=2)
    state = optimizer.init(tiny.params())
    seen = []

    def mark(leaf):
        seen.append(leaf.shape)
        return leaf

    optax.tree_utils.tree_map_params(optimizer, mark, state)
    # Masks and gradient sums have the kernels alone, moments whatever inner keeps.
    kernels = [(16, 24), (24, 10)]
    assert all(seen.count(shape) >= 3 for shape in kernels)
    assert () not in seen


def test_a_history_of_several_steps_is_zero_off_the_masks():
    optimizer = sparse(optax.chain(optax.scale_by_lbfgs(memory_size=3), optax.sgd(0.1)))
    params = tiny.params()
    state = optimizer.init(params)
    step = tiny.make_step(optimizer)
    for _ in range(tiny.STEPS):
        params, state, _ = step(params, state)
    off = ~np.asarray(get_masks(state)["hidden"]["kernel"])
    histories = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3, 16, 24)]
    assert len(histories) == 2
    assert any(np.any(history) for history in histories)
    assert not any(np.any(np.asarray(history)[:, off]) for history in histories)
