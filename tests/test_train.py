"""Whole runs on digits: what each method leaves, and how bad input is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import (
    STEPS_PER_EPOCH,
    checkpoint,
    recorded_steps,
    records,
    tiny,
    tiny_convnet,
)

from srigl_jax import init_masks, make_plan
from srigl_jax import train as train_module
from srigl_jax.methods import plan_options
from srigl_jax.monitor import NotFiniteError
from srigl_jax.train import train
from srigl_jax.trained import load_trained
from srigl_jax.workdir import record_start

STEPS = 3 * STEPS_PER_EPOCH
UPDATES = [8, 15, 22, 29, 36, 43]  # After every seventh, until 75 % of the 66 steps.
KERNELS = ("layers/0/kernel", "layers/1/kernel")

METHODS = {
    "dense": {"method": "dense"},
    "static": {"method": "static"},
    "set": {"method": "set"},
    "rigl": {"method": "rigl"},
    "srigl": {"gamma_sal": 0.9},
    "srigl-no-ablation": {"gamma_sal": 0.9, "ablation": False},
    "srigl-block-4": {"block": 4},
}
CHANGING = [m for m in METHODS if m not in ("dense", "static")]


@dataclasses.dataclass
class Run:
    method: str
    workdir: Path
    config: ConfigDict
    result: dict[str, Any]


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Gives the finished run of a method, trained when it is first asked for."""
    finished = {}

    def run(method):
        if method not in finished:
            config = tiny(data_dir, **METHODS[method])
            workdir = tmp_path_factory.mktemp(method)
            finished[method] = Run(method, workdir, config, train(config, workdir))
        return finished[method]

    return run


@pytest.fixture(params=METHODS)
def run(request, trained):
    return trained(request.param)


@pytest.fixture(scope="module")
def convnet(data_dir, tmp_path_factory):
    config = tiny_convnet(data_dir)
    workdir = tmp_path_factory.mktemp("convnet")
    return Run("srigl", workdir, config, train(config, workdir))


def masks_of(run):
    state = checkpoint(run.workdir, STEPS)
    return {name: state[f"opt_state/masks/{name}"] for name in KERNELS}


def files_in(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_workdir_holds_the_run(run):
    assert {path.name for path in run.workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "result.json",
        *([] if run.method == "dense" else ["masks.safetensors"]),
    }


def test_the_loss_falls(run):
    losses = [record["loss"] for record in records(run.workdir, "train")]
    assert losses[-1] < losses[0] / 2
    assert run.result["accuracy"] > 0.85


def test_metrics_are_recorded_when_due(run):
    assert recorded_steps(run.workdir, "train") == [10, 20, 30, 40, 50, 60, STEPS]
    assert recorded_steps(run.workdir, "eval") == [25, 50, STEPS]


def test_the_topology_is_recorded_when_it_may_have_changed(run):
    updates = UPDATES if run.method in CHANGING else []
    assert recorded_steps(run.workdir, "topology") == [0, *updates]


def test_the_newest_checkpoints_are_kept(run):
    names = {path.name for path in (run.workdir / "checkpoints").iterdir()}
    assert names == {"40", "60", str(STEPS)}


def test_config_json_is_the_config(run):
    saved = json.loads((run.workdir / "config.json").read_text())
    assert saved == json.loads(json.dumps(run.config.to_dict()))


def test_environment_json_tells_versions_and_seed(run):
    (environment,) = json.loads((run.workdir / "environment.json").read_text())
    assert environment["seed"] == 0
    assert {"python", "srigl_jax", "jax", "flax", "optax"} <= set(
        environment["versions"]
    )


def test_result_json_is_what_train_returns(run):
    saved = json.loads((run.workdir / "result.json").read_text())
    assert saved == json.loads(json.dumps(run.result))


def test_the_result_is_that_of_the_last_evaluation(run):
    last = records(run.workdir, "eval")[-1]
    assert (run.result["loss"], run.result["accuracy"], run.result["steps"]) == (
        last["loss"],
        last["accuracy"],
        STEPS,
    )


def test_the_report_names_every_layer(run):
    page = (run.workdir / "report.html").read_text()
    assert all(name in page for name in KERNELS)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "dense"])
def test_weights_and_momentum_off_the_mask_are_zero(trained, method):
    state = checkpoint(trained(method).workdir, STEPS)
    for kernel in KERNELS:
        mask = state[f"opt_state/masks/{kernel}"]
        names = [name for name in state if not name.startswith("explored/")]
        alike = [name for name in names if name.endswith(kernel)]
        assert len(alike) == 3  # Weights, masks, momentum.
        for name in alike:
            assert not state[name][~mask].any(), name


