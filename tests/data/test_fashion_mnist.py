import gzip
import hashlib
import pathlib
import struct

import numpy as np
import pytest

from srigl_jax.data import MissingFilesError, datasets, fashion_mnist

NAMES = list(fashion_mnist.SHA256)
SIZES = {"train": 5, "t10k": 3}


def idx_file(name: str) -> bytes:
    """A tiny file of the official format: image i is all i, its label is i."""
    part, kind = name.split("-")[:2]
    n = SIZES[part]
    if kind == "labels":
        return struct.pack(">4B I", 0, 0, 8, 1, n) + bytes(range(n))
    pixels = b"".join(bytes([i]) * 784 for i in range(n))
    return struct.pack(">4B 3I", 0, 0, 8, 3, n, 28, 28) + pixels


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A directory of four tiny files which pass for the official ones."""
    directory = tmp_path / "source"
    directory.mkdir()
    for name in NAMES:
        (directory / f"{name}.gz").write_bytes(gzip.compress(idx_file(name)))
        digest = hashlib.sha256(idx_file(name)).hexdigest()
        monkeypatch.setitem(fashion_mnist.SHA256, name, digest)
    return directory


def load(tmp_path, source_dir):
    return datasets.load(
        "fashion_mnist", data_dir=tmp_path / "data", source_dir=source_dir
    )


def test_images_and_labels_come_back_in_the_order_of_the_files(source, tmp_path):
    loaded = load(tmp_path, source)
    assert loaded.train.images.shape == (5, 28, 28, 1)
    assert loaded.train.images[:, 27, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert loaded.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert loaded.test.labels.tolist() == [0, 1, 2]


def test_statistics_of_the_training_pixels(source, tmp_path):
    # Pixels 0, 1, 2, 3, 4, equally often.
    loaded = load(tmp_path, source)
    assert loaded.mean == (2.0,)
    assert loaded.std == (np.sqrt(2.0),)


def test_classes_have_their_names(source, tmp_path):
    names = load(tmp_path, source).class_names
    assert (len(names), names[0], names[9]) == (10, "T-shirt/top", "Ankle boot")


def test_a_copy_prepared_without_names_has_them(source, tmp_path):
    directory = tmp_path / "data" / "fashion_mnist" / "1.0.0"
    expected = load(tmp_path, source).class_names
    (directory / "label.labels.txt").unlink()
    assert load(tmp_path, source).class_names == expected


def test_decompressed_files_are_found(source, tmp_path):
    for name in NAMES:
        (source / f"{name}.gz").unlink()
        (source / name).write_bytes(idx_file(name))
    assert len(load(tmp_path, source).train) == 5


def test_once_prepared_the_source_is_not_looked_at(source, tmp_path):
    load(tmp_path, source)
    assert len(load(tmp_path, "/nowhere").train) == 5


def test_debian_directory_is_the_default(source, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", str(source))
    assert len(load(tmp_path, None).train) == 5


def test_missing_directory_says_both_ways_out(tmp_path):
    with pytest.raises(MissingFilesError) as error:
        load(tmp_path, "/nowhere")
    message = str(error.value)
    assert "/nowhere lacks train-images-idx3-ubyte" in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert "--config.dataset.source_dir=DIR" in message
    assert all(f"{name}.gz" in message for name in NAMES)


def test_only_the_missing_file_is_named(source, tmp_path):
    (source / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="source lacks t10k-labels-idx1-ubyte. Either"):
        load(tmp_path, source)


def test_missing_files_leave_nothing_behind(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path, "/nowhere")
    assert not (tmp_path / "data").exists()


def test_truncated_file_is_named(source, tmp_path):
    path = source / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_file("t10k-images-idx3-ubyte")[:-1]))
    with pytest.raises(ValueError, match=rf"{path} is truncated.*2368 .*holds 2367"):
        load(tmp_path, source)


def test_file_of_another_digest_is_named(source, tmp_path):
    path = source / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_file("t10k-labels-idx1-ubyte")))
    with pytest.raises(ValueError, match=rf"{path} is not the official file"):
        load(tmp_path, source)


def test_after_a_bad_file_the_good_one_is_prepared(source, tmp_path):
    path = source / "train-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(ValueError, match="truncated"):
        load(tmp_path, source)
    path.write_bytes(good)
    assert len(load(tmp_path, source).train) == 5


@pytest.mark.skipif(
    not pathlib.Path(fashion_mnist.DEBIAN_DIR).is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_installed_files_are_the_official_ones():
    source = fashion_mnist.FashionMNIST.find_source(None)
    images, labels = fashion_mnist.read_split(source, "train")
    assert images.shape == (60000, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path(fashion_mnist.DEBIAN_DIR).is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_whole_set_comes_back_as_the_files_hold_it(tmp_path):
    loaded = load(tmp_path, None)
    for split, arrays in (("train", loaded.train), ("test", loaded.test)):
        source = fashion_mnist.FashionMNIST.find_source(None)
        images, labels = fashion_mnist.read_split(source, split)
        np.testing.assert_array_equal(arrays.images[..., 0], images)
        np.testing.assert_array_equal(arrays.labels, labels)
