"""Tables of the benchmark of condensed inference."""

import csv
from pathlib import Path
from typing import Any

from condensed_problems import MAIN, MASKS
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

GOALS = (
    # Mask, sparsity, batch, against, at least.
    (MASKS[0], 0.8, 1, "best dense", 2),
    (MASKS[0], 0.9, 1, "best dense", 4),
    (MASKS[0], 0.95, 1, "best dense", 5),
    (MASKS[0], 0.99, 1, "best dense", 9),
    (MASKS[0], 0.9, 1, "best CSR", 3),
    (MASKS[2], 0.9, 1, "best dense", 6),
    (MASKS[0], 0.9, 32, "XLA dense", 7),
    (MASKS[0], 0.9, 256, "XLA dense", 5),
)
"""For 3072->768, at the largest thread count."""

CHOSEN = "ours: chosen"

WIDTH = 200
"""Of a console, in characters, that the tables fit into."""

CHOICE_GOAL = 1.05
DIFFERENCE_GOAL = 1e-4
CONV_GOAL = 4
NETWORK_GOALS = {
    ("ResNet-18 (CIFAR)", 1): 3,
    ("ResNet-18 (CIFAR)", 32): 5,
    ("MLP 784-4096-4096-10", 1): 4,
    ("MLP 784-4096-4096-10", 32): 4,
}

COLUMNS = {
    "XLA dense": "XLA dense",
    "narrowed": "XLA dense, narrowed",
    "PyTorch": "PyTorch dense",
    "ORT": "ONNX Runtime dense",
    "DeepSparse": "DeepSparse",
    "scipy CSR": "scipy CSR",
    "BCSR": "JAX BCSR",
    "PyTorch CSR": "PyTorch CSR",
    "gather": "PyTorch gather",
    "xla": "ours: xla",
    "native": "ours: native",
    "windows": "ours: windows",
    "auto": "ours: auto",
    "chosen": "ours: chosen",
}


def add_shares(results: dict[str, Any]) -> None:
    """Adds to each row which share of the machine's limit each of our forms reaches.

    Of a dense layer at batch 1 that is bytes touched a second over the bandwidth at
    which as many bytes are read; elsewhere useful FLOPs a second over the peak.
    """
    peaks = {limit["threads"]: limit for limit in results["limits"]}
    for row in results["layers"] + results["networks"]:
        limit = peaks.get(row["threads"])
        bandwidth = row.get("bandwidth_of_bytes", {})
        shares = {}
        for name in row["times_faster"]:
            seconds = 1e-6 * row["microseconds"][name]
            if name in bandwidth:
                shares[name] = row["bytes"][name] / seconds / bandwidth[name]
            elif limit:
                shares[name] = row["flops"] / seconds / limit["flops_per_second"]
        row["share_of"] = "bandwidth" if bandwidth else "peak"
        row["share"] = {name: round(share, 3) for name, share in shares.items()}


def ours_in(row: Row) -> str | None:
    """The form that a user gets: the one that timing has chosen, if it was measured.

    Without it, the fastest of those that were.
    """
    ours = row["times_faster"]
    if CHOSEN in ours:
        return CHOSEN
    return min(ours, key=row["microseconds"].__getitem__) if ours else None


def wide(console: Console) -> Console:
    """The console, or one that the tables fit into: no column may vanish."""
    return console if console.width >= WIDTH else Console(width=WIDTH, soft_wrap=True)


def show(results: dict[str, Any], console: Console) -> None:
    """Prints tables: layers, networks, goals, limits, and notes."""
    for kind, title in (("linear", "Dense layers"), ("conv", "Convolutions")):
        rows = [row for row in results["layers"] if row["kind"] == kind]
        if rows:
            console.print(layer_table(rows, title))
    if results["networks"]:
        console.print(network_table(results["networks"]))
    console.print(goal_table(results))
    for limit in results["limits"]:
        console.print(
            f"{limit['threads']} thread(s): {limit['flops_per_second'] / 1e9:.0f} "
            f"GFLOP/s (XLA's product of 2048 x 2048 float32, near the peak), "
            f"{limit['bytes_per_second'] / 1e9:.1f} GB/s (read by NumPy, not cached)"
        )
    skipped = {
        (name, reason)
        for row in results["layers"] + results["networks"]
        for name, reason in row["skipped"].items()
    }
    for name, reason in sorted(skipped):
        console.print(f"skipped at times: {name}: {reason}", markup=False)
    for note in results["notes"]:
        console.print(note, markup=False)


