"""Test accuracy of dense, static, SET, RigL and SRigL at 90, 95 and 99 % sparsity.

    python experiments/compare_methods.py --config configs/fashion_mnist.py:mlp

Every run is a run of the trainer, in a process on one core; as many go on at a time as
there are cores. Interrupted, the same command goes on: finished runs are kept and
others resume; runs of another config are refused. Writes the rows asked for, each with
its seeds, seconds, command and date, to results/compare_methods_NAME.json, beside the
rows that earlier commands left there for the same config; a file of another config is
moved aside, to NAME.1.json or the next free number. Prints the table of them all in
Markdown, with the standard deviation where there are several seeds.
"""

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import measure
import numpy as np
import results_file
from rich.console import Console
from shown import Tasks

from srigl_jax.config import check_workdir, load_config

METHODS = {
    "dense": {"method": "dense"},
    "static": {"method": "static"},
    "SET": {"method": "set"},
    "RigL": {"method": "rigl"},
    "SRigL without ablation": {"method": "srigl", "ablation": False},
    "SRigL": {"method": "srigl"},
}

Results = dict[tuple[str, float, int], dict[str, Any]]


def run(
    overrides: dict[str, Any], config: str, workdir: Path, cores: set[int]
) -> dict[str, Any]:
    """Trains in a process of its own on some cores; returns its result.json.

    Raises:
      RuntimeError: the run failed; holds the end of what it printed.
      ValueError: the workdir holds a finished run of another config.
    """
    result = workdir / "result.json"
    if result.exists():
        wanted = load_config(config)
        wanted.update_from_flattened_dict(overrides)
        check_workdir(workdir, wanted)
    else:
        command = [sys.executable, "-m", "srigl_jax.train", f"--config={config}"]
        command += [f"--config.{name}={value}" for name, value in overrides.items()]
        process = subprocess.run(
            [*command, f"--workdir={workdir}"],
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        if process.returncode:
            output = (process.stdout + process.stderr)[-2000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return json.loads(result.read_text())


def matrix(
    methods: list[str], sparsities: list[float], seeds: int
) -> dict[tuple, dict[str, Any]]:
    """The overrides of every run, by (method, sparsity, seed); dense has sparsity 0."""
    runs = {}
    for seed in range(seeds):
        for method in methods:
            for sparsity in [0.0] if method == "dense" else sparsities:
                fields = METHODS[method] | {"sparsity": sparsity, "seed": seed}
                runs[method, sparsity, seed] = fields
    return runs


def each_core() -> list[set[int]]:
    """The cores there are, each by itself."""
    return [{core} for core in sorted(os.sched_getaffinity(0))]


def run_all(
    runs: dict[tuple, dict[str, Any]], config: str, root: Path, places: list[set[int]]
) -> Results:
    """Runs the matrix, in a directory each below `root`.

    Args:
      runs: the overrides of each by (method, sparsity, seed).
      config: a file, and its argument.
      root: of their workdirs.
      places: sets of cores, on each of which one goes on at a time.

    Returns:
      The results by (method, sparsity, seed), in the order of `runs`.
    """
    free = SimpleQueue()
    for cores in places:
        free.put(cores)

    def one(key):
        cores = free.get()
        try:
            method, sparsity, seed = key
            name = f"{_slug(method)}-{sparsity:g}-{seed}"
            return run(runs[key], config, root / name, cores)
        finally:
            free.put(cores)

    with Tasks() as progress, ThreadPoolExecutor(len(places)) as pool:
        task = progress.add_task("runs", total=len(runs))
        futures = {pool.submit(one, key): key for key in runs}
        for future in as_completed(futures):
            method, sparsity, seed = futures[future]
            accuracy = future.result()["accuracy"]
            progress.print(f"{method} {sparsity:.0%} seed {seed}: {accuracy:.2%}")
            progress.advance(task)
    return {key: future.result() for future, key in futures.items()}


def gather(results: Results) -> list[dict]:
    """Mean and spread over seeds, one entry for each method and sparsity."""
    made = {
        "command": measure.environment()["command"],
        "date": datetime.date.today().isoformat(),
    }
    rows = []
    for method, sparsity in dict.fromkeys(key[:2] for key in results):
        seeds = [key[2] for key in results if key[:2] == (method, sparsity)]
        found = [results[method, sparsity, seed] for seed in seeds]
        accuracies = [100 * r["accuracy"] for r in found]
        may_ablate = [
            layer for r in found for layer in r["layers"] if layer["may_ablate"]
        ]
        neurons = sum(layer["neurons"] for layer in may_ablate)
        active = sum(layer["active"] for layer in may_ablate)
        rows.append(
            {
                "method": method,
                "sparsity": sparsity,
                "seeds": seeds,
                "accuracies": accuracies,
                "mean": float(np.mean(accuracies)),
                "std": float(np.std(accuracies, ddof=1)) if len(found) > 1 else None,
                "active_share": active / neurons if neurons else None,
                "seconds": [r["seconds"] for r in found],
                **made,
            }
        )
    return rows


def described(config: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What a results file says of a config.

    Args:
      config: a file, and its argument.
      fields: that differ from the file's, by their dotted names.
    """
    wanted = load_config(config)
    wanted.update_from_flattened_dict(fields)
    return results_file.described(wanted)


def beside_earlier(rows: list[dict], config: dict, path: Path) -> list[dict]:
    """The rows, and all others of a results file.

    Where that is of another config, or names none, its rows are no company for these:
    it is moved aside, and the user told.

    Args:
      rows: as of `gather`.
      config: as of `described`.
      path: of the file.
    """
    try:
        earlier = results_file.read_rows(path, config)
    except ValueError as error:
        earlier = []
        aside = _free_name(path)
        path.rename(aside)
        print(f"{error}\nmoved to {aside.name}")
    return results_file.beside(rows, earlier, "method", list(METHODS))


def markdown(rows: list[dict]) -> str:
    """The table of accuracies: a line a method, a column a sparsity."""
    cells = {(row["method"], row["sparsity"]): _cell(row) for row in rows}
    sparsities = sorted({sparsity for _, sparsity in cells if sparsity})
    head = "| test accuracy, % |" + "".join(f" {s:.0%} |" for s in sparsities)
    lines = [head, "|---|" + "---|" * len(sparsities)]
    for method in dict.fromkeys(method for method, _ in cells):
        columns = [0.0] * len(sparsities) if method == "dense" else sparsities
        line = "".join(f" {cells.get((method, s), '')} |" for s in columns)
        lines.append(f"| {method} |{line}")
    return "\n".join(lines)


def _cell(row: dict) -> str:
    spread = f" ± {row['std']:.2f}" if row["std"] is not None else ""
    return f"{row['mean']:.2f}{spread}"


def _free_name(path: Path) -> Path:
    """NAME.1.json, or the first number that is not taken."""
    names = (path.with_suffix(f".{n}{path.suffix}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _slug(method: str) -> str:
    return method.replace(" ", "-")


def main() -> None:
    """Runs the matrix, prints the table, saves the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config",
        default="configs/fashion_mnist.py:mlp",
        help="file, and maybe :argument (%(default)s)",
    )
    parser.add_argument(
        "--sparsities",
        type=float,
        nargs="+",
        default=[0.9, 0.95, 0.99],
        help="of all methods but dense (%(default)s)",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*METHODS], help="all if none"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many, from 0 on (%(default)s)"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("runs/compare_methods"),
        help="of the workdirs (%(default)s)",
    )
    arguments = parser.parse_args()
    name = Path(arguments.config).name.replace(".py", "").replace(":", "_")
    root = arguments.root / name
    runs = matrix(arguments.methods, arguments.sparsities, arguments.seeds)
    try:
        results = run_all(runs, arguments.config, root, each_core())
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}\nAnother --root starts afresh.")
    config = described(arguments.config, {})
    path = measure.RESULTS / f"compare_methods_{name}.json"
    rows = beside_earlier(gather(results), config, path)
    Console().print(markdown(rows), markup=False, highlight=False)
    print(f"saved {measure.save(path.stem, {'config': config, 'rows': rows})}")


if __name__ == "__main__":
    main()
