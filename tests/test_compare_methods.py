"""What the comparison of methods takes for finished, and keeps of old results."""

import json
import pathlib

import compare_methods
import pytest

from srigl_jax.config import load_config

DIGITS = str(pathlib.Path(__file__).parent.parent / "configs" / "digits.py")
LAYERS = [
    {"may_ablate": True, "neurons": 8, "active": 6},
    {"may_ablate": False, "neurons": 2, "active": 2},
]


def result(accuracy):
    return {"accuracy": accuracy, "seconds": 5.0, "layers": LAYERS}


def finish(workdir, **fields):
    """A finished run as the trainer leaves it."""
    config = load_config(DIGITS)
    config.update({"method": "dense", "sparsity": 0.0, "seed": 0} | fields)
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    (workdir / "result.json").write_text(json.dumps(result(0.5)))


def run_dense(workdir):
    fields = {"method": "dense", "sparsity": 0.0, "seed": 0}
    return compare_methods.run(fields, DIGITS, workdir, cores={0})


def test_a_finished_run_is_not_run_again(tmp_path):
    finish(tmp_path / "run", log_every=7)
    assert run_dense(tmp_path / "run") == result(0.5)


def test_a_finished_run_of_another_config_is_refused(tmp_path):
    finish(tmp_path / "run", epochs=7)
    with pytest.raises(ValueError, match="epochs: workdir has 7, this run asks"):
        run_dense(tmp_path / "run")


def test_a_row_knows_its_seeds_command_and_spread():
    results = {("SRigL", 0.9, seed): result(a) for seed, a in ((0, 0.5), (2, 0.75))}
    (row,) = compare_methods.gather(results)
    assert (row["seeds"], row["accuracies"], row["mean"]) == ([0, 2], [50, 75], 62.5)
    assert row["active_share"] == 0.75
    assert row["command"].startswith("python ") and row["date"].count("-") == 2


def rows(*cells):
    return [
        {"method": method, "sparsity": sparsity, "mean": mean, "seeds": [0]}
        for method, sparsity, mean in cells
    ]


EARLIER = rows(("RigL", 0.9, 1), ("SRigL", 0.9, 2))
NEW = rows(("SRigL", 0.9, 4), ("dense", 0.0, 3))
CONFIG = compare_methods.described(DIGITS, {})


def means(found):
    return [(row["method"], row["mean"]) for row in found]


def write(path, **content):
    path.write_text(json.dumps({"rows": EARLIER} | content))
    return path


def test_rows_of_earlier_commands_stay_if_of_the_same_config(tmp_path):
    made = {"command": "python of an earlier time"}
    path = write(tmp_path / "results.json", config=CONFIG, environment=made)
    found = compare_methods.beside_earlier(NEW, CONFIG, path)
    assert means(found) == [("dense", 3), ("RigL", 1), ("SRigL", 4)]
    assert found[1]["command"] == "python of an earlier time"
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_with_fewer_seeds_does_not_take_the_place_of_one_with_more(tmp_path):
    path = write(tmp_path / "results.json", config=CONFIG)
    more = [row | {"seeds": [1, 0], "mean": 5} for row in NEW]
    found = compare_methods.beside_earlier(more, CONFIG, path)
    assert means(found) == [("dense", 5), ("RigL", 1), ("SRigL", 5)]
    write(path, config=CONFIG, rows=found)
    found = compare_methods.beside_earlier(NEW, CONFIG, path)
    assert means(found) == [("dense", 5), ("RigL", 1), ("SRigL", 5)]


def test_rows_from_before_a_field_existed_stay(tmp_path):
    before = {name: value for name, value in CONFIG.items() if name != "t_end"}
    path = write(tmp_path / "results.json", config=before)
    assert len(compare_methods.beside_earlier(NEW, CONFIG, path)) == 3


def test_where_it_ran_is_no_part_of_a_results_file(tmp_path):
    here = {"dataset.source_dir": "/data/here", "mesh.data": 4, "log_every": 7}
    config = compare_methods.described(DIGITS, here)
    assert config == CONFIG
    assert config["dataset"]["name"] == "digits" and "log_every" not in config
    assert config != compare_methods.described(DIGITS, {"dataset.validation": 9})
    # Of a time when it was.
    full = load_config(DIGITS)
    full.update_from_flattened_dict(here)
    path = write(tmp_path / "results.json", config=full.to_dict())
    assert len(compare_methods.beside_earlier(NEW, config, path)) == 3


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        ({"config": CONFIG | {"epochs": 6}}, "epochs is 6 there"),
        ({}, "names no config"),
    ],
    ids=["other", "no"],
)
def test_results_of_another_config_are_moved_aside(tmp_path, capsys, saved, why):
    (tmp_path / "results.1.json").write_text("of an earlier time")
    path = write(tmp_path / "results.json", **saved)
    found = compare_methods.beside_earlier(NEW, CONFIG, path)
    assert means(found) == [("dense", 3), ("SRigL", 4)]
    assert not path.exists()
    aside = json.loads((tmp_path / "results.2.json").read_text())
    assert aside["rows"] == EARLIER
    assert (tmp_path / "results.1.json").read_text() == "of an earlier time"
    told = capsys.readouterr().out
    assert why in told and "moved to results.2.json" in told


def test_without_earlier_results_the_rows_are_those_asked_for(tmp_path):
    new = rows(("SRigL", 0.9, 4))
    found = compare_methods.beside_earlier(new, CONFIG, tmp_path / "none.json")
    assert found == new
