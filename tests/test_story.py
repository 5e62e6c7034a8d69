"""Seeds trained together are what the trainer makes of each; rows outlive a stop."""

import json

import jax
import jax.numpy as jnp
import measure
import numpy as np
import pytest
import story
import story_matrix
import story_pictures
import story_rows
import story_tables
import story_train
from runs import checkpoint, tiny, tiny_convnet

from srigl_jax import data, starts
from srigl_jax import train as train_lib
from srigl_jax.config import load_config

STEPS = 66
METHODS = {
    "srigl": {"method": "srigl"},
    "set": {"method": "set"},  # Grows at random, by the seed.
    "gradual": {"method": "gradual", "optimizer__name": "adamw", "ema": 0.9},
    "lottery": {"method": "lottery", "pruning__rounds": 2, "pruning__rewind_step": 5},
    "grasp": {"method": "grasp", "distribution": "global"},
    "snfs": {"method": "snfs"},
    "sr_ste": {"method": "sr_ste"},
    "neurons": {"method": "neurons", "distribution": "uniform"},
    "convnet": {"method": "rigl"},  # With batch statistics.
}
MODES = {"srigl": ("vmap", "map", "steps"), "set": ("vmap",), "lottery": ("vmap",)}


def dataset(config):
    return data.load(**config.dataset.to_dict())


def cells(root, seeds=(0,), variants=("dense", "SRigL"), **fields):
    config = tiny(root / "data", epochs=1, **fields)
    config.optimizer.warmup_epochs = 0.5
    chosen = {name: story_matrix.METHODS[name] for name in variants}
    return story_matrix.make_cells(config, chosen, [0.5], seeds, root / "cells")


def finish(cell, accuracy, loss=1.0):
    """A cell as it is left, of a network of two layers."""
    cell.claim()
    layer = {"sparse": True, "neurons": 8, "active": 6, "weights": 12, "shape": [4, 8]}
    layer |= {"name": "layers/0/kernel", "fan_ins": {"0": 2, "2": 6}}
    row = {
        "accuracy": accuracy,
        "loss": loss,
        "split": "test",
        "layers": [layer, layer | {"neurons": 2, "active": 2, "name": "head"}],
        "training_flops": {"dense": 30.0, "method": 10.0},
        "flops": {"dense": 10, "asked": 3.0, "learned": 3},
        "processor_seconds": 2.0,
        "date": "2026-01-01",
    }
    if cell.variant == "dense":
        for layer in row["layers"]:
            layer |= {"sparse": False, "fan_ins": None}
    (cell.directory / story_matrix.ROW).write_text(json.dumps(row))


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_among_others_trains_as_it_does_alone(
    name, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_lib, "write_report", lambda *args, **kwargs: None)
    make = tiny_convnet if name == "convnet" else tiny
    config = make(data_dir, track_exploration=False, seed=4, **METHODS[name])
    expected = train_lib.train(config, tmp_path)
    alone = checkpoint(tmp_path, expected["steps"])
    for mode in MODES.get(name, ("map",)):
        found = story_train.train_seeds(config, [3, 4], dataset(config), mode=mode)[1]
        leaves = starts.named_leaves(found.state)
        assert leaves.keys() == alone.keys()
        for leaf, value in alone.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(
                    leaves[leaf], value, rtol=1e-3, atol=1e-4, err_msg=leaf
                )
            else:
                np.testing.assert_array_equal(leaves[leaf], value, err_msg=leaf)
        assert found.scores["accuracy"] == pytest.approx(expected["accuracy"], abs=0.01)


def test_a_rewind_step_beyond_the_training_is_refused(data_dir):
    config = tiny(data_dir, method="lottery", epochs=1, pruning__rewind_step=22)
    with pytest.raises(ValueError, match="rewind_step is 22, but .* has 22 steps"):
        story_train.train_seeds(config, [0], dataset(config))


@pytest.mark.parametrize("method", ["gradual", "srigl"])
def test_a_network_that_diverges_is_a_result_as_well(method, data_dir):
    config = tiny(data_dir, method=method, epochs=1, optimizer__warmup_epochs=0.5)
    config.optimizer.learning_rate = 1e6
    (found,) = story_train.train_seeds(config, [0], dataset(config))
    assert not np.isfinite(found.scores["loss"])


