"""One battery for all implementations of the condensed product, against numpy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import random_layer

from srigl_jax.condensed import native, xla
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.representation import condense

needs_kernels = pytest.mark.skipif(
    not native.available(), reason="the C++ kernels are not built"
)
IMPLEMENTATIONS = ["xla", pytest.param("native", marks=needs_kernels), "auto"]
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def assert_close(got, want, rtol=1e-5):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol, atol=1e-4)


@each
@pytest.mark.parametrize("batch", [0, 1, 2, 5, 16, 33, 70])
@pytest.mark.parametrize(
    ("fan_in", "neurons", "k", "ablated"),
    [
        (1, 1, 1, 0),
        (7, 9, 3, 2),
        (64, 40, 64, 0),
        (300, 19, 31, 1),
        (300, 64, 17, 40),
        (50, 150, 6, 50),
        (20, 6, 4, 6),
    ],
    ids=lambda value: str(value),
)
def test_equals_the_masked_product(
    rng, implementation, batch, fan_in, neurons, k, ablated
):
    c, dense, bias = random_layer(rng, fan_in, neurons, k, ablated=ablated)
    x = rng.normal(size=(batch, fan_in)).astype(np.float32)
    assert_close(condensed_matmul(x, c, implementation), x @ dense + bias)


@each
@pytest.mark.parametrize("batch", [1, 20])
def test_without_bias_an_ablated_neuron_outputs_0(rng, implementation, batch):
    c, dense, _ = random_layer(rng, 30, 12, 5, ablated=3, bias=False)
    x = rng.normal(size=(batch, 30)).astype(np.float32)
    y = condensed_matmul(x, c, implementation)
    assert_close(y, x @ dense)
    assert ((np.asarray(y) == 0).all(0) == ~dense.any(0)).all()


@each
@pytest.mark.parametrize("batch", [1, 20])
def test_unequal_fan_ins(rng, implementation, batch):
    kernel = rng.normal(size=(50, 21)).astype(np.float32)
    mask = rng.random((50, 21)) < 0.2
    x = rng.normal(size=(batch, 50)).astype(np.float32)
    assert_close(
        condensed_matmul(x, condense(kernel, mask), implementation), x @ (kernel * mask)
    )


@each
@pytest.mark.parametrize("batch", [1, 20])
def test_32_bit_indices(rng, implementation, batch):
    fan_in = 2**16 + 10
    mask = np.zeros((fan_in, 9), bool)
    mask[rng.integers(0, fan_in, (40, 9)), np.arange(9)] = True
    mask[-1] = True
    kernel = np.zeros((fan_in, 9), np.float32)
    kernel[mask] = rng.normal(size=mask.sum())
    x = rng.normal(size=(batch, fan_in)).astype(np.float32)
    c = condense(kernel, mask)
    assert c.indices.dtype == np.int32
    assert_close(condensed_matmul(x, c, implementation), x @ kernel.astype(np.float64))


@each
def test_any_leading_dimensions(rng, implementation):
    c, dense, bias = random_layer(rng, 12, 8, 3)
    x = rng.normal(size=(2, 3, 4, 12)).astype(np.float32)
    assert_close(condensed_matmul(x, c, implementation), x @ dense + bias)
    assert_close(
        condensed_matmul(x[0, 0, 0], c, implementation), x[0, 0, 0] @ dense + bias
    )


@each
@pytest.mark.parametrize(
    ("x_type", "value_type"), [("bfloat16", "bfloat16"), ("bfloat16", "float32")]
)
def test_bfloat16_is_summed_in_float32(rng, implementation, x_type, value_type):
    kernel = jnp.asarray(rng.normal(size=(256, 16)), value_type)
    mask = np.ones((256, 16), bool)
    x = jnp.asarray(rng.normal(size=(20, 256)), x_type)
    y = condensed_matmul(x, condense(kernel, mask), implementation)
    assert y.dtype == jnp.promote_types(x_type, value_type)
    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    error = 2**-7 if y.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=error, atol=1e-3)


@each
def test_jit_with_the_layer_as_argument_or_constant(rng, implementation):
    c, dense, bias = random_layer(rng, 40, 24, 6, ablated=2)
    x = rng.normal(size=(9, 40)).astype(np.float32)
    f = partial(condensed_matmul, implementation=implementation)
    assert_close(jax.jit(f)(x, c), x @ dense + bias)
    assert_close(jax.jit(lambda x: f(x, c))(x), x @ dense + bias)


@each
def test_vmap_over_inputs(rng, implementation):
    c, dense, bias = random_layer(rng, 40, 24, 6)
    x = rng.normal(size=(5, 3, 40)).astype(np.float32)
    f = jax.vmap(lambda x: condensed_matmul(x, c, implementation), 1, 1)
    assert_close(f(x), x @ dense + bias)


@each
def test_vmap_over_layers(rng, implementation):
    layers = [random_layer(rng, 40, 24, 6) for _ in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *(c for c, _, _ in layers))
    x = rng.normal(size=(3, 7, 40)).astype(np.float32)
    f = jax.vmap(lambda x, c: condensed_matmul(x, c, implementation))
    for y, xi, (_, dense, bias) in zip(f(x, stacked), x, layers, strict=True):
        assert_close(y, xi @ dense + bias)


@each
@pytest.mark.parametrize("batch", [1, 6])
def test_gradients_are_those_of_the_masked_product(rng, implementation, batch):
    c, dense, _ = random_layer(rng, 30, 12, 5, ablated=3)
    x = rng.normal(size=(batch, 30)).astype(np.float32)
    dy = rng.normal(size=(batch, 12))

    def loss(x, c):
        return jnp.sum(condensed_matmul(x, c, implementation) * dy.astype(np.float32))

    dx, dc = jax.grad(loss, (0, 1), allow_int=True)(x, c)
    assert_close(dx, dy @ dense.T)
    rows, inputs = np.asarray(c.active)[:, None], np.asarray(c.indices)
    assert_close(dc.values, (x.T @ dy)[inputs, rows])
    assert_close(dc.bias, dy.sum(0))


@each
def test_a_width_that_does_not_fit_is_named(rng, implementation):
    c, _, _ = random_layer(rng, 30, 12, 5)
    with pytest.raises(ValueError, match=r"shape \(2, 29\).*fan-in, 30"):
        condensed_matmul(np.zeros((2, 29), np.float32), c, implementation)


def test_an_unknown_implementation_is_named(rng):
    c, _, _ = random_layer(rng, 30, 12, 5)
    with pytest.raises(ValueError, match="'cuda': choose one of"):
        condensed_matmul(np.zeros((2, 30), np.float32), c, "cuda")


def temporary_bytes(f, *arguments):
    return jax.jit(f).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("batch", [1, 256])
def test_xla_form_keeps_its_temporaries_within_a_few_chunks(rng, batch):
    c, _, _ = random_layer(rng, 3072, 768, 307)
    x = np.zeros((batch, 3072), np.float32)
    f = partial(condensed_matmul, implementation="xla")
    # [batch, neurons, k] would take 241 MB at batch 256.
    sides = 4 * batch * (3072 + 768)
    assert temporary_bytes(f, x, c) < 3 * xla.CHUNK_BYTES + 2 * sides


def test_gradients_keep_their_temporaries_within_a_few_chunks(rng):
    c, _, _ = random_layer(rng, 3072, 768, 307)
    x = np.zeros((256, 3072), np.float32)

    def gradients(x, c):
        def loss(x, values):
            y = condensed_matmul(x, dataclasses.replace(c, values=values), "xla")
            return jnp.sum(y**2)

        return jax.grad(loss, (0, 1))(x, c.values)

    sides = 4 * 256 * (3072 + 768)
    assert temporary_bytes(gradients, x, c) < 4 * xla.CHUNK_BYTES + 6 * sides


def test_a_symbolic_batch_can_be_exported(rng):
    c, dense, bias = random_layer(rng, 12, 8, 3)
    (batch,) = jax.export.symbolic_shape("batch")
    f = jax.jit(lambda x: condensed_matmul(x, c, "xla"))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((batch, 12), jnp.float32))
    for size in (1, 6):
        x = rng.normal(size=(size, 12)).astype(np.float32)
        assert_close(exported.call(x), x @ dense + bias)


@pytest.mark.parametrize("batch", [1, 256])
def test_of_an_exported_program_only_the_formulation_for_its_batch_is_compiled(
    rng, batch
):
    c, _, _ = random_layer(rng, 3072, 768, 307)
    (any_batch,) = jax.export.symbolic_shape("batch")
    f = jax.jit(lambda x: condensed_matmul(x, c, "xla"))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((any_batch, 3072), "float32"))
    x = np.zeros((batch, 3072), np.float32)
    known = temporary_bytes(f, x)
    assert temporary_bytes(exported.call, x) < known + xla.CHUNK_BYTES // 8


@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_a_layer_without_inputs_gives_its_bias(implementation):
    c = condense(np.zeros((0, 3), np.float32), np.zeros((0, 3)), np.arange(3.0))
    y = condensed_matmul(jnp.zeros((2, 4, 0)), c, implementation)
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(3.0), (2, 4, 3)))


@pytest.mark.parametrize("batch", [2, 64])
def test_constant_weights_are_not_made_dense_by_the_compiler(rng, batch):
    """A small model would become a large one, after seconds of compilation."""
    c, _, _ = random_layer(rng, 300, 200, 3)
    x = jnp.zeros((batch, 300))
    compiled = jax.jit(lambda x: condensed_matmul(x, c, "xla")).lower(x).compile()
    assert "f32[200,300]{1,0} constant(" not in compiled.as_text()
    assert "f32[300,200]{1,0} constant(" not in compiled.as_text()


@each
@pytest.mark.parametrize(
    ("batch", "fan_in", "neurons", "k", "ablated"),
    [(3, 8, 5, 2, 5), (0, 8, 5, 2, 0), (3, 8, 0, 2, 0), (2, 0, 5, 0, 0)],
    ids=["no active neuron", "no example", "no neuron", "no input"],
)
def test_gradients_of_empty_layers(
    rng, implementation, batch, fan_in, neurons, k, ablated
):
    c, dense, _ = random_layer(rng, fan_in, neurons, k, ablated=ablated)
    x = jnp.asarray(rng.normal(size=(batch, fan_in)), jnp.float32)

    def loss(x, c):
        return jnp.sum(condensed_matmul(x, c, implementation))

    dx, dc = jax.grad(loss, (0, 1), allow_int=True)(x, c)
    assert_close(dx, np.ones((batch, neurons)) @ dense.T)
    assert dc.values.shape == c.values.shape
    again = jax.vmap(lambda x: condensed_matmul(x, c, implementation))(x[None])
    assert again.shape == (1, batch, neurons)
