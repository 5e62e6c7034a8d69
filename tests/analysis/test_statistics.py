import numpy as np
import pytest

from srigl_jax.analysis import statistics

# Neurons of fan-in 2, 0, 1, 2.
MASK = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]], bool)


def test_fan_in_counts_the_weights_of_a_column():
    assert statistics.fan_in_per_neuron(MASK).tolist() == [2, 0, 1, 2]


def test_fan_in_range_leaves_out_ablated_neurons():
    assert statistics.fan_in_range(MASK) == (1, 2)


def test_fan_in_range_of_an_empty_layer_is_zero():
    assert statistics.fan_in_range(np.zeros((3, 2), bool)) == (0, 0)


def test_ablated_neurons_are_those_without_weights():
    assert statistics.ablated_neurons(MASK) == 1


def test_histogram_counts_active_neurons_only():
    edges, counts = statistics.fan_in_histogram(MASK)
    assert edges.tolist() == [1, 2, 3] and counts.tolist() == [1, 2]


def test_histogram_of_constant_fan_in_is_one_bin_of_width_one():
    edges, counts = statistics.fan_in_histogram(MASK[:, [0, 1, 3]])
    assert edges.tolist() == [2, 3] and counts.tolist() == [2]


def test_histogram_of_an_empty_layer_has_no_bin():
    assert statistics.fan_in_histogram(np.zeros((3, 2), bool))[1].size == 0


@pytest.mark.parametrize("largest", [1, 3, 7, 24])
def test_histogram_bins_are_few_and_hold_every_active_neuron(largest):
    mask = np.tri(50, dtype=bool)
    edges, counts = statistics.fan_in_histogram(mask, largest)
    assert len(counts) <= largest and counts.sum() == 50
    assert len(set(np.diff(edges))) == 1


def test_a_mask_that_fits_is_not_tiled():
    density, tile = statistics.density_tiles(MASK, largest=4)
    assert tile == (1, 1) and (density == MASK).all()


def test_tiles_at_the_end_are_averaged_over_what_they_cover():
    density, tile = statistics.density_tiles(MASK, largest=2)
    assert tile == (2, 2)
    assert density.tolist() == [[0.25, 0.5], [0.5, 0.5]]


def test_weights_per_pixel_sums_channels_and_neurons():
    # One row of two pixels of two channels.
    mask = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], bool)
    assert statistics.weights_per_pixel(mask, (1, 2, 2)).tolist() == [[3, 1]]
