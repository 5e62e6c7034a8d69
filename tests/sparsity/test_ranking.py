"""Masks of what scores highest: by hand, and equal to the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from srigl_jax import check_masks, init_masks, make_plan
from srigl_jax.sparsity.ranking import keep_best
from srigl_jax.sparsity.select import signed_keys, top

UNSTRUCTURED = dict(constant_fan_in=False, distribution="uniform")
GLOBAL = dict(constant_fan_in=False, distribution="global")
NEURONS = dict(whole_neurons=True, distribution="global")


def network(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (12, 8), "b": (3, 3, 2, 6), "head": (6, 5)}
    return {
        name: (scale ** (name == "b") * rng.normal(size=shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def matrix(kernel):
    return np.asarray(kernel).reshape(-1, kernel.shape[-1])


def kept(scores, sparsity, progress=1.0, within=None, signed=False, **options):
    plan = make_plan(scores, sparsity, **options)
    masks = keep_best(scores, plan, progress=progress, within=within, signed=signed)
    return jax.tree.map(np.array, masks), plan


def test_a_layer_by_hand():
    scores = {"kernel": np.float32([[4, -1], [-3, 2]])}
    mask, _ = kept(scores, 0.5, **UNSTRUCTURED)
    np.testing.assert_array_equal(mask["kernel"], [[True, False], [True, False]])
    mask, _ = kept(scores, 0.5, distribution="uniform")  # A weight for each neuron.
    np.testing.assert_array_equal(mask["kernel"], [[True, False], [False, True]])
    mask, _ = kept(scores, 0.5, signed=True, **UNSTRUCTURED)
    np.testing.assert_array_equal(mask["kernel"], [[True, False], [False, True]])


def test_a_global_ranking_by_hand_leaves_a_weight_in_every_layer():
    scores = {"a": np.float32([[9, 8], [7, 6]]), "b": np.float32([[1, 2], [0, 0]])}
    mask, _ = kept(scores, 0.5, **GLOBAL)
    np.testing.assert_array_equal(mask["a"], [[True, True], [True, False]])
    np.testing.assert_array_equal(mask["b"], [[False, True], [False, False]])


def test_whole_neurons_by_hand_spare_the_output():
    scores = {"a": np.float32([[1, 5, 0, 2], [3, 0, 0, 2]]), "head": np.ones((4, 2))}
    mask, plan = kept(scores, 0.5, whole_neurons=True, distribution="uniform")
    np.testing.assert_array_equal(mask["a"], [[True, True, False, False]] * 2)
    assert list(mask) == ["a", "head"] and not plan["head"].is_sparse


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_each_layer_is_the_oracle(progress):
    scores = network()
    masks, plan = kept(scores, 0.8, progress, **UNSTRUCTURED)
    for name, mask in masks.items():
        layer = matrix(scores[name])
        count = oracle.pruned_count(layer.size, plan[name].budget, progress)
        expected = oracle.largest(
            oracle.magnitude(layer), count, np.ones(layer.shape, bool)
        )
        np.testing.assert_array_equal(matrix(mask), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_global_ranking_is_the_oracle(scale):
    scores = network(scale=scale)
    masks, plan = kept(scores, 0.9, **GLOBAL)
    total = sum(layer.budget for layer in plan.values())
    expected = oracle.keep_globally([matrix(scores[name]) for name in plan], total)
    for mask, wanted in zip(masks.values(), expected, strict=True):
        np.testing.assert_array_equal(matrix(mask), wanted)
    assert sum(mask.sum() for mask in masks.values()) == total
    check_masks(masks, plan)


def test_neurons_are_the_oracle():
    scores = network()
    masks, plan = kept(scores, 0.6, whole_neurons=True, distribution="uniform")
    for name in ("a", "b"):
        layer = matrix(scores[name])
        expected = oracle.keep_neurons(layer, plan[name].budget // len(layer))
        np.testing.assert_array_equal(matrix(masks[name]), expected)
    check_masks(masks, plan)


@pytest.mark.parametrize("block", [None, 6])
def test_blocks_are_the_oracle(block):
    scores = network()
    masks, plan = kept(scores, 0.5, block=block, distribution="uniform")
    for name, mask in masks.items():
        layer, planned = matrix(scores[name]), plan[name]
        expected = oracle.keep_in_blocks(
            layer, planned.fan_in_per_block, block or len(layer)
        )
        np.testing.assert_array_equal(matrix(mask), expected)
    check_masks(masks, plan)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_neurons_of_all_layers_fill_the_budget_to_within_one(sparsity):
    masks, plan = kept(network(), sparsity, **NEURONS)
    check_masks(masks, plan)
    budget = plan["a"].budget + plan["b"].budget
    weights = masks["a"].sum() + masks["b"].sum()
    assert budget - 18 < weights <= budget


def test_neurons_of_all_layers_count_beside_those_of_their_own():
    # A third of the neurons of "b" stand out in their layer, and all of "a" are alike.
    scores = network()
    scores["a"][:] = 1 + 0.01 * scores["a"]
    scores["b"][:] = 1
    scores["b"][..., :2] = 9
    masks, _ = kept(scores, 0.6, **NEURONS)
    neurons = matrix(masks["b"]).any(axis=0)
    assert neurons[:2].all() and not neurons[2:].any()
    for scale in (1e-3, 1e3):
        scaled = scores | {"b": scale * scores["b"]}
        again, _ = kept(scaled, 0.6, **NEURONS)
        assert jax.tree.all(jax.tree.map(np.array_equal, again, masks))
    nothing = scores | {"b": 0 * scores["b"]}
    masks, _ = kept(nothing, 0.6, **NEURONS)
    assert matrix(masks["b"]).any(axis=0).sum() == 1  # However small they are.


def test_where_no_mask_was_everything_may_be_kept():
    first, _ = kept(network(), 0.5, **UNSTRUCTURED)
    within = first | {"b": optax.MaskedNode()}
    masks, _ = kept(network(1), 0.8, within=within, **UNSTRUCTURED)
    everywhere, _ = kept(network(1), 0.8, **UNSTRUCTURED)
    np.testing.assert_array_equal(masks["b"], everywhere["b"])
    assert (masks["b"] & ~first["b"]).any() and not (masks["a"] & ~first["a"]).any()


@pytest.mark.parametrize("options", [UNSTRUCTURED, GLOBAL, {"whole_neurons": True}])
def test_nothing_comes_back(options):
    first, _ = kept(network(0), 0.6, 0.5, **options)
    second, _ = kept(network(1), 0.6, 0.8, within=first, **options)
    before, after = jax.tree.leaves(first), jax.tree.leaves(second)
    assert any(m.sum() < n.sum() for m, n in zip(after, before, strict=True))
    assert all((n | ~m).all() for m, n in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "options", [GLOBAL, {"whole_neurons": True, "distribution": "uniform"}]
)
def test_random_masks_obey_such_plans(options):
    plan = make_plan(network(), 0.6, **options)
    check_masks(init_masks(network(), plan), plan)


def test_broken_masks_of_such_plans_are_found():
    options = dict(whole_neurons=True, distribution="uniform")
    masks, plan = kept(network(), 0.6, **options)
    masks["a"][0, :] = False
    with pytest.raises(ValueError, match="a: neurons exist as a whole"):
        check_masks(masks, plan)
    masks["a"][:] = True
    with pytest.raises(ValueError, match="a has 8 neurons; 3 fit in its budget of 38"):
        check_masks(masks, plan)
    masks, plan = kept(network(), 0.6, **GLOBAL)
    masks["a"][:] = True
    with pytest.raises(ValueError, match="their shared budget is"):
        check_masks(masks, plan)
    masks["a"][:] = False
    with pytest.raises(ValueError, match="a has no weight at all"):
        check_masks(masks, plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distribution": "global"}, "needs constant_fan_in=False"),
        (GLOBAL | {"sparsity": 0.99}, "leaves 1 weights to 3 layers"),
        ({"whole_neurons": True, "sparsity": 0.95}, "less than the 12 of one whole"),
    ],
)
def test_what_such_plans_cannot_keep_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_plan(network(), **{"sparsity": 0.9, "distribution": "uniform"} | options)


def test_signed_keys_order_like_the_scores():
    scores = np.float32([3, -np.inf, 0, -2, 1e-42, -0.5, np.inf])
    keys = signed_keys(jnp.asarray(scores), jnp.ones(7, bool))
    assert np.argsort(keys).tolist() == np.argsort(scores).tolist()
    best = top(signed_keys(jnp.asarray(scores), jnp.asarray(scores) < 1), 3)
    assert np.flatnonzero(best).tolist() == [2, 4, 5]


def test_progress_may_be_traced():
    scores, plan = network(), make_plan(network(), 0.8, **GLOBAL)
    counts = [
        sum(int(m.sum()) for m in masks.values())
        for masks in (
            jax.jit(lambda p: keep_best(scores, plan, progress=p))(progress)
            for progress in (0.0, 0.5, 1.0)
        )
    ]
    assert counts[0] > counts[1] > counts[2] == sum(p.budget for p in plan.values())
