"""The pictures of a run over its steps: what it learned, lost and tried.

Each function draws one `Picture`, or gives None where nothing was recorded.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from srigl_jax.analysis.svg import LAYER_COLOURS, LIGHT, Picture, drawing, to_svg
from srigl_jax.metrics import series


def learning_curve(
    metrics: list[dict[str, Any]],
    topology_end: int | None = None,
    *,
    split: str = "test",
    measure: str = "accuracy",
) -> Picture | None:
    """Loss and accuracy over the steps; None if none was recorded.

    Args:
        metrics: records as `read_metrics` gives them; kinds "train" and "eval" count.
        topology_end: the step after which the topology stays as it is; marked.
        split: what "eval" records were measured on: "test", "validation".
        measure: what records have for accuracy, a share of 1.
    """
    curves = {
        (name, kind): series(metrics, kind, name)
        for name in ("loss", measure)
        for kind in ("train", "eval")
    }
    if not any(steps.size for steps, _ in curves.values()):
        return None
    title = _learning_title(curves, measure)
    with drawing(960, 290) as figure:
        for axes, name in zip(figure.subplots(1, 2), ("loss", measure), strict=True):
            axes.set_title(name[0].upper() + name[1:])
            _plot(axes, *curves[name, "train"], color=LIGHT["muted"], label="train")
            _plot(axes, *curves[name, "eval"], color=LIGHT["blue"], label=split)
            _scale(axes, is_share=name == measure)
            _step_axis(axes)
            _mark_topology_end(axes, topology_end)
        svg = to_svg(figure, title)
    return Picture(
        title,
        f"Grey is measured on training batches, blue on the {split} set. A gap between "
        "them is what the network learned by heart." + _end_reading(topology_end),
        svg,
    )


def active_neurons(
    metrics: list[dict[str, Any]], topology_end: int | None = None
) -> Picture | None:
    """Share of active neurons of each layer over the steps.

    The layers that lost most are coloured and named, the others stay grey.

    Args:
        metrics: records as `read_metrics` gives them; kind "topology" counts.
        topology_end: the step after which the topology stays as it is; marked.

    Returns:
        None if no topology was recorded.
    """
    history = _history(
        metrics, lambda layer: layer["active"] / max(layer["neurons"], 1)
    )
    if not history:
        return None
    title = _neurons_title(metrics)
    return Picture(
        title,
        "Share of each layer's neurons that have weights. A step down is neurons being "
        "ablated, their weights given to the others of the layer; a step up is neurons "
        "coming back." + _end_reading(topology_end),
        _draw_shares(title, history, _lowest_share(history), topology_end),
    )


def explored_weights(
    metrics: list[dict[str, Any]], topology_end: int | None = None
) -> Picture | None:
    """Share of each layer's weights that have ever existed, over the steps.

    The layers that explored least are coloured and named, the others stay grey.

    Args:
        metrics: records as `read_metrics` gives them; kind "topology" counts.
        topology_end: the step after which the topology stays as it is; marked.

    Returns:
        None if no exploration was recorded.
    """
    history = _history(metrics, lambda layer: layer.get("explored"))
    if not history:
        return None
    ends = [shares[-1] for _, shares in history.values()]
    spread = (
        f"{min(ends):.1%} to {max(ends):.1%}" if len(ends) > 1 else f"{ends[0]:.1%}"
    )
    title = f"Training tried {spread} of the weights of a sparse layer"
    return Picture(
        title,
        "Share of each layer's possible weights that existed at some time. The curves "
        "start at the density; what they gain is what topology updates tried."
        + _end_reading(topology_end),
        _draw_shares(title, history, 0.0, topology_end),
    )


def _learning_title(curves: dict, measure: str) -> str:
    steps, accuracy = curves[measure, "eval"]
    if accuracy.size:
        best = int(accuracy.argmax())
        if accuracy[best] == accuracy[-1]:
            return f"Held-out {measure} ends at its best, {accuracy[-1]:.1%}"
        return (
            f"Held-out {measure} ends at {accuracy[-1]:.1%}; its best was "
            f"{accuracy[best]:.1%}, at step {steps[best]:,}"
        )
    _, loss = curves["loss", "train"]
    if loss.size:
        return f"Training loss went from {loss[0]:.3g} to {loss[-1]:.3g}"
    return f"Loss and {measure} over the steps"


def _neurons_title(metrics: list[dict[str, Any]]) -> str:
    last = [record for record in metrics if record["kind"] == "topology"][-1]["layers"]
    lost = {name: layer["neurons"] - layer["active"] for name, layer in last.items()}
    neurons = sum(layer["neurons"] for layer in last.values())
    if not any(lost.values()):
        return f"All {neurons:,} neurons stayed active"
    most = max(lost, key=lost.get)
    return (
        f"{sum(lost.values()):,} of {neurons:,} neurons were ablated, most of them in "
        f"{most} ({lost[most]:,} of {last[most]['neurons']:,})"
    )


def _history(
    metrics: list[dict[str, Any]], share_of: Callable[[dict], float | None]
) -> dict[str, tuple[list, list]]:
    history = {}
    for record in metrics:
        if record["kind"] != "topology":
            continue
        for name, layer in record["layers"].items():
            share = share_of(layer)
            if share is not None:
                steps, shares = history.setdefault(name, ([], []))
                steps.append(record["step"])
                shares.append(share)
    return history


def _draw_shares(
    title: str,
    history: dict[str, tuple[list, list]],
    lowest: float,
    topology_end: int | None,
) -> str:
    """A line a layer; those that end lowest are coloured and named."""
    by_end = sorted(history, key=lambda name: history[name][1][-1])
    named = by_end[: len(LAYER_COLOURS)]
    with drawing(960, 290) as figure:
        axes = figure.subplots()
        for name in by_end[len(named) :]:
            axes.plot(*history[name], color=LIGHT["rule"], drawstyle="steps-post")
        ends = []
        for name, colour in zip(named, LAYER_COLOURS, strict=False):
            steps, shares = history[name]
            marker = "o" if len(steps) == 1 else ""
            axes.plot(
                steps, shares, marker=marker, color=colour, drawstyle="steps-post"
            )
            ends.append((shares[-1], f"{name} {shares[-1]:.0%}", colour))
        axes.set_ylim(lowest, 1.02)
        axes.margins(x=0.01)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _step_axis(axes)
        _label_ends(axes, ends)
        _mark_topology_end(axes, topology_end)
        return to_svg(figure, title)


def _lowest_share(history: dict[str, tuple[list, list]]) -> float:
    """Where the axis starts: below all lines, and never so high that noise shows."""
    lowest = min(min(shares) for _, shares in history.values())
    return max(0.0, 1 - 1.5 * max(1 - lowest, 0.1))


def _plot(axes: Axes, steps: np.ndarray, values: np.ndarray, **style) -> None:
    marker = "o" if len(steps) < 30 else None
    axes.plot(steps, values, marker=marker, markersize=3, **style)


def _scale(axes: Axes, *, is_share: bool) -> None:
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    if is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(frameon=False, loc="lower right")
    elif values.size and 0 < 10 * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _mark_topology_end(axes: Axes, step: int | None) -> None:
    if step is not None:
        axes.axvline(step, color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (2, 3)))


def _end_reading(topology_end: int | None) -> str:
    if topology_end is None:
        return ""
    return f" The dotted line is the last topology update, step {topology_end:,}."


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names lines at their right ends, pushed apart where they would overlap."""
    bottom, top = axes.get_ylim()
    height = -np.inf
    for value, text, colour in sorted(ends):
        height = max(value, height + 0.07 * (top - bottom))
        axes.annotate(
            text,
            (1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
            annotation_clip=False,
        )
