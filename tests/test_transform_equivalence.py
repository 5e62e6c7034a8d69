"""One topology update of a whole network equals the numpy oracle in every layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from srigl_jax import get_masks, rigl, srigl

SPARSITY = 0.75
# Kernels and how many of their last axes number the neurons, written down by hand.
KERNELS = {
    "conv/kernel": ((3, 3, 4, 8), 1),
    "attention/query/kernel": ((16, 2, 8), 2),
    "attention/out/kernel": ((2, 8, 16), 1),
    "head/kernel": ((16, 8), 1),
}


def network(seed):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, (s, _) in KERNELS.items()}


def matrix(name, kernel):
    shape, trailing = KERNELS[name]
    return np.asarray(kernel).reshape(-1, math.prod(shape[len(shape) - trailing :]))


def nested(flat):
    tree = {}
    for name, leaf in flat.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray(leaf)
    return tree


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


def update_once(optimizer):
    """Yields each layer's name, stepped weights, gradient, old and new mask."""
    params, gradient = nested(network(0)), nested(network(1))
    state = optimizer.init(params)
    old = flat(get_masks(state))
    update = jax.jit(optimizer.update)
    for _ in range(2):  # Step 1 updates the topology; the step is 1/8 of the gradient.
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    new = flat(get_masks(state))
    for name in KERNELS:
        weights, grads = matrix(name, network(0)[name]), matrix(name, network(1)[name])
        mask = matrix(name, old[name])
        stepped = np.where(mask, weights - grads / 8 - grads / 8, 0)
        yield name, stepped, grads, mask, matrix(name, new[name])


def budgets(distribution):
    shapes = {name: shape for name, (shape, _) in KERNELS.items()}
    densities = getattr(oracle, distribution)(shapes, SPARSITY)
    return {n: oracle.budget(densities[n], math.prod(s)) for n, s in shapes.items()}


@pytest.mark.parametrize(
    ("distribution", "candidates", "block"),
    [("erk", "inactive", None), ("uniform", "all", 4)],
)
def test_srigl_of_a_network_is_the_oracle_in_every_layer(
    distribution, candidates, block
):
    optimizer = srigl(
        optax.sgd(1 / 8),
        SPARSITY,
        gamma_sal=0.9,
        growth_candidates=candidates,
        distribution=distribution,
        block=block,
        delta_t=1,
        t_end=4,
    )
    ablated = {}
    for name, weights, grads, old, new in update_once(optimizer):
        budget = budgets(distribution)[name]
        expected = oracle.srigl(
            weights,
            grads,
            old,
            fraction=oracle.drop_fraction(1, 0.3, 4),
            budget=budget,
            fan_in=budget // old.shape[1],
            gamma_sal=0 if name == "head/kernel" else 0.9,
            growth_candidates=candidates,
            block=block,
        )
        np.testing.assert_array_equal(new, expected, err_msg=name)
        assert not np.array_equal(new, old)
        ablated[name] = np.sum(~new.any(axis=0))
    assert ablated["head/kernel"] == 0
    assert sum(ablated.values()) > 0


def test_rigl_of_a_network_is_the_oracle_in_every_layer():
    optimizer = rigl(optax.sgd(1 / 8), SPARSITY, delta_t=1, t_end=4)
    for name, weights, grads, old, new in update_once(optimizer):
        fraction = oracle.drop_fraction(1, 0.3, 4)
        expected = oracle.rigl(weights, grads, old, fraction=fraction)
        np.testing.assert_array_equal(new, expected, err_msg=name)
        assert new.sum() == budgets("erk")[name]