def write_grid(rows: list[Row], path: Path) -> None:
    """The grid as a line a point, of the form that we choose: small enough to keep."""
    rows = [row for row in rows if ours_in(row)]
    peers = list(dict.fromkeys(p for r in rows for p in r["times_faster"][ours_in(r)]))
    point = ("threads", "layer", "mask", "sparsity", "batch")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        heads = (*point, "microseconds", *(f"faster than {peer}" for peer in peers))
        writer.writerow((*heads, "chosen", "over the fastest choice"))
        for row in rows:
            ours = ours_in(row)
            faster = (row["times_faster"][ours].get(peer, "") for peer in peers)
            time = row["microseconds"][ours]
            keys = "chosen", "chosen_over_its_fastest_choice"
            choice = (row.get(key, "") for key in keys)
            writer.writerow((*(row[name] for name in point), time, *faster, *choice))


def layer_table(rows: list[Row], title: str) -> Table:
    """Medians in microseconds of all contenders, a line a point."""
    names = {
        head: name
        for head, name in COLUMNS.items()
        if any(name in row["microseconds"] for row in rows)
    }
    table = Table(title=f"{title}: microseconds, medians")
    for head in ("layer", "mask"):
        table.add_column(head, no_wrap=True)
    heads = ("sparse", "batch", "threads", *names, "x dense", "x CSR", "of limit")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=head == "of limit")
    for row in rows:
        ours = ours_in(row)
        faster = row["times_faster"].get(ours, {})
        share = row["share"].get(ours)
        table.add_row(
            row["layer"],
            row["mask"],
            f"{row['sparsity']:.0%}",
            str(row["batch"]),
            str(row["threads"]),
            *(_number(row["microseconds"].get(name)) for name in names.values()),
            _times(faster.get("best dense")),
            _times(faster.get("best CSR")),
            f"{share:.0%} {row['share_of']}" if share is not None else "",
        )
    table.caption = (
        "x dense, x CSR: what we choose against the faster of XLA's and PyTorch's "
        "dense, and the fastest CSR, median of the ratios of neighbours in time"
    )
    return table


def network_table(rows: list[Row]) -> Table:
    """Milliseconds of whole networks."""
    table = Table(title="Networks: milliseconds, medians [quartiles]")
    heads = ("network", "batch", "threads", "contender", "ms", "ours is", "of limit")
    for head in (*heads, "largest difference", "layers"):
        table.add_column(head)
    for row in rows:
        ours = row["times_faster"].get("ours: condensed", {})
        for name, microseconds in row["microseconds"].items():
            low, high = (value / 1e3 for value in row["quartiles"][name])
            is_ours = name == "ours: condensed"
            difference = row["difference"].get(name)
            share = row["share"].get(name)
            forms = ", ".join(f"{n} {form}" for form, n in row["forms"].items())
            if (size := row["file_bytes"].get(name)) is not None:
                note = f"a file of {size / 2**20:.1f} MiB"
            else:
                note = forms if is_ours else ""
            table.add_row(
                row["network"],
                str(row["batch"]),
                str(row["threads"]),
                name,
                f"{microseconds / 1e3:.2f} \\[{low:.2f}, {high:.2f}]",
                "" if is_ours else f"{_times(ours.get(name))}x",
                f"{share:.0%} {row['share_of']}" if share is not None else "",
                "" if difference is None else f"{difference:.1e}",
                note,
            )
        table.add_section()
    return table


