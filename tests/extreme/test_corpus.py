"""What a run with many labels reads, from databases, texts and the XMC format."""

import sqlite3

import numpy as np
import pytest

from srigl_jax.extreme.data import bags, bioc, corpus, pack, texts


def database(path, script):
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


@pytest.fixture
def library(tmp_path):
    database(
        tmp_path / bioc.GO_FILE,
        """
        create table go_term(_id, go_id, term, ontology, definition);
        insert into go_term values (1, 'GO:1', 'root', 'BP', 'all there is'),
          (2, 'GO:2', 'growth', 'BP', 'getting larger'),
          (3, 'GO:3', 'root growth', 'BP', 'of a root');
        create table go_bp_parents(_id, _parent_id, kind);
        insert into go_bp_parents values (2, 1, 'isa'), (3, 2, 'isa'), (3, 2, 'part'),
          (3, 1, 'isa');
        create table go_mf_parents(_id, _parent_id, kind);
        create table go_cc_parents(_id, _parent_id, kind);
        """,
    )
    rows = ", ".join(f"({i}, '900')" for i in range(1, 52))
    genes = ", ".join(f"({i}, 'E{i}')" for i in range(1, 52))
    names = ", ".join(f"({i}, 'protein {i}', 'S{i}')" for i in range(1, 52))
    database(
        tmp_path / bioc.GENES_FILE,
        f"""
        create table genes(_id, gene_id); insert into genes values {genes};
        create table gene_info(_id, gene_name, symbol);
        insert into gene_info values {names};
        create table alias(_id, alias_symbol); insert into alias values (1, 'A-1');
        create table chromosomes(_id, chromosome); insert into chromosomes
          values (1, 'X');
        create table go(_id, go_id); insert into go values (1, 'GO:1'), (1, 'GO:1');
        create table pfam(_id, pfam_id); insert into pfam values (1, null), (1, 'PF2');
        create table pubmed(_id, pubmed_id); insert into pubmed values {rows},
          (1, '77'), (1, '77'), (2, '77'), (3, '5');
        """,
    )
    return tmp_path


def pairs(loaded):
    """Texts with the names of their labels, sorted."""
    return sorted(
        (text, sorted(loaded.label_names[i] for i in row if i >= 0))
        for split in (loaded.train, loaded.test)
        for text, row in zip(split.texts, split.positives, strict=True)
    )


def test_terms_have_their_direct_parents_once(library):
    assert pairs(bioc.load_go(library)) == [
        ("growth: getting larger", ["root.GO:1"]),
        ("root growth: of a root", ["growth.GO:2", "root.GO:1"]),
    ]


def test_genes_have_the_articles_of_at_most_fifty(library):
    assert pairs(bioc.load_genes(library)) == [
        ("protein 1 A1 chromosomeX GO1 PF2", ["PMID77"]),
        ("protein 2", ["PMID77"]),
        ("protein 3", ["PMID5"]),
    ]


def test_missing_and_damaged_databases_are_named(tmp_path):
    with pytest.raises(ValueError, match="GO.sqlite. Install .* r-bioc-go.db"):
        bioc.load_go(tmp_path)
    path = tmp_path / bioc.GENES_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all, but long enough to be looked at" * 9)
    with pytest.raises(ValueError, match="org.Hs.eg.sqlite is damaged"):
        bioc.load_genes(tmp_path)


def some_texts():
    train = [("a red dog", ["dog"]), ("a red bird", ["bird"]), ("one dog", ["dog"])]
    return texts.number(train, [("dog dog bird zebra", ["dog", "fish"])])


def test_words_are_weighed_by_the_training_texts_alone():
    made = corpus.of_texts(some_texts())
    assert made.vocabulary.words == ("dog", "red")  # The others occur once.
    assert (made.split, made.features, made.labels) == ("test", 2, 3)
    np.testing.assert_allclose(made.held_out.toarray(), [[1, 0]], rtol=1e-6)
    length = np.linalg.norm(made.train.toarray(), axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-6)
    assert made.frequencies.tolist() == [2, 1, 0]


def test_held_out_examples_come_from_training_and_are_not_trained_on():
    made = corpus.of_texts(some_texts(), validation=1)
    assert (made.split, made.train.shape[0], made.held_out.shape[0]) == (
        "validation",
        2,
        1,
    )
    assert made.frequencies.sum() == 2
    with pytest.raises(ValueError, match="dataset.validation is 3, of 3 training"):
        corpus.of_texts(some_texts(), validation=3)


def test_texts_without_a_common_word_are_refused():
    alone = texts.number([("one", ["a"]), ("two", ["b"])], [("one", ["a"])])
    with pytest.raises(ValueError, match="2 training texts have no word in common"):
        corpus.of_texts(alone)


def test_sets_of_the_repository_are_read(tmp_path):
    (tmp_path / "train.txt").write_text("3 4 3\n0,1 0:1\n2 3:2\n 1:1\n")
    with pytest.raises(ValueError, match="lacks test.txt: name the directory"):
        corpus.load("xmc", tmp_path)
    (tmp_path / "test.txt").write_text("1 4 3\n1 0:0.5 2:1\n")
    made = corpus.load("xmc", tmp_path)
    assert (made.features, made.label_names) == (4, ("0", "1", "2"))
    assert made.frequencies.tolist() == [1, 1, 1]
    assert made.train_positives.tolist() == [[0, 1], [2, -1]]
    assert made.held_out.toarray().tolist() == [[0.5, 0, 1, 0]]
    assert corpus.load("xmc", tmp_path, validation=1).split == "validation"
    (tmp_path / "test.txt").write_text("1 4 2\n1 0:0.5 2:1\n")
    with pytest.raises(ValueError, match="3 labels, test.txt 4 and 2: they are of"):
        corpus.load("xmc", tmp_path)


def test_numbered_labels_are_renumbered_by_falling_frequency(tmp_path):
    (tmp_path / "train.txt").write_text("3 2 4\n3,1 0:1\n3 1:1\n3,2,1 1:2\n")
    (tmp_path / "test.txt").write_text("1 2 4\n0,2 0:1\n")
    made = corpus.load("xmc", tmp_path)
    assert made.label_names == ("3", "1", "2", "0")
    assert made.frequencies.tolist() == [3, 2, 1, 0]
    assert made.train_positives.tolist() == [[0, 1, -1], [0, -1, -1], [0, 2, 1]]
    assert made.held_out_positives.tolist() == [[3, 2]]


@pytest.mark.parametrize("change", [("1 0:0.5", "2 0:0.5"), ("0:0.5", "0:0.6")])
def test_other_data_have_another_digest(tmp_path, change):
    (tmp_path / "train.txt").write_text("2 4 3\n0,1 0:1\n2 3:2\n")
    path = tmp_path / "test.txt"
    path.write_text("1 4 3\n1 0:0.5 2:1\n")
    made = corpus.load("xmc", tmp_path)
    assert corpus.load("xmc", tmp_path).digest == made.digest
    path.write_text(path.read_text().replace(*change))
    assert corpus.load("xmc", tmp_path).digest != made.digest


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="dataset.name is 'words': choose wordnet or"):
        corpus.load("words")


def test_packed_bags_are_the_same_matrix():
    made = corpus.of_texts(some_texts())
    batch = bags(made.train, 3)
    packed = pack(batch, made.features, multiple=4)
    assert packed.features.tolist() == [0, 1, 2, 2]
    assert not packed.weights[:, 2:].any()
    np.testing.assert_allclose(
        packed.weights[:, :2], made.train.toarray(), rtol=1e-6, atol=1e-7
    )
