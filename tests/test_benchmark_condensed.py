"""What the benchmark of condensed inference draws, checks, counts and reports."""

import json

import benchmark_condensed
import bursts
import condensed_networks
import condensed_picture
import condensed_problems as problems
import condensed_report
import condensed_worker
import contenders
import matplotlib
import numpy as np
import pytest
from condensed_problems import MASKS, Point
from flax import nnx
from rich.console import Console

from srigl_jax import models

SPARSITY = 0.75
MAIN = problems.linear(64, 20)


def options(threads=1):
    return condensed_worker.Options(
        "quick", ("layers",), threads, True, None, None, False, None, 0.0
    )


def measured(point, mask=None):
    row = condensed_worker.measure_point(point, options(), {}, mask, least=1, most=1)
    return json.loads(json.dumps(row))


@pytest.mark.parametrize(
    ("mask", "fan_ins"),
    [(MASKS[0], [16] * 20), (MASKS[1], [0] * 6 + [22] * 14), (MASKS[2], [16] * 20)],
)
def test_random_masks_have_the_fan_ins_of_their_kind(mask, fan_ins):
    drawn = problems.random_mask(np.random.default_rng(0), 64, 20, SPARSITY, mask)
    assert sorted(drawn.sum(0)) == fan_ins


def test_a_block_mask_has_as_many_weights_in_every_block():
    rng = np.random.default_rng(0)
    drawn = problems.random_mask(rng, 64, 20, SPARSITY, MASKS[2])
    assert (drawn.reshape(2, 32, 20).sum(1) == 8).all()


def test_a_convolution_counts_its_positions_and_flops():
    shape = problems.conv(3, 5, 2, 4, stride=2)
    mask = np.ones((3, 3, 2, 4), bool)
    problem = problems.make_problem(Point(shape, 0.0, MASKS[0], 7), mask)
    assert shape.positions == 9
    assert problem.flops == 2 * 72 * 9 * 7


def test_the_quick_grid_is_part_of_the_default_one_and_that_of_the_full_one():
    only = ("layers", "convolutions")
    quick, default, full = (
        set(problems.grid(effort, only, True))
        for effort in ("quick", "default", "full")
    )
    assert quick < default < full


def test_blocks_are_not_asked_for_what_they_cannot_express():
    points = problems.grid("full", ("layers",), True)
    assert {p.sparsity for p in points if p.mask == MASKS[2]} == {0.8, 0.9, 0.95}


@pytest.mark.parametrize("mask", MASKS)
def test_a_layers_row_has_times_ratios_and_bytes_of_each_of_ours(mask):
    row = measured(Point(MAIN, SPARSITY, mask, 1))
    ours = {name for name in row["times_faster"] if name in contenders.OURS}
    assert {"ours: xla", "ours: auto"} <= ours == row["bytes"].keys()
    assert row["bandwidth_of_bytes"].keys() == ours
    assert row["rounds"]["XLA dense"] == 1
    assert {"XLA dense", "best dense", "best CSR"} <= row["times_faster"][
        "ours: auto"
    ].keys()
    assert ("XLA dense, narrowed" in row["microseconds"]) == (mask == MASKS[1])


def test_a_convolutions_row_has_no_csr():
    row = measured(Point(problems.conv(3, 4, 4, 8), SPARSITY, MASKS[1], 2))
    assert {"XLA dense", "XLA dense, narrowed", "ours: auto"} <= set(
        row["microseconds"]
    )
    assert row["bandwidth_of_bytes"] == {}
    assert not {"best CSR", "scipy CSR"} & row["times_faster"]["ours: auto"].keys()


def test_a_contender_that_computes_something_else_is_left_out():
    made = {
        "right": bursts.local(lambda: np.array([[1.0, 2.0]])),
        "wrong": bursts.local(lambda: np.array([[1.0, 2.1]])),
        "narrowed": bursts.local(lambda: np.array([[2.0]]), is_narrowed=True),
        "broken": bursts.local(lambda: 1 / 0),
    }
    kept, skipped = contenders.check(made, {}, np.array([[1.0, 2.0]]), np.array([1]))
    assert kept.keys() == {"right", "narrowed"}
    assert skipped["broken"] == "ZeroDivisionError: division by zero"
    assert skipped["wrong"].startswith("its result is wrong")


def test_a_contender_that_fails_in_a_round_does_not_stop_the_others():
    calls = iter(range(100))

    def fails_later(count):
        if next(calls) == 1:
            raise RuntimeError("lost\nits mind")
        return [0.0] * count

    made = {
        "good": bursts.local(lambda: np.zeros(1)),
        "bad": bursts.Contender(fails_later, lambda: np.zeros(1)),
    }
    times, failed = bursts.rounds(made, 0.0, least=3)
    assert times.keys() == {"good"} and times["good"].shape == (3, 8)
    assert failed == {"bad": "RuntimeError: lost"}


