"""Sets of texts in tensorflow-datasets' form."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_wordnet
from test_corpus import library  # noqa: F401

from srigl_jax.extreme.data import bioc, corpus, prepared, wordnet
from srigl_jax.train import train


def prepare(builder):
    builder.download_and_prepare(file_format="array_record")
    return pathlib.Path(builder.data_dir)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    source = tiny_wordnet.write(root / "source")
    return prepare(prepared.WordNet(data_dir=root, source_dir=source))


def assert_same(got, expected):
    assert got.label_names == expected.label_names
    for split in ("train", "test"):
        own, other = getattr(got, split), getattr(expected, split)
        assert own.texts == other.texts
        np.testing.assert_array_equal(np.sort(own.positives), np.sort(other.positives))


def test_what_is_prepared_is_what_the_files_say(directory, tmp_path):
    source = tiny_wordnet.write(tmp_path)
    assert_same(prepared.load(directory), wordnet.load(source))


@pytest.mark.parametrize(
    ("builder", "load"),
    [
        (prepared.GeneOntology, bioc.load_go),
        (prepared.GeneToPaper, bioc.load_genes),
    ],
)
def test_databases_are_prepared_too(library, tmp_path, builder, load):  # noqa: F811
    made = builder(data_dir=tmp_path, source_dir=library)
    assert_same(prepared.load(prepare(made)), load(library))


def test_a_prepared_set_is_trained_on(directory, tmp_path):
    config = tiny_wordnet.config(directory, dataset__name="prepared")
    assert train(config, tmp_path)["P@1"] > 0.7


def test_what_is_no_prepared_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="no prepared set: give the directory of one"):
        prepared.load(tmp_path)
    with pytest.raises(ValueError, match="--config.dataset.source_dir=DIR"):
        corpus.load("prepared")


TEXT = tfds.features.Text()
NUMBERED = tfds.features.ClassLabel(names=["bird", "dog"])
A, B = {"text": "a", "labels": ["dog"]}, {"text": "b", "labels": ["bird", "dog"]}
UNLABELLED = {"text": "c", "labels": []}


def others(data_dir, features, **splits):
    """A set of someone else, prepared."""

    class Others(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            own = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(
                builder=self, features=own, disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {name: enumerate(examples) for name, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    return prepare(Others(data_dir=data_dir))


@pytest.mark.parametrize("label", [TEXT, NUMBERED], ids=["Text", "ClassLabel"])
def test_labels_are_texts_or_numbers_with_names(tmp_path, label):
    features = {"text": TEXT, "labels": tfds.features.Sequence(label)}
    made = prepared.load(
        others(tmp_path, features, train=[A, UNLABELLED, B], test=[UNLABELLED, A])
    )
    assert made.label_names == ("dog", "bird")
    assert made.train.texts == ("a", "b")
    assert made.train.positives.tolist() == [[0, -1], [1, 0]]
    assert made.test.texts == ("a",)


@pytest.mark.parametrize(
    ("features", "example"),
    [
        ({"text": TEXT, "label": TEXT}, {"text": "a", "label": "b"}),
        ({"text": TEXT, "labels": TEXT}, {"text": "a", "labels": "b"}),
        (
            {"text": TEXT, "labels": tfds.features.Sequence(np.int64)},
            {"text": "a", "labels": [3]},
        ),
        (
            {"text": NUMBERED, "labels": tfds.features.Sequence(TEXT)},
            {"text": "dog", "labels": ["b"]},
        ),
    ],
    ids=["label", "one", "numbers", "no text"],
)
def test_sets_of_other_features_are_refused(tmp_path, features, example):
    directory = others(tmp_path, features, train=[example], test=[example])
    with pytest.raises(ValueError, match="labels, a Sequence of Text or of ClassLabel"):
        prepared.load(directory)


def test_sets_without_a_split_or_with_an_empty_one_are_refused(tmp_path):
    features = {"text": TEXT, "labels": tfds.features.Sequence(TEXT)}
    directory = others(tmp_path / "one", features, train=[A])
    with pytest.raises(ValueError, match="has the splits train, but no test"):
        prepared.load(directory)
    directory = others(tmp_path / "two", features, train=[A], test=[UNLABELLED])
    with pytest.raises(ValueError, match="no text of split test has a label"):
        prepared.load(directory)


def test_a_command_line_prepares_a_set(tmp_path, capsys):
    source = tiny_wordnet.write(tmp_path / "source")
    flags = ["--data_dir", str(tmp_path), "--source_dir", str(source)]
    prepared.main(["wordnet", *flags])
    directory = tmp_path / "wordnet" / "1.0.0"
    assert f"--config.dataset.source_dir={directory}" in capsys.readouterr().out
    assert_same(prepared.load(directory), wordnet.load(source))
    with pytest.raises(SystemExit, match="error: .*r-bioc-go.db"):
        prepared.main(["go", *flags])


def test_a_damaged_set_is_named(directory, tmp_path):
    copy = tmp_path / "1.0.0"
    copy.mkdir()
    for path in directory.iterdir():
        content = path.read_bytes()
        if "array_record" in path.name:
            content = content[: len(content) // 2]
        (copy / path.name).write_bytes(content)
    with pytest.raises(ValueError, match="incomplete or damaged"):
        prepared.load(copy)
