"""Parameters, kernels and neurons of the full networks, against published figures."""

import jax
import pytest
from published_networks import CIFAR_10, IMAGENET, parameters

from srigl_jax import make_plan

IN_ATTENTION = "/(query|key|value)/"


def layouts(name, data=IMAGENET):
    plan = make_plan(parameters(name, data), 0.0)
    return {name: layer.layout for name, layer in plan.items()}


@pytest.mark.parametrize(
    ("name", "data", "kernels", "weights", "neurons"),
    [
        ("resnet18", CIFAR_10, 21, 11_164_352, 4_810),
        ("wide_resnet", CIFAR_10, 23, 1_076_912, 1_594),
        ("resnet50", IMAGENET, 54, 25_502_912, 27_560),
    ],
)
def test_kernels_are_those_of_the_paper(name, data, kernels, weights, neurons):
    found = layouts(name, data).values()
    assert len(found) == kernels
    assert sum(layout.size for layout in found) == weights
    assert sum(layout.neurons for layout in found) == neurons


def test_kernels_of_vit_are_those_of_the_paper_with_and_without_attention_inputs():
    found = layouts("vit_b_16")
    inputs = {n for n in found if n.split("/")[-2] in ("query", "key", "value")}
    rest = [layout.size for name, layout in found.items() if name not in inputs]
    assert (len(rest), sum(rest)) == (38, 65_058_816)
    # The paper's query, key and value of a block are one kernel.
    assert len(rest) + len(inputs) // 3 == 50
    assert sum(layout.size for layout in found.values()) == 86_292_480


@pytest.mark.parametrize(
    ("name", "options", "total"),
    [
        ("resnet18", {"small_images": False}, 11_689_512),
        ("resnet50", {}, 25_557_032),
        ("mobilenet_v3_small", {}, 2_542_856),
        ("mobilenet_v3_large", {}, 5_483_032),
        ("vit_b_16", {}, 86_567_656),
    ],
)
def test_there_are_as_many_parameters_as_in_torchvision(name, options, total):
    leaves = jax.tree.leaves(parameters(name, **options))
    assert sum(leaf.size for leaf in leaves) == total


@pytest.mark.parametrize(("sparsity", "weights"), [(0.8, 5_086_360), (0.9, 2_544_096)])
def test_constant_fan_in_of_resnet50_has_the_published_size(sparsity, weights):
    plan = make_plan(parameters("resnet50"), sparsity)
    found = sum(layer.fan_in * layer.layout.neurons for layer in plan.values())
    assert found == weights


def test_erk_at_90_percent_has_the_published_densities_on_resnet50():
    plan = make_plan(parameters("resnet50"), 0.9)
    dense = [name for name, layer in plan.items() if not layer.is_sparse]
    assert dense == ["blocks/0/conv1/kernel"]
    sparsities = {
        "stem": 0.579962,
        "blocks/0/conv2": 0.822662,
        "blocks/0/conv3": 0.041181,
        "head": 0.927392,
    }
    for name, sparsity in sparsities.items():
        density = plan[f"{name}/kernel"].density
        assert density == pytest.approx(1 - sparsity, abs=5e-7)
    for layer in plan.values():
        shape = layer.layout.shape
        if layer.is_sparse:
            eps = layer.density * layer.layout.size / sum(shape)
            assert eps == pytest.approx(48.786611, abs=5e-7)


def test_uniform_fan_ins_of_vit_are_the_published_ones():
    plan = make_plan(
        parameters("vit_b_16"), 0.9, distribution="uniform", dense=IN_ATTENTION
    )
    up, down = plan["blocks/0/up/kernel"], plan["blocks/0/down/kernel"]
    assert (up.fan_in, down.fan_in) == (76, 307)
    assert up.budget // 1145 == 206  # With 1145 active neurons.
    assert not plan["blocks/0/attention/value/kernel"].is_sparse


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "vit_b_16"])
def test_only_the_head_is_never_ablated(name):
    plan = make_plan(parameters(name), 0.5, distribution="uniform")
    kept = [layer.name for layer in plan.values() if not layer.may_ablate]
    assert kept == ["head/kernel"]
