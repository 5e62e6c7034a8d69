import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import tiny_wordnet

from srigl_jax.extreme.data import bags, embed, texts, wordnet, xmc

LICENCE = "  1 This software and database is being provided to you\n"
NOUN = (
    "00001740 03 n 02 entity 0 thing 1 003 ~ 00001930 n 0000 ~ 00001930 n 0102 "
    '! 00000300 a 0000 | what is; "a | b"  \n'
)
VERB = "00001930 29 v 01 breathe 0 001 + 00001740 n 0101 01 + 02 00 | draw air  \n"


def test_a_synset_is_read_with_each_pointer_once(tmp_path):
    path = tmp_path / "data.noun"
    path.write_text(LICENCE + NOUN)
    (synset,) = wordnet.read(path)
    pointers = ("n00001930", "a00000300")
    gloss = 'what is; "a | b"'
    assert synset[:4] == ("n00001740", "entity.n00001740", gloss, pointers)


def test_a_definition_has_no_examples_of_use():
    assert wordnet.definition('what is; "a | b"; "c"') == "what is"
    assert wordnet.definition('"a | b"') == '"a | b"'


def test_frames_of_verbs_are_no_pointers(tmp_path):
    path = tmp_path / "data.verb"
    path.write_text(VERB)
    assert next(wordnet.read(path)).pointers == ("n00001740",)


def test_satellite_adjectives_are_adjectives(tmp_path):
    path = tmp_path / "data.adj"
    path.write_text("00000300 00 s 01 able 0 001 & 00000400 s 0000 | can  \n")
    synset = next(wordnet.read(path))
    assert (synset.identity, synset.pointers) == ("a00000300", ("a00000400",))


@pytest.mark.parametrize("cut", [1, 12, 40, 90])
def test_a_truncated_line_is_named(tmp_path, cut):
    path = tmp_path / "data.noun"
    path.write_text(LICENCE + NOUN[:-cut])
    with pytest.raises(ValueError, match=r"data\.noun, line 2: .* truncated"):
        list(wordnet.read(path))


def test_a_file_cut_at_the_end_of_a_line_is_noticed_by_what_points_beyond(tmp_path):
    source = tiny_wordnet.write(tmp_path)
    path = source / "data.noun"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match=r"data\.noun, line 2: points to n00000003, "):
        wordnet.load(source)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = tmp_path / "data.noun"
    path.write_bytes((LICENCE + NOUN).encode() + b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"data\.noun, line 3: is not UTF-8"):
        list(wordnet.read(path))
    path.write_bytes(XMC.encode().replace(b"0:0.5", b"0:\xff"))
    with pytest.raises(ValueError, match="line 2: has other bytes than ASCII"):
        xmc.load(path)
    path.write_bytes(b"\xff" + XMC.encode())
    with pytest.raises(ValueError, match="line 1: must have the numbers"):
        xmc.load(path)


def test_missing_files_are_named_with_the_way_out():
    with pytest.raises(ValueError, match="/nowhere lacks data.noun.*apt-get install"):
        wordnet.load("/nowhere")


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path(wordnet.DEBIAN_DIR, "data.noun").is_file(),
    reason="Debian's package wordnet-base is not installed",
)
def test_the_installed_wordnet_has_its_known_size():
    loaded = wordnet.load()
    assert len(loaded.train) + len(loaded.test) == 116_650
    assert len(loaded.label_names) == 113_595
    assert 0.19 < len(loaded.test) / 116_650 < 0.21


def test_labels_are_numbered_by_falling_frequency():
    train = [("x", ["b"]), ("y", ["c", "b"]), ("z", ["a"])]
    loaded = texts.number(train, [("w", ["d", "a"])])
    assert loaded.label_names == ("b", "a", "c", "d")
    assert loaded.train.positives.tolist() == [[0, -1], [2, 0], [1, -1]]
    assert loaded.test.positives.tolist() == [[3, 1]]
    assert loaded.frequencies.tolist() == [2, 1, 1, 0]


XMC = "3 5 4\n1,3 0:0.5 4:2\n0 2:1e-1\n2,0 1:3\n"


def write(tmp_path, content):
    path = tmp_path / "train.txt"
    path.write_text(content)
    return path


def test_points_are_read(tmp_path):
    points = xmc.load(write(tmp_path, XMC))
    assert points.labels == 4
    assert points.positives.tolist() == [[1, 3], [0, -1], [2, 0]]
    expected = [[0.5, 0, 0, 0, 2], [0, 0, 0.1, 0, 0], [0, 3, 0, 0, 0]]
    np.testing.assert_allclose(points.features.toarray(), expected, rtol=1e-6)


def test_points_without_labels_are_left_out_if_asked(tmp_path):
    path = write(tmp_path, XMC.replace("0 2:1e-1", " 2:1e-1"))
    assert xmc.load(path, skip_unlabelled=True).positives.tolist() == [[1, 3], [2, 0]]
    with pytest.raises(ValueError, match=r"train\.txt, line 3: has no label"):
        xmc.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (XMC[:-8], "line 3: is the last one, after 2 points, but line 1 promises 3"),
        (XMC[:-2], "line 4: does not end, the file may be truncated"),
        # Of a line that ends there, "2" would be a point without features.
        (XMC[:-7], "line 4: does not end, the file may be truncated"),
        (XMC.replace("1:3", "1:"), "line 4: feature '1:' has no value, it may be"),
        (XMC.replace("1:3", "1"), "line 4: feature '1' has no value, it may be"),
        ("3 5\n", "line 1: must have the numbers of points, features and labels"),
        ("", "line 1: must have the numbers"),
        (XMC.replace("1,3", "1,4"), "line 2: label 4 is out of range: there are 4"),
        (XMC.replace("4:2", "5:2"), "line 2: feature 5 is out of range: there are 5"),
        (XMC.replace("1,3", "1,"), "line 2: label '' is no number"),
        (
            XMC.replace("4:2", "4:x"),
            "line 2: feature '4:x' has no finite number as value",
        ),
        (XMC.replace("4:2", "4:nan"), "line 2: feature '4:nan' has no finite number"),
        (XMC.replace("4:2", "4:1e999"), "line 2: feature '4:1e999' has no finite"),
        (XMC.replace("4:2", "4:1_0"), "line 2: feature '4:1_0' has no finite number"),
        (XMC.replace("1,3", "1,0_3"), "line 2: label '0_3' is no number"),
        (XMC.replace("0 2:1e-1\n", "\n"), "line 3: is empty"),
    ],
)
def test_what_is_not_of_the_format_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"train\.txt, {message}"):
        xmc.load(write(tmp_path, content))


def test_bags_hold_the_largest_features_at_length_one():
    matrix = scipy.sparse.csr_matrix([[0, 3.0, 1, 4], [0, 0, 0, 0], [2.0, 0, 0, 0]])
    packed = bags(matrix, 2)
    assert packed.columns.tolist() == [[3, 1], [0, 0], [0, 0]]
    np.testing.assert_allclose(packed.weights, [[0.8, 0.6], [0, 0], [1, 0]], rtol=1e-6)
    table = jnp.arange(8.0).reshape(4, 2)
    expected = [[0.8 * 6 + 0.6 * 2, 0.8 * 7 + 0.6 * 3], [0, 0], [0, 1]]
    np.testing.assert_allclose(embed(table, packed), expected, rtol=1e-6)
