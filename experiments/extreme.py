"""Output layers of 10^5 to 10^6 labels: accuracy on WordNet, memory and time.

    python experiments/extreme.py [--quick] [--only wordnet step curve]
        [--methods ...] [--seeds 0 1 2] [--epochs 2] [--evaluated 0]
        [--validation 0] [--set k=16 width=8192 ...]

Prints tables and writes results/extreme_SECTION.json after every row; --quick takes a
few texts and labels, checks that all runs, and writes nothing. WordNet comes from
Debian's package wordnet-base. Accuracies are percentages, of the 23,125 test glosses or
of --evaluated of them, a fixed random choice; --validation holds out so many training
glosses to choose settings by instead. The method omikuji needs the package of that name
(extra extreme) and is left out without it.
"""

import argparse
import dataclasses
from typing import Any

import extreme_cost
import extreme_wordnet
import measure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from srigl_jax.extreme.data import corpus
from srigl_jax.extreme.network import Settings

SECTIONS = ("wordnet", "step", "curve")
METHODS = (*extreme_wordnet.BASELINES, *extreme_wordnet.TRAINED)
CURVE = (10**4, 10**5, 10**6, 3 * 10**6)
QUICK = {"width": 64, "hashes": 2, "delta_t": 2, "growth_batches": 2, "clusters": 16}


def run_wordnet(args: argparse.Namespace, console: Console) -> None:
    """A row for each method and seed."""
    changed = (QUICK if args.quick else {}) | dict(args.set)
    settings = dataclasses.replace(Settings(), **changed)
    data = corpus.load(
        "wordnet", validation=args.validation, examples=2048 if args.quick else 0
    )
    rows = []
    for method in args.methods:
        is_baseline = method in extreme_wordnet.BASELINES
        for seed in args.seeds[: 1 if is_baseline else None]:
            row = _wordnet_row(method, data, settings, seed, args, console)
            if row is None:
                continue
            rows.append({"method": method, "seed": seed} | row)
            found = {
                "settings": vars(settings),
                "of_methods": extreme_wordnet.TRAINED,
                "epochs": args.epochs,
                "split": data.split,
                "evaluated": args.evaluated or len(data.held_out_positives),
                "rows": rows,
            }
            _save(args, "extreme_wordnet", found)
    _print(console, "WordNet", rows)


def _wordnet_row(method, data, settings, seed, args, console) -> dict[str, Any] | None:
    if method in extreme_wordnet.BASELINES:
        try:
            return extreme_wordnet.baseline(method, data, args.evaluated)
        except ImportError as error:
            console.print(f"{method} is left out: {error}")
            return None
    with Progress(console=console) as progress:
        task = progress.add_task(f"{method}, seed {seed}")

        def report(step, steps, loss):
            name = f"{method}, seed {seed}: loss {loss:.3f}"
            progress.update(task, completed=step, total=steps, description=name)

        return extreme_wordnet.train(
            method, data, settings, seed, args.epochs, args.evaluated, report
        )


def run_step(args: argparse.Namespace, console: Console) -> None:
    """A training step against the dense layer's."""
    labels, repeats = (2**12, 2) if args.quick else (2**17, 15)
    rows = []
    for width in (256, 768):
        found = extreme_cost.against_dense(labels, width, repeats)
        rows += [{"form": f, "width": width} | row for f, row in found.items()]
        _save(args, "extreme_step", {"labels": labels, "rows": rows})
    _print(console, f"a step at {labels:,} labels", rows)


def run_curve(args: argparse.Namespace, console: Console) -> None:
    """Memory and time by the number of labels."""
    rows = []
    for labels in CURVE[: 1 if args.quick else None]:
        rows.append(extreme_cost.curve(labels, 768, steps=1 if args.quick else 3))
        _save(args, "extreme_curve", {"rows": rows})
    _print(console, "a step by labels", rows)


def _save(args, name, results):
    if not args.quick:
        measure.save(name, results)


def _print(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*names, title=title)
    for row in rows:
        table.add_row(*(_text(row.get(name, "")) for name in names))
    console.print(table)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _setting(text: str) -> tuple[str, Any]:
    """`name=value` as the type of that setting."""
    name, equals, value = text.partition("=")
    types = {f.name: f.type for f in dataclasses.fields(Settings)}
    if not equals or name not in types:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give NAME=VALUE, NAME one of {', '.join(types)}"
        )
    return name, types[name](value)


def main() -> None:
    """Runs the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one seed, one epoch, 256 texts scored"
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="on WordNet")
    add("--seeds", nargs="+", type=int, default=(0, 1, 2), help="of what trains")
    add("--epochs", type=int, default=2, help="of training on WordNet")
    add("--evaluated", type=int, default=0, help="texts scored, 0 for all")
    add("--validation", type=int, default=0, help="training texts to score on instead")
    add(
        *("--set", "-s"),
        nargs="+",
        type=_setting,
        default=(),
        metavar="FIELD=VALUE",
        help="of srigl_jax.extreme.network.Settings",
    )
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.evaluated = args.seeds[:1], 1, 256
    sections = {"wordnet": run_wordnet, "step": run_step, "curve": run_curve}
    for name in args.only:
        sections[name](args, Console())


if __name__ == "__main__":
    main()
