"""Growth by momentum: the running sum, and which weights it grows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
import tiny_network as tiny

from srigl_jax import get_masks, rigl, snfs, sparsify


def run(optimizer, gradients):
    """The state after a step for each gradient, and the parameters."""
    params = {"kernel": jnp.asarray(tiny.params()["hidden"]["kernel"])}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update({"kernel": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        yield params, state


def gradients(count, seed=3):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(16, 24)), jnp.float32) for _ in range(count)]


def test_it_is_rigl_on_the_running_sum():
    optimizer = snfs(optax.sgd(0.0), 0.75, momentum=0.5, delta_t=3, t_end=7)
    given = gradients(4)
    states = [state for _, state in run(optimizer, given)]
    total = sum(0.5 ** (3 - i) * np.asarray(g) for i, g in enumerate(given))
    np.testing.assert_allclose(states[3].gradient_sum["kernel"], total, rtol=1e-5)
    old, new = (np.asarray(get_masks(s)["kernel"]) for s in states[2:4])
    weights = np.where(old, tiny.params()["hidden"]["kernel"], 0)
    fraction = oracle.drop_fraction(3, 0.3, 7)
    expected = oracle.rigl(weights, total, old, fraction=fraction)
    np.testing.assert_array_equal(new, expected)
    alone = oracle.rigl(weights, given[3], old, fraction=fraction)
    assert (expected != alone).any()


def test_the_sum_outlives_an_update_and_a_gradient_that_is_not_finite():
    optimizer = snfs(optax.sgd(0.0), 0.75, momentum=0.5, delta_t=1, t_end=7)
    given = gradients(3)
    given[1] = given[1].at[0, 0].set(jnp.nan)
    *_, (_, state) = run(optimizer, given)
    total = given[0] / 4 + jnp.nan_to_num(given[1]) / 2 + given[2]
    np.testing.assert_allclose(state.gradient_sum["kernel"], total, rtol=1e-5)


def test_it_keeps_the_invariants_around_adamw():
    optimizer = snfs(optax.adamw(0.02), tiny.SPARSITY, **tiny.SCHEDULE)
    params = tiny.params()
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    for _ in range(tiny.STEPS):
        params, state, _ = step(params, state)
        tiny.assert_exactly_sparse(params, state, tiny.plan(constant_fan_in=False))


@pytest.mark.parametrize("momentum", [0.0, 1.0, -0.1])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum="):
        snfs(optax.sgd(0.1), 0.5, momentum=momentum, total_steps=500)


def test_a_window_beside_the_momentum_is_refused():
    with pytest.raises(ValueError, match="gradient_window=2"):
        snfs(optax.sgd(0.1), 0.5, gradient_window=2, total_steps=500)


def test_random_masks_cannot_be_global():
    with pytest.raises(ValueError, match="needs masks="):
        rigl(optax.sgd(0.1), 0.5, distribution="global", total_steps=500)
    with pytest.raises(ValueError, match="needs masks="):
        sparsify(optax.sgd(0.1), 0.5, rule=None, distribution="global")
