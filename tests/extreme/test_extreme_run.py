"""A run with many labels through the trainer: what it leaves, resumes and refuses."""

import json
import pathlib
import signal

import numpy as np
import problems
import pytest
import runs
import tiny_wordnet

from srigl_jax import predict
from srigl_jax.config import load_config
from srigl_jax.extreme import densify, inverse_propensities, tagger
from srigl_jax.extreme import run as run_module
from srigl_jax.extreme.config import check_workdir, get_config, validate
from srigl_jax.extreme.data import corpus
from srigl_jax.train import Stopped, train

STEPS = 24
CONFIGS = sorted(pathlib.Path(__file__).parents[2].glob("configs/extreme_*.py"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_wordnet.write(tmp_path_factory.mktemp("wordnet"))


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(tiny_wordnet.config(source), workdir)
    return workdir


def test_the_tiny_set_is_learned(finished):
    result = runs.result(finished)
    assert result["steps"] == STEPS
    assert result["split"] == "test"
    assert result["P@1"] > 0.7
    assert result["PSP@1"] <= 1
    (layer,) = result["layers"]
    assert (layer["fan_in_max"], layer["weights"]) == (8, 8 * layer["neurons"])


def test_metrics_and_report_tell_what_was_learned(finished):
    assert runs.recorded_steps(finished, "train") == [5, 10, 15, 20, 24]
    assert runs.recorded_steps(finished, "eval") == [10, 20, 24]
    report = (finished / "report.html").read_text()
    assert "Test P@1" in report and "Held-out P@1 ends" in report


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"settings__method": "set"},
        {"settings__width": 0, "settings__negatives": 5},
        {
            "settings__width": 0,
            "settings__negatives": 5,
            "settings__method": "gradient",
        },
        {
            "settings__method": "gradient",
            "settings__encoder_rate": 0.01,
            "settings__auxiliary_weight": 0.4,
            "settings__optimizer": "adam",
        },
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(
    source, tmp_path, finished, monkeypatch, fields
):
    config = tiny_wordnet.config(source, **fields)
    whole = finished
    if fields:
        whole = tmp_path / "whole"
        train(config, whole)
    step = run_module.Task.step

    def interrupted(task, state, number):
        if number == 10:
            signal.raise_signal(signal.SIGTERM)
        return step(task, state, number)

    workdir = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(run_module.Task, "step", interrupted)
        with pytest.raises(Stopped, match="after step 11 of 24, which is saved"):
            train(config, workdir)
    train(config, workdir)
    assert runs.bits(workdir, STEPS) == runs.bits(whole, STEPS)
    assert runs.result(workdir) == runs.result(whole)
    for kind in ("eval", "topology"):
        assert runs.records(workdir, kind) == runs.records(whole, kind)


def test_features_that_are_left_out_are_counted(source, tmp_path, capsys):
    config = tiny_wordnet.config(source, epochs=1, settings__most_features=3)
    train(config, tmp_path)
    data = corpus.load(**config.dataset)
    beyond = sum(max(0, row.nnz - 3) for row in data.train)
    assert beyond > 10
    assert (
        f"settings.most_features=3 leaves out {beyond} of {data.train.nnz} features"
        in capsys.readouterr().out
    )


def test_every_wait_is_announced(source, tmp_path, capsys, monkeypatch):
    """Before the data are read, before the start, and while all is scored."""
    monkeypatch.setattr(run_module, "SCORED", 4)
    printed = []
    for owner, name in ((corpus, "load"), (run_module.Task, "init")):
        function = getattr(owner, name)

        def noted(*args, function=function, **options):
            printed.append(capsys.readouterr().out)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, noted)
    config = tiny_wordnet.config(source, epochs=1)
    train(config, tmp_path)
    printed.append(capsys.readouterr().out)
    assert "reading wordnet, for" in printed[0]
    assert "starting, 4 steps" in printed[1]
    assert printed[1].endswith("going through the examples of 15 labels\n")
    assert "scoring test examples: 0 of" in printed[2]
    assert "scoring test examples: 4 of" in printed[2]


def test_the_propensities_are_those_asked_for(source):
    config = tiny_wordnet.config(source)
    found = []
    for a, b in ((0.55, 1.5), (0.6, 2.6)):
        config.dataset.update({"propensity_a": a, "propensity_b": b})
        validate(config)
        data = corpus.load(**config.dataset)
        rows = np.arange(len(data.held_out_positives))
        # Three of ten have the label 3, of 5 examples; the best answer knows all.
        scores = run_module.scores(data, np.full((len(rows), 1), 3), rows)
        weights = inverse_propensities(data.frequencies, 35, a, b)
        best = weights[data.held_out_positives[:, 0]].sum()
        found.append(scores["PSP@1"])
        np.testing.assert_allclose(found[-1], 3 * weights[3] / best)
    assert abs(found[1] - found[0]) > 1e-4


