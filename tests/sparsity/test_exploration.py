import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srigl_jax import init_masks, make_plan
from srigl_jax.sparsity.exploration import explore, explored_shares, nothing_explored

PARAMS = {
    "hidden": {"kernel": jnp.zeros((10, 4)), "bias": jnp.zeros(4)},
    "head": {"kernel": jnp.zeros((4, 3))},
}


def seen(*kernels):
    """The record after masks of the hidden layer, one after another."""
    plan = make_plan(PARAMS, 0.5, dense="head")
    explored = nothing_explored(plan)
    for kernel in kernels:
        masks = jax.tree.map(lambda _: optax.MaskedNode(), PARAMS)
        masks["hidden"]["kernel"] = jnp.asarray(kernel, bool)
        explored = explore(explored, masks, plan)
    return explored_shares(explored, plan)


def test_before_any_mask_nothing_is_explored():
    assert seen() == {"hidden/kernel": 0.0}


def test_a_position_counts_once_however_often_it_was_active():
    first, second = np.zeros((2, 10, 4))
    first[0], second[0], second[9] = 1, 1, 1
    assert seen(first) == {"hidden/kernel": 4 / 40}
    assert seen(first, second, first) == {"hidden/kernel": 8 / 40}


def test_all_positions_are_all_of_a_layer_though_its_fan_in_is_no_multiple_of_8():
    assert seen(np.ones((10, 4))) == {"hidden/kernel": 1.0}


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (12, 2, 6)])
def test_kernels_of_any_shape_are_seen_in_matrix_view(shape):
    params = {"query": {"kernel": jnp.zeros(shape)}, "head": {"kernel": jnp.eye(9)}}
    plan = make_plan(params, 0.7)
    masks = init_masks(params, plan)
    shares = explored_shares(explore(nothing_explored(plan), masks, plan), plan)
    mean = {f"{name}/kernel": float(m["kernel"].mean()) for name, m in masks.items()}
    assert shares == pytest.approx(mean)


def test_a_record_takes_a_bit_for_each_weight():
    params = {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32)}
    (bits,) = nothing_explored(make_plan(params, 0.9)).values()
    assert 8 * bits.nbytes == 3 * 3 * 64 * 128
