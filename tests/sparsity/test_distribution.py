"""Layer densities: ERK's laws, and budgets. Published ones: tests/models."""

import math
from fractions import Fraction

import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srigl_jax.sparsity import distribution


def test_uniform_gives_every_sparse_layer_the_same_density():
    shapes = {"first": (30, 10), "middle": (10, 50), "last": (50, 5)}
    densities = distribution.uniform(shapes, 0.75, dense=("last",))
    assert densities == {"first": 0.25, "middle": 0.25, "last": 1.0}


# Two layers of 4 x 4 and 8 x 8, half of 80 weights: eps * (8 + 16) = 40, so eps is
# 5/3 and the densities are 5/3 * 8/16 = 5/6 and 5/3 * 16/64 = 5/12.
def test_erk_gives_small_layers_a_higher_density():
    densities = distribution.erk({"small": (4, 4), "large": (8, 8)}, 0.5)
    assert densities == pytest.approx({"small": 5 / 6, "large": 5 / 12})


# The same layers at 20 % have floor(3.2) + floor(12.8) zeros, so 65 of 80 weights:
# eps * 24 = 65 gives the small one 65/24 * 1/2 > 1. It is dense, and the large one has
# the 65 - 16 weights that are left.
def test_erk_passes_on_what_a_full_layer_cannot_hold():
    densities = distribution.erk({"small": (4, 4), "large": (8, 8)}, 0.2)
    assert densities == pytest.approx({"small": 1.0, "large": 49 / 64})


# 40 of 80 weights, 16 of them in the dense layer: 24 are left for the large one.
def test_erk_takes_the_weights_of_dense_layers_from_the_sparse_ones():
    densities = distribution.erk(
        {"small": (4, 4), "large": (8, 8)}, 0.5, dense=("small",)
    )
    assert densities == pytest.approx({"small": 1.0, "large": 24 / 64})


def test_erk_counts_every_axis_of_a_kernel():
    shapes = {"conv": (3, 3, 8, 16), "linear": (64, 32)}
    densities = distribution.erk(shapes, 0.9)
    ratio = densities["conv"] / densities["linear"]
    assert ratio == pytest.approx((30 / 1152) / (96 / 2048))


def test_erk_at_sparsity_zero_is_dense():
    shapes = {"first": (30, 10), "conv": (3, 3, 8, 16), "last": (50, 5)}
    assert distribution.erk(shapes, 0.0) == pytest.approx(dict.fromkeys(shapes, 1))


@pytest.mark.parametrize("distribute", [distribution.erk, distribution.uniform])
@pytest.mark.parametrize("sparsity", [1.0, -0.1, math.nan])
def test_a_sparsity_outside_its_range_is_an_error_that_shows_it(distribute, sparsity):
    with pytest.raises(ValueError, match=f"sparsity.*{sparsity}"):
        distribute({"layer": (4, 4)}, sparsity)


@pytest.mark.parametrize("distribute", [distribution.erk, distribution.uniform])
def test_a_dense_layer_that_does_not_exist_is_an_error_that_names_it(distribute):
    with pytest.raises(ValueError, match="haed"):
        distribute({"body": (4, 4), "head": (4, 4)}, 0.5, dense=("haed",))


def test_dense_layers_above_the_global_density_are_an_error_that_names_them():
    with pytest.raises(ValueError, match="large"):
        distribution.erk({"small": (4, 4), "large": (8, 8)}, 0.9, dense=("large",))


def layer_shapes():
    dims = st.integers(4, 300)
    linear = st.tuples(dims, dims)
    conv = st.tuples(st.just(3), st.just(3), dims, dims)
    depthwise = st.tuples(st.just(3), st.just(3), st.just(1), dims)
    layers = st.lists(linear | conv | depthwise, min_size=2, max_size=8)
    return layers.map(lambda shapes: {f"layer{i}": s for i, s in enumerate(shapes)})


@given(shapes=layer_shapes(), sparsity=st.floats(0, 0.99))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_erk_equals_the_oracle(shapes, sparsity):
    densities = distribution.erk(shapes, sparsity)
    assert densities == pytest.approx(oracle.erk(shapes, sparsity))


@given(shapes=layer_shapes(), sparsity=st.floats(0, 0.99))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_erk_has_the_global_density_and_no_layer_above_one(shapes, sparsity):
    densities = distribution.erk(shapes, sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    held = sum(densities[name] * sizes[name] for name in shapes)
    # Each layer's zeros are rounded down, as in the published densities.
    excess = held - (1 - sparsity) * sum(sizes.values())
    assert -1e-3 < excess < len(shapes)
    assert all(0 < density <= 1 for density in densities.values())


@pytest.mark.parametrize(
    ("density", "size", "weights"),
    [(0.1, 1000, 100), (1 - 0.9, 1000, 100), (0.29, 100, 29), (0.999, 10, 9)],
)
def test_budget_is_the_floor_of_the_true_product(density, size, weights):
    assert distribution.budget(density, size) == weights


@given(percent=st.integers(0, 1000), size=st.integers(1, 100_000_000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_budget_is_exact_for_densities_of_three_digits(percent, size):
    exact = math.floor(Fraction(percent, 1000) * size)
    assert distribution.budget(percent / 1000, size) == exact
    assert distribution.budget(1 - (1 - percent / 1000), size) == exact


def test_budget_is_a_python_int():
    assert type(distribution.budget(0.5, 7)) is int
