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
import datetime
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import measure
import results_file
import story_matrix
import story_pictures
import story_rows
import story_tables
from reproduce import config_field
from rich.console import Console
from story_matrix import Cell
from story_train import Mode, train_seeds

from srigl_jax import data
from srigl_jax.config import load_config

CONFIG = Path(__file__).with_name("story_config.py")


def train_group(cells: list[Cell], mode: str, keep: bool) -> list[str]:
    """Trains cells that differ only in their seed; writes the rows of each.

    Args:
      cells: not finished.
      mode: of `train_seeds`.
      keep: whether to write the network of the first one beside its row.

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
        if keep and cell is cells[0]:
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
    """Trains all that is not finished; yields what became of each group."""
    left = [cell for cell in cells if not cell.is_finished]
    waiting = story_matrix.groups(left)
    if jobs == 1:
        for group in waiting:
            try:
                yield Outcome(group, train_group(group, mode, keep), None)
            except Exception as error:
                yield Outcome(group, [], error)
        return
    cores = sorted(os.sched_getaffinity(0))
    context = get_context("spawn")
    places = context.SimpleQueue()
    for job in range(jobs):
        places.put(cores[job % len(cores)])
    with ProcessPoolExecutor(jobs, context, _start_job, (places,)) as pool:
        started = {
            pool.submit(train_group, group, mode, keep): group for group in waiting
        }
        for done in as_completed(started):
            error = done.exception()
            yield Outcome(started[done], [] if error else done.result(), error)


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
    config = load_config(f"{CONFIG}:{arguments.network}")
    config.update_from_flattened_dict(dict(arguments.fields))
    study = story_matrix.STUDIES[arguments.study]
    variants = study.variants(config)
    if unknown := set(arguments.methods or ()) - set(variants):
        sys.exit(f"error: unknown methods {sorted(unknown)}: choose of {[*variants]}")
    chosen = {name: variants[name] for name in arguments.methods or variants}
    root = arguments.root / arguments.network
    os.environ["STORY_COMPILATIONS"] = str(arguments.root / "compilations")
    use_compilation_cache(arguments.root / "compilations")
    console = Console()
    name = f"story_{arguments.name or f'{arguments.network}_{arguments.study}'}"
    described = results_file.described(config)
    earlier = []
    try:
        cells = story_matrix.make_cells(
            config,
            chosen,
            arguments.sparsities or study.sparsities,
            range(arguments.seeds),
            root,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        if not arguments.no_results:
            path = measure.RESULTS / f"{name}.json"
            earlier = results_file.read_rows(path, described)
    except ValueError as error:
        sys.exit(f"error: {error}\nGive results of your own a --name.")
    try:
        story_matrix.check_claims(cells)
    except ValueError as error:
        sys.exit(f"error: {error}\nAnother --root starts afresh.")
    failed = [] if arguments.gather_only else _train_all(cells, arguments, console)
    rows = story_tables.gather(cells)
    if rows and not arguments.no_results:
        rows = results_file.beside(rows, earlier, "variant", list(variants))
        _save(name, described, rows, arguments.study)
    if not rows and not failed:
        sys.exit(f"error: none of the {len(cells)} cells below {root} is finished")
    if failed:
        sys.exit("\n".join(["error: these failed:", *map(_failure, failed)]))


def _failure(outcome: Outcome) -> str:
    first, error = outcome.cells[0], outcome.error
    seeds = ", ".join(str(cell.seed) for cell in outcome.cells)
    where = f"{first.variant} {first.sparsity:.0%} seed {seeds}"
    return f"{where}: {type(error).__name__}: {error}"


def _save(name: str, config: dict, rows: list[story_tables.Row], study: str) -> None:
    """Writes rows, and prints them as tables."""
    print(story_tables.markdown(rows))
    differences = story_tables.differences(rows)
    if differences:
        print(f"\n{story_tables.differences_markdown(differences)}")
    print(f"\n{story_tables.time_taken(rows)}")
    content = {"config": config, "rows": rows, "differences": differences}
    print(f"saved {measure.save(name, content)}")
    for path in story_pictures.draw(rows, study, measure.RESULTS / name):
        print(f"saved {path}")


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
    parser.add_argument("--network", default="mlp", help="of story_config.py")
    parser.add_argument("--study", choices=story_matrix.STUDIES, default="methods")
    parser.add_argument("--methods", nargs="+", help="of the study, instead of all")
    parser.add_argument("--sparsities", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="map",
        help="one seed after the other in a compiled loop, all at each of its steps, "
        "or one after the other in steps of their own, for convolutions",
    )
    parser.add_argument(
        "--keep", action="store_true", help="the network of each first seed"
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
    parser.add_argument("--root", type=Path, default=Path("runs/story"))
    parser.add_argument("fields", nargs="*", type=config_field, metavar="NAME=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
