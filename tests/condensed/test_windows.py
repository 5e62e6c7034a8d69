import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layers import random_layer

from srigl_jax.condensed import native
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.modules import ArrangedLinear
from srigl_jax.condensed.representation import condense
from srigl_jax.condensed.windows import arrange, windows_matmul

pytestmark = pytest.mark.skipif(
    not native.available(), reason="the C++ kernels are not built"
)


def parts(w):
    """The arrays of an arrangement, views of a copy of its bits, and that copy."""
    shapes = {
        "values": (w.blocks, 4, w.lanes),
        "offsets": (w.blocks, w.lanes),
        "bases": (w.blocks, 4),
        "starts": (w.groups + 1,),
        "neurons": (w.groups, w.lanes),
    }
    packed = np.array(w.packed).view(np.int32)
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    pieces = np.split(packed, ends)
    assert pieces.pop().size == 0
    views = zip(shapes.items(), pieces, strict=True)
    return {name: piece.reshape(shape) for (name, shape), piece in views}, packed


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(
    ("fan_in", "neurons", "k", "ablated"),
    [
        (1, 1, 1, 0),
        (7, 9, 3, 2),
        (300, 40, 31, 1),
        (300, 64, 300, 0),
        (20, 6, 4, 6),
        (9, 4100, 2, 3),
    ],
    ids=str,
)
def test_equals_the_masked_product(rng, batch, fan_in, neurons, k, ablated):
    c, dense, bias = random_layer(rng, fan_in, neurons, k, ablated=ablated)
    x = rng.normal(size=(batch, fan_in)).astype(np.float32)
    y = windows_matmul(x, arrange(c))
    np.testing.assert_allclose(y, x @ dense + bias, rtol=1e-4, atol=1e-4)


def test_unequal_fan_ins_store_no_padding_of_rows(rng):
    """A row shorter than k ends in zeros at index 0, which no lane should read."""
    kernel = rng.normal(size=(64, 8)).astype(np.float32)
    mask = np.zeros((64, 8), bool)
    mask[:, 0] = True
    mask[60, 1:] = True
    w = arrange(condense(kernel, mask))
    assert 4 * w.blocks == 64
    x = rng.normal(size=(1, 64)).astype(np.float32)
    np.testing.assert_allclose(
        windows_matmul(x, w), x @ (kernel * mask), rtol=1e-4, atol=1e-4
    )


def test_neurons_with_the_same_inputs_leave_no_lane_idle(rng):
    """Alike neurons, scattered over the layer, are found and put together."""
    width = native.load()[0].srigl_width()
    kinds = rng.random((100, 4)).argsort(0) < 20
    mask = kinds[:, np.arange(16 * width) % 4]
    w = arrange(condense(np.ones(mask.shape, np.float32), mask))
    assert 4 * w.blocks * w.lanes == mask.sum()


@pytest.mark.parametrize("vectors", range(1, 10))
def test_groups_are_of_nearly_the_same_size(rng, vectors):
    """Else a group of one vector would load windows for itself."""
    width = native.load()[0].srigl_width()
    neurons = vectors * width - 1
    w = arrange(random_layer(rng, 30, neurons, 5)[0])
    assert w.lanes % width == 0
    assert neurons <= w.groups * w.lanes < neurons + 1 + w.groups * width
    outputs = parts(w)[0]["neurons"]
    assert sorted(outputs.ravel())[-neurons:] == list(range(neurons))


@pytest.mark.parametrize("number", [100, 2**16 - 1])
def test_a_bad_index_is_an_error(rng, number):
    c, _, _ = random_layer(rng, 100, 20, 9)
    indices = np.array(c.indices)
    indices[3, -1] = number
    with pytest.raises(ValueError, match=r"must lie in \[0, 100\)"):
        arrange(dataclasses.replace(c, indices=indices))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "uint8"])
