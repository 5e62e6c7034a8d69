"""How much faster a matrix of short runs is than a trainer process for each of them.

    python experiments/story_speed.py

The matrix is 60 runs of an epoch of Fashion-MNIST: four methods, three sparsities, five
seeds, by experiments/story.py from nothing, with an empty cache of compilations. Of the
trainer a sample of the same runs is timed, half of it before the matrix and half after,
each a process of its own on the same core; the time of all 60 is extrapolated from
their median, for on a shared machine one may be stopped for minutes. Writes
results/story_speed.json, with the wall time and the processor time of every process,
and the accuracies that both reach.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from rich.console import Console
from story_matrix import METHODS, make_cells

from srigl_jax.config import load_config

SPARSE = ("static", "RigL", "SRigL without ablation", "SRigL")
SPARSITIES = (0.9, 0.95, 0.99)
SEEDS = 5
FIELDS = {"epochs": 1, "optimizer.warmup_epochs": 0.5}
HERE = Path(__file__).parent


def timed(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds of a process and its children.

    Raises:
      RuntimeError: it failed; holds the end of what it printed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            tail = output.read().decode()[-2000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{tail}")
    return {"wall": wall, "processor": usage.ru_utime + usage.ru_stime}


def time_matrix(network: str, root: Path) -> dict[str, float]:
    """Of the whole matrix, by story.py."""
    fields = [f"{name}={value}" for name, value in FIELDS.items()]
    command = [sys.executable, str(HERE / "story.py"), *fields, "--study", "main"]
    command += ["--network", network, "--root", str(root)]
    command += ["--no-results", "--seeds", str(SEEDS), "--methods", *SPARSE]
    command += ["--sparsities", *map(str, SPARSITIES)]
    return timed(command)


def time_trainer(network: str, fields: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Of one run, by the trainer, with the accuracy it reaches."""
    command = [sys.executable, "-m", "srigl_jax.train", f"--workdir={workdir}"]
    command += [f"--config={HERE / 'story_config.py'}:{network}"]
    fields = FIELDS | fields
    taken = timed(command + [f"--config.{n}={value}" for n, value in fields.items()])
    accuracy = json.loads((workdir / "result.json").read_text())["accuracy"]
    return taken | {"accuracy": accuracy}


def main() -> None:
    """Times both, prints the ratio, saves the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="mlp", help="of story_config.py")
    parser.add_argument("--sample", type=int, default=6, help="runs of the trainer")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config = load_config(f"{HERE / 'story_config.py'}:{arguments.network}")
    config.update_from_flattened_dict(FIELDS)
    matrix = list(itertools.product(SPARSE, SPARSITIES, range(SEEDS)))
    picked = [matrix[i] for i in _spread(len(matrix), arguments.sample)]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        cells = {
            (cell.variant, cell.sparsity, cell.seed): cell
            for cell in make_cells(
                config,
                {name: METHODS[name] for name in SPARSE},
                SPARSITIES,
                range(SEEDS),
                root / arguments.network,
            )
        }
        runs = []
        for number, (method, sparsity, seed) in enumerate(picked):
            if number == len(picked) // 2:
                together = time_matrix(arguments.network, root)
            fields = METHODS[method] | {"sparsity": sparsity, "seed": seed}
            taken = time_trainer(arguments.network, fields, root / f"run-{number}")
            runs.append({"run": [method, sparsity, seed]} | taken)
        for run in runs:
            run["accuracy_in_matrix"] = cells[tuple(run["run"])].row()["accuracy"]
    result = summary(runs, together, len(matrix))
    content = {"fields": FIELDS, "network": arguments.network, "trainer": runs}
    path = measure.save("story_speed", content | result)
    told = ", ".join(
        f"{kind} time {result['faster'][kind]:.1f} times" for kind in result["faster"]
    )
    Console().print(f"the matrix is faster in {told}\nsaved {path}", highlight=False)


def summary(
    runs: list[dict[str, Any]], together: dict[str, float], count: int
) -> dict[str, Any]:
    """What the times amount to.

    Args:
      runs: `wall` and `processor` seconds of each of a sample.
      together: of the whole matrix.
      count: runs of the matrix.

    Returns:
      `matrix`, `extrapolated` for all runs by the trainer, and `faster`, their ratio.
    """
    alone = {k: count * float(np.median([run[k] for run in runs])) for k in together}
    return {
        "runs": count,
        "sample": len(runs),
        "matrix": together,
        "extrapolated": alone,
        "faster": {kind: alone[kind] / together[kind] for kind in together},
    }


def _spread(length: int, count: int) -> list[int]:
    """Indices that lie evenly."""
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


if __name__ == "__main__":
    main()
