"""What the benchmark of training steps counts, on a tiny network."""

import io

import benchmark_step
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from srigl_jax.config import get_config


@pytest.fixture(scope="module")
def results():
    config = get_config()
    config.batch_size = 8
    config.delta_t = 10
    config.dataset.name = "synthetic"
    config.dataset.image_shape = (8, 8, 3)
    config.dataset.examples = 64
    config.augment.flip = True
    config.model = ConfigDict({"name": "mlp", "widths": (16,), "dropout": 0.0})
    return benchmark_step.measured(config, rounds=3)


def test_topology_updates_do_not_compile_the_step_again(results):
    assert results["updates"] == 4
    assert results["compilations"] == 1


def test_a_step_that_updates_counts_once_in_delta_t(results):
    seconds = results["seconds"]
    ratios = [
        (0.9 * step + 0.1 * update) / plain
        for plain, step, update in zip(
            seconds["plain"], seconds["step"], seconds["step, update"], strict=True
        )
    ]
    assert results["amortised over plain"] == pytest.approx(sorted(ratios)[1])
    share = 1 - 1 / results["amortised over plain"]
    assert results["share outside"] == pytest.approx(share)


def test_a_step_holds_its_state_beside_what_the_gradient_needs(results):
    memory = results["memory, MiB"]
    assert memory["step"]["arguments"] > memory["plain"]["arguments"]
    assert results["peak of the process, MiB"] > memory["step"]["peak"]


def test_the_table_says_how_many_updates_were_compiled_for(results):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(benchmark_step.table(results))
    (line,) = (x for x in console.export_text().splitlines() if "compilations" in x)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "compilations, with 4 topology updates",
        "1",
        "1",
    ]
