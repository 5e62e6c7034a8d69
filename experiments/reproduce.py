r"""The paper's tables of accuracies: every run of a result, beside what was published.

    python experiments/reproduce.py --result resnet18_cifar10

Trains each method at each sparsity with as many seeds as the paper did, one run at a
time on all there is, or as many as `--parallel` says, a core each. The same command
goes on where it was interrupted. Config fields may follow, where the data are for one:

    python experiments/reproduce.py --result resnet50_imagenet \
        dataset.source_dir=/data/imagenet dtype=bfloat16

`--scale 0.001` is for trying the way: a thousandth of the images, made up in the true
shape, in small batches for a few epochs. Its accuracies mean nothing. Prints the table
and writes it to results/reproduce_NAME.json, which `--scale` does not; what earlier
commands left there is kept or moved aside as by compare_methods.py.

Several devices share each batch, which they have to divide: set mesh.data to fewer
where they do not. `--scale` trains on one device.
"""

import argparse
import ast
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import compare_methods
import measure
from ml_collections import ConfigDict
from rich.console import Console

from srigl_jax.config import load_config

METHODS = ("RigL", "SRigL without ablation", "SRigL")
CONFIGS = Path(__file__).parent.parent / "configs"


@dataclasses.dataclass(frozen=True)
class Result:
    """A row of the paper's table of results.

    Attributes:
      config: file in configs/, and its argument.
      seeds: as many as the paper ran.
      dense: published accuracy of the dense network, %, or None.
      sparse: published accuracies, %, by sparsity, in the order of `methods`.
      methods: of `compare_methods.METHODS`.
      train_images: of the data set.
      image_shape: (height, width, channels).
      classes: of the data set.
    """

    config: str
    seeds: int
    dense: float | None
    sparse: dict[float, tuple[float, ...]]
    methods: tuple[str, ...] = METHODS
    train_images: int = 1_281_167
    image_shape: tuple[int, int, int] = (224, 224, 3)
    classes: int = 1000


CIFAR = {"train_images": 50_000, "image_shape": (32, 32, 3), "classes": 10}
RESULTS = {
    "resnet18_cifar10": Result(
        "resnet18_cifar10.py",
        5,
        95.45,
        {
            0.8: (95.20, 95.19, 95.22),
            0.9: (95.06, 95.00, 95.11),
            0.95: (94.62, 94.48, 94.70),
            0.99: (92.88, 91.47, 92.79),
        },
        **CIFAR,
    ),
    "wrn22_cifar10": Result(
        "wrn22_cifar10.py",
        5,
        95.0,
        {
            0.8: (94.0, 94.1, 94.0),
            0.9: (93.3, 93.1, 93.3),
            0.95: (92.1, 91.4, 91.8),
            0.99: (84.9, 76.9, 82.7),
        },
        **CIFAR,
    ),
    "resnet50_imagenet": Result(
        "resnet50_imagenet.py:x1",
        1,
        76.74,
        {
            0.8: (74.98, 74.8, 75.01),
            0.9: (72.81, 72.6, 72.71),
            0.95: (69.7, 68.8, 69.18),
            0.99: (51.5, 48.7, 51.55),
        },
    ),
    "resnet50_imagenet_x2": Result(
        "resnet50_imagenet.py:x2",
        1,
        None,
        {0.8: (76.53,), 0.9: (74.76,), 0.95: (71.52,), 0.99: (55.34,)},
        methods=("SRigL",),
    ),
    "vit_b16_imagenet": Result(
        "vit_b16_imagenet.py:dense_qkv",
        1,
        78.35,
        {0.8: (77.88, 73.50, 77.47), 0.9: (76.39, 71.26, 76.00)},
    ),
}
"""Of srigl.md's table of published results, test accuracy, top-1."""


def matrix(result: Result, seeds: int) -> dict[tuple, dict[str, Any]]:
    """The overrides of every run of a result, by (method, sparsity, seed)."""
    dense = ["dense"] if result.dense is not None else []
    return compare_methods.matrix([*dense, *result.methods], [*result.sparse], seeds)


