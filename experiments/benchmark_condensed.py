"""Condensed inference against everything else, from one layer to whole networks.

    python experiments/benchmark_condensed.py [--quick | --full]
        [--torch PYTHON] [--deepsparse PYTHON] [--workdir W]

Prints tables and writes results/benchmark_condensed.json, .png and .svg; --quick,
--only and --full write files of their own, --full its layers as .csv. Takes about ten
minutes on two cores, --quick two, --full more than an hour. Contenders take turns in
bursts of 3 to 12 calls, whose first third does not count; one call is what a user sees,
inputs at hand and results waited for. Those that are not installed are skipped with a
line. Leave the machine alone meanwhile. What is interrupted is written as such, under a
name of its own.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import util
from typing import Any

import condensed_picture
import condensed_report
import measure
from condensed_worker import Options, work
from rich.console import Console
from rich.progress import Progress
from shown import Tasks

SECTIONS = ("layers", "convolutions", "networks")
SECONDS = {"quick": 0.6, "default": 1.5, "full": 3.0}
"""For the rounds of a point."""


ABOUT = (
    "microseconds are medians of single calls, the last two thirds of each burst; "
    "times_faster and speed_over_best_dense are medians of the ratios of bursts of the "
    "same round; best dense is the faster of XLA dense and PyTorch dense",
    "30 % ablated: the layer's budget goes to the neurons that are left",
    "N:M rounds to whole weights in a block: see density",
    "CSR products are given the input already transposed",
    "JAX's functions, dense ones included, have their weights as constants (BCSR: as "
    "an argument)",
    "shares: bytes touched over the bandwidth at which as many bytes are read, for "
    "dense layers at batch 1; elsewhere useful FLOPs over the FLOPs of XLA's product "
    "of 2048 x 2048 float32 matrices, the padding of convolutions counted as useful",
)


def run(options: Options, results: dict[str, Any], console: Console) -> None:
    """Runs `work` in a process on as many cores as threads; adds to the results."""
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    command = [sys.executable, __file__, "--work", json.dumps(vars(options))]
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            # Before JAX counts the cores it may use.
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ) as process,
        Tasks(console) as progress,
    ):
        task = progress.add_task(f"{options.threads} thread(s)", total=None)
        try:
            for line in process.stdout:
                _take(json.loads(line), results, progress, task)
        except KeyboardInterrupt:
            process.kill()
            raise
    if process.returncode:
        sys.exit(
            f"error: the process of {options.threads} thread(s) ended with exit status "
            f"{process.returncode}; earlier results are left as they are"
        )


def _take(message: dict, results: dict, progress: Progress, task) -> None:
    """Adds what the process reports to the results or shows it."""
    if "total" in message:
        progress.update(task, total=message["total"])
    if "doing" in message:
        results["doing"] = message["doing"]
        progress.update(task, description=message["doing"])
    for kind, rows in (("row", "layers"), ("network", "networks"), ("limits",) * 2):
        if kind in message:
            results[rows].append(message[kind])
    if "lost" in message:
        results["notes"].append(f"{results['doing']}: {message['lost']}")
    if message.keys() & {"row", "network", "lost"}:
        progress.advance(task)
    for note in message.get("notes", ()):
        if note not in results["notes"]:
            results["notes"].append(note)
            progress.console.print(note)
    for name in ("versions", "instructions"):
        if name in message:
            results[name] = message[name]


def main() -> None:
    """Measures, prints, and saves."""
    arguments = _parse()
    if arguments.work:
        return _work_for_parent(Options(**json.loads(arguments.work)))
    console = condensed_report.wide(Console())
    effort = "quick" if arguments.quick else "full" if arguments.full else "default"
    results: dict[str, Any] = {"about": ABOUT, "effort": effort}
    results["only"] = arguments.only
    results |= {"layers": [], "networks": [], "limits": [], "notes": []}
    has_torch = util.find_spec("torch") is not None
    name = name_of(effort, arguments.only)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for threads in sorted(set(arguments.threads), reverse=True):
            options = Options(
                effort,
                tuple(arguments.only),
                threads,
                threads == max(arguments.threads),
                arguments.torch or (sys.executable if has_torch else None),
                arguments.deepsparse,
                arguments.torch_compile,
                arguments.workdir,
                arguments.seconds or SECONDS[effort],
            )
            run(options, results, console)
    except KeyboardInterrupt:
        name += "_interrupted"
        results["notes"].append(f"interrupted at {results.get('doing')}")
    results.pop("doing", None)
    condensed_report.add_shares(results)
    condensed_report.show(results, console)
    saved = condensed_picture.draw(results, measure.RESULTS / name)
    if effort == "full":
        grid = measure.RESULTS / f"{name}.csv"
        condensed_report.write_grid(results["layers"], grid)
        results["layers"] = f"in {grid.name}"
        saved.append(grid)
    for path in (measure.save(name, results), *saved):
        console.print(f"saved {path}")


def name_of(effort: str, only: Sequence[str]) -> str:
    """The name of the results, so that partial runs leave the whole one's alone."""
    parts = [effort] if effort != "default" else []
    parts += sorted(only) if len(only) < len(SECTIONS) else []
    return "_".join(["benchmark_condensed", *parts])


def _work_for_parent(options: Options) -> None:
    replies = os.fdopen(os.dup(1), "w")
    # What libraries print must not end up among the messages.
    os.dup2(2, 1)

    def emit(**message):
        print(json.dumps(message), file=replies, flush=True)

    work(options, emit)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_true", help="in under two minutes")
    amount.add_argument("--full", action="store_true", help="the whole grid: hours")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        choices=range(1, cores + 1),
        metavar="N",
        default=sorted({1, cores}),
        help="thread counts; the largest gets the whole grid",
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections"
    )
    parser.add_argument("--torch", metavar="PYTHON", help="a Python with PyTorch")
    parser.add_argument("--deepsparse", metavar="PYTHON", help="one with DeepSparse")
    parser.add_argument(
        "--torch-compile",
        action="store_true",
        help="also the paper's gather form through torch.compile, which takes long",
    )
    parser.add_argument("--workdir", help="of a trained run, for its masks")
    parser.add_argument("--seconds", type=float, help="for the rounds of a point")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