def test_an_arranged_layer_gives_what_the_condensed_one_does(rng, rows, dtype):
    c, _, _ = random_layer(rng, 30, 12, 5)
    x = jnp.asarray(rng.uniform(0, 9, size=(rows, 30))).astype(dtype)
    got, want = ArrangedLinear(c)(x), condensed_matmul(x, c)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_an_arranged_layer_has_the_gradients_of_the_condensed_one(rng):
    c, _, _ = random_layer(rng, 30, 12, 5, ablated=2)
    x = rng.normal(size=(1, 30)).astype(np.float32)
    layer = ArrangedLinear(c)
    got = jax.grad(lambda x: jnp.sum(layer(x) ** 2))(x)
    want = jax.grad(lambda x: jnp.sum(condensed_matmul(x, c) ** 2))(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


WINDOWS = native.TARGETS["srigl_windows"]


def lowered(function, *shape, platform="cpu"):
    function = jax.jit(function)
    traced = function.trace(jax.ShapeDtypeStruct(shape, jnp.float32))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_an_arranged_layer_takes_windows_for_as_many_examples_as_it_is_told(rng):
    c, _, _ = random_layer(rng, 30, 12, 5)

    def uses_windows(examples, rows):
        layer = ArrangedLinear(c, examples=examples)
        return WINDOWS in lowered(lambda x: layer(x), rows, 30)

    assert [uses_windows(8, rows) for rows in (1, 8, 9)] == [True, True, False]
    assert [uses_windows(2, rows) for rows in (2, 3)] == [True, False]
    for examples in ("8", -1):
        with pytest.raises(ValueError, match=f"examples is {examples!r}"):
            ArrangedLinear(c, examples=examples)


def test_the_examples_of_a_vmap_count(rng):
    layer = ArrangedLinear(random_layer(rng, 30, 12, 5)[0])
    many = jax.vmap(lambda x: layer(x))
    assert WINDOWS in lowered(many, 2, 30)
    assert WINDOWS not in lowered(many, 64, 30)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_windows_are_for_cpus(rng, platform):
    layer = ArrangedLinear(random_layer(rng, 30, 12, 5)[0])
    assert "srigl_jax" not in lowered(lambda x: layer(x), 1, 30, platform=platform)


@pytest.mark.parametrize("shape", [(0, 30), (2, 0, 30)])
def test_an_arranged_layer_takes_an_empty_batch(rng, shape):
    layer = ArrangedLinear(random_layer(rng, 30, 12, 5)[0])
    x = jnp.zeros(shape)
    assert layer(x).shape == (*shape[:-1], 12)
    assert jax.vmap(lambda x: layer(x))(x).shape == (*shape[:-1], 12)


def test_weights_of_an_arranged_layer_are_constants(rng):
    """Those in windows would stay as they are."""
    layer = ArrangedLinear(random_layer(rng, 30, 12, 5)[0])
    definition, state = nnx.split(layer)
    x = jnp.asarray(rng.normal(size=(1, 30)), jnp.float32)

    def loss(state):
        return jnp.sum(nnx.merge(definition, state)(x) ** 2)

    gradients = jax.tree.leaves(jax.grad(loss, allow_int=True)(state))
    assert not any(np.any(g) for g in gradients if g.dtype == jnp.float32)


def test_an_arranged_layer_can_be_differentiated_twice(rng):
    layer = ArrangedLinear(random_layer(rng, 30, 12, 5)[0])

    def loss(x):
        return jnp.sum(layer(x) ** 2)

    assert np.any(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x)))(jnp.ones((1, 30))))


def test_jit_vmap_and_leading_dimensions(rng):
    c, dense, bias = random_layer(rng, 30, 12, 5)
    w = arrange(c)
    x = rng.normal(size=(2, 3, 30)).astype(np.float32)
    for f in (jax.jit(windows_matmul), jax.vmap(windows_matmul, (0, None))):
        np.testing.assert_allclose(f(x, w), x @ dense + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("field", ["bases", "starts", "neurons"])
@pytest.mark.parametrize("number", [-2, 2**31 - 1])
def test_damage_is_an_error(rng, field, number):
    w = arrange(random_layer(rng, 100, 20, 9)[0])
    arrays, packed = parts(w)
    arrays[field].flat[1] = number
    bad = dataclasses.replace(w, packed=packed.view(np.uint32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="windows is damaged"):
        windows_matmul(np.zeros((1, 100), np.float32), bad).block_until_ready()


@pytest.mark.parametrize("change", [{"blocks": -1}, {"groups": 2**40}, {"lanes": 5}])
def test_sizes_that_do_not_fit_are_an_error(rng, change):
    w = dataclasses.replace(arrange(random_layer(rng, 100, 20, 9)[0]), **change)
    with pytest.raises(jax.errors.JaxRuntimeError, match="do not fit together"):
        windows_matmul(np.zeros((1, 100), np.float32), w).block_until_ready()


def test_a_width_that_does_not_fit_is_named(rng):
    w = arrange(random_layer(rng, 30, 12, 5)[0])
    with pytest.raises(ValueError, match=r"shape \(2, 29\).*fan-in, 30"):
        windows_matmul(np.zeros((2, 29), np.float32), w)
