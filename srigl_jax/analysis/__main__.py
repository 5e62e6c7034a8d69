"""What a trained network costs, and what its topology became.

    python -m srigl_jax.analysis --workdir runs/digits

Takes the last complete checkpoint of a run, as srigl_jax.train leaves it, and prints
for each layer, and in all:

- FLOPs of inference: dense; as asked, by the densities of the plan; and as learned, by
  what the masks leave once ablated neurons, and what only they read or feed, are gone;
- k, the weights of each active neuron, the active neurons, and the share of weights
  that ever existed in training (the ITOP rate);
- bytes of the weights, dense and condensed;
- FLOPs of training, per example and of the whole run, dense and by the method.

A multiplication and an addition are an operation each. All of it goes into
analysis.json in the workdir, and pictures into its folder analysis/: flops.svg,
active_neurons.svg, explored.svg, and the fan-in of each sparse layer.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from srigl_jax.analysis.cost_plots import flops_by_layer
from srigl_jax.analysis.history_plots import active_neurons, explored_weights
from srigl_jax.analysis.mask_plots import fan_in_histogram
from srigl_jax.analysis.of_run import analyse, render_analysis
from srigl_jax.analysis.svg import Picture, standalone
from srigl_jax.metrics import read_metrics
from srigl_jax.sparsity import layer_masks
from srigl_jax.trained import Trained, load_trained
from srigl_jax.workdir import write_atomically


def write_analysis(
    workdir: Path, *, data_dir: str | None = None, source_dir: str | None = None
) -> dict[str, Any]:
    """Analyses a run; prints a table and writes analysis.json and the pictures.

    Args:
      workdir: of the run.
      data_dir: see `load_trained`.
      source_dir: see `load_trained`.

    Returns:
      The content of analysis.json, see `analyse`.

    Raises:
      ValueError: it is no workdir, or has no checkpoint yet.
    """
    trained = load_trained(workdir, data_dir=data_dir, source_dir=source_dir)
    found = analyse(trained)
    title = "{model} on {dataset}, {method}".format_map(found)
    print(f"{title}, after step {trained.step:,}\n{render_analysis(found)}")
    path = workdir / "analysis.json"
    write_atomically(path, json.dumps(found, indent=2) + "\n")
    folder = workdir / "analysis"
    folder.mkdir(exist_ok=True)
    for name, picture in _pictures(trained, found, workdir):
        write_atomically(folder / f"{name}.svg", standalone(picture))
    print(f"wrote {path} and the pictures in {folder}")
    return found


def _pictures(
    trained: Trained, found: dict[str, Any], workdir: Path
) -> Iterator[tuple[str, Picture]]:
    records = read_metrics(workdir / "metrics.jsonl")
    history = [record for record in records if record["step"] <= trained.step]
    pictures = {
        "flops": flops_by_layer(found["layers"]),
        "active_neurons": active_neurons(history),
        "explored": explored_weights(history),
    }
    for name, mask in layer_masks(trained.masks, trained.plan).items():
        file = f"fan_in.{name.removesuffix('/kernel').replace('/', '.')}"
        pictures[file] = fan_in_histogram(name, mask)
    yield from ((name, picture) for name, picture in pictures.items() if picture)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m srigl_jax.analysis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="of a run of srigl_jax.train"
    )
    parser.add_argument("--data_dir", help="prepared data sets, if not the run's")
    parser.add_argument("--source_dir", help="original files, if not the run's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `write_analysis` with the command line; errors become one clear line."""
    flags = vars(_parse(arguments))
    try:
        write_analysis(**flags)
    except (ValueError, OSError) as error:
        # What the loader of data sets calls the trainer's flags are ours without it.
        sys.exit("error: " + str(error).replace("--config.dataset.", "--"))


if __name__ == "__main__":
    main()
