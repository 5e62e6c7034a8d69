"""SNIP and GraSP: scores by hand, budgets of every plan, and what ranks nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network as tiny

from srigl_jax import check_masks, get_masks, grasp, make_plan, snip, static
from srigl_jax.at_init import drawn_where_zero, grasp_scores, snip_scores

METHODS = {"snip": snip, "grasp": grasp}
PLANS = [
    {"constant_fan_in": False},
    {"constant_fan_in": False, "distribution": "global"},
    {"block": 4, "distribution": "uniform"},
]


def loss(params, batch):
    inputs, labels = batch
    return tiny.cross_entropy(tiny.apply(params, inputs), labels)


def quadratic(params, batch):
    """Half of w'Aw summed over layers: gradient A w, Hessian A."""
    return sum(0.5 * jnp.vdot(w, batch * w) for w in jax.tree.leaves(params))


@pytest.mark.parametrize("plan_options", PLANS)
@pytest.mark.parametrize("method", METHODS)
def test_masks_obey_the_plan(method, plan_options):
    plan = tiny.plan(**plan_options)
    masks = METHODS[method](loss, tiny.params(), tiny.batch(), plan)
    check_masks(masks, plan)


def test_scores_by_hand():
    params = {"w": jnp.float32([[1, -2], [3, 0.5]])}
    curvature = jnp.float32([[1, 1], [-2, 10]])
    plan = make_plan(params, 0.5, constant_fan_in=False)
    scores = snip_scores(quadratic, params, curvature, plan)["w"]
    np.testing.assert_allclose(scores, [[1, 4], [18, 2.5]])  # |w * A w|
    scores = grasp_scores(quadratic, params, curvature, plan)["w"]
    np.testing.assert_allclose(scores, [[1, 4], [36, 25]])  # w * A A w
    mask = snip(quadratic, params, curvature, plan)["w"]
    np.testing.assert_array_equal(mask, [[False, True], [True, False]])


def test_grasp_keeps_the_weights_whose_removal_costs_gradient_most():
    params, batch = tiny.params(), tiny.batch()
    plan = tiny.plan(constant_fan_in=False)
    scores = grasp_scores(loss, params, batch, plan)

    def flow(params):
        grads = jax.grad(loss)(params, batch)
        kernels = [grads[name]["kernel"] for name in ("hidden", "head")]
        return sum(jnp.sum(g**2) for g in kernels)

    derivative = jax.grad(flow)(params)
    for name in ("hidden", "head"):
        expected = params[name]["kernel"] * derivative[name]["kernel"] / 2
        np.testing.assert_allclose(scores[name]["kernel"], expected, atol=1e-6)
    assert min(float(s.min()) for s in jax.tree.leaves(scores)) < 0
    mask = grasp(loss, params, batch, plan)["hidden"]["kernel"]
    kept = np.asarray(scores["hidden"]["kernel"])[np.asarray(mask)]
    lost = np.asarray(scores["hidden"]["kernel"])[~np.asarray(mask)]
    assert kept.min() >= lost.max()


def test_a_global_ranking_leaves_a_weight_in_every_layer():
    params = tiny.params()
    params["hidden"]["kernel"] *= 1e-6
    plan = tiny.plan(params, constant_fan_in=False, distribution="global")
    masks = snip(lambda p, b: quadratic(p, 1.0), params, None, plan)
    assert int(masks["hidden"]["kernel"].sum()) == 1
    check_masks(masks, plan)


def test_kernels_of_zeros_are_drawn_with_hes_variance_and_others_kept():
    params = {
        "head": {"kernel": jnp.zeros((100, 50)), "bias": jnp.zeros(50)},
        "hidden": {"kernel": jnp.ones((10, 100)).at[0].set(0)},
    }
    drawn = drawn_where_zero(params, make_plan(params, 0.1, dense="head"), seed=3)
    assert np.std(drawn["head"]["kernel"]) == pytest.approx((2 / 100) ** 0.5, rel=0.05)
    assert drawn["head"]["bias"] is params["head"]["bias"]
    assert drawn["hidden"]["kernel"] is params["hidden"]["kernel"]


def test_the_masks_train_as_fixed_ones():
    params = tiny.params()
    plan = tiny.plan(constant_fan_in=False, distribution="global")
    masks = snip(loss, params, tiny.batch(), plan)
    optimizer = static(optax.adamw(0.02), masks=masks)
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    for _ in range(tiny.STEPS):
        params, state, _ = step(params, state)
    tiny.assert_exactly_sparse(params, state, plan)
    for found, mask in zip(
        *map(jax.tree.leaves, (get_masks(state), masks)), strict=True
    ):
        np.testing.assert_array_equal(found, mask)


def test_static_masks_of_any_origin_may_leave_a_layer_whole():
    params = tiny.params()
    masks = {
        "hidden": {"kernel": jnp.arange(384).reshape(16, 24) % 7 == 0},
        "head": {"kernel": jnp.ones((24, 10), bool)},
    }
    masks = {n: m | {"bias": optax.MaskedNode()} for n, m in masks.items()}
    optimizer = static(optax.sgd(0.1), masks=masks)
    state, step = optimizer.init(params), tiny.make_step(optimizer)
    params, state, _ = step(params, state)
    assert np.all(params["head"]["kernel"])
    assert not np.any(params["hidden"]["kernel"][~masks["hidden"]["kernel"]])
    with pytest.raises(ValueError, match="give the sparsity, or the masks"):
        static(optax.sgd(0.1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("value", "problem"), [(np.nan, "are not finite"), (0, "are all 0")]
)
def test_a_batch_that_ranks_nothing_is_refused_by_layer(method, value, problem):
    params = tiny.params()
    params["head"]["kernel"] *= value
    with pytest.raises(ValueError, match=f"scores of head/kernel {problem}"):
        METHODS[method](loss, params, tiny.batch(), tiny.plan(constant_fan_in=False))
