import sys

import pytest

from srigl_jax.analysis.table import (
    layer_cells,
    quantity,
    render_table,
    total_cells,
)

HIDDEN = {
    "name": "hidden",
    "shape": (64, 256),
    "sparse": True,
    "density_asked": 0.125,
    "density_got": 0.09375,
    "fan_in_min": 8,
    "fan_in_max": 8,
    "neurons": 256,
    "active": 192,
    "may_ablate": True,
    "weights": 1536,
}
OUTPUT = {
    "name": "output",
    "shape": (256, 10),
    "sparse": False,
    "density_asked": None,
    "density_got": 1.0,
    "fan_in_min": 256,
    "fan_in_max": 256,
    "neurons": 10,
    "active": 10,
    "may_ablate": False,
    "weights": 2560,
}


def test_cells_of_a_sparse_layer():
    assert layer_cells(HIDDEN) == [
        "hidden",
        "64 x 256",
        "12.50%",
        "9.38%",
        "8",
        "192 / 256",
        "yes",
        "1,536",
    ]


def test_a_dense_layer_asks_for_no_density():
    assert layer_cells(OUTPUT)[2:4] == ["dense", "100.00%"]


def test_a_varying_fan_in_is_a_range():
    row = HIDDEN | {"fan_in_min": 3, "fan_in_max": 21}
    assert layer_cells(row)[4] == "3-21"


def test_an_output_layer_is_shown_never_to_ablate():
    assert layer_cells(OUTPUT)[6] == "no"


def test_totals_weigh_densities_by_the_size_of_the_layer():
    # 64 * 256 + 256 * 10 = 18944 positions; 2048 + 2560 asked, 1536 + 2560 got.
    assert total_cells([HIDDEN, OUTPUT]) == [
        "total",
        "",
        "24.32%",
        "21.62%",
        "",
        "202 / 266",
        "",
        "4,096",
    ]


def test_table_is_ascii_with_a_line_a_layer_and_one_of_totals():
    lines = render_table([HIDDEN, OUTPUT]).splitlines()
    assert len(lines) == 5 and lines[0].startswith("| layer  | shape    | density")
    assert "|       9.38% |   8 |      192 / 256 |        yes |   1,536 |" in lines[2]
    assert all(line.isascii() for line in lines)


def test_a_long_name_stays_on_one_line_where_output_is_no_terminal():
    name = "encoder." * 30
    assert name in render_table([HIDDEN | {"name": name}])


def test_brackets_in_a_name_are_text():
    assert "['fc']" in render_table([HIDDEN | {"name": "['fc']"}])


def test_a_terminal_is_not_overrun(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, render_table([HIDDEN, OUTPUT]).splitlines())) <= 70


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (999, "999"),
        (999.7, "1 k"),
        (8_189_482_496, "8.19 G"),
        (3.2e18, "3.2 E"),
        (4.5e21, "4.5e+03 E"),
    ],
)
def test_a_quantity_has_three_digits_and_a_prefix(value, text):
    assert quantity(value) == text