@pytest.mark.parametrize("method", ["static", "set", "rigl"])
def test_unstructured_masks_use_their_whole_budget(trained, method):
    # ERK at 50 %: 592 weights in the ratio of 64 + 16 to 16 + 10, rounded down.
    counts = [int(mask.sum()) for mask in masks_of(trained(method)).values()]
    assert counts == [446, 145]


@pytest.mark.parametrize("method", ["srigl", "srigl-no-ablation", "srigl-block-4"])
def test_every_active_neuron_has_the_same_fan_in(trained, method):
    for mask in masks_of(trained(method)).values():
        counts = mask.sum(axis=0)
        assert len(set(counts[counts > 0])) == 1


def test_blocks_of_four_have_equally_many_weights(trained):
    hidden, _ = masks_of(trained("srigl-block-4")).values()
    per_block = hidden.reshape(16, 4, 16).sum(axis=1)
    assert len(set(per_block[:, hidden.any(axis=0)].flat)) == 1


def test_ablation_removes_hidden_neurons_alone(trained):
    hidden, output = masks_of(trained("srigl")).values()
    assert not hidden.any(axis=0).all()
    assert output.any(axis=0).all()


def test_without_ablation_all_neurons_stay(trained):
    hidden, _ = masks_of(trained("srigl-no-ablation")).values()
    assert hidden.any(axis=0).all()


def test_ablated_neurons_are_in_result_and_metrics(trained):
    run = trained("srigl")
    active = int(masks_of(run)[KERNELS[0]].any(axis=0).sum())
    assert run.result["layers"][0]["active"] == active
    last = records(run.workdir, "topology")[-1]
    assert last["layers"][KERNELS[0]]["active"] == active


@pytest.mark.parametrize("method", METHODS)
def test_the_topology_changes_where_it_should(trained, method):
    run = trained(method)
    if method == "dense":
        assert not any("masks" in name for name in checkpoint(run.workdir, STEPS))
        return
    kernel = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    params = {"layers": [{"kernel": kernel}, {"kernel": kernel.update(shape=(16, 10))}]}
    plan = make_plan(
        params,
        0.5,
        constant_fan_in=method.startswith("srigl"),
        block=METHODS[method].get("block"),
    )
    start = init_masks(params, plan, seed=0)["layers"][0]["kernel"]
    changed = (np.asarray(start) != masks_of(run)[KERNELS[0]]).any()
    assert changed == (method in CHANGING)


def explored_by(run, kernel):
    """The positions that a finished run has recorded, in matrix view."""
    bits = checkpoint(run.workdir, STEPS)[f"explored/{kernel}"]
    fan_in = len(masks_of(run)[kernel])
    return np.unpackbits(bits, axis=0, count=fan_in).astype(bool)


@pytest.mark.parametrize("method", CHANGING)
def test_all_that_was_ever_active_is_recorded_as_explored(trained, method):
    run = trained(method)
    topology = records(run.workdir, "topology")
    for kernel in KERNELS:
        explored, mask = explored_by(run, kernel), masks_of(run)[kernel]
        assert explored[mask].all() and explored.sum() > mask.sum()
        shares = [record["layers"][kernel]["explored"] for record in topology]
        assert shares[0] == topology[0]["layers"][kernel]["weights"] / mask.size
        assert shares == sorted(shares) and shares[-1] == explored.mean()


@pytest.mark.parametrize("method", ["dense", "static"])
def test_what_never_changes_needs_no_record_of_it(trained, method):
    run = trained(method)
    assert not any("explored" in name for name in checkpoint(run.workdir, STEPS))


def test_exploration_can_be_left_unrecorded_and_changes_nothing(
    trained, data_dir, tmp_path
):
    recorded = trained("set")
    train(tiny(data_dir, method="set", track_exploration=False), tmp_path)
    with_it, without = checkpoint(recorded.workdir, STEPS), checkpoint(tmp_path, STEPS)
    assert {n for n in with_it if not n.startswith("explored/")} == without.keys()
    assert all(np.array_equal(with_it[name], without[name]) for name in without)
    assert "explored" not in records(tmp_path, "topology")[-1]["layers"][KERNELS[0]]


