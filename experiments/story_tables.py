"""Means over seeds with 95 % intervals, as rows of JSON and as Markdown."""

import math
from collections.abc import Iterator
from typing import Any

import measure
import numpy as np
from scipy import stats
from story_matrix import Cell, groups
from story_rows import active_share

Row = dict[str, Any]

PAIRS = (
    ("SRigL", "SRigL without ablation"),
    ("SRigL", "RigL"),
    ("SRigL", "static"),
    ("RigL", "static"),
    ("SET", "RigL"),
    ("SNFS", "RigL"),
    ("gradual pruning", "RigL"),
    ("lottery ticket", "gradual pruning"),
    ("SRigL", "SR-STE"),
    ("SRigL", "neuron pruning"),
)

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
                "fields": group[0].fields,
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
                "processor_seconds": float(
                    np.mean([row["processor_seconds"] for row in found])
                ),
                "command": measure.environment()["command"],
                "date": found[0]["date"],
            }
        )
    return rows


def differences(rows: list[Row]) -> list[Row]:
    """By how much one method is ahead of another, in percentage points.

    Seeds are compared with themselves: both methods see the same batches.

    Returns:
      For each of `PAIRS`, alone or both in the same setting, and each sparsity that has
      both: `mean` and `interval` of the differences of the seeds that both have.
    """
    found = {(row["variant"], row["sparsity"]): row for row in rows}
    made = []
    for one, other in _pairs([row["variant"] for row in rows]):
        for sparsity in sorted({row["sparsity"] for row in rows}):
            pair = [found.get((variant, sparsity)) for variant in (one, other)]
            if None in pair:
                continue
            first, second = (
                dict(zip(row["seeds"], row["accuracies"], strict=True)) for row in pair
            )
            seeds = sorted(first.keys() & second.keys())
            if not seeds:
                continue
            ahead = [first[seed] - second[seed] for seed in seeds]
            made.append(
                {
                    "of": one,
                    "over": other,
                    "sparsity": sparsity,
                    "seeds": seeds,
                    "mean": float(np.mean(ahead)),
                    "interval": interval(ahead),
                }
            )
    return made


def _pairs(variants: list[str]) -> Iterator[tuple[str, str]]:
    """`PAIRS` as they are, then with each setting that is behind a method's name."""
    settings = [name.partition(", ")[2] for name in variants]
    for setting in dict.fromkeys(["", *settings]):
        for pair in PAIRS:
            one, other = (f"{name}, {setting}" if setting else name for name in pair)
            yield one, other


def differences_markdown(made: list[Row]) -> str:
    """A line a pair, a column a sparsity."""
    sparsities = sorted({row["sparsity"] for row in made})
    lines = ["| ahead by, points |" + "".join(f" {s:g} |" for s in sparsities)]
    lines.append("|---|" + "---|" * len(sparsities))
    cells = {(r["of"], r["over"], r["sparsity"]): _signed(r) for r in made}
    for one, other in dict.fromkeys((row["of"], row["over"]) for row in made):
        line = (f" {cells.get((one, other, s), '')} |" for s in sparsities)
        lines.append(f"| {one} over {other} |" + "".join(line))
    return "\n".join(lines)


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


def time_taken(rows: list[Row]) -> str:
    """How long the runs took, in words; of rows of an earlier version it is unknown."""
    timed = [row for row in rows if "processor_seconds" in row]
    runs = sum(len(row["seeds"]) for row in timed)
    seconds = sum(len(row["seeds"]) * row["processor_seconds"] for row in timed)
    return f"{runs} runs took {seconds / 60:.1f} minutes of processor time"


def _signed(row: Row) -> str:
    spread = f" ± {row['interval']:.2f}" if row["interval"] is not None else ""
    return f"{row['mean']:+.2f}{spread}"


def _cell(row: Row) -> str:
    if row["diverged"]:
        return f"{row['diverged']} of {len(row['seeds'])} diverged"
    spread = f" ± {row['interval']:.2f}" if row["interval"] is not None else ""
    return f"{row['mean']:.2f}{spread}"
