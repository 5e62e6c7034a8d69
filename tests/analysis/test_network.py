"""What is read off models, against counts made by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from srigl_jax import models
from srigl_jax.analysis.flops import LayerShape, inference_flops, macs
from srigl_jax.analysis.network import read_network
from srigl_jax.analysis.remaining import Feed


def network(name, image_shape=(8, 8, 3), **options):
    def create():
        return models.create(name, image_shape, 10, rngs=nnx.Rngs(0), **options)

    return read_network(nnx.eval_shape(create), image_shape)


def layers_of(found):
    return {layer.name.removesuffix("/kernel"): layer for layer in found.layers}


def test_an_mlps_layers_have_biases_and_relus_but_in_the_last():
    found = network("mlp", widths=(5, 4))
    assert found.layers == (
        LayerShape("layers/0/kernel", 192, 5, 1, True, True),
        LayerShape("layers/1/kernel", 5, 4, 1, True, True),
        LayerShape("layers/2/kernel", 4, 10, 1, True, False),
    )
    assert found.products == 0


def test_a_convolution_is_used_at_every_position_of_its_output():
    found = layers_of(network("convnet", widths=(4, 6), hidden=7))
    assert found["convs/0"] == LayerShape("convs/0/kernel", 27, 4, 16, True, True)
    assert found["convs/1"] == LayerShape("convs/1/kernel", 36, 6, 4, True, True)
    assert found["hidden"] == LayerShape("hidden/kernel", 24, 7, 1, True, True)
    assert found["head"] == LayerShape("head/kernel", 7, 10, 1, True, False)


def test_resnet18_has_its_known_multiplications():
    found = network("resnet18", (32, 32, 3))
    assert sum(map(macs, found.layers)) == 555_422_720
    assert found.products == 0


def test_a_relu_after_a_residual_sum_counts_at_all_that_feed_it():
    found = layers_of(network("resnet18", width=4))
    names = ("stem", "blocks/2/conv1", "blocks/2/conv2", "blocks/2/shortcut")
    assert all(found[name].has_relu and found[name].has_bias for name in names)
    assert not found["head"].has_relu


def test_only_what_reads_nothing_else_is_fed():
    found = network("resnet18", width=4)
    assert found.feeds == tuple(
        Feed(f"blocks/{i}/conv1/kernel", (f"blocks/{i}/conv2/kernel",))
        for i in range(8)
    )


def test_attention_has_products_beside_its_layers():
    found = network("vit", patch=4, width=12, depth=2, heads=3, mlp_ratio=2)
    query = layers_of(found)["blocks/0/attention/query"]
    assert query == LayerShape("blocks/0/attention/query/kernel", 12, 12, 4, True)
    # In each block and head, 4 tokens by 4 of head size 4, then 4 by 4 of 4 tokens.
    assert found.products == 2 * 3 * (4 * 4 * 7 + 4 * 4 * 7)


def test_gelu_is_not_counted():
    found = layers_of(network("vit", patch=4, width=12, depth=1, heads=3))
    assert not found["blocks/0/up"].has_relu


class Shared(nnx.Module):
    """A layer used twice, one never, and a product of activations in a loop."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.twice = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.never = nnx.Linear(6, 2, rngs=rngs)
        self.depthwise = nnx.Conv(
            6, 6, (3, 3), feature_group_count=6, use_bias=False, rngs=rngs
        )

    def __call__(self, x):
        x = self.depthwise(self.twice(self.twice(x))).reshape(-1, 16, 6)
        step = lambda y, _: (jnp.einsum("bij,bkj->bik", y, x) @ x, None)  # noqa: E731
        return jax.lax.scan(step, x, length=3)[0]


def test_a_layer_used_twice_counts_twice_and_an_unused_one_not_at_all():
    found = layers_of(read_network(Shared(), (4, 4, 6)))
    assert found["twice"].positions == 2 * 16
    assert inference_flops(found["never"]) == 0


def test_a_depthwise_convolution_has_the_fan_in_of_one_channel():
    found = layers_of(read_network(Shared(), (4, 4, 6)))
    assert found["depthwise"] == LayerShape("depthwise/kernel", 9, 6, 16)


def test_products_in_a_loop_count_at_every_turn():
    found = read_network(Shared(), (4, 4, 6))
    assert found.products == 3 * (16 * 16 * 11 + 16 * 6 * 31)


def test_reading_leaves_the_model_in_its_mode():
    model = models.create("mlp", (2, 2, 1), 3, rngs=nnx.Rngs(0), dropout=0.5)
    model.train()
    read_network(model, (2, 2, 1))
    assert not model.dropout.deterministic


def test_a_kernel_without_a_layer_of_its_own_is_named():
    class Bare(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.zeros((4, 3)))

        def __call__(self, x):
            return x @ self.weight[...]

    with pytest.raises(ValueError, match="weight is not the kernel of a layer"):
        read_network(Bare(), (4,))
