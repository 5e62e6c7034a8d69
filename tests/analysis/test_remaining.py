import numpy as np
import pytest
from flax import nnx
from sparse_networks import rough_masks, trained

from srigl_jax.analysis.costs import layer_costs
from srigl_jax.analysis.network import read_network
from srigl_jax.analysis.remaining import Feed, remaining
from srigl_jax.condensed import condense_model
from srigl_jax.sparsity import make_plan
from srigl_jax.sparsity.masks import layer_masks

FEEDS = [Feed("first", ("second",)), Feed("second", ("head",))]
FULL = np.ones((2, 2), bool)


def left(first, second, head, feeds=FEEDS):
    masks = {"first": first, "second": second, "head": head}
    return remaining({n: np.array(m, bool) for n, m in masks.items()}, feeds)


def test_nobody_reads_an_ablated_neuron():
    found = left([[1, 0], [1, 0]], FULL, FULL)
    np.testing.assert_array_equal(found["second"], [[1, 1], [0, 0]])


def test_a_neuron_that_nobody_reads_has_no_weights():
    found = left(FULL, [[0, 0], [1, 1]], FULL)
    np.testing.assert_array_equal(found["first"], [[0, 1], [0, 1]])


def test_what_is_removed_makes_more_removable_in_both_directions():
    # The head does not read the second neuron of `second`, the only reader of the
    # second neuron of `first`.
    found = left(FULL, np.eye(2), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(found["first"], [[1, 0], [1, 0]])
    # The first neuron of `first` is ablated, so the first of `second` is a constant.
    found = left([[0, 1], [0, 1]], np.eye(2), FULL)
    np.testing.assert_array_equal(found["head"], [[0, 0], [1, 1]])


def test_a_neuron_is_an_input_at_every_position_of_a_window():
    found = left([[1, 0], [1, 0]], np.ones((6, 2)), FULL)
    np.testing.assert_array_equal(found["second"], [[1, 1], [0, 0]] * 3)


def test_a_neuron_stays_while_one_of_its_readers_needs_it():
    feeds = [Feed("first", ("second", "head"))]
    found = left(FULL, [[1, 1], [0, 0]], [[0, 0], [1, 1]], feeds)
    assert found["first"].all()


def test_without_feeds_every_weight_stays_and_masks_are_not_changed():
    mask = np.array([[1, 0], [1, 0]], bool)
    found = left(mask, FULL, FULL, [])
    assert all(found[n].sum() == m.sum() for n, m in [("first", mask), ("head", FULL)])
    given = {"first": mask, "second": FULL.copy(), "head": FULL.copy()}
    remaining(given, FEEDS)
    assert given["second"].all()


def test_widths_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="second has a fan-in of 3, which the 2"):
        left(FULL, np.ones((3, 2)), FULL)


def test_as_many_weights_remain_as_a_converted_network_has():
    model = trained("mlp")
    network = read_network(model, (8, 8, 3))
    params = nnx.state(model, nnx.Param)
    plan = make_plan(params, 0.5, distribution="uniform", dense="layers/3")
    masks = rough_masks(model, dense=("layers/3",))
    named = layer_masks(masks, plan)
    costs = layer_costs(network, plan, named)
    converted = condense_model(model, masks)
    assert {row["name"]: row["needed"] for row in costs} == {
        f"{choice.name}/kernel": choice.weights for choice in converted.layers
    }
    needed = sum(row["needed"] for row in costs[:3])
    assert needed < sum(map(np.sum, named.values()))