def test_seeds_have_weights_masks_and_batches_of_their_own(data_dir):
    config = tiny(data_dir, epochs=1, optimizer__warmup_epochs=0.5)
    one, other = story_train.train_seeds(config, [0, 1], dataset(config))
    masks = [starts.named_masks(found.masks, found.plan) for found in (one, other)]
    assert all((masks[0][name] != masks[1][name]).any() for name in masks[0])


@pytest.mark.parametrize(
    ("method", "sparsity", "seeds"), [("snip", 0.01, 2), ("lottery", 0.08, 4)]
)
def test_a_layer_may_be_whole_in_one_seed_and_not_in_another(
    method, sparsity, seeds, data_dir
):
    whole = {"distribution": "global", "sparsity": sparsity, "model__widths": (2,)}
    config = tiny(data_dir, method=method, epochs=0.2, pruning__rounds=1, **whole)
    config.optimizer.warmup_epochs = 0.1
    found = story_train.train_seeds(config, range(seeds), dataset(config))
    heads = [one.masks["layers"][1]["kernel"] for one in found]
    is_whole = {bool(jax.tree.all(jax.tree.map(jnp.all, head))) for head in heads}
    assert is_whole == {True, False}


def test_finished_cells_are_kept_and_the_others_trained(tmp_path):
    matrix = cells(tmp_path, seeds=(0, 1))
    finish(matrix[0], 0.5)
    outcomes = list(story.run(matrix, jobs=1, mode="map"))
    told = [line for outcome in outcomes for line in outcome.told]
    assert [line.split(":")[0] for line in told] == [
        "dense 0% seed 1",
        "SRigL 50% seed 0",
        "SRigL 50% seed 1",
    ]
    assert matrix[0].row()["accuracy"] == 0.5
    assert list(story.run(matrix, jobs=1, mode="map")) == []
    (row,) = [r for r in story_tables.gather(matrix) if r["variant"] == "SRigL"]
    assert row["seeds"] == [0, 1] and row["weights"] == 572
    assert 0.3 < row["training_flops"]["method"] / row["training_flops"]["dense"] < 0.6


def test_the_kept_network_is_the_one_that_was_trained(tmp_path):
    (cell,) = cells(tmp_path, variants=["SRigL"])
    list(story.run([cell], jobs=1, mode="map", keep=True))
    network = starts.load((cell.directory / story_matrix.NETWORK).read_bytes())
    (layer, _) = cell.row()["layers"]
    mask = network["masks/layers/0/kernel"]
    assert mask.sum() == layer["weights"]
    assert not network["params/layers/0/kernel"][~mask].any()


def test_a_network_to_be_kept_is_part_of_what_is_finished(tmp_path, monkeypatch):
    matrix = cells(tmp_path, seeds=(0, 1), variants=["SRigL"])
    for cell in matrix:
        finish(cell, 0.5)
    assert list(story.run(matrix, jobs=1, mode="map")) == []
    monkeypatch.setattr(story, "train_group", lambda *given: given)
    ((group, _, _),) = story.run(matrix, jobs=1, mode="map", keep=True)
    assert group == matrix[:1]
    (matrix[0].directory / story_matrix.NETWORK).touch()
    assert list(story.run(matrix, jobs=1, mode="map", keep=True)) == []


def test_a_cell_of_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    cells(tmp_path)[1].claim()  # It need not be finished.
    with pytest.raises(ValueError, match="delta_t: workdir has 7, this run asks for 9"):
        story_matrix.check_claims(cells(tmp_path, delta_t=9))


def test_a_field_may_have_a_value_for_each_sparsity(tmp_path):
    rates = {"method": "static", "optimizer.learning_rate": {0.5: 0.2, 0.75: 0.1}}
    matrix = story_matrix.make_cells(
        tiny(tmp_path), {"static": rates}, [0.5, 0.6, 0.75], [0], tmp_path
    )
    found = [(cell.sparsity, cell.config.optimizer.learning_rate) for cell in matrix]
    assert found == [(0.5, 0.2), (0.75, 0.1)]


