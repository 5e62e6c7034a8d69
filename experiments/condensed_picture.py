"""The picture of the benchmark of condensed inference: bars like the paper's."""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from condensed_problems import MAIN, MASKS, SPARSITIES
from condensed_report import Row, find, ours_in

BARS = {
    "PyTorch CSR": ("PyTorch CSR", MASKS[0]),
    "scipy CSR": ("scipy CSR", MASKS[0]),
    "the paper's form in PyTorch": ("PyTorch gather", MASKS[0]),
    "ONNX Runtime dense": ("ONNX Runtime dense", MASKS[0]),
    "DeepSparse": ("DeepSparse", MASKS[0]),
    "srigl_jax": ("ours", MASKS[0]),
    "srigl_jax, 30 % ablated": ("ours", MASKS[1]),
    "srigl_jax, N:M of 32": ("ours", MASKS[2]),
}


def speeds(rows: list[Row], name: str, mask: str, batch: int) -> list[float | None]:
    """Speed relative to the best dense one at each of `SPARSITIES`, for 3072->768.

    Args:
      rows: of one thread count.
      name: of a contender; "ours" is the fastest of our forms.
      mask: one of `MASKS`.
      batch: size.
    """
    found = []
    for sparsity in SPARSITIES:
        row = find(rows, MAIN.name, mask, sparsity, batch) or {}
        chosen = ours_in(row) if row and name == "ours" else name
        found.append(row.get("speed_over_best_dense", {}).get(chosen))
    return found


def draw(results: dict[str, Any], path: Path) -> list[Path]:
    """Draws grouped bars like the paper's; returns the files, none without figures.

    Args:
      results: as saved.
      path: of the files, without their suffix.
    """
    most = max((limit["threads"] for limit in results["limits"]), default=None)
    rows = [row for row in results["layers"] if row["threads"] == most]
    panels = {
        batch: {
            title: heights
            for title, (name, mask) in BARS.items()
            if any(heights := speeds(rows, name, mask, batch))
        }
        for batch in (1, 32)
    }
    if not any(panels.values()):
        return []
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colors = dict(zip(BARS, plt.get_cmap("tab10").colors, strict=False))
    for axis, (batch, bars) in zip(axes, panels.items(), strict=True):
        width = 0.85 / max(1, len(bars))
        for i, (title, heights) in enumerate(bars.items()):
            places = np.arange(len(SPARSITIES)) + (i - (len(bars) - 1) / 2) * width
            values = [h or 0 for h in heights]
            drawn = axis.bar(places, values, width, label=title, color=colors[title])
            labels = [f"{h:.1f}" if h else "" for h in heights]
            axis.bar_label(drawn, labels, fontsize=6, rotation=90, padding=2)
        axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(len(SPARSITIES)), [f"{s:.0%}" for s in SPARSITIES])
        axis.set(xlabel="sparsity", title=f"batch {batch}")
        axis.set_ylabel("speed, best dense product = 1")
        axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    figure.suptitle(f"{MAIN.name}, float32, {most} thread(s)", fontsize=11)
    paths = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in paths:
        figure.savefig(file, dpi=150)
    plt.close(figure)
    return paths
