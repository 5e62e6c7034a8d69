import hashlib
import io
import json
import tarfile

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from srigl_jax.data import MissingFilesError, cifar10, datasets

TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
FILES = [*TRAIN, "test_batch.bin"]


def record(label: int, red: int) -> bytes:
    """An example whose green counts the columns, and whose blue the rows."""
    planes = np.zeros((3, 32, 32), np.uint8)
    planes[0] = red
    planes[1] = np.arange(32)
    planes[2] = np.arange(32)[:, None]
    return bytes([label]) + planes.tobytes()


def contents() -> dict[str, bytes]:
    """Two examples in each file: label i, then 9 - i, of file i."""
    return {
        name: record(i, 10 * i) + record(9 - i, 10 * i + 1)
        for i, name in enumerate(FILES)
    }


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes an archive that passes for the official one."""

    def write(files, directory=tmp_path / "source"):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "cifar-10-binary.tar.gz"
        write_archive(path, files)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(cifar10, "SHA256", digest)
        return path

    return write


def load(tmp_path, source_dir="source"):
    source = source_dir and tmp_path / source_dir
    return datasets.load("cifar10", data_dir=tmp_path / "data", source_dir=source)


def test_images_and_labels_come_back_in_the_order_of_the_files(write, tmp_path):
    write(contents())
    loaded = load(tmp_path)
    assert loaded.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert loaded.train.images[:, 5, 5, 0].tolist() == [
        *(0, 1, 10, 11, 20, 21, 30, 31, 40, 41)
    ]
    assert loaded.test.labels.tolist() == [5, 4]
    assert loaded.test.images[:, 0, 0, 0].tolist() == [50, 51]


def test_planes_become_channels_and_rows_stay_rows(write, tmp_path):
    write(contents())
    image = load(tmp_path).train.images[2]
    assert image.shape == (32, 32, 3)
    assert image[3, 7].tolist() == [10, 7, 3]


def test_classes_have_their_names(write, tmp_path):
    write(contents())
    names = load(tmp_path).class_names
    assert (len(names), names[0], names[9]) == (10, "airplane", "truck")


def test_an_archive_in_the_manual_directory_is_found(write, tmp_path):
    write(contents(), tmp_path / "data" / "downloads" / "manual")
    assert len(load(tmp_path, None).train) == 10


def test_once_prepared_the_archive_is_not_looked_at(write, tmp_path):
    write(contents())
    load(tmp_path)
    assert len(load(tmp_path, "nowhere").train) == 10


def test_a_missing_archive_says_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(MissingFilesError) as error:
        load(tmp_path, None)
    message = str(error.value)
    manual = tmp_path / "data" / "downloads" / "manual"
    assert f"{manual} lacks cifar-10-binary.tar.gz" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in message
    assert "--config.dataset.source_dir=DIR" in message
    assert not (tmp_path / "data").exists()


def test_an_archive_of_another_digest_is_named_with_both(tmp_path):
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "cifar-10-binary.tar.gz"
    write_archive(path, contents())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    official = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    with pytest.raises(
        ValueError, match=f"{path} is not the off.*{digest}.*{official}"
    ):
        load(tmp_path)


def test_an_archive_that_was_cut_off_is_named_with_its_size(write, tmp_path):
    path = write(contents())
    path.write_bytes(path.read_bytes()[:-100])
    size = path.stat().st_size
    with pytest.raises(ValueError, match=f"cut off.*{size:,} bytes, expected 170,052"):
        load(tmp_path)


def test_a_truncated_batch_file_is_named(write, tmp_path):
    files = contents()
    files["data_batch_3.bin"] = files["data_batch_3.bin"][:-1]
    write(files)
    with pytest.raises(ValueError, match="data_batch_3.bin in .* is truncated.* 6145 "):
        load(tmp_path)


def test_an_empty_batch_file_is_named(write, tmp_path):
    write(contents() | {"test_batch.bin": b""})
    with pytest.raises(ValueError, match="test_batch.bin in .* is truncated.* 0 bytes"):
        load(tmp_path)


def test_a_missing_batch_file_is_named(write, tmp_path):
    files = contents()
    del files["data_batch_5.bin"]
    path = write(files)
    with pytest.raises(ValueError, match=f"{path} lacks .*data_batch_5.bin"):
        load(tmp_path)


def test_a_label_above_the_classes_is_named(write, tmp_path):
    write(contents() | {"data_batch_2.bin": record(10, 0)})
    with pytest.raises(ValueError, match="data_batch_2.bin in .* has the label 10"):
        load(tmp_path)


def test_what_is_no_archive_is_named(tmp_path, monkeypatch):
    path = tmp_path / "source" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    path.write_bytes(b"<html>not found</html>")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "SHA256", digest)
    with pytest.raises(ValueError, match=f"{path} is no archive that can be read"):
        load(tmp_path)


class Stock(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the stock builder of CIFAR-10 prepares: shuffled, with ids."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=cifar10.CLASS_NAMES),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        for i in range(10):
            image = PIL.Image.fromarray(np.full((32, 32, 3), i, np.uint8))
            yield i, {"id": f"{split}_{i:05d}", "image": image, "label": i}


@pytest.fixture
def stock(tmp_path):
    builder = Stock(data_dir=tmp_path / "data")
    builder.download_and_prepare(file_format="array_record")
    return tmp_path / "data" / "cifar10" / "3.0.2"


def test_a_copy_that_the_stock_builder_prepared_is_used(stock, tmp_path):
    loaded = load(tmp_path, None)
    assert loaded.class_names == cifar10.CLASS_NAMES
    assert [p.name for p in stock.parent.iterdir()] == ["3.0.2"]


def test_its_examples_are_put_back_into_the_order_of_their_source(stock, tmp_path):
    source = tfds.builder_from_directory(stock).as_data_source("train")
    assert [int(example["label"]) for example in source] != list(range(10))
    for split in (load(tmp_path, None).train, load(tmp_path, None).test):
        assert split.labels.tolist() == list(range(10))
        assert split.images[:, 0, 0, 0].tolist() == list(range(10))


def test_a_copy_that_only_tensorflow_reads_is_passed_over(stock, tmp_path, write):
    path = stock / "dataset_info.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"})
    )
    with pytest.raises(MissingFilesError):
        load(tmp_path, None)
    write(contents())
    assert load(tmp_path).train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]


def test_a_damaged_copy_of_the_stock_builder_is_named(stock, tmp_path):
    (stock / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=f"{stock} is incomplete or damaged"):
        load(tmp_path, None)
