"""Means over seeds with 95 % intervals, as rows of JSON and as Markdown."""

import math
from typing import Any

import numpy as np
from scipy import stats
from story_matrix import Cell, groups
from story_rows import active_share

Row = dict[str, Any]

# Of the first seed.
_OF_LAYER = ("name", "sparse", "weights", "neurons", "active", "fan_ins")


def interval(values: list[float]) -> float | None:
    """Half the width of the 95 % interval of a mean, by Student's t; None of one."""
    if len(values) < 2:
        return None
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread


def gather(cells: list[Cell]) -> list[Row]:
    """One row for each variant and sparsity, of finished cells."""
    rows = []
    for group in groups([cell for cell in cells if cell.is_finished]):
        found = [cell.row() for cell in group]
        accuracies = [100 * row["accuracy"] for row in found]
        shares = [active_share(row) for row in found]
        rows.append(
            {
                "variant": group[0].variant,
                "sparsity": group[0].sparsity,
                "seeds": [cell.seed for cell in group],
                "accuracies": accuracies,
                "mean": float(np.mean(accuracies)),
                "interval": interval(accuracies),
                "diverged": sum(row["loss"] is None for row in found),
                "split": found[0]["split"],
                "active_share": None if None in shares else float(np.mean(shares)),
                "weights": float(
                    np.mean([sum(n["weights"] for n in row["layers"]) for row in found])
                ),
                "size": sum(math.prod(n["shape"]) for n in found[0]["layers"]),
                "layers": [{k: n[k] for k in _OF_LAYER} for n in found[0]["layers"]],
                "training_flops": found[0]["training_flops"],
                "flops": found[0]["flops"],
                "seconds": float(np.mean([row["seconds"] for row in found])),
                "date": found[0]["date"],
            }
        )
    return rows


def markdown(rows: list[Row]) -> str:
    """Accuracies: a line a variant, a column a sparsity."""
    cells = {(row["variant"], row["sparsity"]): _cell(row) for row in rows}
    sparsities = sorted({sparsity for _, sparsity in cells if sparsity})
    split = rows[0]["split"] if rows else "test"
    lines = [f"| {split} accuracy, % |" + "".join(f" {s:g} |" for s in sparsities)]
    lines.append("|---|" + "---|" * len(sparsities))
    for variant in dict.fromkeys(variant for variant, _ in cells):
        dense = cells.get((variant, 0.0))
        line = (f" {dense or cells.get((variant, s), '')} |" for s in sparsities)
        lines.append(f"| {variant} |" + "".join(line))
    return "\n".join(lines)


def _cell(row: Row) -> str:
    if row["diverged"]:
        return f"{row['diverged']} of {len(row['seeds'])} diverged"
    spread = f" ± {row['interval']:.2f}" if row["interval"] is not None else ""
    return f"{row['mean']:.2f}{spread}"