def shortened(
    result: Result, config: ConfigDict, scale: float, batch_size: int = 8
) -> dict[str, Any]:
    """The overrides that make a config a short run on made-up images.

    Their shape and classes are the true ones. Learning rates follow the batch, those of
    AdamW its square root; warm-up and topology updates follow the number of steps.

    Args:
      result: whose config it is.
      config: as in its file.
      scale: share of the images and epochs, within what a run needs.
      batch_size: of the short run.
    """
    images = max(4 * batch_size, round(scale * result.train_images))
    epochs = max(4, round(scale * config.epochs))
    steps = images // batch_size * epochs
    share = epochs / config.epochs
    reference_batch = config.optimizer.reference_batch or config.batch_size
    learning_rate = config.optimizer.learning_rate
    if config.optimizer.name == "adamw":
        learning_rate *= math.sqrt(batch_size / reference_batch)
        reference_batch = batch_size
    return {
        "dataset.name": "synthetic",
        "dataset.image_shape": result.image_shape,
        "dataset.classes": result.classes,
        "dataset.examples": images,
        "batch_size": batch_size,
        "accumulate": 1,
        "epochs": epochs,
        "delta_t": max(1, min(config.delta_t, steps // 4)),
        "gradient_window": 1,
        "optimizer.learning_rate": learning_rate,
        "optimizer.reference_batch": reference_batch,
        "optimizer.warmup_epochs": share * config.optimizer.warmup_epochs,
        "optimizer.decay_every": share * config.optimizer.decay_every,
        "optimizer.decay_at": tuple(share * at for at in config.optimizer.decay_at),
        "mesh.data": 1,  # So small a batch is not worth sharing.
        "log_every": 1,
        "eval_every": steps,
        "checkpoint_every": steps,
    }


def markdown(result: Result, rows: list[dict]) -> str:
    """The table, a line a method and sparsity: published, measured, seeds."""
    published = {("dense", 0.0): result.dense}
    for sparsity, values in result.sparse.items():
        for method, value in zip(result.methods, values, strict=True):
            published[method, sparsity] = value
    lines = ["| method | sparsity | published, % | here, % | seeds | active neurons |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        method, sparsity = row["method"], row["sparsity"]
        share = row["active_share"]
        active = "" if share is None else f"{share:.1%}"
        here = f"{row['mean']:.2f}"
        here += f" ± {row['std']:.2f}" if row["std"] is not None else ""
        lines.append(
            f"| {method} | {sparsity:.0%} | {published[method, sparsity]} | {here} | "
            f"{len(row['seeds'])} | {active} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the matrix, prints the table, saves the results."""
    arguments = _parse()
    result = RESULTS[arguments.result]
    path = f"{CONFIGS / result.config}"
    runs = matrix(result, arguments.seeds or result.seeds)
    overrides = dict(arguments.fields)
    if arguments.scale:
        overrides |= shortened(result, load_config(path), arguments.scale)
    runs = {key: run | overrides for key, run in runs.items()}
    root = arguments.root / arguments.result
    if arguments.scale:
        root = root.with_name(f"{root.name}-scale-{arguments.scale:g}")
    places = compare_methods.each_core()[: arguments.parallel]
    if not arguments.parallel:
        places = [set().union(*places)]
    try:
        results = compare_methods.run_all(runs, path, root, places)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    rows = compare_methods.gather(results)
    config = compare_methods.described(path, overrides)
    saved = measure.RESULTS / f"reproduce_{arguments.result}.json"
    if not arguments.scale:
        rows = compare_methods.beside_earlier(rows, config, saved)
    Console().print(markdown(result, rows), markup=False, highlight=False)
    if not arguments.scale:
        content = {"result": dataclasses.asdict(result), "config": config, "rows": rows}
        print(f"saved {measure.save(saved.stem, content)}")


def config_field(text: str) -> tuple[str, Any]:
    """The name and value of a config field, `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--result", choices=RESULTS, required=True)
    parser.add_argument("--seeds", type=int, help="instead of as many as the paper's")
    parser.add_argument("--scale", type=float, help="for a short run on made-up images")
    parser.add_argument("--root", type=Path, default=Path("runs/reproduce"))
    parser.add_argument(
        "--parallel",
        type=int,
        choices=range(1, 1 + len(compare_methods.each_core())),
        metavar="N",
        help="runs at a time, a core each; by default one, on all there is",
    )
    parser.add_argument(
        "fields",
        nargs="*",
        type=config_field,
        metavar="NAME=VALUE",
        help="config fields",
    )
    arguments = parser.parse_args()
    if arguments.scale is not None and not 0 < arguments.scale <= 1:
        parser.error(f"--scale is {arguments.scale}: give a share above 0, at most 1")
    return arguments


if __name__ == "__main__":
    main()
