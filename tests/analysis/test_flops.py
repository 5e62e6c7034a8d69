"""Counts worked by hand, and the published ones of ResNet-50."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srigl_jax.analysis.flops import METHODS as FLOPS_METHODS
from srigl_jax.analysis.flops import (
    LayerShape,
    condensed_bytes,
    gradual_pruning_flops,
    inference_flops,
    macs,
    masked_flops,
    training_flops,
)
from srigl_jax.analysis.network import read_network
from srigl_jax.condensed import condense
from srigl_jax.methods import METHODS
from srigl_jax.models import ResNet50
from srigl_jax.sparsity.distribution import erk
from srigl_jax.sparsity.layout import leaf_name

LINEAR = LayerShape("linear", fan_in=4, neurons=3)


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        (LINEAR, 3 * (4 + 3)),
        (LayerShape("bias", 4, 3, has_bias=True), 3 * (4 + 3 + 1)),
        (LayerShape("relu", 4, 3, has_relu=True), 3 * (4 + 3 + 1)),
        (LayerShape("conv", 9 * 2, 5, 16, True, True), 16 * 5 * (18 + 17 + 1 + 1)),
        (LayerShape("unused", 4, 3, positions=0), 0),
    ],
)
def test_multiplications_and_additions_count_separately(layer, flops):
    assert inference_flops(layer) == flops
    assert isinstance(flops, int)


def test_a_mac_is_a_multiplication_by_a_weight():
    assert macs(LayerShape("conv", 18, 5, 16)) == 18 * 5 * 16
    assert macs(LayerShape("conv", 18, 5, 16), 0.5) == 9 * 5 * 16


def test_a_sparse_dot_product_is_shorter_and_its_bias_stays():
    layer = LayerShape("sparse", 8, 3, 2, has_bias=True)
    assert inference_flops(layer, 0.25) == 2 * 3 * (2 + 1 + 1)


def test_a_mask_counts_the_weights_of_each_neuron_and_no_ablated_neuron():
    layer = LayerShape("masked", 4, 3, 10, has_bias=True, has_relu=True)
    fan_ins = np.array([2, 0, 3])
    assert masked_flops(layer, fan_ins) == 10 * ((2 + 1 + 2) + (3 + 2 + 2))


def test_a_full_mask_costs_what_the_dense_layer_does():
    layer = LayerShape("full", 7, 5, 3, has_relu=True)
    assert masked_flops(layer, np.full(5, 7)) == inference_flops(layer)


@functools.cache
def resnet50():
    """Its layers at 224x224, and the shapes of their kernels by name."""
    shape = (224, 224, 3)
    model = nnx.eval_shape(lambda: ResNet50(shape, 1000, rngs=nnx.Rngs(0)))
    params = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
    kernels = {leaf_name(path): leaf.shape for path, leaf in params}
    layers = read_network(model, shape).layers
    return layers, {x.name: kernels[x.name] for x in layers}


def flops_of(layers, densities=None):
    densities = densities or {}
    return sum(inference_flops(x, densities.get(x.name, 1.0)) for x in layers)


def test_resnet50_has_the_published_flops():
    layers, _ = resnet50()
    assert sum(map(macs, layers)) == 4_089_184_256
    assert flops_of(layers) == 8_189_482_496


@pytest.mark.parametrize(
    ("sparsity", "inference", "training"),
    [(0.8, "0.414592", "0.416524"), (0.9, "0.242868", "0.245367")],
)
def test_sparse_resnet50_has_the_published_shares(sparsity, inference, training):
    layers, kernels = resnet50()
    dense = flops_of(layers)
    sparse = flops_of(layers, erk(kernels, sparsity))
    assert f"{sparse / dense:.6f}" == inference
    spent = training_flops("srigl", dense, sparse, delta_t=100)
    assert f"{spent / training_flops('dense', dense, dense):.6f}" == training


def test_training_takes_three_passes_and_now_and_then_a_dense_gradient():
    assert training_flops("dense", 100, 10) == 300
    assert training_flops("static", 100, 10) == 30
    assert training_flops("set", 100, 10) == 30
    assert training_flops("rigl", 100, 10, delta_t=4) == (3 * 10 * 4 + 2 * 10 + 100) / 5


def test_dense_gradients_cost_in_every_step():
    assert training_flops("snfs", 100, 10) == 20 + 100
    assert training_flops("sr_ste", 100, 10) == 20 + 100


def test_pruning_costs_what_is_left_at_each_step():
    assert training_flops("gradual", 100, 10, removed=[0, 0.5, 1, 1]) == pytest.approx(
        3 * (100 + 55 + 10 + 10) / 4
    )


def test_a_lottery_costs_all_of_its_rounds():
    assert training_flops("lottery", 100, 10, removed=[0, 0.5, 1]) == pytest.approx(
        3 * (100 + 55 + 10)
    )


def test_every_method_of_the_trainer_can_be_counted():
    assert set(FLOPS_METHODS) == set(METHODS)


def test_gradual_pruning_costs_its_mean_density():
    assert gradual_pruning_flops(100, [0.0, 0.5, 0.75, 0.75]) == 300 * 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training_flops("prune", 1, 1), "method is 'prune'"),
        (lambda: training_flops("gradual", 1, 1), "sparsities is empty"),
        (lambda: training_flops("rigl", 1, 1, delta_t=0), "delta_t is 0"),
        (lambda: gradual_pruning_flops(1, []), "sparsities is empty"),
    ],
)
def test_what_cannot_be_counted_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("fan_in", [40, 2**16 + 1])
def test_condensed_bytes_are_those_of_the_condensed_layer(fan_in):
    mask = np.zeros((fan_in, 6), bool)
    mask[:7, :4] = np.random.default_rng(0).uniform(size=(7, 4)) < 0.5
    made = condense(jnp.zeros(mask.shape), mask)
    arrays = made.values, made.indices, made.active
    assert condensed_bytes(mask) == sum(x.nbytes for x in jax.tree.leaves(arrays))


def test_a_layer_without_weights_has_no_condensed_bytes():
    assert condensed_bytes(np.zeros((4, 3), bool)) == 0
