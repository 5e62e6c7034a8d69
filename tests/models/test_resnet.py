"""Residual networks."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax import models
from srigl_jax.models import resnet


def create(image_shape=(32, 32, 3), classes=10, **options):
    return models.create("resnet18", image_shape, classes, rngs=nnx.Rngs(0), **options)


def test_stages_halve_the_image_and_double_the_channels():
    model = create(width=2)
    model.eval()
    x = jnp.zeros((1, 32, 32, 2))
    shapes = []
    for block in model.blocks:
        x = block(x)
        shapes.append(x.shape[1:])
    assert shapes[::2] == shapes[1::2]
    assert shapes[::2] == [(32, 32, 2), (16, 16, 4), (8, 8, 8), (4, 4, 16)]


def test_only_blocks_that_change_the_shape_project_their_shortcut():
    projects = [block.projects for block in create(width=2).blocks]
    assert projects == [False, False, True, False, True, False, True, False]


def test_a_block_adds_its_input():
    block = create(width=2).blocks[0]
    block.norm2.scale = nnx.Param(jnp.zeros(2))
    block.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), jnp.float32)
    np.testing.assert_array_equal(block(x), nnx.relu(x))


def test_large_images_are_shrunk_to_a_quarter_before_the_first_block():
    model = create((64, 32, 3), width=2, small_images=False)
    seen = []
    model.blocks = nnx.List([lambda x: seen.append(x) or x])
    model.head = lambda x: x
    model(jnp.zeros((1, 64, 32, 3)))
    assert seen[0].shape == (1, 16, 8, 2)


def test_a_bottleneck_halves_the_image_in_its_3x3_convolution():
    block = resnet.Bottleneck(4, 2, 2, rngs=nnx.Rngs(0))
    strides = [block.conv1.strides, block.conv2.strides, block.conv3.strides]
    assert strides == [1, 2, 1]
    assert block.shortcut.strides == 2