def test_the_result_has_the_flops_of_the_network(run):
    flops = run.result["flops"]
    assert flops["dense"] == 2 * 64 * 16 + 16 + 2 * 16 * 10
    assert flops["asked"] == pytest.approx(
        flops["dense"] if run.method == "dense" else flops["dense"] - 64 * 16 - 16 * 10
    )
    assert flops["learned"] <= flops["asked"]


@pytest.fixture(scope="module")
def short_run(data_dir, tmp_path_factory):
    """Gives the result of one dense epoch with some fields changed."""

    def run(**fields):
        fields = dict(method="dense", epochs=1, optimizer__warmup_epochs=0.5) | fields
        return train(tiny(data_dir, **fields), tmp_path_factory.mktemp("short"))

    return run


@pytest.fixture(scope="module")
def short_loss(short_run):
    return short_run()["loss"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label_smoothing", 0.3),
        ("batch_size", 128),
        ("seed", 1),
        ("dtype", "bfloat16"),
        ("ema", 0.5),
    ],
)
def test_a_field_of_training_changes_what_is_learned(
    short_run, short_loss, field, value
):
    assert short_run(**{field: value})["loss"] != short_loss


def test_batch_statistics_are_in_the_checkpoint(convnet):
    state = checkpoint(convnet.workdir, STEPS)
    means = [name for name in state if name.endswith("mean")]
    assert len(means) == 2
    assert all(state[name].any() for name in means)


def test_only_an_mlp_is_drawn_on_the_image(trained, convnet):
    # The convnet's hidden layer has as many inputs as the image has pixels.
    assert checkpoint(convnet.workdir, STEPS)["params/hidden/kernel"].shape[0] == 64
    assert "pixels" in (trained("srigl").workdir / "report.html").read_text()
    assert "pixels" not in (convnet.workdir / "report.html").read_text()


def test_every_evaluation_is_recorded_and_a_finished_run_evaluates_once(
    data_dir, tmp_path, monkeypatch
):
    evaluations = []
    make_evaluate = train_module.make_evaluate

    def counted(*args):
        evaluate = make_evaluate(*args)

        def count(state, batches):
            evaluations.append(int(state["step"]))
            return evaluate(state, batches)

        return count

    monkeypatch.setattr(train_module, "make_evaluate", counted)
    first = train(tiny(data_dir), tmp_path)
    assert evaluations == recorded_steps(tmp_path, "eval") == [25, 50, STEPS]
    again = train(tiny(data_dir), tmp_path)
    assert evaluations[3:] == [STEPS]
    assert again == first


def test_the_convnet_learns_with_a_constant_fan_in(convnet):
    assert convnet.result["accuracy"] > 0.5  # The running statistics are still young.
    mask = checkpoint(convnet.workdir, STEPS)["opt_state/masks/hidden/kernel"]
    counts = mask.sum(axis=0)
    assert len(set(counts[counts > 0])) == 1


@pytest.fixture(scope="module")
def recipe(data_dir, tmp_path_factory):
    """Everything that a recipe of the paper may ask for, at once."""
    fields = dict(accumulate=4, dtype="bfloat16", ema=0.9, gradient_window=3)
    fields |= dict(optimizer__schedule="step", optimizer__decay_every=2.0)
    fields |= dict(optimizer__clip_norm=2.0, gamma_sal=0.9)
    workdir = tmp_path_factory.mktemp("recipe")
    config = tiny(data_dir, **fields)
    return Run("srigl", workdir, config, train(config, workdir))


def test_a_recipe_learns(recipe):
    losses = [record["loss"] for record in records(recipe.workdir, "train")]
    assert losses[-1] < losses[0] / 2
    assert recipe.result["accuracy"] > 0.8


def test_micro_batches_are_not_steps(recipe):
    assert recorded_steps(recipe.workdir, "topology") == [0, *UPDATES]
    assert recipe.result["steps"] == STEPS


def test_training_in_bfloat16_leaves_the_state_in_float32(recipe):
    state = checkpoint(recipe.workdir, STEPS)
    dtypes = {array.dtype.name for array in state.values()}
    # The bytes are records of explored weights, a bit each.
    assert dtypes == {"float32", "bool", "int32", "uint32", "uint8"}