def test_a_cell_from_before_a_field_existed_is_kept(tmp_path):
    (cell, *_) = matrix = cells(tmp_path, variants=["SRigL"])
    finish(cell, 0.5)
    saved = json.loads((cell.directory / "config.json").read_text())
    del saved["t_end"]
    (cell.directory / "config.json").write_text(json.dumps(saved))
    story_matrix.check_claims(matrix)
    with pytest.raises(ValueError, match="t_end: workdir has 0.75, this run asks for"):
        story_matrix.check_claims(cells(tmp_path, variants=["SRigL"], t_end=0.5))


def test_cells_that_differ_only_in_their_seed_are_trained_together(tmp_path):
    groups = story_matrix.groups(cells(tmp_path, seeds=(0, 1, 2)))
    assert [[cell.seed for cell in group] for group in groups] == [[0, 1, 2]] * 2


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    for jobs in (1, 2):
        matrix = cells(tmp_path / str(jobs))
        (tmp_path / "compilations").mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORY_COMPILATIONS", str(tmp_path / "compilations"))
            assert len(list(story.run(matrix, jobs=jobs, mode="map"))) == 2
        accuracies = [cell.row()["accuracy"] for cell in matrix]
        if jobs == 1:
            expected = accuracies
    assert accuracies == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("network", ["mlp", "narrow", "wide", "wrn", "vit"])
@pytest.mark.parametrize("study", story_matrix.STUDIES)
def test_every_study_is_a_matrix_of_valid_configs(network, study, tmp_path):
    config = load_config(f"{story.CONFIG}:{network}")
    chosen = story_matrix.STUDIES[study]
    matrix = story_matrix.make_cells(
        config, chosen.variants(config), chosen.sparsities, [0], tmp_path
    )
    assert len({cell.directory for cell in matrix}) == len(matrix)


def test_an_interval_is_that_of_students_t():
    # A standard deviation of 1; 4.302653 at two degrees of freedom.
    assert story_tables.interval([1, 2, 3]) == pytest.approx(4.302653 / 3**0.5)
    assert story_tables.interval([1]) is None


def test_the_table_has_means_intervals_and_what_diverged(tmp_path):
    matrix = cells(tmp_path, seeds=(0, 1), variants=("dense", "static", "SRigL"))
    for cell, accuracy in zip(matrix, (0.9, 0.9, 0.5, 0.7, 0.1, 0.6), strict=True):
        finish(cell, accuracy, loss=None if accuracy == 0.1 else 1.0)
    rows = story_tables.gather(matrix)
    assert story_tables.markdown(rows).splitlines() == [
        "| test accuracy, % | 0.5 |",
        "|---|---|",
        "| dense | 90.00 ± 0.00 |",
        "| static | 60.00 ± 127.06 |",
        "| SRigL | 1 of 2 diverged |",
    ]
    assert [row["active_share"] for row in rows] == [None, 0.75, 0.75]


@pytest.mark.parametrize(
    ("names", "share"),
    [
        (["layers/0/kernel", "layers/1/kernel", "layers/2/kernel"], 0.5),
        (["blocks/0/kernel", "head/kernel", "stem/kernel"], 0.625),  # By name.
    ],
)
def test_the_output_is_no_inner_layer(names, share):
    active = (2, 6, 8)
    layers = [
        {"name": name, "sparse": True, "neurons": 8, "active": count}
        for name, count in zip(names, active, strict=True)
    ]
    assert story_rows.active_share({"layers": layers}) == share


def test_methods_are_compared_seed_by_seed(tmp_path):
    matrix = cells(tmp_path, seeds=(0, 1), variants=("static", "SRigL"))
    for cell, accuracy in zip(matrix, (0.5, 0.7, 0.52, 0.73), strict=True):
        finish(cell, accuracy)
    (found,) = story_tables.differences(story_tables.gather(matrix))
    assert (found["of"], found["over"], found["seeds"]) == ("SRigL", "static", [0, 1])
    # 2 and 3 points: half a point of standard error, 12.7062 at one degree of freedom.
    assert found["mean"] == pytest.approx(2.5)
    assert found["interval"] == pytest.approx(6.3531, abs=1e-3)
    assert story_tables.differences_markdown([found]).splitlines()[-1] == (
        "| SRigL over static | +2.50 ± 6.35 |"
    )


