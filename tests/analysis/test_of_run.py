"""The analysis of tiny runs, through the command line."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from runs import checkpoint, records, tiny, tiny_convnet

from srigl_jax import train as train_lib
from srigl_jax.analysis.__main__ import main
from srigl_jax.train import train

STEP = 22
KERNELS = ("layers/0/kernel", "layers/1/kernel")
METHODS = {
    "dense": {},
    "static": {},
    "set": {},
    "rigl": {"ema": 0.9},
    "srigl": {"gamma_sal": 0.95, "sparsity": 0.9},
}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """Gives the workdir and analysis.json of a method, trained when first asked for."""
    data_dir, finished = tmp_path_factory.mktemp("data"), {}

    def run(method, make=tiny):
        if (method, make) not in finished:
            workdir = tmp_path_factory.mktemp(method)
            config = make(data_dir, epochs=1, method=method, **METHODS[method])
            config.optimizer.warmup_epochs = 0.0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(train_lib, "write_report", lambda *a, **k: None)
                train(config, workdir)
            main(["--workdir", str(workdir)])
            finished[method, make] = workdir
        workdir = finished[method, make]
        return workdir, json.loads((workdir / "analysis.json").read_text())

    return run


@pytest.fixture(params=METHODS)
def run(request, analysed):
    return analysed(request.param)


def test_dense_costs_are_those_of_the_network(run):
    _, found = run
    first, last = 16 * (2 * 64 + 1), 10 * 2 * 16
    assert [row["flops"]["dense"] for row in found["layers"]] == [first, last]
    assert found["inference"]["flops"]["dense"] == first + last
    assert found["inference"]["macs"]["dense"] == 64 * 16 + 16 * 10
    assert found["bytes"]["weights_dense"] == 4 * (64 * 16 + 16 * 10)
    assert found["bytes"]["other_parameters"] == 4 * (16 + 10)


def test_masks_take_a_byte_a_weight_and_momentum_four(run):
    _, found = run
    weights = 64 * 16 + 16 * 10
    sizes = found["bytes"]
    assert sizes["masks"] == (0 if found["method"] == "dense" else weights)
    assert sizes["explored"] == (
        weights // 8 if found["method"] in ("set", "rigl", "srigl") else 0
    )
    assert 0 <= sizes["optimizer"] - 4 * (weights + 16 + 10) < 64  # And some counts.


def test_averages_take_what_they_average(run):
    _, found = run
    parameters = 64 * 16 + 16 * 10 + 16 + 10
    averages = 4 * parameters if found["method"] == "rigl" else 0
    assert found["bytes"]["averages"] == averages


def test_learned_flops_are_those_of_the_masks(analysed):
    workdir, found = analysed("srigl")
    state = checkpoint(workdir, STEP)
    hidden, head = (state[f"opt_state/masks/{name}"] for name in KERNELS)
    needed = hidden & head.any(axis=1)
    active = needed.any(axis=0)
    assert not hidden.any(axis=0).all()  # Some neurons are ablated.
    flops = [row["flops"]["learned"] for row in found["layers"]]
    assert flops[0] == 2 * needed.sum() + active.sum()
    assert flops[1] == 2 * head[hidden.any(axis=0)].sum()


def test_explored_shares_are_those_of_the_last_record(analysed):
    workdir, found = analysed("rigl")
    last = records(workdir, "topology")[-1]["layers"]
    shares = {row["name"]: row["explored"] for row in found["layers"]}
    assert shares == {name: layer["explored"] for name, layer in last.items()}
    total = (64 * 16 * shares[KERNELS[0]] + 160 * shares[KERNELS[1]]) / (64 * 16 + 160)
    assert found["topology"]["explored"] == pytest.approx(total)


def test_a_static_network_explores_its_density_and_a_dense_one_nothing(analysed):
    _, static = analysed("static")
    weights = sum(row["weights"] for row in static["layers"])
    assert static["topology"]["explored"] == pytest.approx(weights / (64 * 16 + 160))
    assert analysed("dense")[1]["topology"]["explored"] is None


def test_fan_in_histograms_count_the_neurons(analysed):
    workdir, found = analysed("rigl")
    fan_ins = checkpoint(workdir, STEP)[f"opt_state/masks/{KERNELS[0]}"].sum(axis=0)
    histogram = found["layers"][0]["fan_in_histogram"]
    assert sum(histogram["counts"]) == np.count_nonzero(fan_ins)
    assert histogram["edges"][0] == fan_ins[fan_ins > 0].min()


def test_training_counts_the_steps_and_the_batch(run):
    _, found = run
    training, method = found["training"], found["method"]
    dense, asked = (found["inference"]["flops"][kind] for kind in ("dense", "asked"))
    expected = {"dense": 3 * dense, "static": 3 * asked, "set": 3 * asked}
    dynamic = (3 * asked * 7 + 2 * asked + dense) / 8
    assert training["per_example"]["method"] == expected.get(method, dynamic)
    assert training["run"]["dense"] == 3 * dense * STEP * 64


def test_pictures_are_drawn_of_what_there_is(run):
    workdir, found = run
    names = {path.name for path in (workdir / "analysis").iterdir()}
    expected = {"flops.svg"}
    if found["method"] != "dense":
        expected |= {"fan_in.layers.0.svg", "fan_in.layers.1.svg", "active_neurons.svg"}
    if found["bytes"]["explored"]:
        expected.add("explored.svg")
    assert names == expected
    for path in (workdir / "analysis").iterdir():
        ElementTree.parse(path)


def test_the_table_names_layers_totals_and_files(analysed, capsys):
    workdir, _ = analysed("srigl")
    main(["--workdir", str(workdir)])
    out = capsys.readouterr().out
    for text in (
        "mlp on digits, srigl, after step 22",
        "| layers/0/kernel |      2.06 k |",
        "inference, FLOPs per example: 2.38 k dense",
        "training, FLOPs in 22 steps of 64: 10.1 M dense",
        "masks 1,184 bytes",
        f"wrote {workdir / 'analysis.json'}",
    ):
        assert text in out


def test_convolutions_count_their_positions(analysed):
    _, found = analysed("srigl", tiny_convnet)
    positions = {row["name"]: row["positions"] for row in found["layers"]}
    assert positions["convs/0/kernel"] == 16 and positions["head/kernel"] == 1


def test_exploration_that_was_not_tracked_is_unknown(analysed, tmp_path, capsys):
    _, tracked = analysed("set")
    data_dir = tmp_path / "data"
    config = tiny(data_dir, epochs=1, method="set", track_exploration=False)
    config.optimizer.warmup_epochs = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "write_report", lambda *a, **k: None)
        train(config, tmp_path / "run")
    main(["--workdir", str(tmp_path / "run")])
    found = json.loads((tmp_path / "run" / "analysis.json").read_text())
    assert (
        found["topology"]["explored"] is None and "unknown" in capsys.readouterr().out
    )
    assert found["inference"] == tracked["inference"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is no workdir of a run"),
        ({"config.json": "{"}, "is damaged"),
        ({"config.json": "{}"}, "is not the config of a run"),
    ],
)
def test_what_is_no_run_is_one_clear_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
        main(["--workdir", str(tmp_path)])
    assert "\n" not in str(stopped.value)


def test_a_run_without_a_checkpoint_is_told_so(tmp_path):
    config = tiny(tmp_path / "data")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(SystemExit, match="^error: .* has no checkpoint yet"):
        main(["--workdir", str(tmp_path)])


def test_help_says_what_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "--workdir" in out and "ITOP" in out and "analysis.json" in out
