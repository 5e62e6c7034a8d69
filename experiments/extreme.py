"""Output layers of 10^5 to 10^6 labels: accuracy on WordNet, memory and time.

    python experiments/extreme.py [--quick] [--only wordnet step curve]
        [--methods ...] [--seeds 0 1 2] [--set epochs=10 negatives=0 ...]

Prints tables and writes results/extreme_SECTION.json after every row; --quick takes a
few texts and labels, checks that all runs, and writes nothing. WordNet comes from
Debian's package wordnet-base. Accuracies are percentages of the 23,125 test glosses.
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

SECTIONS = ("wordnet", "step", "curve")
BASELINES = {
    "popularity": extreme_wordnet.popularity,
    "neighbours": extreme_wordnet.neighbours,
}
METHODS = (*BASELINES, *extreme_wordnet.TRAINED)
CURVE = (10**4, 10**5, 10**6, 3 * 10**6)
QUICK = {"epochs": 1, "examples": 2048, "delta_t": 3, "batches": 2, "width": 64}


def run_wordnet(args: argparse.Namespace, console: Console) -> None:
    """A row for each method and seed."""
    settings = dataclasses.replace(
        extreme_wordnet.Settings(), **(QUICK if args.quick else {}), **dict(args.set)
    )
    data = extreme_wordnet.load(settings)
    rows = []
    for method in args.methods:
        for seed in args.seeds[: 1 if method in BASELINES else None]:
            row = {"method": method, "seed": seed}
            rows.append(row | _wordnet_row(method, data, settings, seed, console))
            _save(args, "extreme_wordnet", {"settings": vars(settings), "rows": rows})
    _print(console, "WordNet", rows)


def _wordnet_row(method, data, settings, seed, console) -> dict[str, Any]:
    if method in BASELINES:
        return extreme_wordnet.scores(data, BASELINES[method](data))
    with Progress(console=console) as progress:
        task = progress.add_task(f"{method}, seed {seed}")

        def report(step, steps, loss):
            name = f"{method}, seed {seed}: loss {loss:.3f}"
            progress.update(task, completed=step, total=steps, description=name)

        return extreme_wordnet.train(method, data, settings, seed, report)


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
    types = {f.name: f.type for f in dataclasses.fields(extreme_wordnet.Settings)}
    if not equals or name not in types:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give NAME=VALUE, NAME one of {', '.join(types)}"
        )
    return name, types[name](value)


def main() -> None:
    """Runs the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--set", nargs="+", type=_setting, default=())
    args = parser.parse_args()
    if args.quick:
        args.seeds = args.seeds[:1]
    sections = {"wordnet": run_wordnet, "step": run_step, "curve": run_curve}
    for name in args.only:
        sections[name](args, Console())


if __name__ == "__main__":
    main()
