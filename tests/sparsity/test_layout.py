"""Every library's kernels are found, and their axes told apart, by path and shape."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from srigl_jax.sparsity.layout import Layout, infer_layout, is_kernel, leaf_name


def layouts(params, **options):
    """The layout of every kernel by name."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        leaf_name(path): infer_layout(path, leaf.shape, **options)
        for path, leaf in leaves
        if is_kernel(path, leaf)
    }


def nnx_params(make):
    return jax.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)), nnx.Param))


def linen_params(module, *inputs):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(module.init, key, *inputs)["params"]


def attention(**options):
    return lambda rngs: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs, **options)


# Shape, fan-in and neurons of the kernel, as its library documents them.
ONE_KERNEL = {
    "nnx Linear": (
        nnx_params(lambda rngs: nnx.Linear(3, 5, rngs=rngs)),
        ((3, 5), 3, 5),
    ),
    "nnx Conv": (
        nnx_params(lambda rngs: nnx.Conv(4, 8, (3, 2), rngs=rngs)),
        ((3, 2, 4, 8), 24, 8),
    ),
    "nnx depthwise Conv": (
        nnx_params(
            lambda rngs: nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        ),
        ((3, 3, 1, 8), 9, 8),
    ),
    "nnx grouped Conv": (
        nnx_params(
            lambda rngs: nnx.Conv(8, 12, (3, 3), feature_group_count=2, rngs=rngs)
        ),
        ((3, 3, 4, 12), 36, 12),
    ),
    "linen Dense": (linen_params(nn.Dense(5), (1, 3)), ((3, 5), 3, 5)),
    "linen Conv": (
        linen_params(nn.Conv(8, (3, 2)), (1, 9, 9, 4)),
        ((3, 2, 4, 8), 24, 8),
    ),
    "equinox Linear": (
        eqx.filter_eval_shape(eqx.nn.Linear, 3, 5, key=jax.random.key(0)),
        ((5, 3), 3, 5),
    ),
    "equinox Conv": (
        eqx.filter_eval_shape(eqx.nn.Conv2d, 4, 8, (3, 2), key=jax.random.key(0)),
        ((8, 4, 3, 2), 24, 8),
    ),
    "an array in a dict": ({"weights": jnp.zeros((3, 5))}, ((3, 5), 3, 5)),
    "an array in a list": ([jnp.zeros((3, 5))], ((3, 5), 3, 5)),
    "a bare array": (jnp.zeros((3, 5)), ((3, 5), 3, 5)),
}


@pytest.mark.parametrize(("params", "expected"), ONE_KERNEL.values(), ids=ONE_KERNEL)
def test_the_one_kernel_of_a_layer(params, expected):
    (layout,) = layouts(params).values()
    assert (layout.shape, layout.fan_in, layout.neurons) == expected
    assert layout.size == layout.fan_in * layout.neurons


@pytest.mark.parametrize(
    "params",
    [
        nnx_params(attention()),
        linen_params(nn.MultiHeadDotProductAttention(2, qkv_features=6), (1, 4, 6)),
    ],
    ids=["nnx", "linen"],
)
def test_attention_reads_heads_as_neurons_and_writes_them_as_fan_in(params):
    found = layouts(params)
    assert sorted(found) == [f"{n}/kernel" for n in ("key", "out", "query", "value")]
    for name in ("query", "key", "value"):
        layout = found[f"{name}/kernel"]
        assert (layout.shape, layout.neuron_axes) == ((6, 2, 3), (1, 2))
        assert (layout.fan_in, layout.neurons) == (6, 6)
    out = found["out/kernel"]
    assert (out.shape, out.neuron_axes, out.fan_in) == ((2, 3, 6), (2,), 6)


@pytest.mark.parametrize(
    ("name", "shape", "fan_in", "neurons"),
    [
        ("qkv", (64, 3, 4, 16), 64, 192),
        ("qkv_proj", (64, 12, 16), 64, 192),
        ("query", (64, 2, 4, 16), 64, 128),
        # Convolutions of these names, as some image models have them.
        ("qkv", (1, 1, 64, 192), 64, 192),
        ("query", (3, 3, 8, 16), 72, 16),
    ],
)
def test_the_first_axis_of_an_attention_input_is_the_fan_in(
    name, shape, fan_in, neurons
):
    (layout,) = layouts({name: {"kernel": jnp.zeros(shape)}}).values()
    assert (layout.fan_in, layout.neurons) == (fan_in, neurons)


def test_neuron_axes_tell_a_stack_of_layers_from_an_attention():
    params = {"mlp": {"kernel": jnp.zeros((12, 64, 48))}}
    params |= {"query": {"kernel": jnp.zeros((12, 64, 4, 16))}}
    axes = {"mlp": (0, 2), "query": (0, 2, 3)}
    found = layouts(params, neuron_axes=axes)
    assert (found["mlp/kernel"].fan_in, found["mlp/kernel"].neurons) == (64, 12 * 48)
    assert (found["query/kernel"].fan_in, found["query/kernel"].neurons) == (64, 768)


def test_a_one_dimensional_convolution_is_not_mistaken_for_attention():
    params = nnx_params(lambda rngs: nnx.Conv(4, 8, (3,), rngs=rngs))
    assert layouts(params)["kernel"].neuron_axes == (2,)


