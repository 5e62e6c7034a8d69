"""What reproduces the paper's tables: its runs, their short forms, and its table."""

import dataclasses
import json
import sys

import compare_methods
import numpy as np
import pytest
import reproduce

from srigl_jax import config as config_lib
from srigl_jax.train import train

# Recipes that the table of results does not have.
OTHERS = {
    name: reproduce.Result(config, 1, None, {0.9: (0.0,)}, ("SRigL",))
    for name, config in {
        "mobilenet_v3_small": "mobilenet_v3_imagenet.py:small",
        "mobilenet_v3_large": "mobilenet_v3_imagenet.py:large",
        "resnet50_imagenet_x5": "resnet50_imagenet.py:x5",
        "vit_b16_imagenet_sparse_qkv": "vit_b16_imagenet.py:sparse_qkv",
    }.items()
}


def load(result):
    return config_lib.load_config(str(reproduce.CONFIGS / result.config))


def short(result, scale, **options):
    config = load(result)
    overrides = reproduce.shortened(result, config, scale, **options)
    config.update_from_flattened_dict(overrides)
    return config


def test_a_result_runs_each_method_at_each_sparsity_with_each_seed():
    runs = reproduce.matrix(reproduce.RESULTS["resnet18_cifar10"], seeds=2)
    assert len(runs) == 2 * (1 + 3 * 4)
    assert runs["SRigL without ablation", 0.99, 1] == {
        "method": "srigl",
        "ablation": False,
        "sparsity": 0.99,
        "seed": 1,
    }


@pytest.mark.parametrize("name", reproduce.RESULTS)
def test_the_short_form_of_a_recipe_is_accepted_and_of_true_shape(name):
    result = reproduce.RESULTS[name]
    config = short(result, 0.001)
    config_lib.validate(config)
    assert config.dataset.image_shape == result.image_shape
    assert config.dataset.examples == max(32, round(result.train_images / 1000))
    assert config.model == load(result).model


def test_learning_rates_follow_the_batch_and_milestones_the_epochs():
    optimizer = short(reproduce.RESULTS["resnet50_imagenet_x2"], 0.1).optimizer
    assert optimizer.reference_batch == 512
    assert optimizer.decay_at == pytest.approx(
        (60 / 9.81, 140 / 9.81, 180 / 9.81), 0.01
    )


def test_learning_rates_of_adamw_follow_the_square_root_of_the_batch():
    optimizer = short(reproduce.RESULTS["vit_b16_imagenet"], 0.1).optimizer
    assert optimizer.learning_rate == pytest.approx(0.003 * (8 / 4096) ** 0.5)
    assert optimizer.reference_batch == 8


def test_the_table_puts_what_was_published_beside_what_was_measured():
    row = {"mean": 95.0, "std": 0.25, "active_share": 0.5, "seeds": [0, 1]}
    rows = [
        {"method": "dense", "sparsity": 0.0} | row | {"active_share": None},
        {"method": "SRigL", "sparsity": 0.99} | row,
    ]
    table = reproduce.markdown(reproduce.RESULTS["resnet18_cifar10"], rows)
    assert table.splitlines()[2:] == [
        "| dense | 0% | 95.45 | 95.00 ± 0.25 | 2 |  |",
        "| SRigL | 99% | 92.79 | 95.00 ± 0.25 | 2 | 50.0% |",
    ]


def test_another_sparsity_of_a_result_joins_those_measured_before(
    tmp_path, monkeypatch, capsys
):
    def trained(runs, *_):
        return {
            key: {"accuracy": key[1] / 2, "seconds": 1.0, "layers": []} for key in runs
        }

    def run(sparsity, *fields):
        some = {sparsity: result.sparse[sparsity]}
        only = dataclasses.replace(result, dense=None, sparse=some)
        monkeypatch.setitem(reproduce.RESULTS, "wrn22_cifar10", only)
        arguments = ["reproduce.py", "--result", "wrn22_cifar10", *fields]
        monkeypatch.setattr(sys, "argv", arguments)
        # The table knows what was published at all of them.
        monkeypatch.setattr(reproduce, "markdown", lambda _, rows: str(len(rows)))
        reproduce.main()
        saved = json.loads((tmp_path / "reproduce_wrn22_cifar10.json").read_text())
        return {(row["method"], row["sparsity"]) for row in saved["rows"]}

    result = reproduce.RESULTS["wrn22_cifar10"]
    monkeypatch.setattr(reproduce.measure, "RESULTS", tmp_path)
    monkeypatch.setattr(compare_methods, "run_all", trained)
    assert len(run(0.8)) == 3
    assert len(run(0.9, "dataset.source_dir=/data/elsewhere")) == 6
    assert len(run(0.9, "dtype=bfloat16")) == 3
    assert "moved to reproduce_wrn22_cifar10.1.json" in capsys.readouterr().out


def test_runs_share_all_cores_or_have_one_each():
    places = compare_methods.each_core()
    assert all(len(place) == 1 for place in places)
    assert len(set().union(*places)) == len(places)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*reproduce.RESULTS, *OTHERS])
def test_the_loss_falls_in_a_short_run_of_every_recipe(name, tmp_path):
    result = (reproduce.RESULTS | OTHERS)[name]
    config = short(result, 1e-6, batch_size=4)
    config.eval_every = config.checkpoint_every = 1000
    train(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [r["loss"] for r in records if r["kind"] == "train"]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
