"""The table of layers that ends a run: what was asked of each layer, and what it got.

A row is a dict with the keys

- `name`: of the layer; `shape`: of its weights, a tuple of int;
- `sparse`: whether it is; `density_asked`, `density_got`: in [0, 1];
- `fan_in_min`, `fan_in_max`: least and most weights of an active neuron;
- `neurons`, and `active`: those of them that have weights;
- `may_ablate`: whether the plan lets neurons be removed, never so in output layers;
- `weights`: the number of weights that are there.
"""

import io
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

COLUMNS = (
    "layer",
    "shape",
    "density asked",
    "density got",
    "k",
    "active neurons",
    "may ablate",
    "weights",
)


def layer_cells(row: dict[str, Any]) -> list[str]:
    """The cells of one layer, in the order of `COLUMNS`."""
    return [
        row["name"],
        " x ".join(map(str, row["shape"])),
        f"{row['density_asked']:.2%}" if row["sparse"] else "dense",
        f"{row['density_got']:.2%}",
        fan_in_cell(row),
        f"{row['active']:,} / {row['neurons']:,}",
        "yes" if row["may_ablate"] else "no",
        f"{row['weights']:,}",
    ]


def total_cells(rows: list[dict[str, Any]]) -> list[str]:
    """The cells of the totals, over dense and sparse layers alike."""
    total = totals(rows)
    return [
        "total",
        "",
        f"{total['asked'] / max(total['size'], 1):.2%}",
        f"{total['weights'] / max(total['size'], 1):.2%}",
        "",
        f"{total['active']:,} / {total['neurons']:,}",
        "",
        f"{total['weights']:,}",
    ]


def totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Sums over layers.

    Returns:
        `size`, the weights of the layers were they dense; `asked`, those that the
        asked densities leave of them; `weights`, `active` and `neurons` as in a row.
    """
    sizes = [math.prod(row["shape"]) for row in rows]
    asked = [row["density_asked"] if row["sparse"] else 1.0 for row in rows]
    sums = {key: sum(row[key] for row in rows) for key in ("active", "neurons")}
    weights = sum(row["weights"] for row in rows)
    wanted = sum(a * size for a, size in zip(asked, sizes, strict=True))
    return {"size": sum(sizes), "asked": wanted, "weights": weights, **sums}


def render_table(rows: list[dict[str, Any]]) -> str:
    """The table of layers as plain text, a line a layer and one of totals."""
    return render(COLUMNS, [*map(layer_cells, rows), total_cells(rows)], words=2)


def render(columns: Sequence[str], lines: Iterable[list[str]], *, words: int) -> str:
    """A table as plain text in ASCII.

    It keeps to the width of the terminal; where standard output is none, every line is
    as long as it needs to be.

    Args:
        columns: their headings.
        lines: a cell for each column.
        words: how many of the first columns are words; the others are numbers.
    """
    table = Table(box=MARKDOWN)
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="left" if index < words else "right", overflow="fold"
        )
    for cells in lines:
        table.add_row(*cells)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    text = io.StringIO()
    Console(file=text, width=width, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().split("\n"))


def quantity(value: float) -> str:
    """A number in three digits and a prefix: "8.19 G", "947 k", "12"."""
    prefixes = ["", " k", " M", " G", " T", " P", " E"]
    # Not at 1000, because 999.7 would be written as 1e+03.
    while abs(value) >= 999.5 and len(prefixes) > 1:
        value /= 1000
        del prefixes[0]
    return f"{value:.3g}{prefixes[0]}"


def fan_in_cell(row: dict[str, Any]) -> str:
    """The fan-in of a layer's active neurons, a range where it varies."""
    low, high = row["fan_in_min"], row["fan_in_max"]
    return str(low) if low == high else f"{low}-{high}"
