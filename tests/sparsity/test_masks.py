"""Masks as they begin, as they are applied, verified and described."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network as tiny

from srigl_jax import (
    apply_masks,
    check_masks,
    init_masks,
    make_plan,
    sparse_he_normal,
    summarize,
)
from srigl_jax.sparsity.masks import LayerSummary, fan_ins, layer_masks

PARAMS = {"hidden": jnp.ones((3, 3, 4, 12)), "head": jnp.ones((12, 8))}


def plan(**options):
    options = dict(sparsity=0.5, distribution="uniform") | options
    return make_plan(PARAMS, **options)


def masks_of(seed=0, **options):
    return init_masks(PARAMS, plan(**options), seed)


# Half of 36 inputs, and of 12.
def test_every_neuron_begins_with_exactly_k0_inputs():
    counts = fan_ins(masks_of(), plan())
    assert counts["hidden"].tolist() == [18] * 12
    assert counts["head"].tolist() == [6] * 8


def test_a_layer_without_constant_fan_in_begins_with_exactly_its_budget():
    masks = layer_masks(masks_of(constant_fan_in=False), plan())
    assert masks["hidden"].sum() == 216
    assert masks["head"].sum() == 48
    assert len(set(masks["hidden"].sum(axis=0).tolist())) > 1


def test_every_block_of_four_begins_with_exactly_two_inputs():
    masks = layer_masks(masks_of(block=4), plan())
    assert (masks["hidden"].reshape(9, 4, 12).sum(axis=1) == 2).all()
    assert (masks["head"].reshape(3, 4, 8).sum(axis=1) == 2).all()


def test_neurons_layers_and_seeds_begin_with_different_inputs():
    first, other = layer_masks(masks_of(0), plan()), layer_masks(masks_of(1), plan())
    assert not np.array_equal(first["hidden"], other["hidden"])
    assert len(np.unique(first["hidden"], axis=1).T) == 12
    square = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8)), "head": jnp.ones((8, 8))}
    masks = init_masks(square, make_plan(square, 0.5))
    assert not np.array_equal(masks["a"], masks["b"])


def test_a_layer_begins_the_same_whatever_else_the_network_has():
    alone = {"hidden": PARAMS["hidden"]}
    options = dict(sparsity=0.5, distribution="uniform")
    mask = init_masks(alone, make_plan(alone, **options, last="hidden"))["hidden"]
    np.testing.assert_array_equal(mask, masks_of()["hidden"])


def test_every_input_is_as_likely_as_any_other():
    params = {"kernel": jnp.ones((10, 2000))}
    layer = make_plan(params, 0.7, distribution="uniform")
    uses = layer_masks(init_masks(params, layer), layer)["kernel"].mean(axis=1)
    # Three of ten; the standard deviation of a mean of 2000 is .01.
    np.testing.assert_allclose(uses, 0.3, atol=0.05)


def test_masks_are_bool_with_masked_nodes_for_dense_leaves():
    masks = init_masks(tiny.params(), tiny.plan())
    assert masks["hidden"]["bias"] == optax.MaskedNode()
    assert masks["hidden"]["kernel"].dtype == bool


def test_applying_masks_leaves_the_rest_as_it_is():
    params = {"a": jnp.array([[1.0, -2.0], [jnp.nan, 4.0]]), "bias": jnp.ones(2)}
    masks = {"a": jnp.array([[True, False], [False, True]]), "bias": optax.MaskedNode()}
    applied = apply_masks(params, masks)
    assert applied["a"].tolist() == [[1, 0], [0, 4]]
    assert applied["bias"] is params["bias"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_applying_masks_keeps_the_dtype(dtype):
    params = tiny.params(dtype)
    applied = apply_masks(params, init_masks(params, tiny.plan()))
    assert jax.tree.all(jax.tree.map(lambda p: p.dtype == dtype, applied))


def test_sparse_he_normal_has_a_variance_of_2_over_k():
    params = {"kernel": jnp.ones((400, 500)), "bias": jnp.ones(500)}
    layer = make_plan(params, 0.9, distribution="uniform")
    # Neurons of three kinds: none, 10 and 40 weights.
    fan_in = jnp.array([0, 10, 40])[jnp.arange(500) % 3]
    masks = {
        "kernel": jnp.arange(400)[:, None] < fan_in,
        "bias": optax.MaskedNode(),
    }
    drawn = sparse_he_normal(jax.random.key(0), params, masks, layer)
    assert drawn["bias"] is params["bias"]
    kernel = np.asarray(drawn["kernel"])
    assert not kernel[~np.asarray(masks["kernel"])].any()
    for k in (10, 40):
        weights = kernel[:k, fan_in == k]
        assert weights.mean() == pytest.approx(0, abs=0.05)
        assert weights.var() == pytest.approx(2 / k, rel=0.1)


def test_sparse_he_normal_differs_by_layer_and_keeps_the_dtype():
    params = {n: jnp.ones((8, 8), jnp.bfloat16) for n in ("a", "b")}
    layers = make_plan(params, 0.5)
    masks = jax.tree.map(lambda p: p > 0, params)
    drawn = sparse_he_normal(jax.random.key(0), params, masks, layers)
    assert drawn["a"].dtype == jnp.bfloat16
    assert not np.array_equal(drawn["a"], drawn["b"])


# Four inputs, four neurons, a budget of 8: 2 weights for each of 4 neurons, 4 of 2.
FULL = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
ABLATED = [[1, 1, 0, 0]] * 4
BLOCKED = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]


def check(rows, name="hidden", params=None, **options):
    square = {"hidden": jnp.ones((4, 4)), "head": jnp.ones((4, 4))}
    layers = make_plan(square, 0.5, **options)
    masks = {"hidden": FULL, "head": FULL} | {name: rows}
    masks = {name: jnp.array(mask, bool) for name, mask in masks.items()}
    check_masks(masks, layers, params)


def test_lawful_masks_pass():
    check(FULL)
    check(ABLATED)
    check(BLOCKED, block=2, distribution={"hidden": 0.5, "head": 1.0})


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "hidden",
            [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 1]],
            r"hidden: each active neuron should have 2 weights .* \[0\]",
        ),
        (
            "hidden",
            [[1, 1, 1, 1]] * 4,
            r"hidden: each active neuron should have 2 .* \[0, 1, 2, 3\]",
        ),
        (
            "hidden",
            [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            r"hidden: each active neuron should have 4 .* \[0, 1\]",
        ),
        (
            "head",
            ABLATED,
            r"head may not ablate, but neurons \[2, 3\] have no weight",
        ),
    ],
    ids=["uneven", "over budget", "budget left", "output ablated"],
)
def test_a_broken_constant_fan_in_is_named(name, rows, message):
    with pytest.raises(ValueError, match=message):
        check(rows, name)


def test_a_broken_block_is_named():
    rows = [[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match=r"every block of 2 inputs, .* \[1\]"):
        check(rows, block=2, distribution={"hidden": 0.5, "head": 1.0})


@pytest.mark.parametrize("weights", [7, 9])
def test_a_budget_missed_without_constant_fan_in_is_named(weights):
    rows = np.arange(16).reshape(4, 4) < weights
    message = f"hidden has {weights} weights, its budget is 8"
    with pytest.raises(ValueError, match=message):
        check(rows, constant_fan_in=False)


def test_weights_off_the_masks_are_counted():
    params = {"hidden": jnp.array(FULL, float), "head": jnp.array(FULL, float)}
    check(FULL, params=params)
    params["hidden"] = params["hidden"].at[0, 2:].set(1e-30)
    with pytest.raises(ValueError, match=r"hidden has 2 nonzero weights .*apply_masks"):
        check(FULL, params=params)


def test_a_weight_that_is_not_a_number_is_one_off_the_masks():
    params = {"hidden": jnp.array(FULL, float), "head": jnp.array(FULL, float)}
    params["hidden"] = params["hidden"].at[3, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="hidden has 1 nonzero weights"):
        check(FULL, params=params)


def test_a_sparse_layer_without_a_mask_is_named():
    with pytest.raises(ValueError, match=r"no mask for the sparse layers \['hidden'\]"):
        check_masks({"head": masks_of()["head"]}, plan())


def test_the_summary_worked_by_hand():
    params = {
        "hidden": jnp.ones((4, 4)),
        "head": jnp.ones((4, 5)),
        "free": jnp.ones((2, 3)),
    }
    densities = {"hidden": 0.6, "head": 0.5, "free": 1.0}
    layers = make_plan(params, 0.5, distribution=densities, last="head")
    masks = {
        "hidden": jnp.array(ABLATED, bool),
        "head": jnp.arange(20).reshape(4, 5) < 10,
        "free": optax.MaskedNode(),
    }
    summaries = {layer.name: layer for layer in summarize(masks, layers)}
    assert summaries["hidden"] == LayerSummary(
        name="hidden",
        shape=(4, 4),
        sparse=True,
        density_asked=0.6,
        density_got=0.5,
        weights=8,
        neurons=4,
        active=2,
        fan_in_min=4,
        fan_in_max=4,
        may_ablate=True,
    )
    assert summaries["head"].weights == 10
    assert (summaries["head"].active, summaries["head"].may_ablate) == (5, False)
    free = summaries["free"]
    assert (free.sparse, free.density_got, free.active) == (False, 1.0, 3)
    assert (free.fan_in_min, free.fan_in_max, free.may_ablate) == (2, 2, False)


def test_the_summary_of_a_layer_with_nothing_left():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    layers = make_plan(params, 0.5)
    masks = {"a": jnp.zeros((4, 4), bool), "b": jnp.ones((4, 4), bool)}
    empty = summarize(masks, layers)[0]
    assert (empty.weights, empty.active) == (0, 0)
    assert (empty.fan_in_min, empty.fan_in_max) == (0, 0)
