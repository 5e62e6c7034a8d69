"""The GPU and TPU kernels: interpreted, and lowered without a device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from srigl_jax.condensed import pallas
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.representation import condense

KERNELS = {
    "gpu": partial(pallas.gpu_product, interpret=True),
    "tpu": partial(pallas.tpu_product, interpret=True),
}
both_kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def random_layer(batch, fan_in, active, k, dtype=jnp.float32, index_dtype=np.uint16):
    rng = np.random.default_rng(0)
    x, values = rng.standard_normal((batch, fan_in)), rng.standard_normal((active, k))
    inputs = [np.sort(rng.permutation(fan_in)[:k]) for _ in range(active)]
    indices = np.array(inputs, index_dtype).reshape(active, k)
    return jnp.asarray(x, dtype), jnp.asarray(values, dtype), jnp.asarray(indices)


def dense_product(x, values, indices):
    x, values = np.asarray(x, np.float64), np.asarray(values, np.float64)
    dense = np.zeros((x.shape[1], len(values)))
    for neuron, inputs in enumerate(np.asarray(indices)):
        dense[inputs, neuron] = values[neuron]
    return x @ dense


@both_kernels
@pytest.mark.parametrize(
    ("batch", "fan_in", "active", "k"),
    [
        (1, 20, 1, 1),
        (3, 20, 17, 20),  # every input
        (33, 300, 130, 7),  # two blocks of neurons
        (2, 5000, 3, 600),  # two blocks of inputs and of weights, five on a GPU
    ],
)
def test_equals_the_dense_product(kernel, batch, fan_in, active, k):
    arrays = random_layer(batch, fan_in, active, k)
    np.testing.assert_allclose(
        kernel(*arrays), dense_product(*arrays), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("name", "batch"), [("gpu", 256), ("gpu", 257), ("tpu", 33)])
def test_many_blocks_of_examples_equal_the_dense_product(name, batch, monkeypatch):
    monkeypatch.setattr(pallas, "TPU_EXAMPLES", 16)  # Interpreting 256 takes long.
    arrays = random_layer(batch, 40, 17, 5)
    np.testing.assert_allclose(
        KERNELS[name](*arrays), dense_product(*arrays), rtol=1e-5, atol=1e-5
    )


@both_kernels
def test_bfloat16_is_summed_in_float32(kernel):
    arrays = random_layer(5, 40, 3, 30, jnp.bfloat16, np.int32)
    np.testing.assert_allclose(
        kernel(*arrays), dense_product(*arrays), rtol=1e-5, atol=1e-5
    )


@both_kernels
def test_padding_adds_nothing(kernel):
    x = jnp.array([[5.0, 6, 7, 8]])
    values, indices = jnp.array([[2.0, 3], [4, 0]]), jnp.array([[0, 3], [1, 0]])
    np.testing.assert_array_equal(kernel(x, values, indices), [[34, 24]])


@both_kernels
def test_vmap_over_x_equals_the_dense_product(kernel):
    x, values, indices = random_layer(6, 20, 5, 4)
    y = jax.vmap(kernel, (0, None, None))(x.reshape(2, 3, 20), values, indices)
    np.testing.assert_allclose(
        y.reshape(6, 5), dense_product(x, values, indices), rtol=1e-5, atol=1e-5
    )


def test_16_bit_indices_are_unsigned():
    x = jnp.arange(2.0**16)[None]
    values, indices = jnp.ones((1, 2)), jnp.array([[1, 2**16 - 1]], jnp.uint16)
    assert pallas.product(x, values, indices, 2**16) == 2**16


@pytest.mark.parametrize("shape", [(0, 4, 3, 2), (2, 4, 0, 2), (2, 4, 3, 0)])
def test_empty_sums_are_zero(shape):
    batch, fan_in, active, _ = shape
    y = pallas.product(*random_layer(*shape), fan_in)
    np.testing.assert_array_equal(y, np.zeros((batch, active)))


def test_result_has_the_promoted_type():
    x, values, indices = random_layer(2, 4, 3, 2)
    product = partial(pallas.product, fan_in=4)
    y = jax.eval_shape(product, x.astype(jnp.bfloat16), values, indices)
    assert y.dtype == jnp.float32


def test_output_and_gradients_equal_those_of_xla():
    rng = np.random.default_rng(1)
    mask = rng.random((12, 7)) < 0.4
    mask[:, 2] = False
    c = condense(rng.standard_normal((12, 7)).astype(np.float32), mask, np.ones(7))
    x = jnp.asarray(rng.standard_normal((2, 3, 12)), jnp.float32)

    def loss(x, values, bias, implementation):
        layer = type(c)(values, c.indices, c.active, bias, c.layout)
        return jnp.sum(condensed_matmul(x, layer, implementation) ** 2)

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)
    ours, xla = (gradients(x, c.values, c.bias, name) for name in ("pallas", "xla"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(xla), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("platform", "target"),
    [
        ("cuda", "__gpu$xla.gpu.triton"),
        ("rocm", "__gpu$xla.gpu.triton"),
        ("tpu", "tpu_custom_call"),
    ],
)
def test_lowers_to_a_kernel(platform, target, dtype):
    exported = export.export(
        jax.jit(partial(pallas.product, fan_in=300)),
        platforms=[platform],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(target)],
    )(*random_layer(33, 300, 130, 7, dtype))
    assert f"custom_call @{target}" in exported.mlir_module()


def test_vmap_lowers_for_a_gpu():
    x, values, indices = random_layer(6, 20, 5, 4)
    product = jax.vmap(partial(pallas.product, fan_in=20), (0, None, None))
    target = "__gpu$xla.gpu.triton"
    exported = export.export(
        jax.jit(product),
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(target)],
    )(x.reshape(2, 3, 20), values, indices)
    assert f"custom_call @{target}" in exported.mlir_module()