def test_averages_are_masked_and_stay_behind_the_weights(recipe):
    state = checkpoint(recipe.workdir, STEPS)
    for kernel in KERNELS:
        mask = state[f"opt_state/masks/{kernel}"]
        alike = [name for name in state if name.endswith(kernel)]
        alike.remove(f"explored/{kernel}")
        assert len(alike) == 5  # Weights, masks, momentum, gradients, averages.
        for name in alike:
            if "gradient_sum" not in name:  # Of all positions, to choose among.
                assert not state[name][~mask].any(), name
        weights, averages = state[f"params/{kernel}"], state[f"ema/params/{kernel}"]
        assert np.mean(weights[mask] != averages[mask]) > 0.9


def test_averages_are_what_is_evaluated_and_read_back(recipe):
    state = checkpoint(recipe.workdir, STEPS)
    trained = load_trained(recipe.workdir)
    images = trained.dataset.test.images
    logits = trained.model(
        (images - np.float32(trained.dataset.mean)) / np.float32(trained.dataset.std)
    )
    accuracy = np.mean(logits.argmax(-1) == trained.dataset.test.labels)
    assert accuracy == pytest.approx(recipe.result["accuracy"])
    kernel = trained.model.layers[0].kernel[...]
    assert np.array_equal(kernel, state[f"ema/params/{KERNELS[0]}"])