def test_norms_biases_and_scales_are_not_kernels():
    class Norms(nnx.Module):
        def __init__(self, rngs):
            self.batch = nnx.BatchNorm(4, rngs=rngs)
            self.layer = nnx.LayerNorm(4, rngs=rngs)
            self.group = nnx.GroupNorm(4, num_groups=2, rngs=rngs)

    assert layouts(nnx_params(Norms)) == {}


@pytest.mark.parametrize(
    "name",
    [
        "bias",
        "scale",
        "in_proj_bias",
        "cls",
        "cls_token",
        "pos_embedding",
        "pos_embed",
        "position_embeddings",
        "embedding",
        "tokens",
    ],
)
def test_matrices_with_the_name_of_something_else_are_not_kernels(name):
    assert layouts({"block": {name: jnp.zeros((4, 6))}}) == {}
    assert layouts({name: {"value": jnp.zeros((4, 6))}}) == {}


@pytest.mark.parametrize(
    "params",
    [
        nnx_params(lambda rngs: nnx.Embed(10, 4, rngs=rngs)),
        {"Embed_0": {"embedding": jnp.zeros((10, 4))}},
        eqx.filter_eval_shape(eqx.nn.Embedding, 10, 4, key=jax.random.key(0)),
    ],
    ids=["nnx", "linen", "equinox"],
)
def test_embeddings_are_not_kernels(params):
    assert layouts({"embed": params}) == {}


@pytest.mark.parametrize(
    "name", ["norm", "norm1", "layer_norm", "attn_norm_2", "ln_f", "bn1", "LayerNorm_0"]
)
def test_the_weight_of_a_norm_is_no_kernel_whatever_its_shape(name):
    norm = eqx.filter_eval_shape(eqx.nn.LayerNorm, (8, 8))
    assert layouts({name: norm}) == layouts({name: [norm]}) == {}


@pytest.mark.parametrize("name", ["embed", "embedding1", "token_embed", "embed_tokens"])
def test_the_table_of_an_embedding_is_no_kernel(name):
    table = eqx.filter_eval_shape(eqx.nn.Embedding, 10, 4, key=jax.random.key(0))
    assert layouts({name: table}) == {}


@pytest.mark.parametrize(
    "name",
    ["fc_mean", "var_head", "patch_embed", "scale", "pos_net", "normal", "embed_out"],
)
def test_a_linear_layer_is_a_kernel_whatever_it_is_called(name):
    linear = eqx.filter_eval_shape(eqx.nn.Linear, 3, 5, key=jax.random.key(0))
    assert list(layouts({name: linear})) == [f"{name}/weight"]


@pytest.mark.parametrize("name", ["scaled", "embedder", "posterior", "metacls"])
def test_names_that_only_look_like_something_else_are_kernels(name):
    assert list(layouts({name: jnp.zeros((4, 6))})) == [name]


def test_a_kernel_is_one_wherever_it_lies():
    params = {"patch_embedding": {"kernel": jnp.zeros((4, 4, 3, 8))}}
    assert list(layouts(params)) == ["patch_embedding/kernel"]


@pytest.mark.parametrize("leaf", [jnp.zeros(6), jnp.zeros((2, 3), int), jnp.zeros(())])
def test_vectors_scalars_and_integers_are_not_kernels(leaf):
    assert layouts({"kernel": leaf}) == {}


def test_an_nnx_variable_adds_nothing_to_a_name():
    params = nnx_params(lambda rngs: nnx.Linear(3, 5, rngs=rngs))
    assert list(layouts({"a": params})) == ["a/kernel"]
    assert list(layouts({"a": nnx.to_pure_dict(params)})) == ["a/kernel"]


def test_neuron_axes_decide_over_every_convention():
    params = {"a": {"kernel": jnp.zeros((2, 3, 4))}, "b": jnp.zeros((2, 3))}
    found = layouts(params, neuron_axes={"^a/": (0, -1), "a": (1,)})
    assert found["a/kernel"].neuron_axes == (0, 2)
    assert found["b"].neuron_axes == (1,)


@pytest.mark.parametrize("axes", [(3,), (-4,), (0, 0), (0, -3), (0, 1, 2), ()])
def test_neuron_axes_that_a_kernel_does_not_have_are_refused(axes):
    with pytest.raises(ValueError, match=r"neuron_axes gives .* for a of shape"):
        layouts({"a": jnp.zeros((2, 3, 4))}, neuron_axes={"a": axes})


def test_the_matrix_of_a_convolution_worked_by_hand():
    kernel = jnp.arange(8).reshape(2, 1, 2, 2)
    matrix = Layout((2, 1, 2, 2), (3,)).to_matrix(kernel)
    assert matrix.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_matrix_of_a_kernel_with_neurons_first_worked_by_hand():
    kernel = jnp.arange(6).reshape(2, 3)
    assert Layout((2, 3), (0,)).to_matrix(kernel).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_matrix_with_neurons_around_the_inputs_worked_by_hand():
    kernel = jnp.arange(8).reshape(2, 2, 2)
    matrix = Layout((2, 2, 2), (0, 2)).to_matrix(kernel)
    assert matrix.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@given(st.data())
def test_from_matrix_undoes_to_matrix(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    axes = st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1)
    layout = Layout(shape, tuple(sorted(data.draw(axes))))
    kernel = np.arange(layout.size).reshape(shape)
    matrix = layout.to_matrix(kernel)
    assert matrix.shape == (layout.fan_in, layout.neurons)
    np.testing.assert_array_equal(layout.from_matrix(matrix), kernel)
