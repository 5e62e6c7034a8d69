import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from srigl_jax.condensed.representation import (
    check_condensed,
    condense,
    densify,
    narrow,
)

KERNEL = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
MASK = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1]], bool)


def test_rows_hold_each_active_neurons_weights_in_order_of_input():
    c = condense(KERNEL, MASK)
    np.testing.assert_array_equal(c.values, [[1, 7], [6, 9]])
    np.testing.assert_array_equal(c.indices, [[0, 2], [1, 2]])
    np.testing.assert_array_equal(c.active, [0, 2])


def test_densify_gives_the_masked_kernel():
    np.testing.assert_array_equal(densify(condense(KERNEL, MASK)), KERNEL * MASK)


def test_a_weight_that_exists_and_is_zero_stays():
    c = condense(np.zeros((3, 3), np.float32), MASK)
    np.testing.assert_array_equal(c.indices, [[0, 2], [1, 2]])


def test_a_row_shorter_than_k_ends_in_zeros_at_index_0():
    mask = np.array([[1, 1], [0, 1], [0, 1]], bool)
    c = condense(KERNEL[:, :2], mask)
    np.testing.assert_array_equal(c.values, [[1, 0, 0], [2, 5, 8]])
    np.testing.assert_array_equal(c.indices, [[0, 0, 0], [0, 1, 2]])
    np.testing.assert_array_equal(densify(c), KERNEL[:, :2] * mask)


def test_a_convolutions_inputs_are_numbered_by_row_column_and_channel():
    mask = np.zeros((2, 3, 4, 1), bool)
    mask[1, 2, 3, 0] = mask[0, 1, 2, 0] = True
    c = condense(np.ones(mask.shape, np.float32), mask)
    np.testing.assert_array_equal(c.indices, [[0 * 12 + 1 * 4 + 2, 12 + 2 * 4 + 3]])


def test_neuron_axes_of_an_attention_projection_come_back():
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mask = kernel % 5 > 0
    c = condense(kernel, mask, neuron_axes=(1, 2))
    assert c.layout.fan_in == 2
    np.testing.assert_array_equal(densify(c), kernel * mask)


def test_indices_take_16_bits_where_the_fan_in_fits():
    for fan_in, dtype in [(2**16, np.uint16), (2**16 + 1, np.int32)]:
        mask = np.zeros((fan_in, 1), bool)
        mask[-1] = True
        c = condense(np.ones((fan_in, 1), np.float32), mask)
        assert c.indices.dtype == dtype
        assert c.indices[0, 0] == fan_in - 1


def test_a_layer_may_have_no_active_neuron():
    c = condense(KERNEL, np.zeros((3, 3), bool), np.ones(3, np.float32))
    assert c.values.shape == (0, 0)
    np.testing.assert_array_equal(densify(c), np.zeros((3, 3)))


def test_narrow_leaves_the_active_neurons_and_their_biases():
    c = narrow(condense(KERNEL, MASK, np.array([10, 20, 30], np.float32)))
    np.testing.assert_array_equal(densify(c), (KERNEL * MASK)[:, [0, 2]])
    np.testing.assert_array_equal(c.bias, [10, 30])


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) but mask \(3, 2\)"):
        condense(KERNEL, MASK[:, :2])


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("indices", np.array([[0, 3], [1, 2]], np.uint16), "from 0 to 3"),
        ("indices", np.array([[0, -1], [1, 2]], np.int32), "from -1 to 2"),
        ("indices", np.array([[0, 2], [2, 1]], np.uint16), "ascend.* row 1 do not"),
        ("indices", np.array([[0, 2], [1, 0]], np.uint16), "ascend.* row 1 do not"),
        ("indices", np.array([[0, 1], [1, 2]], np.uint8), "uint8: give uint16"),
        ("indices", np.array([[0], [1]], np.uint16), r"shapes \(2, 2\) and \(2, 1\)"),
        ("active", np.array([2, 0], np.int32), "must ascend"),
        ("active", np.array([0, 3], np.int32), "must ascend within"),
        ("active", np.array([0], np.int32), "one for each row"),
        ("bias", np.zeros(2, np.float32), r"bias must have shape \(3,\)"),
    ],
)
def test_damage_is_named(field, array, message):
    c = dataclasses.replace(condense(KERNEL, MASK), **{field: array})
    with pytest.raises(ValueError, match=message):
        check_condensed(c)


def test_bfloat16_stays():
    c = condense(jnp.asarray(KERNEL, jnp.bfloat16), MASK)
    assert c.values.dtype == jnp.bfloat16
