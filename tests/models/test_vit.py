"""The Vision Transformer."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srigl_jax import models


def create(**options):
    options = {"patch": 2, "width": 6, "depth": 1, "heads": 2} | options
    return models.create("vit", (4, 6, 3), 5, rngs=nnx.Rngs(0), **options)


def test_a_token_is_one_patch():
    model = create()
    seen = []
    model.patch_embed = lambda x: seen.append(x) or jnp.zeros((*x.shape[:2], 6))
    images = jnp.arange(4 * 6 * 3.0).reshape(1, 4, 6, 3)
    model(images)
    tokens = seen[0]
    assert tokens.shape == (1, 6, 2 * 2 * 3)
    # The second row of patches, the third of its columns.
    np.testing.assert_array_equal(tokens[0, 5], images[0, 2:, 4:].reshape(-1))


def test_every_patch_counts():
    model = create()
    images = jnp.zeros((1, 4, 6, 3))
    before = model(images)
    assert not np.allclose(model(images.at[0, 3, 5, 2].set(1)), before)


def test_patches_that_do_not_tile_the_image_are_an_error():
    with pytest.raises(ValueError, match="patch is 3: .* height and width, 4 and 6"):
        create(patch=3)
