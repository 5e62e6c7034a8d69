"""The rules of one layer: worked by hand, equal to the oracle, and lawful.

In the hand-worked cases a weight of 0 is off the mask; neurons are columns, called
n0, n1, ... from the left. Everything is jitted with traced scalars, so that each shape
compiles once; the last tests compare this with vmap and with eager calls.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srigl_jax.sparsity import topology

srigl = jax.jit(topology.srigl, static_argnames=("growth_candidates", "block"))
rigl = jax.jit(topology.rigl)
set_ = jax.jit(topology.set_)
floor_product = jax.jit(topology._floor_product)


def srigl_by_hand(weights, grads, **scalars):
    """Rows of 0 and 1, after checking that oracle and implementation agree."""
    weights, grads = np.array(weights, np.float32), np.array(grads, np.float32)
    new_mask = srigl(weights, grads, weights != 0, **scalars)
    expected = oracle.srigl(weights, grads, weights != 0, **scalars)
    np.testing.assert_array_equal(new_mask, expected)
    return new_mask.astype(int).tolist()


# Three neurons with 2 of 4 inputs. K = floor(6 * .35) = 2, keep = 4.
WEAK_NEURON = dict(
    weights=[[0.9, 0, 0.1], [0.8, 0.7, 0], [0, 0.6, 0], [0, 0, 0.2]],
    grads=[[9, 3, 9], [9, 9, 1], [5, 9, 1], [2, 4, 9]],
    fraction=0.35,
    budget=6,
    fan_in=2,
)


# Salient weights: .9, .8, .7, .6; gradients off the mask: 5 at (2, 0), 4 at (3, 1).
# Counts 3, 3, 0; threshold max(1, floor(.5 * 2)) = 1; rank m = floor(6 / 4) = 1 has 3.
# n2 is ablated, k = 6 / 2 = 3. n0 keeps rows 0, 1 and grows 2; n1 keeps 1, 2, grows 3.
def test_a_neuron_without_salient_weights_gives_its_budget_to_the_others():
    assert srigl_by_hand(**WEAK_NEURON, gamma_sal=0.5) == [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 0],
        [0, 1, 0],
    ]


# gamma = 0: k = 6 / 3 = 2. .1 and .2 are pruned, so n2 is empty and grows its two
# largest gradients, 9 at rows 0 and 3: both weights are back in the same update.
def test_a_weight_just_pruned_can_grow_again():
    assert srigl_by_hand(**WEAK_NEURON, gamma_sal=0.0) == [
        [1, 0, 1],
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


# gamma * k0 = .01 * 2 floors to 0, but a neuron without any salient weight goes.
def test_the_threshold_is_at_least_one_salient_weight():
    tiny = srigl_by_hand(**WEAK_NEURON, gamma_sal=0.01)
    assert tiny == srigl_by_hand(**WEAK_NEURON, gamma_sal=0.5)


# n2 is ablated, n0 and n1 have 3 of 4 inputs. K = 2, keep = 4.
DEAD_NEURON = dict(
    weights=[[0.3, 0.1, 0], [0.8, 0.7, 0], [0.9, 0.2, 0], [0, 0, 0]],
    grads=[[8, 1, 2], [0, 0, 5], [0, 2, 3], [1, 3, 4]],
    fraction=0.35,
    budget=6,
    fan_in=2,
)


# Salient: .9, .8, .7, .3 and the gradients 5 and 4 of n2: counts 3, 1, 2, threshold 1.
# All are active, k = 2. n0 has three survivors and loses .3, in spite of its gradient
# 8. n1 keeps .7 and grows 3 at row 3; n2 grows rows 1 and 3.
def test_an_ablated_neuron_revives_and_the_others_are_trimmed():
    assert srigl_by_hand(**DEAD_NEURON, gamma_sal=0.5) == [
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 0],
        [0, 1, 1],
    ]


# Threshold 2: n1, with one salient weight, is ablated while n2 revives. k = 3: n0 keeps
# all it has, n2 grows 5, 4, 3.
def test_one_neuron_revives_while_another_is_ablated():
    assert srigl_by_hand(**DEAD_NEURON, gamma_sal=1.0) == [
        [1, 0, 0],
        [1, 0, 1],
        [1, 0, 1],
        [0, 0, 1],
    ]


# Salient: .95, .9, .8, .7, gradients 5 at (2, 0), 4 at (3, 1): counts 3, 2, 1, and
# threshold 2 ablates n2 with its .95. The 4 largest weights of n0 and n1 are all
# four of theirs, so .6 stays although it was not salient. k = 3; each grows one.
def test_weights_of_an_ablated_neuron_take_no_place_from_the_survivors():
    new_mask = srigl_by_hand(
        [[0.9, 0, 0.95], [0.8, 0.7, 0.05], [0, 0.6, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0], [5, 0, 0], [0, 4, 0]],
        fraction=0.35,
        budget=6,
        fan_in=2,
        gamma_sal=1.0,
    )
    assert new_mask == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]]


# K = 4, keep = 4: salient .9, .8, .7, .6 and 9, 8 (n0), 7 (n1), 6 (n2): counts 4, 3, 1,
# 0. The threshold is 2, but rank m = floor(8 / 4) = 2 has 1: it becomes 1, and only n3
# is ablated. k = floor(8 / 3) = 2. n0, n1 keep theirs, n2 grows 6 and 3.
def test_enough_neurons_survive_to_hold_the_budget():
    new_mask = srigl_by_hand(
        [[0.9, 0.7, 0.2, 0.15], [0.8, 0.6, 0.1, 0.05], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 3, 0], [9, 7, 0, 0], [8, 0, 6, 0]],
        fraction=0.5,
        budget=8,
        fan_in=2,
        gamma_sal=1.0,
    )
    assert new_mask == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


# K = 2, keep = 2: counts 2, 2, 0, 0. Rank m = floor(4 / 2) = 2 has 0: the threshold is
# 0 and everyone survives with k = 1. n2 regrows row 0 (5 > 0), n3 moves to row 1.
def test_a_threshold_lowered_to_zero_ablates_no_neuron():
    new_mask = srigl_by_hand(
        [[0.9, 0.8, 0.2, 0.1], [0, 0, 0, 0]],
        [[0, 0, 5, 0], [9, 8, 0, 1]],
        fraction=0.5,
        budget=4,
        fan_in=1,
        gamma_sal=1.0,
    )
    assert new_mask == [[1, 1, 1, 0], [0, 0, 0, 1]]


# The largest weight of the layer, .95, also has the largest gradient. K = 2, keep = 4.
LARGE_WEIGHT_AND_GRADIENT = dict(
    weights=[[0.9, 0.8, 0.95], [0.3, 0.7, 0.1], [0, 0, 0], [0, 0, 0]],
    grads=[[0, 0, 9], [0, 0, 0], [5, 1, 4], [2, 3, 0]],
    fraction=0.35,
    budget=6,
    fan_in=2,
    gamma_sal=1.0,
)


# Gradients off the mask: 5 of n0, 4 of n2. Counts 2, 2, 2: all survive with k = 2.
# .3 and .1 are pruned; n0 grows 5 and n2 grows 4, both at row 2.
def test_growth_among_inactive_positions_makes_those_salient():
    assert srigl_by_hand(**LARGE_WEIGHT_AND_GRADIENT) == [
        [1, 1, 1],
        [0, 1, 0],
        [1, 0, 1],
        [0, 0, 0],
    ]


# Gradients anywhere: 9 and 5. The weight under 9 is salient already and counts once:
# 2, 2, 1, and n2 is ablated (counted twice, it would live). k = 3: n0 keeps .9 and .3,
# which are now among the 4 largest, and grows 5; n1 grows 3.
def test_growth_among_all_positions_counts_a_salient_weight_once():
    new_mask = srigl_by_hand(**LARGE_WEIGHT_AND_GRADIENT, growth_candidates="all")
    assert new_mask == [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]


# Blocks of rows 0-1 and 2-3, k = 4 / (2 * 2) = 1 in each. K = 2, keep = 2: .9 and .5.
# n0 has row 0, its lower block grows 3; n1 has row 2, its upper block grows 2.
def test_n_m_fills_every_block():
    new_mask = srigl_by_hand(
        [[0.9, 0.1], [0, 0], [0, 0.5], [0.4, 0]],
        [[0, 1], [7, 2], [3, 0], [1, 9]],
        fraction=0.5,
        budget=4,
        fan_in=2,
        gamma_sal=0.0,
        block=2,
    )
    assert new_mask == [[1, 0], [0, 1], [1, 1], [0, 0]]


# Two blocks of three rows. K = 2, keep = 4: .9, .8, .7, .6 and the gradients 9 and 8 of
# n0: counts 4, 2, 0 ablate n2. k goes from floor(8 / (3 * 2)) = 1 to 8 / (2 * 2) = 2 a
# block. n0 grows 9 above (its 8 finds the block full) and 2 below, n1 grows 3 and 4.
def test_n_m_gives_the_budget_of_an_ablated_neuron_to_every_block():
    new_mask = srigl_by_hand(
        [[0.9, 0, 0.2], [0, 0.7, 0], [0, 0, 0], [0.8, 0, 0], [0, 0.6, 0], [0, 0, 0.1]],
        [[0, 3, 0], [9, 0, 0], [8, 0, 0], [0, 0, 0], [1, 0, 0], [2, 4, 0]],
        fraction=0.35,
        budget=8,
        fan_in=2,
        gamma_sal=0.5,
        block=3,
    )
    assert new_mask == [
        [1, 1, 0],
        [1, 1, 0],
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [1, 1, 0],
    ]


# A budget of every place: m = floor(8 / 4) = 2 is beyond the last neuron, and none can
# be spared, although n1 has no salient weight.
def test_a_fully_dense_layer_stays_dense():
    weights = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    scalars = dict(fraction=0.5, budget=8, fan_in=4, gamma_sal=1.0)
    assert np.all(srigl_by_hand(weights, weights, **scalars))


# Nothing is dropped. Active weights that are 0, as new ones are, stay, and the
# inactive zeros with their large gradients do not take their places.
def test_an_active_weight_of_zero_is_not_an_inactive_position():
    mask = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
    new_mask = srigl(
        np.zeros((4, 2), np.float32),
        np.where(mask, 0, 9).astype(np.float32),
        mask,
        fraction=0.0,
        budget=4,
        fan_in=2,
        gamma_sal=0.0,
    )
    np.testing.assert_array_equal(new_mask, mask)


# Salient are the first keep = 2 active positions row by row, (0, 0) and (0, 1), and the
# first K = 2 others, (0, 2) and (1, 0): counts 2, 1, 1, threshold 1, k = floor(4 / 3).
# n2 lost its weights and grows its first row. (Column by column n2 would be ablated.)
def test_srigl_breaks_ties_by_position_row_by_row():
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    new_mask = srigl(
        mask.astype(np.float32),
        np.ones((3, 3), np.float32),
        mask,
        fraction=0.5,
        budget=4,
        fan_in=1,
        gamma_sal=1.0,
    )
    assert new_mask.astype(int).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_signs_of_weights_and_gradients_do_not_matter():
    weights, grads = np.array(DEAD_NEURON["weights"]), np.array(DEAD_NEURON["grads"])
    signs = np.array([[-1, 1, -1], [1, -1, -1], [1, 1, 1], [-1, -1, 1]])
    scalars = dict(fraction=0.35, budget=6, fan_in=2, gamma_sal=1.0)
    expected = srigl_by_hand(weights, grads, **scalars)
    assert srigl_by_hand(weights * signs, grads * -signs, **scalars) == expected


# In float32 .84 * 75 is 62.999996; 63 weights are meant. Nothing is dropped, so the
# counts are 100, 63 and 62, and rank m = floor(199 / 100) = 1 has 63.
def test_the_threshold_is_guarded_against_float_error():
    mask = np.arange(100)[:, None] < np.array([100, 63, 62])
    new_mask = srigl(
        mask.astype(np.float32),
        np.zeros(mask.shape, np.float32),
        mask,
        fraction=0.0,
        budget=199,
        fan_in=75,
        gamma_sal=0.84,
    )
    assert new_mask.any(axis=0).tolist() == [True, True, False]


def test_the_drop_count_is_guarded_against_float_error():
    mask = np.array([[True] * 75, [False] * 75])
    new_mask = rigl(
        mask.astype(np.float32), (~mask).astype(np.float32), mask, fraction=0.84
    )
    assert new_mask.sum(axis=1).tolist() == [75 - 63, 63]


# In float32 .84 * 4675 is 3926.9998, and falls short of 3927 by more than 1e-4.
@given(
    percent=st.sampled_from([84]) | st.integers(0, 100),
    count=st.sampled_from([4675]) | st.integers(1, 25_000),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_floor_of_a_share_is_that_of_the_decimal(percent, count):
    floor = floor_product(np.float32(percent / 100), np.int32(count))
    assert floor == percent * count // 100


@pytest.mark.parametrize(
    ("share", "count", "floor"),
    [(0.3, 20_000_000, 6_000_000), (0.29, 20_000_000, 5_800_000), (1, 2**28, 2**28)],
)
def test_the_floor_of_a_share_of_a_large_layer(share, count, floor):
    assert floor_product(np.float32(share), np.int32(count)) == floor


@given(st.floats(0, 1, width=32), st.integers(0, 2**28))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_the_floor_of_a_share_is_no_more_than_half_too_much(share, count):
    exact = Fraction(share) * count
    floor = floor_product(np.float32(share), np.int32(count))
    assert math.floor(exact) <= floor <= math.floor(exact + Fraction(33, 64))


@given(st.integers(1, 2**28), st.data())
@settings(max_examples=500, deadline=None, derandomize=True)
def test_the_floor_of_the_share_that_a_number_is_of_another_is_the_number(count, data):
    number = data.draw(st.integers(0, min(count, 8_000_000)))
    assert floor_product(np.float32(number / count), np.int32(count)) == number


# nnz = 5, K = 2: .1 and .2 are dropped. Positions not kept have the gradients 6 (just
# dropped), 5 (just dropped), 0, 2, -7, 0: -7 and 6 grow.
def test_rigl_moves_the_smallest_weights_to_the_largest_gradients():
    weights = np.array([[0.5, 0, 0.1], [0.4, 0.3, 0], [0, 0.2, 0]], np.float32)
    grads = np.array([[9, 0, 6], [9, 9, 2], [-7, 5, 0]], np.float32)
    new_mask = rigl(weights, grads, weights != 0, fraction=0.4)
    assert new_mask.astype(int).tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]


def test_rigl_breaks_ties_by_position_row_by_row():
    mask = np.array([[0, 1, 1], [1, 0, 1]], bool)
    ones = np.ones((2, 3), np.float32)
    new_mask = rigl(mask.astype(np.float32), ones, mask, fraction=0.5)
    # Kept: (0, 1) and (0, 2). Grown: the first two of the others, (0, 0) and (1, 0).
    assert new_mask.astype(int).tolist() == [[1, 1, 1], [1, 0, 0]]


# nnz = 4, K = 2: .9 and .8 stay; two of the four other positions grow.
def test_set_keeps_the_largest_weights():
    weights = np.array([[0.9, 0.1, 0], [0.2, 0, 0.8]], np.float32)
    for seed in range(10):
        new_mask = set_(weights, weights != 0, fraction=0.5, key=jax.random.key(seed))
        assert new_mask[0, 0] and new_mask[1, 2] and new_mask.sum() == 4


def test_set_grows_at_every_position_it_did_not_keep_equally_often():
    weights = np.array([[0.9, 0.1, 0], [0.2, 0, 0.8]], np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    masks = jax.vmap(lambda key: set_(weights, weights != 0, fraction=0.5, key=key))(
        keys
    )
    # Two of four: a half each, with a standard deviation of .008.
    often = np.array(masks).mean(axis=0)
    np.testing.assert_allclose(often, [[1, 0.5, 0.5], [0.5, 0.5, 1]], atol=0.04)


# --- Random layers -------------------------------------------------------------------


class Layer(NamedTuple):
    weights: np.ndarray
    grads: np.ndarray
    mask: np.ndarray
    budget: int
    fan_in: int
    block: int | None

    def update(self, rule=srigl, *, growth_candidates="inactive", **scalars):
        new_mask = rule(
            self.weights,
            self.grads,
            self.mask,
            budget=self.budget,
            fan_in=self.fan_in,
            # Given always, because jit takes a default for another function.
            growth_candidates=growth_candidates,
            block=self.block,
            **scalars,
        )
        return np.asarray(new_mask)

    @property
    def blocks(self):
        """Blocks of a neuron: what the budget of a neuron is shared among."""
        inputs = len(self.mask)
        return inputs // (self.block or inputs)


# (fan-in, neurons, block). Few, because each compiles: depthwise, square, wide, a
# single neuron, and N:M with blocks of 2, 4, 8 and 32.
WITHOUT_BLOCKS = [(9, 16, None), (24, 20, None), (5, 40, None), (7, 1, None)]
LAYOUTS = [*WITHOUT_BLOCKS, (16, 6, 2), (16, 6, 4), (24, 10, 8), (64, 9, 32)]
MASKS = ("constant", "ablated", "random", "full", "empty")
VALUES = ("normal", "tied", "zero")


def make_mask(rng, kind, shape, budget, block):
    """A mask as the rule leaves it, before or after ablation, or quite another."""
    inputs, neurons = shape
    if kind == "random":
        return rng.random(shape) < budget / (inputs * neurons)
    if kind in ("full", "empty"):
        return np.full(shape, kind == "full")
    fewest = -(-budget // inputs)
    active = rng.integers(fewest, neurons + 1) if kind == "ablated" else neurons
    alive = rng.permutation(neurons) < active
    k = min(budget // (active * (inputs // block)), block)
    order = rng.random((inputs // block, block, neurons)).argsort(axis=1)
    return (order < k).reshape(shape) & alive


def make_values(rng, kind, shape):
    """Distinct numbers, or halves from -1 to 1 of which many tie, or zeros."""
    if kind == "normal":
        return rng.normal(size=shape).astype(np.float32)
    scale = 0 if kind == "zero" else 0.5
    return (scale * rng.integers(-2, 3, shape)).astype(np.float32)


def make_layer(seed, layout, mask="constant", weights="normal", grads="normal"):
    rng = np.random.default_rng(seed)
    inputs, neurons, block = layout
    smallest = neurons * (inputs // block) if block else neurons
    budget = int(rng.integers(smallest, inputs * neurons + 1))
    mask = make_mask(rng, mask, (inputs, neurons), budget, block or inputs)
    return Layer(
        weights=make_values(rng, weights, mask.shape) * mask,
        grads=make_values(rng, grads, mask.shape),
        mask=mask,
        budget=budget,
        fan_in=budget // neurons,
        block=block,
    )


SEEDS = st.integers(0, 2**32 - 1)


def layers(layouts=LAYOUTS, values=VALUES):
    return st.builds(
        make_layer,
        SEEDS,
        st.sampled_from(layouts),
        mask=st.sampled_from(MASKS),
        weights=st.sampled_from(values),
        grads=st.sampled_from(values),
    )


# As people write them: of a decimal it is known what the product should be.
SHARES = st.integers(0, 1000).map(lambda n: n / 1000)
FRACTIONS = st.sampled_from([0.0, 1.0]) | SHARES
GAMMAS = st.sampled_from([0.0, 0.3, 1.0]) | SHARES


def lawful(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True)


@given(layer=layers(), fraction=FRACTIONS, gamma=GAMMAS)
@lawful(250)
def test_srigl_equals_the_oracle(layer, fraction, gamma):
    scalars = dict(fraction=fraction, gamma_sal=gamma)
    np.testing.assert_array_equal(
        layer.update(**scalars), layer.update(oracle.srigl, **scalars)
    )


@given(layer=layers([(24, 20, None), (24, 10, 8)]), fraction=FRACTIONS, gamma=GAMMAS)
@lawful(60)
def test_srigl_growing_among_all_equals_the_oracle(layer, fraction, gamma):
    options = dict(fraction=fraction, gamma_sal=gamma, growth_candidates="all")
    np.testing.assert_array_equal(
        layer.update(**options), layer.update(oracle.srigl, **options)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("seed", range(5))
def test_srigl_equals_the_oracle_at_half_precision(dtype, seed):
    # Eight bits of 480 numbers: many ties.
    layer = make_layer(seed, (24, 20, None))
    layer = layer._replace(
        weights=jnp.asarray(layer.weights, dtype), grads=jnp.asarray(layer.grads, dtype)
    )
    options = dict(fraction=0.4, gamma_sal=0.5)
    np.testing.assert_array_equal(
        layer.update(**options), layer.update(oracle.srigl, **options)
    )


@given(layer=layers(), fraction=FRACTIONS, gamma=GAMMAS)
@lawful(60)
def test_every_block_of_every_active_neuron_has_the_same_fan_in(layer, fraction, gamma):
    new_mask = layer.update(fraction=fraction, gamma_sal=gamma)
    per_block = new_mask.reshape(layer.blocks, -1, new_mask.shape[1]).sum(axis=1)
    assert len(set(per_block[:, new_mask.any(axis=0)].ravel())) == 1


@given(layer=layers(), fraction=FRACTIONS, gamma=GAMMAS)
@lawful(60)
def test_the_budget_is_used_as_far_as_it_divides(layer, fraction, gamma):
    new_mask = layer.update(fraction=fraction, gamma_sal=gamma)
    one_more = layer.blocks * new_mask.any(axis=0).sum()
    assert new_mask.sum() <= layer.budget
    assert new_mask.all() or layer.budget < new_mask.sum() + one_more


@given(layer=layers(), fraction=FRACTIONS)
@lawful(40)
def test_gamma_zero_never_ablates(layer, fraction):
    new_mask = layer.update(fraction=fraction, gamma_sal=0.0)
    assert new_mask.any(axis=0).all()


@given(layer=layers(), fraction=FRACTIONS, gammas=st.tuples(GAMMAS, GAMMAS))
@lawful(60)
def test_a_larger_gamma_never_ablates_fewer(layer, fraction, gammas):
    fewer, more = (
        layer.update(fraction=fraction, gamma_sal=gamma).any(axis=0)
        for gamma in sorted(gammas)
    )
    assert not np.any(more & ~fewer)


@given(layer=layers(values=["normal"]), fraction=FRACTIONS, gamma=GAMMAS, seed=SEEDS)
@lawful(60)
def test_the_order_of_neurons_does_not_matter(layer, fraction, gamma, seed):
    order = np.random.default_rng(seed).permutation(layer.mask.shape[1])
    permuted = layer._replace(
        weights=layer.weights[:, order],
        grads=layer.grads[:, order],
        mask=layer.mask[:, order],
    )
    options = dict(fraction=fraction, gamma_sal=gamma)
    np.testing.assert_array_equal(
        permuted.update(**options), layer.update(**options)[:, order]
    )


@given(
    layer=layers(),
    fraction=FRACTIONS,
    gamma=GAMMAS,
    powers=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
)
@lawful(40)
def test_the_scale_of_weights_and_gradients_does_not_matter(
    layer, fraction, gamma, powers
):
    weight_scale, grad_scale = np.float32(2) ** np.array(powers, np.float32)
    scaled = layer._replace(
        weights=layer.weights * weight_scale, grads=layer.grads * grad_scale
    )
    options = dict(fraction=fraction, gamma_sal=gamma)
    np.testing.assert_array_equal(scaled.update(**options), layer.update(**options))


@given(seed=SEEDS, gamma=GAMMAS)
@lawful(20)
def test_a_dead_neuron_with_the_largest_gradients_revives(seed, gamma):
    layer = make_layer(seed, (24, 20, None))
    layer.mask[:, 3], layer.weights[:, 3], layer.grads[:, 3] = False, 0, 99
    assert layer.update(fraction=0.9, gamma_sal=gamma)[:, 3].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_updates_in_a_row_stay_lawful(layout):
    rng = np.random.default_rng(0)
    layer = make_layer(0, layout)
    for _ in range(20):
        new_mask = layer.update(fraction=0.3, gamma_sal=0.6)
        active = new_mask.any(axis=0).sum()
        k = min(layer.budget // (active * layer.blocks), layout[2] or layout[0])
        per_block = new_mask.reshape(layer.blocks, -1, layout[1]).sum(axis=1)
        assert sorted(set(per_block.ravel()) | {0}) == [0, k]
        noise = make_values(rng, "normal", new_mask.shape)
        layer = layer._replace(
            weights=np.where(new_mask & layer.mask, layer.weights + noise, 0),
            grads=make_values(rng, "normal", new_mask.shape),
            mask=new_mask,
        )


@given(layer=layers(WITHOUT_BLOCKS), fraction=FRACTIONS)
@lawful(100)
def test_rigl_equals_the_oracle(layer, fraction):
    args = layer.weights, layer.grads, layer.mask
    np.testing.assert_array_equal(
        rigl(*args, fraction=fraction), oracle.rigl(*args, fraction=fraction)
    )


@given(layer=layers(WITHOUT_BLOCKS), fraction=FRACTIONS)
@lawful(40)
def test_rigl_never_changes_the_number_of_weights(layer, fraction):
    new_mask = rigl(layer.weights, layer.grads, layer.mask, fraction=fraction)
    assert new_mask.sum() == layer.mask.sum()


@given(layer=layers(WITHOUT_BLOCKS), fraction=FRACTIONS, seed=SEEDS)
@lawful(60)
def test_set_keeps_what_the_oracle_keeps(layer, fraction, seed):
    key = jax.random.key(seed)
    new_mask = set_(layer.weights, layer.mask, fraction=fraction, key=key)
    kept = oracle.set_keep(layer.weights, layer.mask, fraction=fraction)
    assert np.all(np.asarray(new_mask)[kept])
    assert new_mask.sum() == layer.mask.sum()


# --- Traced, batched, eager ----------------------------------------------------------

SCALARS = dict(
    fraction=np.array([0.0, 0.3, 0.5, 1.0], np.float32),
    budget=np.array([50, 110, 170, 240], np.int32),
    fan_in=np.array([2, 5, 8, 12], np.int32),
    gamma_sal=np.array([0.0, 0.3, 0.7, 1.0], np.float32),
)


def stacked_layers(layout):
    fields = zip(*(make_layer(seed, layout)[:3] for seed in range(4)), strict=True)
    return [np.stack(field) for field in fields]


@pytest.mark.parametrize("block", [None, 4])
def test_srigl_vmapped_over_traced_scalars_is_the_rule_of_each_layer(block):
    arrays = stacked_layers((24, 20, block))

    def rule(arrays, scalars):
        return topology.srigl(*arrays, **scalars, block=block)

    batched = jax.jit(jax.vmap(rule))(arrays, SCALARS)
    for i in range(4):
        scalars = {name: values[i] for name, values in SCALARS.items()}
        layer = [array[i] for array in arrays]
        expected = oracle.srigl(*layer, **scalars, block=block)
        np.testing.assert_array_equal(batched[i], expected)


def test_rigl_vmapped_over_traced_fractions_is_the_rule_of_each_layer():
    arrays = stacked_layers((24, 20, None))
    batched = jax.jit(jax.vmap(topology.rigl))(*arrays, fraction=SCALARS["fraction"])
    for i in range(4):
        layer = [array[i] for array in arrays]
        expected = oracle.rigl(*layer, fraction=SCALARS["fraction"][i])
        np.testing.assert_array_equal(batched[i], expected)


def test_set_vmapped_over_keys_is_the_rule_of_each_key():
    weights, _, mask = make_layer(0, (24, 20, None))[:3]
    keys = jax.random.split(jax.random.key(0), 3)
    batched = jax.vmap(lambda key: set_(weights, mask, fraction=0.3, key=key))(keys)
    for i in range(3):
        alone = set_(weights, mask, fraction=0.3, key=keys[i])
        np.testing.assert_array_equal(batched[i], alone)


def test_eager_srigl_is_the_jitted_one():
    layer = make_layer(0, (24, 20, None))
    scalars = dict(fraction=0.3, gamma_sal=0.5)
    np.testing.assert_array_equal(
        layer.update(topology.srigl, **scalars), layer.update(**scalars)
    )


def test_eager_rigl_is_the_jitted_one():
    args = make_layer(0, (24, 20, None))[:3]
    np.testing.assert_array_equal(
        topology.rigl(*args, fraction=0.3), rigl(*args, fraction=0.3)
    )