def test_methods_are_compared_in_the_same_setting(tmp_path):
    made = [
        ("RigL, alpha 0", [0, 1], [50, 60]),
        ("SRigL, alpha 0", [1, 2], [63, 70]),
        ("SRigL, alpha 0.5", [0, 1], [90, 90]),
        ("RigL, 2x as long", [0], [70]),
        ("SRigL, 2x as long", [0], [71]),
        ("static, 2x as long", [1], [60]),
    ]
    rows = [
        {"variant": name, "sparsity": 0.9, "seeds": seeds, "accuracies": accuracies}
        for name, seeds, accuracies in made
    ]
    found = story_tables.differences(rows)
    assert [(r["of"], r["over"], r["seeds"], r["mean"]) for r in found] == [
        ("SRigL, alpha 0", "RigL, alpha 0", [1], 3),
        ("SRigL, 2x as long", "RigL, 2x as long", [0], 1),
    ]


@pytest.mark.parametrize("study", story_matrix.STUDIES)
def test_every_study_has_its_pictures(study, tmp_path, monkeypatch):
    filled, save = [], story_pictures.plt.Figure.savefig

    def savefig(figure, path, **options):
        filled.append(all(axis.has_data() for axis in figure.axes))
        save(figure, path, **options)

    monkeypatch.setattr(story_pictures.plt.Figure, "savefig", savefig)
    config = load_config(f"{story.CONFIG}:mlp")
    chosen = story_matrix.STUDIES[study]
    matrix = story_matrix.make_cells(
        config, chosen.variants(config), chosen.sparsities, [0], tmp_path / "cells"
    )
    for cell in matrix:
        finish(cell, 0.8)
    drawn = story_pictures.draw(story_tables.gather(matrix), study, tmp_path / study)
    assert all(path.exists() for path in drawn) and all(filled)
    assert (
        len(filled)
        == len(drawn)
        == len(story_pictures.PANELS[study]) + (study in ("methods", "main"))
    )
    assert all(path.name.startswith(study) for path in drawn)


def test_rows_of_a_command_that_ran_meanwhile_stay(tmp_path, command, monkeypatch):
    for cell in of_the_command(tmp_path):
        finish(cell, 0.8)
    path = tmp_path / "results" / "story_mlp_main.json"

    def train(cells, arguments, console):
        path.unlink(missing_ok=True)
        monkeypatch.setattr(story, "_train_all", lambda *given: [])
        command("--methods", "static")
        return []

    monkeypatch.setattr(story, "_train_all", train)
    command("--methods", "SRigL")
    found = [row["variant"] for row in json.loads(path.read_text())["rows"]]
    assert found == ["static", "static", "SRigL", "SRigL"]


def test_a_name_that_has_come_to_mean_other_fields_is_refused(
    tmp_path, command, monkeypatch
):
    for cell in of_the_command(tmp_path):
        finish(cell, 0.8)
    command("--gather-only")
    monkeypatch.setitem(story_matrix.METHODS, "SRigL", {"method": "srigl", "alpha": 1})
    with pytest.raises(SystemExit, match="SRigL was trained with .* then, is .*alpha"):
        command("--gather-only", "--methods", "static")


def test_an_interrupted_command_says_how_to_go_on(command, monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(story, "_train_all", interrupted)
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 130
    assert (
        "interrupted; the same command trains what is left" in capsys.readouterr().out
    )


def test_what_there_is_nothing_of_is_not_drawn(tmp_path, command):
    for cell in of_the_command(tmp_path):
        finish(cell, 0.8)
    command("--gather-only", "--sparsities", "0.9")
    drawn = {path.name for path in (tmp_path / "results").glob("*.png")}
    assert "story_mlp_main_accuracy.png" in drawn
    assert "story_mlp_main_ablation.png" not in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["delta=9"], "error: there is no config field delta: did you mean delta_t?"),
        (["epochs=many"], "error: epochs=many: "),
        (["delta_t=0"], "error: delta_t is 0"),
        (["--methods", "Magic"], "error: unknown methods ['Magic']: choose of"),
    ],
)
def test_a_wrong_command_gets_a_clear_line(arguments, message, command):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert message in ended.value.code


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the main study of the mlp at two sparsities with two seeds."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(story, "use_compilation_cache", lambda root: None)
    monkeypatch.setenv("STORY_COMPILATIONS", "")  # Put back afterwards.
    whole = ["--study", "main", "--sparsities", "0.9", "0.95", "--seeds", "2"]

    def run(*arguments):
        root = ["--root", str(tmp_path)]
        monkeypatch.setattr("sys.argv", ["story.py", *whole, *root, *arguments])
        story.main()

    return run


