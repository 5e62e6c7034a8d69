"""Output layers of 10^5 to 10^6 labels: accuracy on WordNet, memory and time.

    python experiments/extreme.py [--quick] [--only wordnet methods step curve]
        [--methods ...] [--seeds 0 1 2] [--epochs 1] [--evaluated 0]
        [--validation 0] [--dataset wordnet] [--set k=16 batch_size=128 ...]

The section wordnet trains on the words themselves, against baselines that read them
too; methods compares the ways to choose positions, at a width where a dense layer fits.
Prints tables and writes results/extreme_SECTION.json after every row; --quick takes a
few texts and labels, checks that all runs, and writes nothing. WordNet comes from
Debian's package wordnet-base; --dataset names another set. Accuracies are percentages,
of the 23,125 test definitions or of --evaluated of them, a fixed random choice;
--validation holds out so many training definitions to choose settings by instead. The
method omikuji needs the package of that name (extra extreme) and is left out without
it. Every row is a process of its own, whose peak memory it has, the interpreter and the
data included.
"""

import argparse
import dataclasses
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import extreme_cost
import extreme_wordnet
import measure
from rich.console import Console
from rich.table import Table

from srigl_jax.extreme.network import Settings

SECTIONS = ("wordnet", "methods", "step", "curve")
METHODS = (*extreme_wordnet.BASELINES, *extreme_wordnet.TRAINED)
OF_WORDS = (*extreme_wordnet.BASELINES, "words")
CURVE = (10**4, 10**5, 10**6, 3 * 10**6)
QUICK = {"delta_t": 2, "growth_batches": 2, "clusters": 16}


def run_wordnet(args: argparse.Namespace, console: Console) -> None:
    """The classifier of words against the baselines."""
    _methods(args, console, "wordnet", [m for m in args.methods if m in OF_WORDS])


def run_methods(args: argparse.Namespace, console: Console) -> None:
    """The ways to choose positions against a dense layer."""
    _methods(args, console, "methods", [m for m in args.methods if m not in OF_WORDS])


def _methods(args, console, section, methods) -> None:
    """A row for each seed and method, seed by seed."""
    fixed = {name for m in methods for name in extreme_wordnet.TRAINED.get(m, {})}
    if lost := fixed & dict(args.set).keys():
        sys.exit(f"error: {sorted(lost)}: methods asked for set these themselves")
    plan = extreme_wordnet.Plan(
        args.dataset,
        dataclasses.replace(Settings(), **dict(args.set)),
        QUICK if args.quick else {},
        args.epochs,
        args.evaluated,
        args.validation,
        examples=2048 if args.quick else 0,
    )
    rows = []
    for seed in args.seeds:
        for method in methods:
            if method in extreme_wordnet.BASELINES and seed != args.seeds[0]:
                continue
            try:
                row = _in_a_process(extreme_wordnet.measure_row, method, seed, plan)
            except ImportError as error:
                console.print(f"{method} is left out: {error}")
                continue
            rows.append({"method": method, "seed": seed} | row)
            found = dataclasses.asdict(plan) | {
                "split": "validation" if args.validation else "test",
                "of_methods": {m: extreme_wordnet.TRAINED.get(m, {}) for m in methods},
                "rows": rows,
            }
            name = "" if args.dataset == "wordnet" else f"{args.dataset}_"
            _save(args, f"extreme_{name}{section}", found)
    _print(console, f"{args.dataset}, {section}", rows)


def _in_a_process(function, *arguments) -> Any:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


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
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="on texts")
    add("--seeds", nargs="+", type=int, default=(0, 1, 2), help="of what trains")
    add("--dataset", default="wordnet", help="or go, genes; of the first two sections")
    add("--epochs", type=int, default=1, help="of training on texts")
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
    run = dict(
        zip(SECTIONS, (run_wordnet, run_methods, run_step, run_curve), strict=True)
    )
    for name in args.only:
        # A row is longer than the 80 columns that a file is taken for.
        run[name](args, Console(width=None if sys.stdout.isatty() else 300))


if __name__ == "__main__":
    main()
