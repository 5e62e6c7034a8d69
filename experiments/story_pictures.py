"""The pictures of the studies, from the rows of their results."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from story_rows import inner_layers
from story_tables import Row

COLORS = {
    "dense": "black",
    "SRigL": "tab:red",
    "SRigL without ablation": "tab:orange",
    "RigL": "tab:blue",
    "SET": "tab:cyan",
    "SNFS": "tab:purple",
    "static": "tab:gray",
    "SNIP": "tab:brown",
    "GraSP": "tab:pink",
    "gradual pruning": "tab:green",
    "one-shot pruning": "tab:olive",
    "neuron pruning": "goldenrod",
    "SR-STE": "darkblue",
    "lottery ticket": "darkgreen",
}
_USUAL = ("static", "SET", "RigL", "SRigL", "GraSP")
_COMPARED = ("RigL", "SRigL")
_STYLES = ("-", "--", ":", "-.")
_MOST_INSIDE = 8


def accuracy(rows: list[Row], axis: Axes) -> None:
    """Accuracy against sparsity, with intervals; dense as a line.

    A method has its colour in all its settings, each of which has a style of line.
    """
    settings: dict[str, int] = {}
    for variant, found in _by_variant(rows).items():
        method = variant.partition(", ")[0]
        style = _STYLES[settings.get(method, 0) % len(_STYLES)]
        settings[method] = settings.get(method, 0) + 1
        if not found[0]["sparsity"]:
            color = COLORS["dense"]
            axis.axhline(found[0]["mean"], color=color, linewidth=1, label=variant)
            continue
        axis.errorbar(
            [_place(row["sparsity"]) for row in found],
            [row["mean"] for row in found],
            [row["interval"] or 0 for row in found],
            label=variant,
            color=COLORS.get(method),
            linestyle=style,
            marker=".",
            capsize=2,
        )
    _sparsity_axis(rows, axis)
    # What collapses would press all else together.
    usual = [row["mean"] for row in rows if row["variant"] in _USUAL]
    if usual:
        highest = max(row["mean"] for row in rows)
        axis.set_ylim(max(0, min(usual) - 2), highest + 1)
    axis.set_ylabel(f"{rows[0]['split']} accuracy, %")


def active(rows: list[Row], axis: Axes) -> None:
    """The share of inner neurons that have a weight, against sparsity."""
    for variant, found in _by_variant(rows).items():
        if found[0]["active_share"] is None or variant not in COLORS:
            continue
        axis.plot(
            [_place(row["sparsity"]) for row in found],
            [100 * row["active_share"] for row in found],
            label=variant,
            color=COLORS[variant],
            marker=".",
        )
    _sparsity_axis(rows, axis)
    axis.set_ylabel("active inner neurons, %")


def fan_ins(rows: list[Row], axes: list[Axes]) -> None:
    """Neurons by their fan-in under RigL and SRigL, of the first seed."""
    found = {(row["variant"], row["sparsity"]): row for row in rows}
    sparsest = max(s for variant, s in found if variant in _COMPARED)
    for variant in _COMPARED:
        if (row := found.get((variant, sparsest))) is None:
            continue
        inner = [layer for layer in inner_layers(row["layers"]) if layer["fan_ins"]]
        for axis, layer in zip(axes, inner, strict=False):
            sizes = np.array([int(k) for k in layer["fan_ins"]])
            neurons = np.array([*layer["fan_ins"].values()])
            bins = np.arange(-0.5, max(sizes.max() + 1, 8) + 1)
            axis.hist(
                sizes,
                bins,
                weights=neurons,
                label=variant,
                color=COLORS[variant],
                alpha=0.6,
            )
            axis.set(xlabel="fan-in", ylabel="neurons")
            axis.set_title(f"{layer['name']}, {sparsest:.0%}", fontsize=9)
            axis.legend(fontsize=7)


def ablation(rows: list[Row], axis: Axes) -> None:
    """SRigL with and without ablation, from 95 % sparsity on, as bars."""
    bars = {-0.2: "SRigL without ablation", 0.2: "SRigL"}
    found = {(row["variant"], row["sparsity"]): row for row in rows}
    sparsities = [
        s
        for s in _sparsities(rows)
        if s >= 0.95 and all((variant, s) in found for variant in bars.values())
    ]
    if not sparsities:
        return
    for shift, variant in bars.items():
        axis.bar(
            np.arange(len(sparsities)) + shift,
            [found[variant, s]["mean"] for s in sparsities],
            0.4,
            yerr=[found[variant, s]["interval"] or 0 for s in sparsities],
            label=variant,
            color=COLORS[variant],
            capsize=3,
        )
    lowest = min(found[v, s]["mean"] for v in bars.values() for s in sparsities)
    axis.set_ylim(bottom=max(0, lowest - 2))
    axis.set_xticks(range(len(sparsities)), [f"{s:.0%}" for s in sparsities])
    axis.set(xlabel="sparsity", ylabel=f"{rows[0]['split']} accuracy, %")


def training_cost(rows: list[Row], axis: Axes) -> None:
    """Accuracy against the FLOPs of training, relative to dense training."""
    for variant, found in _by_variant(rows).items():
        costs = [row["training_flops"] for row in found]
        axis.plot(
            [cost["method"] / cost["dense"] for cost in costs],
            [row["mean"] for row in found],
            label=variant,
            color=COLORS.get(variant),
            marker="." if found[0]["sparsity"] else "*",
        )
    axis.set_xscale("log")
    axis.set(xlabel="FLOPs of training, dense = 1")
    axis.set_ylabel(f"{rows[0]['split']} accuracy, %")


def against_setting(what: str) -> Callable[[list[Row], Axes], None]:
    """Accuracy against what comes last in the names of variants.

    Args:
      what: the name of the axis.
    """

    def panel(rows: list[Row], axis: Axes) -> None:
        lines: dict[tuple[str, float], list] = {}
        ticks: dict[str, int] = {}
        sparsities = _sparsities(rows)
        for row in rows:
            kind, _, value = row["variant"].partition(", ")
            if value == "padded":
                value = ""
            if value:
                ticks.setdefault(value, len(ticks))
            lines.setdefault((kind, row["sparsity"]), []).append((value, row))
        for (kind, sparsity), points in lines.items():
            label = f"{kind}, {sparsity:.1%}" if sparsity else kind
            if not points[0][0]:
                axis.axhline(points[0][1]["mean"], linewidth=1, color="gray")
                axis.annotate(label, (0, points[0][1]["mean"]), fontsize=6)
                continue
            axis.errorbar(
                [ticks[value] for value, _ in points],
                [row["mean"] for _, row in points],
                [row["interval"] or 0 for _, row in points],
                label=label,
                color=COLORS.get(kind),
                linestyle=_STYLES[sparsities.index(sparsity) % len(_STYLES)]
                if sparsity
                else "-",
                marker=".",
                capsize=2,
            )
        axis.set_xticks(range(len(ticks)), ticks, fontsize=7)
        axis.set(xlabel=what, ylabel=f"{rows[0]['split']} accuracy, %")

    return panel


PANELS: dict[str, dict[str, Callable]] = {
    "methods": {
        "accuracy": accuracy,
        "active": active,
        "ablation": ablation,
        "cost": training_cost,
    },
    "main": {"accuracy": accuracy, "active": active, "ablation": ablation},
    "gammas": {"gamma": against_setting("gamma")},
    "blocks": {"M": against_setting("M")},
    "inference": {"accuracy": accuracy},
    "rankings": {"accuracy": accuracy},
    "tickets": {},
    "longer": {"length": against_setting("training")},
    "settings": {"setting": against_setting("setting")},
    "rates": {"rate": against_setting("learning rate")},
    "tuned": {},
}


def draw(rows: list[Row], study: str, path: Path) -> list[Path]:
    """Draws what a study shows; returns the files.

    Args:
      rows: of its results.
      study: of `story_matrix.STUDIES`.
      path: of the files, `-PANEL.png` is added.
    """
    matplotlib.use("Agg")
    drawn = []
    for name, panel in PANELS[study].items():
        figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        panel(rows, axis)
        if not axis.has_data():  # As of ablation below 95 %.
            plt.close(figure)
            continue
        drawn.append(_save(figure, [axis], path.with_name(f"{path.name}_{name}.png")))
    if set(_COMPARED) <= {row["variant"] for row in rows}:
        figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        fan_ins(rows, list(axes))
        for axis in axes:
            if not axis.has_data():  # Of a network with one hidden layer.
                axis.remove()
        drawn.append(_save(figure, [], path.with_name(f"{path.name}_fan_ins.png")))
    return drawn


def _save(figure, axes, path: Path) -> Path:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    for axis in axes:
        lines, labels = axis.get_legend_handles_labels()
        if len(labels) > _MOST_INSIDE:
            figure.legend(lines, labels, fontsize=7, loc="outside right upper")
        else:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _place(sparsity: float) -> float:
    """Sparsities are spread by what they leave: 80, 90, 95, 98, 99 % lie evenly."""
    return -float(np.log10(1 - sparsity))


def _sparsity_axis(rows: list[Row], axis: Axes) -> None:
    sparsities = _sparsities(rows)
    axis.set_xticks([_place(s) for s in sparsities], [f"{s:g}" for s in sparsities])
    axis.set_xlabel("sparsity")


def _sparsities(rows: list[Row]) -> list[float]:
    return sorted({row["sparsity"] for row in rows} - {0.0})


def _by_variant(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["sparsity"]):
        found.setdefault(row["variant"], []).append(row)
    order = list(dict.fromkeys(row["variant"] for row in rows))
    return {variant: found[variant] for variant in order}
