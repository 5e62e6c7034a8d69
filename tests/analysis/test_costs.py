import json

import jax.numpy as jnp
import numpy as np
import pytest

from srigl_jax import make_plan
from srigl_jax.analysis.costs import layer_costs, total_costs, training_costs
from srigl_jax.analysis.flops import LayerShape
from srigl_jax.analysis.network import NetworkShape
from srigl_jax.analysis.remaining import Feed

# 8 inputs, 4 hidden neurons used at 2 positions, 3 classes.
NETWORK = NetworkShape(
    (
        LayerShape("hidden/kernel", 8, 4, 2, has_bias=True, has_relu=True),
        LayerShape("head/kernel", 4, 3, 1, has_bias=True),
    ),
    (Feed("hidden/kernel", ("head/kernel",)),),
    0,
)
PARAMS = {
    "hidden": {"kernel": jnp.zeros((8, 4))},
    "head": {"kernel": jnp.zeros((4, 3))},
}
# Three of the four neurons have two weights, the last is ablated.
MASK = np.zeros((8, 4), bool)
MASK[:2, :3] = True


@pytest.fixture
def plan():
    return make_plan(PARAMS, 0.7, distribution="uniform", dense="head")


@pytest.fixture
def costs(plan):
    return layer_costs(NETWORK, plan, {"hidden/kernel": MASK})


def test_a_sparse_layer_costs_what_it_has_asked_for_and_learned(costs):
    hidden, _ = costs
    assert hidden["macs"]["dense"] == 2 * 32
    assert hidden["macs"]["asked"] == pytest.approx(2 * 32 * 0.3)
    assert hidden["macs"]["learned"] == 2 * 6
    assert hidden["flops"]["dense"] == 2 * 4 * (8 + 7 + 1 + 1)
    assert hidden["flops"]["asked"] == pytest.approx(2 * 4 * (2 * 2.4 + 1))
    assert hidden["flops"]["learned"] == 2 * 3 * (2 + 1 + 1 + 1)
    assert hidden["needed"] == 6
    # Values of 4 bytes and indices of 2 for 3 neurons of 2 weights, and their ids.
    assert hidden["bytes"] == {"dense": 4 * 32, "condensed": 3 * 2 * 6 + 3 * 4}


def test_a_dense_layer_no_longer_reads_ablated_neurons(costs):
    _, head = costs
    assert head["flops"]["asked"] == head["flops"]["dense"] == 3 * (4 + 3 + 1)
    assert head["flops"]["learned"] == 3 * (3 + 2 + 1)
    assert head["bytes"] == {"dense": 4 * 12, "condensed": 4 * 12}


def test_totals_are_sums_over_layers(costs):
    total = total_costs(costs)
    assert total["flops"]["dense"] == 2 * 4 * 17 + 3 * 8
    assert total["flops"]["learned"] == 2 * 3 * 5 + 3 * 6
    assert total["needed"] == 6 + 9
    assert total["bytes"]["dense"] == 4 * 44
    assert json.loads(json.dumps(total)) == total


def test_a_dense_network_costs_the_same_three_times():
    plan = make_plan(PARAMS, 0.0)
    flops = total_costs(layer_costs(NETWORK, plan, {}))["flops"]
    assert flops["dense"] == flops["asked"] == flops["learned"]


def test_a_run_costs_its_examples():
    total = {"flops": {"dense": 100, "asked": 10, "learned": 8}}
    found = training_costs(total, "static", 100, examples=7)
    assert found["per_example"] == {"dense": 300, "method": 30}
    assert found["run"] == {"dense": 2100, "method": 210}