def of_the_command(tmp_path):
    config = load_config(f"{story.CONFIG}:mlp")
    variants = story_matrix.STUDIES["main"].variants(config)
    return story_matrix.make_cells(
        config, variants, [0.9, 0.95], [0, 1], tmp_path / "mlp"
    )


def test_the_command_gathers_what_is_finished(tmp_path, command, capsys):
    for cell in of_the_command(tmp_path):
        if cell.seed == 0 or cell.variant != "static":
            finish(cell, 0.8)
    command("--gather-only")
    saved = json.loads((tmp_path / "results" / "story_mlp_main.json").read_text())
    assert {(row["variant"], len(row["seeds"])) for row in saved["rows"]} == {
        (name, 1 if name == "static" else 2) for name in story_matrix.MAIN
    }
    told = capsys.readouterr().out
    assert "| SRigL | 80.00 ± 0.00 | 80.00 ± 0.00 |" in told
    # Two dense ones, and two at each sparsity of the others but for static's second.
    assert "16 runs took 0.5 minutes of processor time" in told
    assert (tmp_path / "results" / "story_mlp_main_accuracy.png").exists()


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        (["--methods", "dense", "SRigL"], 3),
        (["--sparsities", "0.9"], 5),
        (["--seeds", "1"], 9),
    ],
    ids=["methods", "sparsities", "seeds"],
)
def test_results_of_a_part_leave_those_of_the_whole_where_they_are(
    part, rows, tmp_path, command
):
    for cell in of_the_command(tmp_path):
        finish(cell, 0.8)
    command("--gather-only")
    path = tmp_path / "results" / "story_mlp_main.json"
    before = json.loads(path.read_text())
    command("--gather-only", *part)
    after = json.loads(path.read_text())
    assert after["differences"] == before["differences"]
    commands = [row.pop("command") for row in after["rows"]]
    assert before["environment"]["command"] in commands
    for row in before["rows"]:
        del row["command"]
    assert after["rows"] == before["rows"]
    path.unlink()
    command("--gather-only", *part)
    assert len(json.loads(path.read_text())["rows"]) == rows


def test_results_of_another_config_are_left_alone(tmp_path, command):
    for cell in of_the_command(tmp_path):
        finish(cell, 0.8)
    command("--gather-only")
    path = tmp_path / "results" / "story_mlp_main.json"
    before = path.read_bytes()
    other = ["--gather-only", "--root", str(tmp_path / "other"), "delta_t=9"]
    with pytest.raises(SystemExit, match="delta_t is 50 there, 9 here\nGive .*--name"):
        command(*other)
    with pytest.raises(SystemExit, match="none of the 18 cells .*other/mlp is finish"):
        command(*other, "--name", "other")
    assert path.read_bytes() == before
    assert not (tmp_path / "results" / "story_other.json").exists()


def test_a_cell_that_fails_is_listed_and_does_not_end_the_matrix(
    tmp_path, command, monkeypatch
):
    def train_group(group, mode, keep):
        if group[0].variant == "RigL":
            raise FloatingPointError("of [this] cell")
        for cell in group:
            finish(cell, 0.8)
        return [cell.variant for cell in group]

    monkeypatch.setattr(story, "train_group", train_group)
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == (
        "error: these failed:\n"
        "RigL 90% seed 0, 1: FloatingPointError: of [this] cell\n"
        "RigL 95% seed 0, 1: FloatingPointError: of [this] cell"
    )
    saved = json.loads((tmp_path / "results" / "story_mlp_main.json").read_text())
    found = {row["variant"] for row in saved["rows"]}
    assert found == set(story_matrix.MAIN) - {"RigL"}


@pytest.mark.parametrize(("field", "hint"), [("delta_t=9", True), ("delta_t=0", False)])
def test_another_root_is_advised_where_a_cell_is_of_another_config(
    field, hint, tmp_path, command
):
    of_the_command(tmp_path)[-1].claim()
    with pytest.raises(SystemExit, match="delta_t") as ended:
        command("--gather-only", "--no-results", field)
    assert ("Another --root starts afresh" in ended.value.code) == hint
