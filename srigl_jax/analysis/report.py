"""The run report: one HTML file that tells a person what a run learned.

It opens in any browser from any place: pictures and style are inside it and nothing is
fetched. It is written whole or not at all.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from srigl_jax.analysis import statistics
from srigl_jax.analysis.history_plots import (
    active_neurons,
    explored_weights,
    learning_curve,
)
from srigl_jax.analysis.mask_plots import fan_in_histogram, input_pixels, mask_drawing
from srigl_jax.analysis.page import facts, gallery, headline, page, section, table
from srigl_jax.analysis.table import (
    COLUMNS,
    layer_cells,
    quantity,
    total_cells,
    totals,
)
from srigl_jax.progress import duration
from srigl_jax.workdir import write_atomically


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    config: Mapping[str, Any],
    rows: list[dict[str, Any]],
    metrics: list[dict[str, Any]],
    masks: Mapping[str, np.ndarray],
    outcome: Mapping[str, Any],
    image_shape: tuple[int, int, int] | None = None,
    measure: str = "accuracy",
) -> None:
    """Writes the report of a run to `path`.

    Args:
        path: of the HTML file; replaced if it exists.
        title: the heading.
        config: the resolved configuration; may be nested.
        rows: the layers, in the order of the network; the keys are those that
            `srigl_jax.analysis.table` lists.
        metrics: records as `srigl_jax.metrics.read_metrics` gives them; may be empty.
        masks: bool[fan_in, neurons] of each sparse layer, in the order of the network;
            empty for a dense run.
        outcome: what is known of these: `accuracy` in [0, 1]; `split`, the one it was
            measured on, "test" by default; `seconds` of wall time; `steps` trained;
            `flops` of inference, a dict of `dense` and `learned`;
            `topology_end`, the step of the last topology update; `versions`, a dict of
            package to version.
        image_shape: (height, width, channels) if the first layer reads a flattened
            image; its weights are then drawn on that.
        measure: what `outcome` and "eval" records have for accuracy: "P@1", say.
    """
    sections = [
        headline(_headline(rows, outcome, measure)),
        *_history(metrics, outcome, measure),
        section(
            "Layers",
            "k is the number of weights of each active neuron; a range where it varies "
            "from neuron to neuron.",
            table(COLUMNS, map(layer_cells, rows), total_cells(rows)),
        ),
        *_topology(rows, masks, image_shape),
        *_facts("Configuration", config),
        *_facts("Versions", outcome.get("versions", {})),
    ]
    document = page(title, _subtitle(rows, outcome), sections)
    write_atomically(path, document)


def _headline(
    rows: list[dict[str, Any]], outcome: Mapping[str, Any], measure: str
) -> Iterator[tuple[str, str, str]]:
    every = totals(rows)
    sparse = totals([row for row in rows if row["sparse"]])
    if measure in outcome:
        split = outcome.get("split", "test").capitalize()
        yield f"{split} {measure}", f"{outcome[measure]:.2%}", "at the last step"
    if sparse["size"]:
        got, asked = (1 - sparse[key] / sparse["size"] for key in ("weights", "asked"))
        yield "Sparsity", f"{got:.2%}", f"{asked:.2%} asked"
    else:
        yield "Sparsity", "dense", "no sparse layer"
    yield "Weights", f"{every['weights']:,}", f"of {every['size']:,} if dense"
    if "flops" in outcome:
        dense, learned = outcome["flops"]["dense"], outcome["flops"]["learned"]
        remark = f"{learned / dense:.1%} of {quantity(dense)} if dense"
        yield "FLOPs per image", quantity(learned), remark
    yield "Active neurons", f"{every['active']:,}", f"of {every['neurons']:,}"
    if "seconds" in outcome:
        speed = outcome.get("steps", 0) / max(outcome["seconds"], 1e-9)
        remark = f"{speed:,.3g} steps/s overall" if speed else ""
        yield "Wall time", duration(outcome["seconds"]), remark


def _subtitle(rows: list[dict[str, Any]], outcome: Mapping[str, Any]) -> str:
    sparse = sum(row["sparse"] for row in rows)
    steps = f", {outcome['steps']:,} training steps" if "steps" in outcome else ""
    return f"{sparse} of {len(rows)} layers sparse{steps}"


def _history(
    metrics: list[dict[str, Any]], outcome: Mapping[str, Any], measure: str
) -> Iterator[str]:
    end = outcome.get("topology_end")
    for picture in (
        learning_curve(
            metrics, end, split=outcome.get("split", "test"), measure=measure
        ),
        active_neurons(metrics, end),
        explored_weights(metrics, end),
    ):
        if picture:
            yield section(picture.title, picture.reading, picture.svg)


def _topology(
    rows: list[dict[str, Any]],
    masks: Mapping[str, np.ndarray],
    image_shape: tuple[int, int, int] | None,
) -> Iterator[str]:
    if not masks:
        return
    yield section(
        _fan_in_title(masks),
        "Blue: active neurons by how many weights they have; a constant fan-in is a "
        "single spike. Orange, at 0: neurons that were ablated.",
        gallery((fan_in_histogram(*item) for item in masks.items()), 280),
    )
    yield section(
        "Which weights exist",
        "A column is a neuron, a row is an input, a blue dot is a weight. Columns "
        "shaded in orange are ablated neurons.",
        gallery((mask_drawing(*item) for item in masks.items()), 420),
    )
    first = rows[0]["name"]
    if image_shape and first in masks and len(masks[first]) == np.prod(image_shape):
        picture = input_pixels(first, masks[first], image_shape)
        yield section(
            picture.title,
            picture.reading,
            f'<div style="max-width: 400px">{picture.svg}</div>\n',
        )


def _fan_in_title(masks: Mapping[str, np.ndarray]) -> str:
    ranges = {name: statistics.fan_in_range(mask) for name, mask in masks.items()}
    varying = [name for name, (low, high) in ranges.items() if low != high]
    if not varying:
        return "In each sparse layer, all active neurons have the same fan-in"
    return (
        f"Fan-in varies from neuron to neuron in {len(varying)} of {len(masks)} "
        "sparse layers"
    )


def _facts(heading: str, values: Mapping[str, Any]) -> Iterator[str]:
    if values:
        yield section(heading, "", facts(_flat("", values)))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    else:
        yield name, str(value)
