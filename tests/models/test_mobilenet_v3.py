"""MobileNetV3."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sparse_networks import scrambled

from srigl_jax.models.mobilenet_v3 import InvertedResidual, Row, _scaled

ROW = Row(3, 8, 4, True, "hard_swish", 1)


def block(channels, **changes):
    return scrambled(
        InvertedResidual(channels, ROW._replace(**changes), rngs=nnx.Rngs(0))
    )


def random_images(channels):
    values = np.random.default_rng(0).normal(size=(2, 4, 4, channels))
    return jnp.asarray(values, jnp.float32)


# By hand: the nearest multiple of 8 is at least 90 %, or else the one above.
@pytest.mark.parametrize(
    ("channels", "multiplier", "width"),
    [(16, 1.0, 16), (72, 0.25, 24), (16, 0.1, 8), (1280, 0.5, 640), (76, 0.25, 24)],
)
def test_widths_are_multiples_of_8(channels, multiplier, width):
    assert _scaled(channels, multiplier) == width


@pytest.mark.parametrize(
    ("channels", "changes", "adds"),
    [(4, {}, True), (6, {}, False), (4, {"strides": 2}, False)],
)
def test_the_input_is_added_where_the_shape_stays(channels, changes, adds):
    residual = block(channels, **changes)
    residual.project.kernel[...] = jnp.zeros_like(residual.project.kernel[...])
    x = random_images(channels)
    constant = residual.project_norm(jnp.zeros((1, 4)))[0]
    expected = x + constant if adds else jnp.broadcast_to(constant, residual(x).shape)
    np.testing.assert_allclose(residual(x), expected, rtol=1e-6)


def test_without_more_channels_inside_nothing_is_expanded():
    assert not hasattr(block(8), "expand")
    assert hasattr(block(4), "expand")


# A hard sigmoid is 0 up to -3 and 1 from 3.
@pytest.mark.parametrize(("bias", "share"), [(-100.0, 0.0), (100.0, 1.0)])
def test_the_excitation_weighs_the_channels(bias, share):
    excited = block(6)
    plain = nnx.clone(excited)
    plain.excites = False
    excited.excite.kernel[...] = jnp.zeros_like(excited.excite.kernel[...])
    excited.excite.bias[...] = jnp.full(8, bias)
    x = random_images(6)
    constant = excited.project_norm(jnp.zeros((1, 4)))
    expected = constant + share * (plain(x) - constant)
    np.testing.assert_allclose(excited(x), expected, rtol=1e-4, atol=1e-5)