BAD_INPUT = {
    "sparsity of 1": ({"sparsity": 1.0}, "sparsity is 1.0"),
    "negative sparsity": ({"sparsity": -0.1}, "sparsity is -0.1"),
    "sparsity of NaN": ({"sparsity": float("nan")}, "sparsity is nan"),
    "gamma": ({"gamma_sal": 1.5}, "gamma_sal is 1.5: give a number from 0 to 1"),
    "method": ({"method": "prune"}, "method is 'prune': choose one of dense, static"),
    "model": ({"model__name": "lenet"}, "model.name is 'lenet': choose one of mlp"),
    "optimizer": ({"optimizer__name": "lion"}, "optimizer.name is 'lion': choose"),
    "schedule": (
        {"optimizer__schedule": "linear"},
        "optimizer.schedule is 'linear': choose one of cosine, step, multistep",
    ),
    "micro-batches": ({"accumulate": 5}, "accumulate is 5: .* divides batch_size, 64"),
    "averages": ({"ema": 1.0}, "ema is 1.0: give a decay from 0 to below 1"),
    "data set": (
        {"dataset__name": "mnits"},
        "dataset.name is 'mnits': choose one of digits, fashion_mnist",
    ),
    "no weight for a neuron": (
        {"sparsity": 0.99},
        r"layers/0/kernel .64, 16. has a budget of 9 weights.* k0 is 0: lower sparsity",
    ),
    "block": ({"block": 3}, r"layers/0/kernel.*block.*3.*64|block.*3.*layers/0/kernel"),
    "pattern": ({"dense": ("conv",)}, "'conv' matches no layer; the layers are"),
    "batch": ({"batch_size": 1438}, "batch_size is 1438.*between 1 and .* 1437"),
    "window": ({"gradient_window": 8}, "gradient_window=8 and delta_t=7"),
    "mesh": ({"mesh__neurons": 0}, "mesh.neurons is 0: give a number at least 1"),
    "neurons": (
        {"mesh__neurons": 3},
        "mesh.neurons is 3, which does not divide the 8 devices",
    ),
    "axis": ({"mesh": ConfigDict({"batch": 8})}, "there is no config field mesh.batch"),
    "shares": (
        {"mesh__data": 6},
        "batch_size is 64, which 6 devices .mesh.data.*or mesh.data=2",
    ),
    "warm-up": (
        {"optimizer__warmup_epochs": 3.0},
        "warmup_epochs is 3.0: .* epochs, 3",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUT)
def test_bad_input_is_named_and_the_workdir_left_alone(data_dir, tmp_path, bad):
    fields, message = BAD_INPUT[bad]
    with pytest.raises(ValueError, match=message):
        train(tiny(data_dir, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_data_set_is_named_with_the_way_out(data_dir, tmp_path):
    config = tiny(data_dir, dataset__name="fashion_mnist")
    config.dataset.source_dir = str(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path} lacks.*dataset\.source_dir=DIR"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_truncated_idx_file_is_named(tmp_path):
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            header = bytes([0, 0, 8, 1, 0, 0, 0, 9])
            (tmp_path / f"{split}-{kind}-ubyte").write_bytes(header + b"12345")
    config = tiny(tmp_path / "data", dataset__name="fashion_mnist")
    config.dataset.source_dir = str(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}/train-images.* is truncated"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_is_refused_and_kept(data_dir, tmp_path):
    workdir = tmp_path / "file"
    workdir.write_text("mine")
    with pytest.raises(ValueError, match=f"workdir {workdir} cannot be used"):
        train(tiny(data_dir), workdir)
    assert workdir.read_text() == "mine"


def test_every_start_adds_to_what_the_environment_was(tmp_path):
    for version in ("1", "2"):
        record_start(tmp_path, {"version": version})
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert starts == [{"version": "1"}, {"version": "2"}]


def test_a_workdir_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "environment.json.tmp").mkdir()  # Root may write to all else.
    message = rf"workdir {tmp_path} cannot be used: .* choose another --workdir"
    with pytest.raises(ValueError, match=message):
        record_start(tmp_path, {})


def test_a_damaged_record_of_starts_is_named(tmp_path):
    (tmp_path / "environment.json").write_text('[{"vers')
    with pytest.raises(ValueError, match=r"environment.json is damaged .*: remove it"):
        record_start(tmp_path, {})


def test_a_workdir_of_other_settings_is_refused_and_kept(data_dir, trained):
    run = trained("dense")
    before = files_in(run.workdir)
    fields = METHODS["dense"] | {"seed": 1, "optimizer__momentum": 0.8}
    with pytest.raises(ValueError) as error:
        train(tiny(data_dir, **fields), run.workdir)
    assert "optimizer.momentum: workdir has 0.9, this run asks" in str(error.value)
    assert "seed: workdir has 0, this run asks for 1" in str(error.value)
    assert files_in(run.workdir) == before


def test_a_workdir_from_before_a_field_existed_is_read_and_gone_on_with(
    data_dir, trained, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(trained("dense").workdir, workdir)
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    del saved["t_end"], saved["sparse_init"], saved["pruning"]["rounds"]
    path.write_text(json.dumps(saved))
    assert load_trained(workdir).config.t_end == 0.75
    train(tiny(data_dir, **METHODS["dense"]), workdir)
    with pytest.raises(ValueError, match="t_end: workdir has 0.75, this run asks for"):
        train(tiny(data_dir, t_end=0.5, **METHODS["dense"]), workdir)


def test_divergence_names_the_step_and_keeps_the_good_checkpoints(data_dir, tmp_path):
    config = tiny(data_dir, method="dense", log_every=1, checkpoint_every=1)
    config.optimizer.learning_rate = 1e30  # Of which the warm-up's first step uses 0.
    for _ in range(2):  # Again, it goes on from the good one, and ends the same way.
        with pytest.raises(NotFiniteError, match="diverged at step 2.*learning_rate"):
            train(config, tmp_path)
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert all(np.isfinite(x).all() for x in checkpoint(tmp_path, 1).values())


def test_the_topology_rests_from_t_end_on(data_dir, tmp_path):
    kept = {"checkpoint_every": 22, "keep_checkpoints": 9}
    train(tiny(data_dir, t_end=0.3, **kept), tmp_path)
    assert recorded_steps(tmp_path, "topology") == [0, 8, 15]
    middle, end = (checkpoint(tmp_path, step) for step in (22, STEPS))
    masks = [name for name in end if "mask" in name]
    assert masks
    for name in masks:
        np.testing.assert_array_equal(middle[name], end[name])


def test_pretrained_weights_are_asked_for_before_the_workdir_is_claimed(
    data_dir, tmp_path
):
    config = tiny(data_dir, pretrained="resnet18.safetensors")
    with pytest.raises(ValueError, match="torchvision has no pretrained MLP"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [{"pretrained": "weights.safetensors"}, {"sparse_init": False}],
    ids=["pretrained", "the model's own"],
)
def test_weights_that_are_not_drawn_keep_their_values_on_the_masks(data_dir, fields):
    config = tiny(data_dir, **fields)
    params = {"hidden": {"kernel": jnp.arange(1.0, 129.0).reshape(16, 8)}}
    params["head"] = {"kernel": jnp.full((8, 4), 2.0), "bias": jnp.ones(4)}
    plan = make_plan(params, **plan_options(config))
    optimizer = train_module.make_optimizer(config, 66, 22)
    masks = init_masks(params, plan, config.seed)
    state = train_module.init_state(config, params, {}, plan, optimizer, masks)
    hidden = state["params"]["hidden"]["kernel"]
    kept = masks["hidden"]["kernel"]
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(hidden, params["hidden"]["kernel"] * kept)
    np.testing.assert_array_equal(state["params"]["head"]["bias"], jnp.ones(4))