def test_all_labels_of_an_example_are_trained_on_in_turn(source):
    config = tiny_wordnet.config(source, settings__most_labels=1)
    data = corpus.load(**config.dataset)
    task = run_module.Task(validate(config), data, 0, 20)
    seen = set()

    def step(state, batch, positives):
        assert positives.shape == (8, 1) and positives.min() >= 0
        seen.update(positives.ravel().tolist())
        return state, 0.0

    task.network.step = step
    for number in range(task.total_steps):
        task.step({}, number)
    assert seen == set(np.unique(data.train_positives)) - {-1}


def test_a_finished_run_changes_nothing(source, finished):
    before = (finished / "metrics.jsonl").read_bytes(), runs.result(finished)
    train(tiny_wordnet.config(source), finished)
    assert ((finished / "metrics.jsonl").read_bytes(), runs.result(finished)) == before


@pytest.mark.parametrize("method", ["set", "gradient"])
def test_the_methods_that_grow_do_so_when_the_schedule_says(source, tmp_path, method):
    train(tiny_wordnet.config(source, settings__method=method), tmp_path)
    assert runs.recorded_steps(tmp_path, "topology") == [3, 6, 9, 12]


def test_positives_choose_their_positions_at_the_start(source):
    config = tiny_wordnet.config(source)
    task = run_module.Task(validate(config), corpus.load(**config.dataset), 0, 6)
    assert not any(task.network.grows(step) for step in range(task.total_steps))
    (chosen,) = task.init()["classifier"].blocks
    (random,) = task.network.fresh(0)["classifier"].blocks
    assert (np.sort(chosen.indices) != np.sort(random.indices)).any()


@pytest.mark.parametrize("method", ["dense", "bottleneck", "static"])
def test_every_method_trains(source, tmp_path, method):
    fields = {"settings__method": method, "epochs": 2}
    result = train(tiny_wordnet.config(source, **fields), tmp_path)
    records = runs.records(tmp_path, "train")
    assert records[-1]["loss"] < records[0]["loss"]
    assert runs.recorded_steps(tmp_path, "topology") == []
    names = [layer["name"] for layer in result["layers"]]
    assert names == ["encoder.projection"] * (method == "bottleneck") + ["labels"]


@pytest.mark.parametrize("method", ["positives", "gradient", "bottleneck"])
def test_words_are_learned_as_they_are(source, tmp_path, capsys, method):
    fields = {"settings__method": method, "settings__width": 0}
    result = train(tiny_wordnet.config(source, **fields), tmp_path)
    assert result["P@1"] > 0.7
    predict.main(["--model", str(tmp_path), "--top", "1", "--text", "a red bird"])
    assert "a red bird: bird.n00001001 " in capsys.readouterr().out


def test_reading_the_words_of_a_batch_alone_changes_nothing(source):
    """A dense label, which reads all words, makes the network read them all."""
    config = tiny_wordnet.config(source, settings__width=0, settings__method="static")
    data = corpus.load(**config.dataset.to_dict())
    config.settings.k = data.features  # So that both have the same positions.
    found = []
    for dense_labels in (0, 1):
        config.settings.dense_labels = dense_labels
        task = run_module.Task(validate(config), data, 0, 1)
        state = task.init()
        for step in range(task.total_steps):
            state, _ = task.step(state, step)
        logits, labels = task.network.top(state, task.held_out, data.labels)
        by_label = np.take_along_axis(logits, np.argsort(labels, 1), 1)
        found.append((densify(state["classifier"]), by_label))
    problems.assert_close(*found, 1e-5)


def test_examples_of_many_labels_count_less_at_the_start(source):
    config = tiny_wordnet.config(source, settings__width=0, settings__start_power=0.0)
    data = corpus.load(**config.dataset.to_dict())
    of_two = (data.train_positives >= 0).sum(1) == 2
    label = data.train_positives[of_two][0, 1]
    assert not (data.train_positives[~of_two] == label).any()
    starts = []
    for share in (0.0, 1.0):
        config.settings.start_share = share
        task = run_module.Task(validate(config), data, 0, 1)
        (block,) = task.init()["classifier"].blocks
        starts.append(np.asarray(block.values[label]))
    assert starts[0].any()
    np.testing.assert_allclose(starts[0], 2 * starts[1], rtol=1e-6)


def test_texts_get_their_labels_by_name(finished, capsys):
    arguments = ["--model", str(finished), "--top", "1"]
    predict.main([*arguments, "--text", "a red bird", "--text", "an old boat"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a red bird: bird.n00001001 ")
    assert lines[1].startswith("an old boat: boat.n00004001 ")


def test_a_file_of_texts_becomes_a_table(finished, tmp_path):
    texts, table = tmp_path / "texts.txt", tmp_path / "labels.csv"
    texts.write_text("a grey stone\n\na wild tree\n")
    arguments = ["--model", str(finished), "--input", str(texts), "--top", "2"]
    predict.main([*arguments, "--output", str(table)])
    head, *rows = table.read_text().splitlines()
    assert head == "text,label_1,probability_1,label_2,probability_2"
    assert [row.split(",")[1] for row in rows] == ["stone.n00003001", "tree.n00002001"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "there is no text to label"),
        (b"good\n\xff\n", "line 2: is not UTF-8"),
    ],
)
def test_files_without_texts_are_refused(finished, tmp_path, content, message):
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        predict.main(["--model", str(finished), "--input", str(path)])


