import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import random_mask

from srigl_jax.condensed import native
from srigl_jax.condensed.convolution import condensed_conv
from srigl_jax.condensed.representation import condense

needs_kernels = pytest.mark.skipif(
    not native.available(), reason="the C++ kernels are not built"
)
IMPLEMENTATIONS = ["xla", pytest.param("native", marks=needs_kernels), "auto"]
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def random_kernel(rng, shape, density=0.3, ablated=2):
    kernel = rng.normal(size=shape).astype(np.float32)
    mask = rng.random(shape) < density
    mask[..., rng.permutation(shape[-1])[:ablated]] = False
    return kernel, mask, rng.normal(size=shape[-1]).astype(np.float32)


def convolve(x, kernel, strides, padding, groups):
    """The definition, position by position."""
    (top, bottom), (left, right) = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    kh, kw, channels, neurons = kernel.shape
    height = (x.shape[1] - kh) // strides[0] + 1
    width = (x.shape[2] - kw) // strides[1] + 1
    y = np.zeros((len(x), height, width, neurons))
    share = neurons // groups
    for n in range(neurons):
        first = n // share * channels
        for h in range(height):
            for w in range(width):
                i, j = h * strides[0], w * strides[1]
                window = x[:, i : i + kh, j : j + kw, first : first + channels]
                y[:, h, w, n] = (window * kernel[..., n]).sum((1, 2, 3))
    return y


@each
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))], ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "channels", "neurons", "groups"),
    [
        ((7, 6), (3, 3), 8, 16, 1),
        ((5, 5), (1, 1), 20, 9, 1),
        ((4, 4), (3, 2), 4, 12, 2),
        ((6, 5), (3, 3), 1, 19, 19),
        ((6, 5), (3, 3), 1, 8, 4),
    ],
    ids=str,
)
def test_equals_the_definition(
    rng,
    implementation,
    batch,
    strides,
    padding,
    size,
    kernel,
    channels,
    neurons,
    groups,
):
    weights, mask, bias = random_kernel(rng, (*kernel, channels, neurons))
    x = rng.normal(size=(batch, *size, channels * groups)).astype(np.float32)
    y = condensed_conv(
        x,
        condense(weights, mask, bias),
        strides=strides,
        padding=padding,
        feature_group_count=groups,
        implementation=implementation,
    )
    want = convolve(x, weights * mask, strides, padding, groups) + bias
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@each
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_named_padding_is_that_of_lax(rng, implementation, padding, stride):
    weights, mask, _ = random_kernel(rng, (3, 3, 4, 8))
    x = rng.normal(size=(2, 7, 8, 4)).astype(np.float32)
    y = condensed_conv(
        x,
        condense(weights, mask),
        strides=stride,
        padding=padding,
        implementation=implementation,
    )
    want = jax.lax.conv_general_dilated(
        x,
        weights * mask,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@each
def test_a_kernel_larger_than_the_image_gives_an_empty_output(rng, implementation):
    weights, mask, _ = random_kernel(rng, (3, 3, 4, 8))
    x = np.zeros((2, 2, 5, 4), np.float32)
    y = condensed_conv(
        x, condense(weights, mask), padding="VALID", implementation=implementation
    )
    assert y.shape == (2, 0, 3, 8)


@each
def test_gradients_equal_those_of_the_dense_kernel(rng, implementation):
    weights, _, bias = random_kernel(rng, (3, 3, 4, 8))
    mask = random_mask(rng, 36, 8, 7, ablated=2).reshape(weights.shape)
    c = condense(weights, mask, bias)
    x = rng.normal(size=(2, 5, 5, 4)).astype(np.float32)
    dy = rng.normal(size=(2, 5, 5, 8)).astype(np.float32)

    def loss(x, c):
        y = condensed_conv(x, c, implementation=implementation)
        return jnp.sum(y * dy)

    def dense_loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(y * dy)

    dx, dc = jax.grad(loss, (0, 1), allow_int=True)(x, c)
    want_dx, want_kernel = jax.grad(dense_loss, (0, 1))(x, weights * mask)
    np.testing.assert_allclose(dx, want_dx, rtol=1e-4, atol=1e-4)
    want_values = condense(want_kernel, mask).values
    np.testing.assert_allclose(dc.values, want_values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dc.bias, dy.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)


@each
def test_vmap(rng, implementation):
    weights, mask, _ = random_kernel(rng, (3, 3, 4, 8))
    c = condense(weights, mask)
    x = rng.normal(size=(3, 2, 5, 5, 4)).astype(np.float32)
    f = jax.vmap(lambda x: condensed_conv(x, c, implementation=implementation))
    one_by_one = np.stack([condensed_conv(xi, c, implementation="xla") for xi in x])
    np.testing.assert_allclose(f(x), one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_group_count": 2}, r"must be \[batch, height, width, 8\], 2 group"),
        ({"strides": 0}, "strides are"),
        ({"strides": (1, 1, 1)}, "strides are"),
        ({"padding": ((0, -1), (0, 0))}, "padding is"),
        ({"implementation": "cudnn"}, "choose one of"),
    ],
)
def test_what_does_not_fit_is_named(rng, options, message):
    weights, mask, _ = random_kernel(rng, (3, 3, 4, 8))
    x = np.zeros((1, 5, 5, 4), np.float32)
    with pytest.raises(ValueError, match=message):
        condensed_conv(x, condense(weights, mask), **options)


def test_groups_must_divide_the_neurons(rng):
    weights, mask, _ = random_kernel(rng, (3, 3, 2, 9))
    x = np.zeros((1, 5, 5, 4), np.float32)
    with pytest.raises(ValueError, match="must divide the 9 neurons"):
        condensed_conv(x, condense(weights, mask), feature_group_count=2)


def test_a_dense_layers_kernel_is_refused(rng):
    weights, mask, _ = random_kernel(rng, (4, 8))
    with pytest.raises(ValueError, match="a convolution's kernel is"):
        condensed_conv(np.zeros((1, 5, 5, 4), np.float32), condense(weights, mask))