def test_a_ratio_pairs_the_rounds_that_both_have():
    times = np.array([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    others = np.array([[3.0, 5.0], [8.0, 16.0]])
    assert bursts.ratio(times, others) == 5.0


def test_an_engine_that_does_not_start_is_a_note():
    chosen = condensed_worker.Options(
        **vars(options()) | {"torch": "/nonexistent/python"}
    )
    engines, notes, _ = condensed_worker.start_engines(chosen)
    assert engines == {}
    assert notes[0].startswith("PyTorch skipped: /nonexistent/python does not start")


def test_a_networks_row_has_its_forms_and_differences():
    model = models.create("mlp", (4, 4, 1), 3, rngs=nnx.Rngs(0), widths=(40, 24))
    network = condensed_networks.randomised("tiny", (4, 4, 1), model, 0.5, "0")
    made, _, facts = condensed_networks.contenders(network, 2, 1, {})
    exported = {"StableHLO dense", "StableHLO condensed"}
    assert {"XLA dense", "ours: condensed"} | exported <= made.keys()
    assert facts["file_bytes"].keys() == exported
    for name in ("ours: condensed", *exported):
        assert facts["difference"][name] < 1e-4
    assert sum(facts["forms"].values()) == 3


def test_a_resnets_flops_are_those_of_the_weights_that_exist():
    model = models.create("resnet18", (8, 8, 3), 5, rngs=nnx.Rngs(0), width=4)
    network = condensed_networks.randomised("tiny", (8, 8, 3), model, 0.5)
    rows = {"stem": 64, "blocks/0/conv1": 64, "blocks/2/conv1": 16, "head": 1}
    flops = condensed_networks.flops(network, 1)
    assert {name: flops[name][1] for name in rows} == rows
    weights = int(network.masks["blocks"][7]["conv2"]["kernel"].sum())
    assert flops["blocks/7/conv2"][0] == weights < 9 * 32 * 32


@pytest.fixture
def results():
    shape = problems.MAIN
    times = {"XLA dense": 200.0, "ours: auto": 40.0, "ours: native": 50.0}
    row = {
        "threads": 2,
        "layer": shape.name,
        "kind": "linear",
        "mask": MASKS[0],
        "sparsity": 0.9,
        "batch": 1,
        "microseconds": times,
        "times_faster": {n: {"best dense": 200 / times[n]} for n in list(times)[1:]},
        "speed_over_best_dense": {n: 200 / t for n, t in times.items()},
        "chosen": "ours: native",
        "chosen_over_its_fastest_choice": 1.02,
        "flops": 1000,
        "bytes": {"ours: auto": 2_000_000, "ours: native": 1_000_000},
        "bandwidth_of_bytes": {"ours: auto": 1e11, "ours: native": 1e11},
        "skipped": {"DeepSparse": "no"},
    }
    limit = {"threads": 2, "flops_per_second": 1e9, "bytes_per_second": 1e10}
    batch = row | {"batch": 32, "bandwidth_of_bytes": {}}
    found = {"layers": [row, batch], "networks": [], "limits": [limit], "notes": []}
    condensed_report.add_shares(found)
    return found


def test_shares_are_of_the_bandwidth_at_batch_1_and_of_the_peak_in_batches(results):
    single, batch = results["layers"]
    assert single["share"] == {"ours: auto": 0.5, "ours: native": 0.2}
    assert batch["share"] == {"ours: auto": 0.025, "ours: native": 0.02}


def test_the_table_shows_goals_beside_what_was_measured(results):
    console = Console(width=250, record=True, quiet=True)
    with console.capture():
        condensed_report.show(results, console)
    goals = condensed_report.goal_table(results)
    cells = list(zip(*(column.cells for column in goals.columns), strict=True))
    what = "3072->768, constant fan-in, 90%, batch 1: best dense / ours: auto"
    assert (what, "5.0x", "at least 4x") in cells


def test_a_grid_is_a_line_a_point(results, tmp_path):
    results["layers"][1]["times_faster"] = {"ours: auto": {"scipy CSR": 3.0}}
    condensed_report.write_grid(results["layers"], tmp_path / "grid.csv")
    head, single, batch = (tmp_path / "grid.csv").read_text().splitlines()
    assert head.startswith("threads,layer,mask,sparsity,batch,microseconds,faster than")
    assert single == f"2,3072->768,{MASKS[0]},0.9,1,40.0,5.0,,ours: native,1.02"
    assert batch == f"2,3072->768,{MASKS[0]},0.9,32,40.0,,3.0,ours: native,1.02"


def test_bars_are_speeds_relative_to_the_best_dense(results):
    heights = condensed_picture.speeds(results["layers"], "ours", MASKS[0], 1)
    assert heights == [None, 5.0, None, None]


def test_the_picture_is_drawn_where_there_are_figures(results, tmp_path):
    matplotlib.use("Agg")
    files = condensed_picture.draw(results, tmp_path / "picture")
    assert [f.name for f in files] == ["picture.png", "picture.svg"]
    assert all(f.stat().st_size > 1000 for f in files)
    assert condensed_picture.draw(results | {"layers": []}, tmp_path / "none") == []


def test_partial_runs_do_not_overwrite_the_whole_one():
    names = [
        benchmark_condensed.name_of(effort, only)
        for effort, only in (
            ("default", benchmark_condensed.SECTIONS),
            ("quick", benchmark_condensed.SECTIONS),
            ("default", ["networks"]),
        )
    ]
    assert names == [
        "benchmark_condensed",
        "benchmark_condensed_quick",
        "benchmark_condensed_networks",
    ]
