"""Whole networks: the converted one against the masked one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sparse_networks import (
    OPTIONS,
    SHORT,
    images,
    masked,
    outputs,
    rough_masks,
    scrambled,
    trained,
    trained_short,
)

from srigl_jax.condensed import choose
from srigl_jax.condensed.convert import condense_model
from srigl_jax.condensed.modules import CondensedConv, CondensedLinear, Identity
from srigl_jax.models import Link

HIDDEN = {
    "mlp": "layers/1",
    "convnet": "convs/1",
    "resnet18": "blocks/3/conv1",
    "vit": "blocks/0/up",
}
DENSE = {"mlp": ("layers/3",)}


def masks_of(name, model, **options):
    return rough_masks(model, dense=DENSE.get(name, ("head",)), **options)


def crossovers(monkeypatch, density):
    """Makes the rule condense all layers up to a density, at any batch size."""
    always = dict.fromkeys(choose.CROSSOVERS, ((math.inf, density),))
    monkeypatch.setattr(choose, "CROSSOVERS", always)


def kinds(model):
    return {type(module) for _, module in nnx.iter_graph(model)}


def forms(conversion):
    return {layer.name: layer.form for layer in conversion.layers}


@pytest.mark.parametrize(
    ("name", "implementation"),
    # Of ResNet-18 the XLA form takes long to compile.
    [(name, "auto") for name in OPTIONS] + [("convnet", "xla"), ("vit", "xla")],
)
def test_the_condensed_network_computes_what_the_masked_one_does(
    name, implementation, monkeypatch
):
    crossovers(monkeypatch, 1)
    model = trained(name)
    masks = masks_of(name, model)
    conversion = condense_model(model, masks, implementation=implementation)
    assert {"condensed", "windows"} & set(forms(conversion).values())
    expected = outputs(masked(model, masks), images())
    np.testing.assert_allclose(
        outputs(conversion.model, images()), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_the_narrowed_dense_network_computes_what_the_masked_one_does(
    name, monkeypatch
):
    crossovers(monkeypatch, 0)
    model = trained(name)
    masks = masks_of(name, model)
    conversion = condense_model(model, masks)
    assert set(forms(conversion).values()) <= {"dense", "narrowed dense"}
    expected = outputs(masked(model, masks), images())
    np.testing.assert_allclose(
        outputs(conversion.model, images()), expected, rtol=1e-5, atol=1e-5
    )


# A layer that is narrowed for each of its links with consumers, of which the neurons
# may be dropped.
NARROWED = {
    "bottlenecks": ["stem", "blocks/0/conv1", "blocks/0/conv2", "blocks/2/conv2"],
    "inverted residuals": ["blocks/0/squeeze", "blocks/3/squeeze", "last", "hidden"],
    "pre-activated": ["stem", "blocks/0/conv1", "blocks/2/conv1"],
    "class token": ["blocks/0/up"],
}


@pytest.mark.parametrize("case", SHORT)
def test_blocks_of_deep_networks_are_narrowed_and_compute_the_same(case, monkeypatch):
    crossovers(monkeypatch, 0.3)
    model = trained_short(case)
    masks = rough_masks(model)
    conversion = condense_model(model, masks)
    np.testing.assert_allclose(
        outputs(conversion.model, images()),
        outputs(masked(model, masks), images()),
        rtol=1e-5,
        atol=1e-5,
    )
    layers = {layer.name: layer for layer in conversion.layers}
    for name in NARROWED[case]:
        assert layers[name].new_shape[-1] < layers[name].shape[-1]


@pytest.mark.parametrize("case", ["bottlenecks", "inverted residuals"])
def test_every_batch_normalisation_of_a_deep_network_is_folded(case):
    model = trained_short(case)
    assert nnx.BatchNorm not in kinds(condense_model(model, rough_masks(model)).model)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_layer_may_have_no_neuron_left(name, monkeypatch):
    crossovers(monkeypatch, 1)
    model = trained(name, seed=1)
    masks = masks_of(name, model, gone=[HIDDEN[name]])
    conversion = condense_model(model, masks)
    expected = outputs(masked(model, masks), images())
    np.testing.assert_allclose(
        outputs(conversion.model, images()), expected, rtol=1e-5, atol=1e-5
    )
    shapes = {layer.name: layer.new_shape for layer in conversion.layers}
    assert shapes[HIDDEN[name]][-1] == 1


@pytest.mark.parametrize("name", OPTIONS)
def test_without_links_nothing_is_folded_or_narrowed(name, monkeypatch):
    crossovers(monkeypatch, 1)
    model = trained(name)
    masks = masks_of(name, model)
    conversion = condense_model(model, masks, links=())
    assert all(layer.shape == layer.new_shape for layer in conversion.layers)
    assert Identity not in kinds(conversion.model)
    expected = outputs(masked(model, masks), images())
    np.testing.assert_allclose(
        outputs(conversion.model, images()), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_every_batch_normalisation_is_folded(name):
    model = trained(name)
    converted = condense_model(model, masks_of(name, model)).model
    assert nnx.BatchNorm not in kinds(converted)
    assert Identity in kinds(converted)


def test_projections_of_attention_are_condensed(monkeypatch):
    crossovers(monkeypatch, 1)
    model = trained("vit")
    converted = condense_model(model, masks_of("vit", model)).model
    attention = converted.blocks[0].attention
    projections = attention.query, attention.key, attention.value, attention.out
    assert all(isinstance(p, CondensedLinear) for p in projections)


def test_the_model_is_not_changed():
    model = trained("convnet")
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    condense_model(model, masks_of("convnet", model))
    after = nnx.to_pure_dict(nnx.state(model))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


def test_weights_off_the_masks_count_as_zero():
    model = trained("mlp")
    masks = masks_of("mlp", model)
    loose = condense_model(model, masks).model
    strict = condense_model(masked(model, masks), masks).model
    np.testing.assert_array_equal(outputs(loose, images()), outputs(strict, images()))


def test_no_masks_at_all_leave_a_dense_network():
    model = trained("convnet")
    masks = jax.tree.map(
        lambda _: optax.MaskedNode(), nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    conversion = condense_model(model, masks)
    assert set(forms(conversion).values()) == {"dense"}
    np.testing.assert_allclose(
        outputs(conversion.model, images()),
        outputs(model, images()),
        rtol=1e-5,
        atol=1e-5,
    )


def test_it_can_be_split_merged_and_jitted(monkeypatch):
    crossovers(monkeypatch, 1)
    model = trained("convnet")
    converted = condense_model(model, masks_of("convnet", model)).model
    merged = nnx.merge(*nnx.split(converted))
    np.testing.assert_allclose(
        nnx.jit(merged.__class__.__call__)(merged, images()),
        converted(images()),
        rtol=1e-5,
        atol=1e-6,
    )


def test_bfloat16_stays_bfloat16(monkeypatch):
    crossovers(monkeypatch, 1)
    model = trained("mlp")
    halves = jax.tree.map(
        lambda p: p.astype(jnp.bfloat16), nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    nnx.update(model, halves)
    masks = masks_of("mlp", model)
    x = images(dtype=jnp.bfloat16)
    got = outputs(condense_model(model, masks).model, x)
    expected = outputs(masked(model, masks), x)
    assert got.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.05, atol=0.1
    )


class Convs(nnx.Module):
    """One convolution of each kind."""

    def __init__(self):
        rngs = nnx.Rngs(0)

        def conv(channels, features, size, **options):
            return nnx.Conv(channels, features, (size, size), rngs=rngs, **options)

        self.convs = nnx.List(
            [
                conv(4, 8, 3, strides=2, padding=1),
                conv(8, 8, 3, feature_group_count=8),
                conv(8, 8, 3, feature_group_count=2, padding="VALID"),
                conv(8, 8, 3, kernel_dilation=2),
                conv(8, 8, 3, padding="CIRCULAR"),
                conv(8, 8, 1, strides=(2, 1), use_bias=False),
                conv(8, 4, 3, padding=((0, 2), (1, 0))),
                conv(4, 4, 1, padding=-1),
            ]
        )

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.gelu(conv(x))
        return x

    def links(self):
        pairs = [(0, 1), (1, 2), (2, 3), (5, 6)]
        return [
            Link(f"convs/{a}", (f"convs/{b}",), activation=nnx.gelu) for a, b in pairs
        ]


@pytest.fixture(scope="module")
def convs():
    model = scrambled(Convs())
    return model, rough_masks(model, dense=())


def test_convolutions_of_all_kinds(convs, monkeypatch):
    crossovers(monkeypatch, 1)
    model, masks = convs
    x = images(shape=(12, 12, 4))
    np.testing.assert_allclose(
        outputs(condense_model(model, masks).model, x),
        outputs(masked(model, masks), x),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_dilated_convolution_stays_dense_and_says_so(convs, monkeypatch):
    crossovers(monkeypatch, 1)
    layers = {layer.name: layer for layer in condense_model(*convs).layers}
    assert layers["convs/3"].form == "dense"
    assert layers["convs/3"].reason == "it is dilated by 2"


def test_a_convolution_that_crops_stays_dense_and_says_so(convs, monkeypatch):
    crossovers(monkeypatch, 1)
    layers = {layer.name: layer for layer in condense_model(*convs).layers}
    assert layers["convs/7"].form == "dense"
    assert layers["convs/7"].reason == "its padding is below 0"


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_convolutions_take_any_number_of_batch_axes(convs, batch, monkeypatch):
    crossovers(monkeypatch, 1)
    model, masks = convs
    x = images(shape=(12, 12, 4), batch=math.prod(batch)).reshape(*batch, 12, 12, 4)
    first = condense_model(model, masks).model.convs[0]
    assert isinstance(first, CondensedConv)
    expected = masked(model, masks).convs[0](x)
    np.testing.assert_allclose(first(x), expected, rtol=1e-5, atol=1e-5)


def test_neurons_of_grouped_convolutions_stay(convs):
    layers = {layer.name: layer for layer in condense_model(*convs).layers}
    for name in ("convs/0", "convs/1", "convs/2"):
        assert layers[name].shape == layers[name].new_shape
    assert layers["convs/5"].new_shape == (1, 1, 8, 6)


def test_a_sparse_parameter_of_another_module_is_masked_and_reported():
    class Net(nnx.Module):
        def __init__(self):
            self.mix = nnx.Einsum("bi,io->bo", (4, 4), rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.mix(x)

    model = Net()
    bias = {"bias": optax.MaskedNode()} if model.mix.bias is not None else {}
    masks = {"mix": {"kernel": jnp.eye(4, dtype=bool)} | bias}
    conversion = condense_model(model, masks)
    assert forms(conversion) == {"mix/kernel": "dense"}
    diagonal = jnp.diag(model.mix.kernel[...])
    np.testing.assert_allclose(
        conversion.model(jnp.ones((1, 4)))[0], diagonal, rtol=1e-6
    )
