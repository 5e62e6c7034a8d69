"""The Vision Transformer."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sparse_networks import scrambled

from srigl_jax import make_plan, models


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
    model = scrambled(create())
    images = jnp.zeros((1, 4, 6, 3))
    before = model(images)
    assert not np.allclose(model(images.at[0, 3, 5, 2].set(1)), before)


def test_the_head_reads_the_mean_of_all_tokens():
    model = scrambled(create(depth=2))
    seen = []
    model.head = lambda x: seen.append(x) or x
    model.norm = lambda x: seen.append(x) or x
    model(jnp.ones((2, 4, 6, 3)))
    np.testing.assert_array_equal(seen[1], seen[0].mean(axis=1))


def test_the_class_token_comes_first_and_goes_to_the_head():
    model = scrambled(create(class_token=True))
    seen = []
    model.blocks = nnx.List([lambda x: seen.append(x) or x])
    model.norm = lambda x: x
    model.head = lambda x: seen.append(x) or x
    model(jnp.ones((2, 4, 6, 3)))
    assert seen[0].shape == (2, 6 + 1, 6)
    token = model.class_token[...][0] + model.position[...][0]
    np.testing.assert_array_equal(seen[1], np.stack([token, token]))


def test_query_key_and_value_can_stay_dense():
    params = nnx.to_pure_dict(nnx.state(create(), nnx.Param))
    plan = make_plan(params, 0.5, distribution="uniform", dense="/(query|key|value)/")
    dense = {name for name, layer in plan.items() if not layer.is_sparse}
    assert dense == {
        f"blocks/0/attention/{n}/kernel" for n in ("query", "key", "value")
    }


def test_patches_that_do_not_tile_the_image_are_an_error():
    with pytest.raises(ValueError, match="patch is 3: .* height and width, 4 and 6"):
        create(patch=3)
