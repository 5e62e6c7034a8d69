r"""The story of sparse training, told by a matrix of short runs on Fashion-MNIST.

    python experiments/story.py --network mlp --study methods --seeds 5

Trains every method at every sparsity with several seeds, the seeds of a cell in one
compiled program (story_train.py), and writes results/story_NETWORK_STUDY.json, a table
with means and 95 % intervals, and pictures. The same command goes on where it was
interrupted; cells of other settings are refused. Rows that earlier commands left in the
results stay beside those of this one, so a study can be made in parts. A cell that
fails does not keep the others from being trained: it is listed at the end. Config
fields may follow:

    python experiments/story.py --network mlp --methods dense SRigL --sparsities 0.9 \
        --root runs/story-longer --name mlp_long epochs=20

`--jobs 2` trains two cells at a time, a core each.
"""

import argparse
import contextlib
import datetime
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import story_matrix
import story_rows
import story_tables
from ml_collections import ConfigDict
from reproduce import config_field
from rich.console import Console
from story_config import NETWORKS
from story_matrix import Cell
from story_results import Results
from story_train import Mode, train_seeds

from srigl_jax import data
from srigl_jax.config import load_config, unknown_field

CONFIG = Path(__file__).with_name("story_config.py")


def train_group(cells: list[Cell], mode: str, keep: Path | None) -> list[str]:
    """Trains cells that differ only in their seed; writes the rows of each.

    Args:
      cells: not finished.
      mode: of `train_seeds`.
      keep: directory of the cell whose network is written beside its row, if any.

    Returns:
      What to tell of each.
    """
    start = time.process_time()
    config = cells[0].config
    dataset = data.load(**config.dataset.to_dict())
    trained = train_seeds(config, [cell.seed for cell in cells], dataset, mode=mode)
    made = {
        "processor_seconds": (time.process_time() - start) / len(cells),
        "trained_together": len(cells),
        "date": datetime.date.today().isoformat(),
    }
    told = []
    for cell, network in zip(cells, trained, strict=True):
        cell.claim()
        if cell.directory == keep:
            story_rows.write_network(network, cell.directory)
        row = story_rows.make_row(network, dataset)
        story_rows.write_row(row | made, cell.directory)
        told.append(
            f"{cell.variant} {cell.sparsity:.0%} seed {cell.seed}: "
            f"{row['accuracy']:.2%}, {made['processor_seconds']:.0f} s"
        )
    return told


class Outcome(NamedTuple):
    """What became of cells that were trained together.

    Attributes:
      cells: all of them.
      told: a line each, where they are finished.
      error: what went wrong, else None.
    """

    cells: list[Cell]
    told: list[str]
    error: Exception | None


def run(
    cells: list[Cell], jobs: int, mode: str, keep: bool = False
) -> Iterator[Outcome]:
    """Trains all that is not finished; yields what became of each group.

    Args:
      cells: of a matrix.
      jobs: groups that are trained at a time, each by a process with a core.
      mode: of `train_seeds`.
      keep: whether the network of each first seed is part of what is finished.
    """
    waiting = []
    for group in story_matrix.groups(cells):
        kept = group[0].directory if keep else None
        if left := [cell for cell in group if not _has_all(cell, kept)]:
            waiting.append((left, mode, kept))
    if jobs == 1:
        for group, *how in waiting:
            try:
                yield Outcome(group, train_group(group, *how), None)
            except Exception as error:
                yield Outcome(group, [], error)
        return
    cores = sorted(os.sched_getaffinity(0))
    context = get_context("spawn")
    places = context.SimpleQueue()
    for job in range(jobs):
        places.put(cores[job % len(cores)])
    with ProcessPoolExecutor(jobs, context, _start_job, (places,)) as pool:
        started = {pool.submit(train_group, *work): work[0] for work in waiting}
        for done in as_completed(started):
            error = done.exception()
            yield Outcome(started[done], [] if error else done.result(), error)


def _has_all(cell: Cell, kept: Path | None) -> bool:
    has_network = (cell.directory / story_matrix.NETWORK).exists()
    return cell.is_finished and (has_network or cell.directory != kept)


