"""The optimizer that a config describes: by hand, and every field of it matters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network as tiny

import srigl_jax
from srigl_jax.config import get_config
from srigl_jax.methods import METHODS
from srigl_jax.optimizers import make_learning_rate, make_optimizer

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


def of_optimizer(**fields):
    return {f"optimizer__{name}": value for name, value in fields.items()}


def train(optimizer, steps=STEPS):
    """Parameters, as arrays by position, after steps under noisy gradients."""
    params = tiny.params()
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(tiny.params(seed=step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def trained(**fields):
    if fields.get("method") == "snfs":
        fields = {"gradient_window": 1} | fields
    return train(make_optimizer(make_config(**fields), TOTAL, PER_EPOCH))


def learning_rate(step):
    if step < 10:
        return 0.2 * step / 10
    return 0.2 * (1 + math.cos(math.pi * (step - 10) / 30)) / 2


def schedule(step):
    return jax.numpy.array([learning_rate(s) for s in range(TOTAL)])[step]


def learning_rates(steps, *, total_steps=TOTAL, steps_per_epoch=PER_EPOCH, **fields):
    schedule = make_learning_rate(make_config(**fields), total_steps, steps_per_epoch)
    return [float(schedule(step)) for step in steps]


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


def test_rmsprop_worked_by_hand():
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tiny.params())]
    squares = [np.zeros_like(leaf) for leaf in leaves]
    momenta = [np.zeros_like(leaf) for leaf in leaves]
    for step in range(STEPS):
        for i, g in enumerate(jax.tree.leaves(tiny.params(seed=step + 1))):
            g = np.asarray(g) + 0.01 * leaves[i]
            squares[i] = 0.9 * squares[i] + 0.1 * g**2
            momenta[i] = 0.8 * momenta[i] + g / (np.sqrt(squares[i]) + 0.0316)
            leaves[i] = leaves[i] - learning_rate(step) * momenta[i]
    assert_close(trained(method="dense", optimizer__name="rmsprop"), leaves)


def test_rmsprop_is_that_of_optax_while_the_learning_rate_stays():
    fields = of_optimizer(schedule="multistep", warmup_epochs=0.0, name="rmsprop")
    rmsprop = optax.rmsprop(0.2, decay=0.9, eps=0.0316, momentum=0.8, eps_in_sqrt=False)
    expected = train(optax.chain(optax.add_decayed_weights(0.01), rmsprop))
    assert_close(trained(method="dense", **fields), expected)


DESCENTS = {
    "sgd": lambda: SGD,
    "adamw": lambda: optax.adamw(schedule, weight_decay=0.01),
    "rmsprop": lambda: optax.chain(
        optax.add_decayed_weights(0.01),
        optax.scale_by_rms(decay=0.9, eps=0.0316, eps_in_sqrt=False),
        optax.trace(0.8),
        optax.scale_by_learning_rate(schedule),
    ),
}


@pytest.mark.parametrize("name", DESCENTS)
def test_gradients_are_clipped_before_all_else(name):
    # Unclipped their norm is about 6.
    found = trained(method="dense", optimizer__name=name, optimizer__clip_norm=0.5)
    clip = optax.clip_by_global_norm(0.5)
    assert_close(found, train(optax.chain(clip, DESCENTS[name]())))


@pytest.mark.parametrize("name", DESCENTS)
def test_every_optimizer_trains_sparsely(name):
    optimizer = make_optimizer(
        make_config(method="srigl", optimizer__name=name, optimizer__clip_norm=1.0),
        TOTAL,
        PER_EPOCH,
    )
    params = tiny.params()
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(9):  # The topology changes at steps 4 and 8.
        updates, state = update(tiny.params(seed=step + 1), state, params)
        params = optax.apply_updates(params, updates)
    plan = tiny.plan(sparsity=0.5, distribution="uniform")
    tiny.assert_exactly_sparse(params, state, plan)


def test_what_is_clipped_is_the_gradient_of_weights_that_exist():
    fields = of_optimizer(
        schedule="multistep",
        warmup_epochs=0.0,
        clip_norm=1.0,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
    )
    optimizer = make_optimizer(make_config(method="static", **fields), 40, 10)
    params = {"head": {"kernel": jnp.zeros((2, 4))}}
    state = optimizer.init(params)
    grads = {"head": {"kernel": jnp.full((2, 4), 10.0)}}
    updates, _ = optimizer.update(grads, state, params)
    # Four weights of eight exist: clipped to norm 1, each has a gradient of 1/2.
    assert sorted(np.ravel(updates["head"]["kernel"])) == [-0.5] * 4 + [0.0] * 4


def test_the_rate_falls_along_a_cosine_unless_told_otherwise():
    # Up in 10 steps, down in 30.
    found = learning_rates([0, 5, 10, 20, 25, 40])
    assert found == pytest.approx([0, 0.1, 0.2, 0.15, 0.1, 0], abs=1e-7)


def test_cifar_networks_learn_a_fifth_as_fast_after_every_77_epochs():
    fields = of_optimizer(
        schedule="step",
        decay_factor=0.2,
        decay_every=77.0,
        learning_rate=0.1,
        warmup_epochs=0.0,
    )
    steps = [0, 77 * 390 - 1, 77 * 390, 154 * 390 - 1, 154 * 390, 231 * 390, 97_499]
    found = learning_rates(steps, total_steps=250 * 390, steps_per_epoch=390, **fields)
    rates = [0.1, 0.1, 0.02, 0.02, 0.004, 0.0008, 0.0008]
    assert found == pytest.approx(rates, rel=1e-5)


def test_resnet_50_learns_a_tenth_as_fast_from_epochs_30_and_70_and_90():
    fields = of_optimizer(
        schedule="multistep",
        decay_factor=0.1,
        decay_at=(30, 70, 90),
        learning_rate=0.2,
        warmup_epochs=5.0,
    )
    epoch = 2502
    steps = [0, epoch, 5 * epoch, 30 * epoch - 1, 30 * epoch, 70 * epoch, 90 * epoch]
    found = learning_rates(
        steps, total_steps=103 * epoch, steps_per_epoch=epoch, **fields
    )
    rates = [0, 0.04, 0.2, 0.2, 0.02, 0.002, 0.0002]
    assert found == pytest.approx(rates, rel=1e-5)


def test_mobilenet_learns_a_little_slower_after_every_other_epoch():
    fields = of_optimizer(
        schedule="step",
        decay_factor=0.973,
        decay_every=2.0,
        learning_rate=0.064,
        warmup_epochs=0.0,
    )
    epoch = 1251
    steps = [0, 2 * epoch - 1, 2 * epoch, 4 * epoch, 599 * epoch]
    found = learning_rates(
        steps, total_steps=600 * epoch, steps_per_epoch=epoch, **fields
    )
    rates = [0.064, 0.064, 0.062272, 0.060590656, 0.064 * 0.973**299]
    assert found == pytest.approx(rates, rel=1e-4)


def test_a_step_schedule_counts_its_epochs_from_before_the_warm_up():
    fields = of_optimizer(
        schedule="step",
        decay_factor=0.5,
        decay_every=2.0,
        learning_rate=0.2,
        warmup_epochs=1.0,
    )
    found = learning_rates([0, 5, 10, 19, 20, 39, 40], **fields)
    assert found == pytest.approx([0, 0.1, 0.2, 0.2, 0.1, 0.1, 0.05])


def test_without_epochs_to_decay_at_the_rate_stays():
    fields = of_optimizer(schedule="multistep", decay_at=(), warmup_epochs=1.0)
    assert learning_rates([5, 10, 39], **fields) == pytest.approx([0.1, 0.2, 0.2])


def test_two_decays_in_one_step_are_both_made():
    fields = of_optimizer(schedule="multistep", decay_at=(1, 1.01), warmup_epochs=0.0)
    assert learning_rates([9, 10], **fields) == pytest.approx([0.2, 0.002])


@pytest.mark.parametrize(
    ("batch_size", "peak"), [(512, 0.2), (1024, 0.4), (4096, 1.6), (256, 0.1)]
)
def test_a_rate_that_is_meant_for_a_batch_scales_with_it(batch_size, peak):
    found = learning_rates([10], batch_size=batch_size, optimizer__reference_batch=512)
    assert found == pytest.approx([peak])


SGD = optax.chain(
    optax.add_decayed_weights(0.01), optax.sgd(schedule, momentum=0.8, nesterov=True)
)
UNIFORM = dict(distribution="uniform")
PLAN = dict(sparsity=0.5, distribution="uniform", seed=3)
UPDATES = dict(total_steps=TOTAL, delta_t=4, alpha=0.5, gradient_window=2)
SRIGL = PLAN | UPDATES | dict(growth_candidates="all")
BY_HAND = {
    "static": ({}, lambda: srigl_jax.static(SGD, **PLAN)),
    "set": ({}, lambda: srigl_jax.set_(SGD, **PLAN | UPDATES)),
    "rigl": ({}, lambda: srigl_jax.rigl(SGD, **PLAN | UPDATES)),
    "snfs": (
        {"gradient_momentum": 0.7},
        lambda: srigl_jax.snfs(
            SGD, momentum=0.7, **PLAN | UPDATES | {"gradient_window": 1}
        ),
    ),
    "srigl": ({}, lambda: srigl_jax.srigl(SGD, gamma_sal=0.9, **SRIGL)),
    "srigl without ablation": (
        {"ablation": False},
        lambda: srigl_jax.srigl(SGD, gamma_sal=0.0, **SRIGL),
    ),
    "srigl in blocks": (
        {"block": 4, "dense": ("head",)},
        lambda: srigl_jax.srigl(SGD, gamma_sal=0.9, block=4, dense=["head"], **SRIGL),
    ),
    "one_shot": ({}, lambda: srigl_jax.prune(SGD, 0.5, start=20, **UNIFORM)),
    "gradual": (
        {"pruning__end": 0.7},
        lambda: srigl_jax.prune(SGD, 0.5, start=4, end=28, delta_t=4, **UNIFORM),
    ),
    "gradual, global": (
        {"distribution": "global"},
        lambda: srigl_jax.prune(
            SGD, 0.5, start=4, end=20, delta_t=4, distribution="global"
        ),
    ),
    "neurons": (
        {},
        lambda: srigl_jax.prune(SGD, 0.5, start=20, whole_neurons=True, **UNIFORM),
    ),
    "sr_ste": (
        {"block": 4, "pruning__ste_decay": 0.01},
        lambda: srigl_jax.sr_ste(SGD, 0.5, decay=0.01, block=4, **UNIFORM),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_method_is_the_transform_of_the_fields(name):
    fields, by_hand = BY_HAND[name]
    assert_close(
        trained(method=name.replace(",", " ").split()[0], **fields), train(by_hand())
    )


@pytest.fixture(scope="module")
def baselines():
    return {
        method: trained(method=method)
        for method in METHODS
        if method not in ("snip", "grasp", "lottery")
    }


# That the other methods pass on their fields, the transforms by hand have shown.
FIELDS = {
    "dense": {
        "optimizer__learning_rate": 0.1,
        "optimizer__warmup_epochs": 0.0,
        "optimizer__momentum": 0.7,
        "optimizer__weight_decay": 0.0,
        "optimizer__name": "adamw",
        "optimizer__clip_norm": 0.5,
        "optimizer__schedule": "step",
        "optimizer__reference_batch": 32,
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
    "gradual": {
        "sparsity": 0.6,
        "distribution": "global",
        "dense": ("hidden",),
        "delta_t": 5,
        "pruning__start": 0.3,
        "pruning__end": 0.6,
    },
    "sr_ste": {
        "sparsity": 0.6,
        "dense": ("hidden",),
        "block": 4,
        "pruning__ste_decay": 0.1,
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


@pytest.mark.parametrize("method", ["static", "snip", "grasp", "lottery"])
def test_masks_that_are_given_are_trained_as_they_are(method):
    masks = srigl_jax.init_masks(tiny.params(), tiny.plan(), seed=8)
    optimizer = make_optimizer(make_config(method=method), TOTAL, PER_EPOCH, masks)
    by_hand = srigl_jax.static(SGD, masks=masks)
    assert_close(train(optimizer), train(by_hand))


@pytest.mark.parametrize("method", ["snip", "grasp", "lottery"])
def test_a_method_that_needs_masks_says_so(method):
    with pytest.raises(ValueError, match=f"method={method} needs masks"):
        make_optimizer(make_config(method=method), TOTAL, PER_EPOCH)


def test_a_run_too_short_for_a_topology_update_is_warned_of():
    config = make_config(method="srigl", delta_t=30)
    with pytest.warns(UserWarning, match="the topology will never change"):
        make_optimizer(config, TOTAL, PER_EPOCH)
