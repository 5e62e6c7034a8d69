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


class Others(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Of texts that have one label and no test split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"text": text, "label": text})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": iter([(0, {"text": "a", "label": "b"})])}

    def _generate_examples(self):
        raise NotImplementedError


def test_sets_of_other_features_are_refused(tmp_path):
    directory = prepare(Others(data_dir=tmp_path))
    with pytest.raises(ValueError, match="has label, text, train, but no labels, test"):
        prepared.load(directory)


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
