"""Accuracy against the time of inference, of every structure, on this machine.

    python experiments/story.py --network wide --study inference --seeds 3 --keep
    python experiments/story_inference.py

Takes the networks of the first seed that the first command kept, and times each for one
image on one core, in turns: unstructured ones as scipy's CSR, those whose neurons were
pruned as narrower dense ones, constant fan-in and N:M in the form that
`srigl_jax.condensed` chooses by its rule, and the dense network as XLA has it. Writes
results/story_inference.json and .png.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import measure
import numpy as np
import optax
import scipy.sparse
import story_pictures
from flax import nnx
from ml_collections import ConfigDict
from safetensors.numpy import load
from story_matrix import NETWORK, STUDIES, make_cells

from srigl_jax import data
from srigl_jax.condensed import condense_model
from srigl_jax.config import load_config
from srigl_jax.parts import make_model

HERE = Path(__file__).parent
UNSTRUCTURED = ("RigL, padded",)
KINDS = {
    "dense, padded": "XLA dense",
    "RigL, padded": "unstructured, CSR",
    "neuron pruning, padded": "narrower dense",
    "SRigL, M = fan-in": "constant fan-in",
    "SRigL, M = 32": "N:M",
}
# A call takes microseconds; so many are timed at once.
CALLS = 20

Call = Callable[[], Any]


def load_network(config: ConfigDict, path: Path, dataset: data.Dataset) -> tuple:
    """The network of a cell and its masks, `MaskedNode` where a leaf is dense."""
    leaves = load(path.read_bytes())
    model = make_model(config, dataset)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def named(prefix, otherwise):
        def find(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found = leaves.get(prefix + name)
            return otherwise(leaf) if found is None else jnp.asarray(found)

        return jax.tree_util.tree_map_with_path(find, params)

    nnx.update(model, named("params/", lambda leaf: leaf))
    model.eval()
    return model, named("masks/", lambda _: optax.MaskedNode())


def jitted(model: nnx.Module, x: np.ndarray) -> Call:
    """A network under XLA, condensed layers included."""
    definition, state = nnx.split(model)
    call = jax.jit(lambda state, x: nnx.merge(definition, state)(x))
    x = jnp.asarray(x)
    return lambda: call(state, x)


def nothing(x: np.ndarray) -> Call:
    """What calling a compiled function takes by itself."""
    call, x = jax.jit(lambda x: x + 1), jnp.asarray(x[:, :1, :1])
    return lambda: call(x)


def csr(model: nnx.Module, x: np.ndarray) -> Call:
    """An MLP of scipy's sparse matrices, with numpy between them."""
    layers = [
        (
            scipy.sparse.csr_matrix(np.asarray(layer.kernel[...]).T),
            np.asarray(layer.bias[...]),
        )
        for layer in model.layers
    ]
    x = x.reshape(-1)

    def call():
        y = x
        for number, (kernel, bias) in enumerate(layers, 1):
            y = kernel @ y + bias
            y = np.maximum(y, 0) if number < len(layers) else y
        return y[None]

    return call


def make_call(cell, dataset, x: np.ndarray) -> tuple[Call, str]:
    """How the network of a cell is run for one image, and what to call that.

    Raises:
      ValueError: it does not compute what the network that was trained does.
    """
    model, masks = load_network(cell.config, cell.directory / NETWORK, dataset)
    if cell.variant == "dense, padded":
        return jitted(model, x), "XLA dense"
    expected = np.asarray(jitted(model, x)())
    if cell.variant in UNSTRUCTURED:
        call, form = csr(model, x), "scipy CSR"
    else:
        shape = dataset.image_shape
        found = condense_model(model, masks, example_shape=shape)
        call = jitted(found.model, x)
        form = ", ".join(layer.form for layer in found.layers)
    off = np.abs(np.asarray(call()) - expected).max() / np.abs(expected).max()
    if not off < 1e-3:
        raise ValueError(f"{cell.directory}: as {form} it is off by {off:.1e}")
    return call, form


def time_calls(calls: dict[Any, Call], rounds: int) -> dict[Any, np.ndarray]:
    """Microseconds of a call, in turns: f64[rounds] of each."""

    def many(call):
        return lambda: [jax.block_until_ready(call()) for _ in range(CALLS)]

    taken = measure.interleaved({k: many(c) for k, c in calls.items()}, rounds)
    return {key: 1e6 * seconds / CALLS for key, seconds in taken.items()}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A line a method, a point a sparsity; up and to the left is better."""
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        found = [row for row in rows if row["variant"] == variant]
        name = variant.removesuffix(", padded")
        axis.errorbar(
            [row["microseconds"] for row in found],
            [row["accuracy"] for row in found],
            [row["interval"] or 0 for row in found],
            label=f"{name}: {found[0]['kind']}",
            color=story_pictures.COLORS.get(name),
            marker="." if row_is_sparse(found[0]) else "*",
            capsize=2,
        )
        for row in filter(row_is_sparse, found):
            where = row["microseconds"], row["accuracy"]
            axis.annotate(f" {row['sparsity']:g}", where, fontsize=6)
    axis.set_xscale("log")
    axis.set(xlabel="microseconds for one image", ylabel="test accuracy, %")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def row_is_sparse(row: dict[str, Any]) -> bool:
    """Whether a row is of a sparse network."""
    return bool(row["sparsity"])


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line a network."""
    lines = ["| network | sparsity | accuracy, % | microseconds | form of its layers |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        interval = f" ± {row['interval']:.2f}" if row["interval"] else ""
        lines.append(
            f"| {row['variant']} | {row['sparsity']:g} | {row['accuracy']:.2f}"
            f"{interval} | {row['microseconds']:.0f} | {row['form']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Times all, prints the table, saves the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("runs/story"))
    parser.add_argument("--results", default="story_wide_inference")
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    study = STUDIES["inference"]
    saved = json.loads((measure.RESULTS / f"{arguments.results}.json").read_text())
    accuracies = {(row["variant"], row["sparsity"]): row for row in saved["rows"]}
    config = load_config(f"{HERE / 'story_config.py'}:wide")
    root = arguments.root / "wide"
    cells = {
        (cell.variant, cell.sparsity): cell
        for cell in make_cells(
            config, study.variants(config), study.sparsities, [0], root
        )
    }
    first = next(iter(cells.values()))
    dataset = data.load(**first.config.dataset.to_dict())
    x = next(dataset.eval_batches(1))["image"].astype(np.float32)
    x = (x - np.float32(dataset.mean)) / np.float32(dataset.std)
    made = {key: make_call(cell, dataset, x) for key, cell in cells.items()}
    calls = {key: call for key, (call, _) in made.items()}
    taken = time_calls(calls | {"nothing": nothing(x)}, arguments.rounds)
    empty = float(np.median(taken["nothing"]))
    rows = [
        {
            "variant": variant,
            "sparsity": sparsity,
            "accuracy": accuracies[variant, sparsity]["mean"],
            "interval": accuracies[variant, sparsity]["interval"],
            "microseconds": float(np.median(taken[variant, sparsity])),
            "least": float(taken[variant, sparsity].min()),
            "form": form,
            "kind": KINDS[variant],
        }
        for (variant, sparsity), (_, form) in made.items()
    ]
    print(markdown(rows))
    print(f"\nA compiled call that computes nothing takes {empty:.0f} microseconds.")
    path = measure.save("story_inference", {"empty_call": empty, "rows": rows})
    draw(rows, path.with_suffix(".png"))
    print(f"saved {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
