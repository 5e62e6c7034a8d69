"""The optimizer that a config describes: by hand, and every field of it matters."""

import math

import jax
import numpy as np
import optax
import pytest
import tiny_network as tiny

import srigl_jax
from srigl_jax.config import get_config
from srigl_jax.train import make_optimizer

# Warm-up ends at step 10, the topology stays from step 30 on.
TOTAL, PER_EPOCH, STEPS = 40, 10, 32


def make_config(**fields):
    """No field that matters here is what `get_config` has it."""
    config = get_config()
    config.update_from_flattened_dict(
        {
            "seed": 3,
            "sparsity": 0.5,
            "distribution": "uniform",
            "delta_t": 4,
            "alpha": 0.5,
            "gamma_sal": 0.9,
            "gradient_window": 2,
            "growth_candidates": "all",
            "optimizer.learning_rate": 0.2,
            "optimizer.momentum": 0.8,
            "optimizer.weight_decay": 0.01,
        }
        | {name.replace("__", "."): value for name, value in fields.items()}
    )
    return config


def train(optimizer, steps=STEPS):
    """Parameters, as arrays by position, after steps under noisy gradients."""
    params = tiny.params()
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(tiny.params(seed=step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def trained(**fields):
    return train(make_optimizer(make_config(**fields), TOTAL, PER_EPOCH))


def learning_rate(step):
    if step < 10:
        return 0.2 * step / 10
    return 0.2 * (1 + math.cos(math.pi * (step - 10) / 30)) / 2


def schedule(step):
    return jax.numpy.array([learning_rate(s) for s in range(TOTAL)])[step]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_sgd_worked_by_hand():
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tiny.params())]
    momenta = [np.zeros_like(leaf) for leaf in leaves]
    for step in range(STEPS):
        for i, g in enumerate(jax.tree.leaves(tiny.params(seed=step + 1))):
            g = np.asarray(g) + 0.01 * leaves[i]
            momenta[i] = 0.8 * momenta[i] + g
            # Nesterov's step looks ahead along the new momentum.
            leaves[i] = leaves[i] - learning_rate(step) * (g + 0.8 * momenta[i])
    assert_close(trained(method="dense"), leaves)


def test_adamw_is_that_of_optax_with_the_schedule():
    expected = train(optax.adamw(schedule, weight_decay=0.01))
    assert_close(trained(method="dense", optimizer__name="adamw"), expected)


SGD = optax.chain(
    optax.add_decayed_weights(0.01), optax.sgd(schedule, momentum=0.8, nesterov=True)
)
PLAN = dict(sparsity=0.5, distribution="uniform", seed=3)
UPDATES = dict(total_steps=TOTAL, delta_t=4, alpha=0.5, gradient_window=2)
SRIGL = PLAN | UPDATES | dict(growth_candidates="all")
BY_HAND = {
    "static": ({}, lambda: srigl_jax.static(SGD, **PLAN)),
    "set": ({}, lambda: srigl_jax.set_(SGD, **PLAN | UPDATES)),
    "rigl": ({}, lambda: srigl_jax.rigl(SGD, **PLAN | UPDATES)),
    "srigl": ({}, lambda: srigl_jax.srigl(SGD, gamma_sal=0.9, **SRIGL)),
    "srigl without ablation": (
        {"ablation": False},
        lambda: srigl_jax.srigl(SGD, gamma_sal=0.0, **SRIGL),
    ),
    "srigl in blocks": (
        {"block": 4, "dense": ("head",)},
        lambda: srigl_jax.srigl(SGD, gamma_sal=0.9, block=4, dense=["head"], **SRIGL),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_method_is_the_transform_of_the_fields(name):
    fields, by_hand = BY_HAND[name]
    assert_close(trained(method=name.split()[0], **fields), train(by_hand()))


@pytest.fixture(scope="module")
def baselines():
    return {
        method: trained(method=method)
        for method in ("dense", "static", "set", "rigl", "srigl")
    }


# That the other methods pass on their fields, the transforms by hand have shown.
FIELDS = {
    "dense": {
        "optimizer__learning_rate": 0.1,
        "optimizer__warmup_epochs": 0.0,
        "optimizer__momentum": 0.7,
        "optimizer__weight_decay": 0.0,
        "optimizer__name": "adamw",
    },
    "srigl": {
        "seed": 4,
        "sparsity": 0.6,
        "distribution": "erk",
        "dense": ("hidden",),
        "block": 4,
        "delta_t": 5,
        "alpha": 0.4,
        "gradient_window": 1,
        "gamma_sal": 0.5,
        "ablation": False,
        "growth_candidates": "inactive",
    },
}


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [(method, *item) for method, fields in FIELDS.items() for item in fields.items()],
)
def test_every_field_changes_what_is_trained(baselines, method, field, value):
    found = trained(method=method, **{field: value})
    assert not all(map(np.array_equal, found, baselines[method]))


def test_every_method_trains_another_network(baselines):
    weights = {leaves[-1].tobytes() for leaves in baselines.values()}
    assert len(weights) == len(baselines)


def test_a_run_too_short_for_a_topology_update_is_warned_of():
    config = make_config(method="srigl", delta_t=30)
    with pytest.warns(UserWarning, match="the topology will never change"):
        make_optimizer(config, TOTAL, PER_EPOCH)
