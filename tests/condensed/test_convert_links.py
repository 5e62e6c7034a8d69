"""Folding and narrowing, on networks small enough to work by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sparse_networks import masked, rough_masks, trained

from srigl_jax.condensed import choose
from srigl_jax.condensed.convert import condense_model
from srigl_jax.models import Link


class Chain(nnx.Module):
    """Layers with ReLU between them."""

    def __init__(self, layers, links):
        self.layers = nnx.List(layers)
        self.declared = tuple(links)

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)

    def links(self):
        return list(self.declared)


def relu_links(count):
    return [
        Link(f"layers/{i}", (f"layers/{i + 1}",), activation=nnx.relu)
        for i in range(count)
    ]


def linear(kernel, bias):
    kernel = jnp.asarray(kernel, jnp.float32)
    layer = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
    layer.kernel = nnx.Param(kernel)
    layer.bias = nnx.Param(jnp.asarray(bias, jnp.float32))
    return layer


def conv(kernel, bias, **options):
    kernel = jnp.asarray(kernel, jnp.float32)
    layer = nnx.Conv(*kernel.shape[2:], kernel.shape[:2], rngs=nnx.Rngs(0), **options)
    layer.kernel = nnx.Param(kernel)
    layer.bias = nnx.Param(jnp.asarray(bias, jnp.float32))
    return layer


def nonzero_masks(model):
    """The masks of weights that are not 0."""
    return {
        "layers": {
            i: {
                "kernel": layer.kernel[...] != 0,
                "bias": optax.MaskedNode(),
            }
            for i, layer in enumerate(model.layers)
        }
    }


def convert(model):
    return condense_model(model, nonzero_masks(model)).model


def kernels(model):
    return [layer.kernel[...].tolist() for layer in model.layers]


@pytest.fixture(autouse=True)
def everything_dense(monkeypatch):
    """The form with kernels to look at."""
    never = dict.fromkeys(choose.CROSSOVERS, ((float("inf"), 0.0),))
    monkeypatch.setattr(choose, "CROSSOVERS", never)


def test_a_constant_goes_into_the_consumers_bias():
    model = Chain(
        [
            linear([[1, 0, 3], [2, 0, 0]], [0, 5, -1]),
            linear([[1], [10], [2]], [0.5]),
        ],
        relu_links(1),
    )
    converted = convert(model)
    assert kernels(converted) == [[[1, 3], [2, 0]], [[1], [2]]]
    assert converted.layers[0].bias[...].tolist() == [0, -1]
    assert converted.layers[1].bias[...].tolist() == [50.5]


def test_a_constant_below_zero_is_zero_after_the_activation():
    model = Chain(
        [linear([[1, 0]], [0, -5]), linear([[1], [10]], [0.5])], relu_links(1)
    )
    assert convert(model).layers[1].bias[...].tolist() == [0.5]


def test_a_neuron_that_reads_only_constants_becomes_one():
    model = Chain(
        [
            linear([[1, 0]], [0, 2]),
            linear([[1, 0], [0, 3]], [0, 1]),
            linear([[1], [10]], [0]),
        ],
        relu_links(2),
    )
    # Neuron 1 of the middle layer outputs relu(3 * 2 + 1) = 7.
    converted = convert(model)
    assert kernels(converted) == [[[1]], [[1]], [[1]]]
    assert converted.layers[2].bias[...].tolist() == [70]


def unread():
    return [
        linear([[1, 4]], [0, 2]),
        linear([[1, 0], [0, 3]], [0, 1]),
        linear([[1, 0], [0, 5]], [0, 1]),
        linear([[1], [0]], [0]),
    ]


def test_a_neuron_that_nobody_reads_goes_and_those_it_alone_read():
    assert kernels(convert(Chain(unread(), relu_links(3)))) == [[[1]]] * 4


def test_links_may_come_in_any_order():
    constant = [
        linear([[1, 0]], [0, 1]),
        linear([[1, 0], [0, 1]], [0, 1]),
        linear([[1, 0], [0, 1]], [0, 1]),
        linear([[1], [1]], [0]),
    ]
    for layers in (unread(), constant):
        converted = convert(Chain(layers, relu_links(3)[::-1]))
        assert kernels(converted) == [[[1]]] * 4
    assert converted.layers[3].bias[...].tolist() == [3]


def test_beside_a_border_of_zeros_a_constant_counts_where_it_is():
    first = conv(np.zeros((1, 1, 1, 1)), [1])
    second = conv(np.ones((3, 3, 1, 1)), [0])
    converted = convert(Chain([first, second], relu_links(1)))
    assert converted(jnp.zeros((1, 3, 3, 1)))[0, :, :, 0].tolist() == [
        [4, 6, 4],
        [6, 9, 6],
        [4, 6, 4],
    ]


def test_one_channel_stands_for_all_constants_beside_a_border():
    first = conv([[[[1, 0, 0, 0]]]], [0, 2, 4, -1])
    second = conv(np.ones((3, 3, 4, 1)), [0])
    converted = convert(Chain([first, second], relu_links(1)))
    # The channels 2 and 4 are one of 4 with a weight of (2 + 4) / 4.
    assert kernels(converted)[0] == [[[[1, 0]]]]
    assert converted.layers[0].bias[...].tolist() == [0, 4]
    assert kernels(converted)[1][0][0] == [[1], [1.5]]


def test_constants_beside_a_border_may_be_negative():
    class Plain(Chain):
        def __call__(self, x):
            return self.layers[1](self.layers[0](x))

    first = conv([[[[1, 0, 0, 0]]]], [0, -2, -4, 0])
    second = conv(np.ones((3, 3, 4, 1)), [0])
    converted = convert(Plain([first, second], [Link("layers/0", ("layers/1",))]))
    assert converted.layers[0].bias[...].tolist() == [0, -4]
    assert kernels(converted)[1][0][0] == [[1], [1.5]]


def test_without_a_border_constants_go_into_the_bias():
    first = conv([[[[1, 0, 0]]]], [0, 2, 4])
    second = conv(np.ones((3, 3, 3, 1)), [0], padding="VALID")
    converted = convert(Chain([first, second], relu_links(1)))
    assert kernels(converted)[0] == [[[[1]]]]
    assert converted.layers[1].bias[...].tolist() == [9 * 6]


def test_a_flattened_image_repeats_each_channel():
    class Flat(Chain):
        def __call__(self, x):
            x = nnx.relu(self.layers[0](x))
            return self.layers[1](x.reshape(len(x), -1))

    first = conv([[[[1, 0]]]], [0, 3])
    second = linear([[1], [10], [2], [20]], [0])
    model = Flat([first, second], relu_links(1))
    converted = convert(model)
    assert kernels(converted) == [[[[[1]]]], [[1], [2]]]
    assert converted.layers[1].bias[...].tolist() == [90]


def test_each_of_several_consumers_takes_the_constant():
    class Fork(Chain):
        def __call__(self, x):
            x = nnx.relu(self.layers[0](x))
            return self.layers[1](x) + self.layers[2](x)

    layers = [
        linear([[1, 1, 0]], [0, 0, 2]),
        linear([[1], [0], [10]], [0]),
        linear([[0], [1], [20]], [1]),
    ]
    link = Link("layers/0", ("layers/1", "layers/2"), activation=nnx.relu)
    converted = convert(Fork(layers, [link]))
    assert kernels(converted) == [[[1, 1]], [[1], [0]], [[0], [1]]]
    biases = [layer.bias[...].tolist() for layer in converted.layers[1:]]
    assert biases == [[20], [41]]


def test_a_layer_without_consumers_keeps_its_width():
    model = Chain([linear([[1, 0]], [0, 2]), linear([[1], [3]], [0])], [])
    link = Link("layers/0", activation=nnx.relu)
    converted = condense_model(model, nonzero_masks(model), links=[link]).model
    assert kernels(converted) == [[[1, 0]], [[1], [3]]]


def test_a_batch_normalisation_goes_into_weights_and_bias():
    class Normalised(Chain):
        def __call__(self, x):
            return self.layers[1](self.layers[0](x))

    norm = nnx.BatchNorm(1, epsilon=0, rngs=nnx.Rngs(0))
    for name, value in {"mean": 3.0, "var": 4.0, "scale": -6.0, "bias": 7.0}.items():
        getattr(norm, name)[...] = jnp.array([value])
    model = Normalised([linear([[1], [2]], [5]), norm], [])
    masks = nonzero_masks_of_first(model)
    link = Link("layers/0", norm="layers/1")
    folded = condense_model(model, masks, links=[link]).model.layers[0]
    # Times -6 / sqrt(4); (5 - 3) * -3 + 7.
    assert folded.kernel[...].tolist() == [[-3], [-6]]
    assert folded.bias[...].tolist() == [1]


def nonzero_masks_of_first(model):
    dense = optax.MaskedNode()
    kernel = model.layers[0].kernel[...] != 0
    return {
        "layers": {
            0: {"kernel": kernel, "bias": dense},
            1: {"scale": dense, "bias": dense},
        }
    }


NETWORK = trained("convnet")
MASKS = rough_masks(NETWORK)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([Link("convs/9")], r"there is no layer 'convs/9' in the model; choose .*head"),
        ([Link("convs/0", ("nobody",))], "there is no layer 'nobody'"),
        ([Link("norms/0")], "norms/0 is a BatchNorm that cannot be linked"),
        ([Link("convs/0", norm="norms/7")], "'norms/7', is nothing"),
        ([Link("convs/0", norm="head")], "'head', is a Linear: it must be a BatchNorm"),
        (
            [Link("convs/0", norm="norms/1")],
            "norms/1 has 12 features, but convs/0 has 8 neurons",
        ),
        (
            [Link("convs/0", ("head",))],
            "head has 16 inputs, which the 12 neurons of convs/1",
        ),
        (
            [Link("convs/1", ("convs/1",))],
            "convs/1 cannot consume its own output",
        ),
        ([Link("convs/0"), Link("convs/0")], "name convs/0 twice as producer"),
        (
            [Link("convs/0", norm="norms/0"), Link("hidden", norm="norms/0")],
            "name norms/0 twice as norm",
        ),
        (
            [Link("convs/0", ("hidden",)), Link("convs/1", ("hidden",))],
            "name hidden twice as consumers",
        ),
    ],
)
def test_a_link_that_does_not_fit_is_named(links, message):
    if "12 neurons" in message:
        links = [Link("convs/1", ("head",))]
    with pytest.raises(ValueError, match=message):
        condense_model(NETWORK, MASKS, links=links)


def test_attention_cannot_be_linked():
    model = trained("vit")
    name = "blocks/0/attention/query"
    with pytest.raises(ValueError, match=f"{name} is a LinearGeneral that cannot"):
        condense_model(model, rough_masks(model), links=[Link(name)])


def test_links_that_tell_a_lie_are_found_out_by_an_example():
    links = [*NETWORK.links()[:2], Link("hidden", ("head",), "norms/2", nnx.sigmoid)]
    with pytest.raises(ValueError, match="its links do not say what it computes"):
        condense_model(NETWORK, MASKS, links=links, example_shape=(8, 8, 3))


def test_an_output_off_by_more_than_1e_4_is_found_out():
    model = Chain([linear([[1, 0]], [0, 1]), linear([[0], [1]], [0])], ())
    link = Link("layers/0", ("layers/1",), activation=lambda x: 1.0002 * nnx.relu(x))
    masks = nonzero_masks(model)
    with pytest.raises(ValueError, match=r"off by 2.0e-04 .*\(allowed: 1.0e-04\)"):
        condense_model(model, masks, links=[link], example_shape=(1,))


def test_true_links_pass_the_check_by_an_example():
    conversion = condense_model(NETWORK, MASKS, example_shape=(8, 8, 3))
    x = jnp.ones((1, 8, 8, 3))
    np.testing.assert_allclose(
        conversion.model(x), masked(NETWORK, MASKS)(x), rtol=1e-4, atol=1e-5
    )
