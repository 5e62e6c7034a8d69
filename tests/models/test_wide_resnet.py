"""Wide residual networks."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srigl_jax import models
from srigl_jax.models.wide_resnet import WideBlock


def block(channels, features, strides=1):
    block = WideBlock(channels, features, strides, 0.0, rngs=nnx.Rngs(0))
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    block.norm1.bias[...] = jnp.arange(channels) - 1.0
    block.eval()
    return block


def random_images(channels):
    values = np.random.default_rng(0).normal(size=(1, 4, 4, channels))
    return jnp.asarray(values, jnp.float32)


def test_a_block_that_keeps_its_shape_adds_its_bare_input():
    x = random_images(2)
    np.testing.assert_array_equal(block(2, 2)(x), x)


def test_a_block_that_changes_its_shape_projects_the_normalised_input():
    x = random_images(2)
    wide = block(2, 6, strides=2)
    expected = wide.shortcut(nnx.relu(wide.norm1(x)))
    assert expected.shape == (1, 2, 2, 6)
    np.testing.assert_array_equal(wide(x), expected)


def test_dropout_drops_what_the_second_convolution_reads_in_training_alone():
    wide = WideBlock(2, 4, 1, 1.0, rngs=nnx.Rngs(0))
    x = random_images(2)
    expected = wide.shortcut(nnx.relu(wide.norm1(x)))
    dropped = wide(x, rngs=nnx.Rngs(dropout=0))
    np.testing.assert_allclose(dropped, expected, rtol=1e-5, atol=1e-6)
    wide.eval()
    expected = wide.shortcut(nnx.relu(wide.norm1(x)))
    assert not np.allclose(wide(x), expected)


def test_only_the_first_block_of_a_stage_projects():
    model = models.WideResNet((8, 8, 3), 10, depth=16, width=2, rngs=nnx.Rngs(0))
    assert [b.projects for b in model.blocks] == 3 * [True, False]


# Where the first block adds its bare input, the stem feeds a sum.
@pytest.mark.parametrize(("widening", "producers"), [(1, 3), (2, 4)])
def test_the_stem_is_linked_only_where_nothing_adds_it(widening, producers):
    model = models.WideResNet(
        (8, 8, 3), 10, depth=10, width=2, widening=widening, rngs=nnx.Rngs(0)
    )
    assert len(model.links()) == producers


def test_a_depth_that_no_number_of_blocks_has_is_an_error():
    with pytest.raises(ValueError, match=r"depth is 20: give 6 \* n \+ 4"):
        models.WideResNet((8, 8, 3), 10, depth=20, rngs=nnx.Rngs(0))
