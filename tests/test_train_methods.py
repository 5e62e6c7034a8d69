"""Whole tiny runs of the methods that prune, or that start from masks of their own.

What is common to all methods the other tests of the trainer show.
"""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from runs import bits, checkpoint, records, result, tiny
from safetensors.numpy import load_file, save_file

import srigl_jax
from srigl_jax import apply_masks, check_masks, get_masks, make_plan
from srigl_jax import train as train_lib
from srigl_jax.analysis.__main__ import main as analyse
from srigl_jax.condensed import condense_model
from srigl_jax.data import InMemoryDataset
from srigl_jax.parts import make_model
from srigl_jax.step import make_forward, split_model
from srigl_jax.train import Stopped, train
from srigl_jax.trained import load_trained

STEPS = 66
SIZE = 64 * 16 + 16 * 10
METHODS = {
    "one_shot": {"method": "one_shot"},
    "gradual": {"method": "gradual", "optimizer__name": "adamw", "ema": 0.9},
    "gradual-global": {"method": "gradual", "distribution": "global"},
    "neurons": {"method": "neurons", "distribution": "uniform"},
    "sr_ste": {"method": "sr_ste", "block": 4},
    "snfs": {"method": "snfs"},
    "snip": {"method": "snip", "distribution": "global"},
    "grasp": {"method": "grasp"},
    "lottery": {
        "method": "lottery",
        "pruning__rounds": 2,
        "pruning__rewind_step": 5,
        "ema": 0.9,
    },
}


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Spares every run the pictures, which take longer than its training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "write_report", lambda *args, **kwargs: None)
        yield


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Gives the config and workdir of a method, trained when it is first asked for."""
    finished = {}

    def run(name):
        if name not in finished:
            config = tiny(data_dir, **METHODS[name])
            workdir = tmp_path_factory.mktemp(name)
            train(config, workdir)
            finished[name] = config, workdir
        return finished[name]

    return run


@pytest.fixture(params=METHODS)
def run(request, trained):
    return request.param, *trained(request.param)


def masks_in(workdir):
    return {
        name.removeprefix("masks/"): mask
        for name, mask in load_file(workdir / "masks.safetensors").items()
    }


def test_the_masks_keep_the_invariants_of_their_kind(run):
    name, _, workdir = run
    found = load_trained(workdir)
    check_masks(found.masks, found.plan, found.state["params"])
    assert get_masks(found.state["opt_state"]) is found.masks
    weights = sum(row["weights"] for row in result(workdir)["layers"])
    if name == "neurons":  # Eight of 16 neurons; the output stays.
        assert weights == 64 * 8 + 160
    elif name != "sr_ste":
        assert SIZE // 2 - 1 <= weights <= SIZE // 2


def test_a_stopped_run_resumes_bit_for_bit_however_its_workdir_is_spelled(
    run, tmp_path, monkeypatch
):
    _, config, expected = run
    train_batches = InMemoryDataset.train_batches

    def batches(dataset, seed, batch_size, *, start, **share):
        for step, batch in enumerate(
            train_batches(dataset, seed, batch_size, start=start, **share), start
        ):
            if step == 32:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    rounds = config.pruning.rounds if config.method == "lottery" else 0
    with monkeypatch.context() as patch:
        patch.setattr(InMemoryDataset, "train_batches", batches)
        patch.chdir(tmp_path)
        for number in range(rounds + 1):
            with pytest.raises(Stopped, match="after step 33 of 66"):
                train(config, tmp_path if number else Path("."))
    train(config, tmp_path)
    assert bits(tmp_path, STEPS) == bits(expected, STEPS)
    assert result(tmp_path) == result(expected)
    assert records(tmp_path, "topology") == records(expected, "topology")


def test_the_analysis_is_of_every_method(run, capsys):
    name, config, workdir = run
    analyse(["--workdir", str(workdir)])
    found = json.loads((workdir / "analysis.json").read_text())
    assert found["method"] == config.method
    spent, flops = found["training"]["per_example"], found["inference"]["flops"]
    sparse = 3 * flops["asked"]
    if name in ("snip", "grasp"):
        assert spent["method"] == sparse
    elif name == "lottery":
        assert spent["method"] > spent["dense"] + sparse
    else:
        assert sparse < spent["method"] < spent["dense"]
    assert "FLOPs per example" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gradual-global", "neurons", "sr_ste", "lottery"])
def test_condensed_it_computes_the_same(trained, name):
    _, workdir = trained(name)
    found = load_trained(workdir)
    images = (
        np.random.default_rng(0)
        .normal(size=(8, *found.dataset.image_shape))
        .astype(np.float32)
    )
    conversion = condense_model(
        found.model, found.masks, example_shape=found.dataset.image_shape
    )
    np.testing.assert_allclose(
        conversion.model(images), found.model(images), rtol=1e-4, atol=1e-4
    )


def test_pruning_is_recorded_when_it_happens(trained):
    steps = [r["step"] for r in records(trained("one_shot")[1], "topology")]
    assert steps == [0, 34]  # Half of 66 steps, 0-based, have gone before.
    layers = [r["layers"] for r in records(trained("gradual")[1], "topology")]
    weights = [sum(x["weights"] for x in layer.values()) for layer in layers]
    assert weights[0] == SIZE and weights == sorted(weights, reverse=True)
    assert len(set(weights)) > 4


def test_averages_are_as_sparse_as_what_they_average(trained):
    state = checkpoint(trained("gradual")[1], STEPS)
    for kernel in ("layers/0/kernel", "layers/1/kernel"):
        mask = state[f"opt_state/masks/{kernel}"]
        assert not state[f"ema/params/{kernel}"][~mask].any()


def test_masks_at_initialisation_keep_the_dense_networks_weights(data_dir, tmp_path):
    config = tiny(data_dir, **METHODS["snip"], epochs=0.1)
    config.optimizer.update({"learning_rate": 0.0, "warmup_epochs": 0.0})
    train(config, tmp_path)
    found = load_trained(tmp_path)
    _, params, _ = split_model(make_model(config, found.dataset))
    expected = apply_masks(params, found.masks)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.state["params"], expected))


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_masks_at_initialisation_are_those_of_the_first_batch(method, trained):
    config, workdir = trained(method)
    found = load_trained(workdir)
    dataset = found.dataset
    definition, params, model_state = split_model(make_model(config, dataset))
    forward = make_forward(definition, dataset.mean, dataset.std)
    batch = next(dataset.train_batches(config.seed, config.batch_size, start=0))

    def loss(params, batch):
        key = jax.random.key(0)  # Nothing is dropped out.
        logits, _ = forward(params, model_state, batch["image"], key)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["label"]
        ).mean()

    given = params, dict(batch), found.plan
    expected = {"snip": srigl_jax.snip, "grasp": srigl_jax.grasp}[method](loss, *given)
    same = jax.tree.map(lambda a, b: (a == b).mean(), found.masks, expected)
    # Two programs round differently; the other method agrees on 57 %.
    assert min(jax.tree.leaves(same)) > 0.99


def test_masks_at_initialisation_never_change(trained):
    _, workdir = trained("snip")
    (start,) = [r for r in records(workdir, "topology") if r["step"] == 0]
    assert [r["step"] for r in records(workdir, "topology")] == [0]
    assert sum(x["weights"] for x in start["layers"].values()) == SIZE // 2


@pytest.mark.parametrize("fields", [{}, {"dense": ("head",)}], ids=["", "dense head"])
@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_below_a_head_of_zeros_weights_are_ranked_as_well(
    method, fields, data_dir, tmp_path
):
    config = tiny(data_dir, method=method, epochs=0.1, **fields)
    options = {"patch": 4, "width": 8, "depth": 1, "heads": 2, "mlp_ratio": 2}
    config.model = ConfigDict({"name": "vit"} | options)
    config.optimizer.update({"learning_rate": 0.0, "warmup_epochs": 0.0})
    train(config, tmp_path)
    found = load_trained(tmp_path)
    assert {layer.name for layer in found.plan.values() if layer.is_sparse} >= {
        "blocks/0/attention/query/kernel",
        "blocks/0/down/kernel",
    }
    # The network's own, which has not been trained.
    assert not found.state["params"]["head"]["kernel"].any()


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_a_layer_that_a_global_ranking_leaves_whole_is_finished_and_read(
    method, data_dir, tmp_path
):
    whole = {"distribution": "global", "sparsity": 0.01, "model__widths": (2,)}
    config = tiny(data_dir, method=method, seed=1, epochs=1, **whole)
    config.optimizer.warmup_epochs = 0.5
    finished = train(config, tmp_path)
    head = finished["layers"][-1]
    assert head["sparse"] and head["weights"] == 2 * 10
    assert load_trained(tmp_path).masks["layers"][1]["kernel"].all()
    assert train(config, tmp_path) == finished


@pytest.mark.parametrize("saved", ["start.safetensors", "."], ids=["file", "workdir"])
def test_a_ticket_reproduces_from_where_it_was_saved(
    saved, trained, data_dir, tmp_path
):
    _, found = trained("lottery")
    source = {"mask_from": str(found / saved), "ema": 0.9}
    train(tiny(data_dir, method="static", **source), tmp_path)
    assert bits(tmp_path, STEPS) == bits(found, STEPS)


def test_a_ticket_starts_from_the_rewound_weights_where_it_was_left(trained):
    _, workdir = trained("lottery")
    start = load_file(workdir / "start.safetensors")
    dense = load_file(workdir / "round-0" / "rewind.safetensors")
    before = load_file(workdir / "round-1" / "start.safetensors")
    assert int(start["state/step"]) == 5
    assert records(workdir, "topology")[0]["step"] == 5
    for kernel in ("layers/0/kernel", "layers/1/kernel"):
        mask = start[f"masks/{kernel}"]
        np.testing.assert_array_equal(
            start[f"state/params/{kernel}"],
            np.where(mask, dense[f"params/{kernel}"], 0),
        )
        moments = next(n for n in start if n.endswith(f"trace/{kernel}"))
        ours = {n for n in start if n.startswith("state/") and n.endswith(kernel)}
        assert {moments, f"state/ema/params/{kernel}"} < ours
        assert not any(start[name][~mask].any() for name in ours)
        wider = before.get(f"masks/{kernel}", np.ones_like(mask))
        assert (wider | ~mask).all() and wider.sum() > mask.sum()


def test_rounds_of_a_lottery_train_ever_sparser_networks(trained):
    _, workdir = trained("lottery")
    weights = [
        sum(row["weights"] for row in result(path)["layers"])
        for path in (workdir / "round-0", workdir / "round-1", workdir)
    ]
    assert weights[0] == SIZE
    assert weights[1] == pytest.approx(SIZE * 0.5**0.5, abs=2)
    assert weights[2] == pytest.approx(SIZE * 0.5, abs=2)


def test_each_layer_of_a_ticket_has_its_budget(trained):
    config, workdir = trained("lottery")
    found = load_trained(workdir)
    options = {"distribution": config.distribution, "constant_fan_in": False}
    plan = make_plan(found.state["params"], config.sparsity, **options)
    rows = {row["name"]: row["weights"] for row in result(workdir)["layers"]}
    assert rows == {layer.name: layer.budget for layer in plan.values()}


def test_a_ticket_that_cannot_be_is_refused_before_any_round(data_dir, tmp_path):
    config = tiny(data_dir, method="lottery", sparsity=0.9999, pruning__rounds=2)
    with pytest.raises(ValueError, match="would keep no weight"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rounds_of_a_lottery_are_announced(trained, data_dir, tmp_path, capsys):
    config, workdir = trained("lottery")
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for name in ("start.safetensors", "round-1/ticket.safetensors"):
        (tmp_path / name).unlink()
    train(config, tmp_path)
    told = capsys.readouterr().out
    assert "round 2 of 2, after which 50.00% of the weights are left" in told
    assert "round 1 of 2" not in told
    assert bits(tmp_path, STEPS) == bits(workdir, STEPS)


def test_masks_of_any_run_can_be_trained_anew(trained, data_dir, tmp_path):
    _, source = trained("gradual-global")
    train(tiny(data_dir, method="static", mask_from=str(source), seed=1), tmp_path)
    found, given = masks_in(tmp_path), masks_in(source)
    assert found.keys() == given.keys()
    assert all((found[name] == given[name]).all() for name in given)
    # The copy is enough to read the run, and to train it further.
    config = load_trained(tmp_path).config
    assert config.mask_from == str(source)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"masks/layers/0/kernel": np.ones((3, 3), bool)}, "has shape"),
        ({"masks/nowhere": np.eye(4, dtype=bool)}, r"masks for \['nowhere'\]"),
        ({"masks/layers/0/kernel": np.ones((64, 16), np.float32)}, "holds no masks"),
        ({"masks/layers/0/kernel": np.zeros((64, 16), bool)}, "leave no weight"),
        ({"weights": np.ones(3)}, "holds no masks"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message, data_dir, tmp_path):
    path = tmp_path / "masks.safetensors"
    save_file(masks, path)
    with pytest.raises(ValueError, match=message):
        train(tiny(data_dir, method="static", mask_from=str(path)), tmp_path / "run")


def test_a_missing_file_of_masks_is_named(data_dir, tmp_path):
    with pytest.raises(ValueError, match="masks cannot be read from .*nowhere"):
        train(tiny(data_dir, method="static", mask_from="nowhere"), tmp_path)


def test_a_ticket_of_another_optimizer_is_refused(trained, data_dir, tmp_path):
    saved = trained("lottery")[1] / "start.safetensors"
    config = tiny(
        data_dir, method="static", mask_from=str(saved), optimizer__name="adamw"
    )
    with pytest.raises(ValueError, match="the ticket holds nothing as opt_state"):
        train(config, tmp_path)


@pytest.mark.parametrize("method", ["lottery", "static"])
def test_a_rewind_step_beyond_the_training_is_refused(method, data_dir, tmp_path):
    config = tiny(data_dir, method=method, epochs=1, pruning__rewind_step=22)
    config.optimizer.warmup_epochs = 0.5
    with pytest.raises(ValueError, match="rewind_step is 22, but .* has 22 steps"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())