def goal_table(results: dict[str, Any]) -> Table:
    """What was asked for beside what was measured, where it was."""
    table = Table("what", "measured", "asked for", title="Goals")
    most = max((limit["threads"] for limit in results["limits"]), default=None)
    rows = [row for row in results["layers"] if row["threads"] == most]
    for mask, sparsity, batch, peer, least in GOALS:
        row = find(rows, MAIN.name, mask, sparsity, batch)
        ours = row and ours_in(row)
        if ours and peer in row["times_faster"][ours]:
            what = (
                f"{MAIN.name}, {mask}, {sparsity:.0%}, batch {batch}: {peer} / {ours}"
            )
            measured = row["times_faster"][ours][peer]
            table.add_row(what, f"{measured:.1f}x", f"at least {least}x")
    convs = [
        row
        for row in rows
        if row["kind"] == "conv" and row["sparsity"] == 0.9 and ours_in(row)
    ]
    for row in convs:
        ours = ours_in(row)
        if "XLA dense" in row["times_faster"][ours]:
            measured = row["times_faster"][ours]["XLA dense"]
            what = f"{row['layer']}, batch {row['batch']}: XLA dense / {ours}"
            table.add_row(what, f"{measured:.1f}x", f"at least {CONV_GOAL}x")
    for row in results["networks"]:
        least = NETWORK_GOALS.get((row["network"], row["batch"]))
        measured = row["times_faster"].get("ours: condensed", {}).get("XLA dense")
        if least and measured:
            what = f"{row['network']}, batch {row['batch']}: XLA dense / ours"
            table.add_row(what, f"{measured:.1f}x", f"at least {least}x")
    _add_peers(table, rows, results["networks"])
    key = "chosen_over_its_fastest_choice"
    slower = {
        f"{row['layer']}, {row['mask']}, {row['sparsity']:.0%}, batch {row['batch']}": (
            row[key]
        )
        for row in results["layers"]
        if key in row
    }
    if slower:
        worst = max(slower, key=slower.get)
        within = sum(value <= CHOICE_GOAL for value in slower.values())
        what = f"chosen form / fastest form, at worst of {len(slower)} ({worst})"
        goal = f"at most {CHOICE_GOAL}: {within} are"
        table.add_row(what, f"{slower[worst]:.2f}", goal)
    return table


def _add_peers(table: Table, rows: list[Row], networks: list[Row]) -> None:
    """Rows of the other engines, at all batch sizes, and of differences."""
    layers = [
        row
        for row in rows
        if (row["layer"], row["mask"], row["sparsity"]) == (MAIN.name, MASKS[0], 0.9)
        and ours_in(row)
    ]
    for peer in ("DeepSparse", "ONNX Runtime dense"):
        ratios = {
            row["batch"]: row["times_faster"][ours_in(row)].get(peer) for row in layers
        }
        if ratios := {b: r for b, r in sorted(ratios.items()) if r is not None}:
            what = (
                f"{MAIN.name}, 90%, batch {', '.join(map(str, ratios))}: {peer} / ours"
            )
            measured = ", ".join(f"{ratio:.1f}x" for ratio in ratios.values())
            table.add_row(what, measured, "above 1x")
    for row in networks:
        where, ours = f"{row['network']}, batch {row['batch']}", "ours: condensed"
        for peer in ("ONNX Runtime dense", "DeepSparse"):
            if ratio := row["times_faster"].get(ours, {}).get(peer):
                table.add_row(f"{where}: {peer} / ours", f"{ratio:.1f}x", "above 1x")
        if (difference := row["difference"].get(ours)) is not None:
            what = f"{where}: largest difference of outputs"
            table.add_row(what, f"{difference:.0e}", f"at most {DIFFERENCE_GOAL:.0e}")


def find(
    rows: list[Row], layer: str, mask: str, sparsity: float, batch: int
) -> Row | None:
    """The row of a point, if it was measured."""
    wanted = (layer, mask, sparsity, batch)
    fields = ("layer", "mask", "sparsity", "batch")
    found = (row for row in rows if tuple(row[f] for f in fields) == wanted)
    return next(found, None)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