def test_texts_need_a_finished_run(tmp_path):
    with pytest.raises(SystemExit, match="has no tagger of texts"):
        predict.main(["--model", str(tmp_path), "--text", "a red bird"])


@pytest.mark.parametrize("name", [tagger.ARRAYS, tagger.DESCRIPTION])
def test_a_flipped_bit_is_noticed(finished, tmp_path, name):
    for file in (tagger.ARRAYS, tagger.DESCRIPTION):
        content = bytearray((finished / file).read_bytes())
        if file == name:
            content[content.find(b"bird") if b"bird" in content else -1] ^= 1
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is damaged|has changed)"):
        tagger.load(tmp_path)


def test_a_tagger_is_what_was_trained(finished):
    loaded = tagger.load(finished)
    arrays = runs.checkpoint(finished, STEPS)
    block = loaded.state["classifier"].blocks[0]
    np.testing.assert_array_equal(arrays["classifier/blocks/0/values"], block.values)
    assert loaded.tag([], 3) == []
    assert len(loaded.tag(["zzz"], 1000)[0]) == len(loaded.label_names)


def test_a_workdir_of_other_settings_is_refused(source, finished):
    config = tiny_wordnet.config(source, settings__k=7)
    with pytest.raises(ValueError, match="settings.k: workdir has 8, this run asks"):
        train(config, finished)


def test_a_workdir_from_before_a_field_existed_goes_on(source, finished, tmp_path):
    saved = json.loads((finished / "config.json").read_text())
    del saved["settings"]["t_end"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = tiny_wordnet.config(source)
    check_workdir(tmp_path, config, saved["data_sha256"])
    config.settings.t_end = 0.5
    with pytest.raises(ValueError, match="t_end: workdir has 0.66, this run asks for"):
        check_workdir(tmp_path, config, saved["data_sha256"])


def test_other_data_in_the_same_place_are_refused(source, tmp_path, finished):
    moved = tiny_wordnet.write(tmp_path)
    train(tiny_wordnet.config(moved), finished)  # The same elsewhere are welcome.
    path = moved / "data.noun"
    path.write_text(path.read_text().replace("tiny bird of", "tiny grey of"))
    with pytest.raises(ValueError, match="data_sha256: workdir has .*, this run asks"):
        train(tiny_wordnet.config(moved), finished)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"settings__method": "rigl"}, "settings.method is 'rigl': choose one of"),
        ({"settings__k": 0}, "settings.k is 0: give a number at least 1"),
        ({"settings__k": 65}, "settings.k is 65: give at most settings.width, 64"),
        ({"settings__alpha": 1.5}, "settings.alpha is 1.5: give a number from 0 to 1"),
        ({"settings__loss": "mse"}, "settings.loss is 'mse': choose one of"),
        ({"dataset__name": "words"}, "dataset.name is 'words': choose one of"),
        (
            {"settings__width": 0, "settings__encoder_rate": 0.1},
            "settings.encoder_rate is 0.1, but settings.width is 0",
        ),
        ({"settings__bias": float("nan")}, "settings.bias is nan: give a finite"),
        ({"settings__start_power": float("inf")}, "settings.start_power is inf: give"),
        ({"settings__learning_rate": float("inf")}, "settings.learning_rate is inf"),
        ({"dataset__propensity_b": 0.0}, "dataset.propensity_b is 0.0: give a number"),
        ({"epochs": 0}, "epochs is 0: give a number at least 1"),
        (
            {"settings__auxiliary_weight": 0.4},
            "settings.auxiliary_weight is 0.4, but the encoder is fixed",
        ),
    ],
)
def test_fields_that_cannot_work_are_named(source, fields, message):
    with pytest.raises(ValueError, match=message):
        validate(tiny_wordnet.config(source, **fields))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_are_accepted(path):
    config = load_config(str(path))
    validate(config)
    assert path.stem == f"extreme_{config.dataset.name}"


def test_fields_of_images_are_refused():
    config = get_config()
    config.sparsity = 0.9
    with pytest.raises(ValueError, match="there is no field sparsity: start from"):
        validate(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 1000}, "batch_size is 1000"),
        ({"negatives": 46}, "settings.negatives is 46: give at most 15, the number"),
        ({"dense_labels": 46}, "settings.dense_labels is 46: give at most 15"),
        (
            {"clusters": 46, "auxiliary_weight": 0.4, "encoder_rate": 0.1},
            "settings.clusters is 46: give at most 15",
        ),
    ],
)
def test_settings_that_the_data_cannot_have_leave_the_workdir_alone(
    source, tmp_path, fields, message
):
    fields = {f"settings__{name}": value for name, value in fields.items()}
    with pytest.raises(ValueError, match=message):
        train(tiny_wordnet.config(source, **fields), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_description_is_json_that_anyone_can_read(finished):
    description = json.loads((finished / tagger.DESCRIPTION).read_text())
    assert "bird.n00001001" in description["label_names"]