def use_compilation_cache(root: Path) -> None:
    """Lets programs that one process has compiled be found by the others, and later."""
    jax.config.update("jax_compilation_cache_dir", str(root.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _start_job(places) -> None:
    os.sched_setaffinity(0, {places.get()})
    use_compilation_cache(Path(os.environ["STORY_COMPILATIONS"]))


def main() -> None:
    """Trains what is left, prints the table, saves results and pictures."""
    arguments = _parse()
    study = story_matrix.STUDIES[arguments.study]
    root = arguments.root / arguments.network
    with _one_line():
        config = _config(arguments)
        variants = study.variants(config)
        cells = story_matrix.make_cells(
            config,
            _chosen(variants, arguments.methods),
            arguments.sparsities or study.sparsities,
            range(arguments.seeds),
            root,
        )
    name = f"story_{arguments.name or f'{arguments.network}_{arguments.study}'}"
    results = Results(name, arguments.study, config, variants)
    if not arguments.no_results:
        with _one_line("Give others a --name, or move these away."):
            results.earlier()
    with _one_line("Another --root starts afresh."):
        story_matrix.check_claims(cells)
    os.environ["STORY_COMPILATIONS"] = str(arguments.root / "compilations")
    use_compilation_cache(arguments.root / "compilations")
    failed = []
    try:
        if not arguments.gather_only:
            failed = _train_all(cells, arguments, Console())
    except KeyboardInterrupt:
        print("interrupted; the same command trains what is left")
        sys.exit(128 + signal.SIGINT)
    rows = story_tables.gather(cells)
    if rows and not arguments.no_results:
        results.add(rows)
    if not rows and not failed:
        sys.exit(f"error: none of the {len(cells)} cells below {root} is finished")
    if failed:
        sys.exit("\n".join(["error: these failed:", *map(_failure, failed)]))


@contextlib.contextmanager
def _one_line(advice: str = "") -> Iterator[None]:
    """Ends the program with what a ValueError says, and what to do about it."""
    try:
        yield
    except ValueError as error:
        sys.exit(f"error: {error}" + f"\n{advice}" * bool(advice))


def _config(arguments: argparse.Namespace) -> ConfigDict:
    config = load_config(f"{CONFIG}:{arguments.network}")
    for name, value in arguments.fields:
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, TypeError, ValueError) as error:
            why = unknown_field(name) if isinstance(error, KeyError) else error
            raise ValueError(f"{name}={value}: {why}") from error
    return config


def _chosen(variants: dict, names: list[str] | None) -> dict:
    if unknown := set(names or ()) - set(variants):
        raise ValueError(f"unknown methods {sorted(unknown)}: choose of {[*variants]}")
    return {name: variants[name] for name in names or variants}


def _failure(outcome: Outcome) -> str:
    first, error = outcome.cells[0], outcome.error
    seeds = ", ".join(str(cell.seed) for cell in outcome.cells)
    where = f"{first.variant} {first.sparsity:.0%} seed {seeds}"
    return f"{where}: {type(error).__name__}: {error}"


def _train_all(cells, arguments, console) -> list[Outcome]:
    """Trains and tells; returns what failed."""
    failed = []
    done = sum(cell.is_finished for cell in cells)
    console.print(f"{done} of {len(cells)} cells are finished", highlight=False)
    start = time.perf_counter()
    for outcome in run(cells, arguments.jobs, arguments.mode, arguments.keep):
        if outcome.error:
            failed.append(outcome)
        done += len(outcome.told)
        minutes = (time.perf_counter() - start) / 60
        for line in outcome.told or [f"failed: {_failure(outcome)}"]:
            console.print(line, highlight=False, markup=False)
        console.print(f"{done} of {len(cells)}, {minutes:.1f} minutes", highlight=False)
    return failed


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--network", choices=NETWORKS, default="mlp", help="of story_config.py"
    )
    parser.add_argument(
        "--study",
        choices=story_matrix.STUDIES,
        default="methods",
        help="the question, and with it the methods and sparsities",
    )
    parser.add_argument("--methods", nargs="+", help="of the study, instead of all")
    parser.add_argument(
        "--sparsities", type=float, nargs="+", help="instead of those of the study"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="map",
        help="map: one seed after the other in a compiled loop; vmap: all at each of "
        "its steps; steps: a compiled step at a time, which convolutions need",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="the network of each first seed, for story_inference.py",
    )
    parser.add_argument(
        "--gather-only", action="store_true", help="train nothing that is missing"
    )
    parser.add_argument(
        "--no-results", action="store_true", help="leave the rows in --root alone"
    )
    parser.add_argument(
        "--name",
        help="of the results, if not NETWORK_STUDY; needed where these are of another "
        "config",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("runs/story"),
        help="of the cells and of compiled programs",
    )
    parser.add_argument(
        "fields",
        nargs="*",
        type=config_field,
        metavar="NAME=VALUE",
        help="fields of the config; before --methods and --sparsities",
    )
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.jobs) < 1:
        parser.error("--seeds and --jobs: give at least 1")
    return arguments


if __name__ == "__main__":
    main()
