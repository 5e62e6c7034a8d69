import re

import numpy as np
import pytest

from srigl_jax.analysis.mask_plots import fan_in_histogram, input_pixels, mask_drawing

CONSTANT = np.array([[1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1]], bool)


def test_constant_fan_in_and_ablation_are_in_the_title():
    assert fan_in_histogram("fc", CONSTANT).title == "fc: fan-in 2, 1 ablated"


def test_a_varying_fan_in_is_a_range_in_the_title():
    title = fan_in_histogram("fc", np.tri(3, dtype=bool)).title
    assert title == "fc: fan-in 1 to 3, none ablated"


def test_bars_carry_their_counts():
    svg = fan_in_histogram("fc", CONSTANT).svg
    assert re.search(r"--blue\)[^<]*>3</text>", svg)
    assert re.search(r"--orange\)[^<]*>1</text>", svg)


@pytest.mark.parametrize("draw", [fan_in_histogram, mask_drawing])
def test_a_layer_without_weights_can_be_drawn(draw):
    assert draw("fc", np.zeros((3, 4), bool)).svg.startswith("<svg")


def test_a_small_mask_is_drawn_weight_by_weight():
    picture = mask_drawing("fc", CONSTANT)
    assert picture.title == "fc: 6 of 12 weights" and picture.reading == ""


def test_a_large_mask_says_what_a_tile_covers():
    reading = mask_drawing("fc", np.eye(600, 300, dtype=bool)).reading
    assert "3 inputs by 2 neurons" in reading


def test_pixels_title_counts_the_pixels_looked_at():
    mask = np.array([[1, 1], [0, 0], [1, 0], [0, 0]], bool)
    picture = input_pixels("fc", mask, (2, 2, 1))
    assert picture.title == "fc looks at 2 of 4 pixels, with up to 2 weights each"
    assert ">2</text>" in picture.svg and ">1</text>" in picture.svg
