"""Loading by name: places, damage, and several processes at once."""

import pathlib
import shutil

import numpy as np
import pytest

from srigl_jax.data import datasets, decoded, digits


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory with digits in it, not to be changed."""
    data_dir = tmp_path_factory.mktemp("prepared")
    datasets.load("digits", data_dir=data_dir)
    return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.fixture
def directory(data_dir):
    return data_dir / "digits" / "1.0.0"


def only(directory: pathlib.Path, pattern: str) -> pathlib.Path:
    (path,) = directory.glob(pattern)
    return path


def flip(path: pathlib.Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(bytes(content))


def assert_named_as_damaged(data_dir, directory):
    with pytest.raises(ValueError, match=rf"{directory} is incomplete.*[Dd]elete"):
        datasets.load("digits", data_dir=data_dir)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="'digit': choose one of digits, fashion_mnist"
    ):
        datasets.load("digit")


def test_default_place_is_that_of_tensorflow_datasets(data_dir, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    datasets.load("digits")
    assert "Preparing" not in capfd.readouterr().err


def test_home_directory_is_expanded(data_dir, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(data_dir.parent))
    datasets.load("digits", data_dir="~/data")
    assert "Preparing" not in capfd.readouterr().err


def test_place_that_cannot_be_written_is_an_error_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be prepared in.*dataset.data_dir=DIR"):
        datasets.load("digits", data_dir=tmp_path / "file")


def test_half_prepared_set_is_named(data_dir, directory):
    (directory / "dataset_info.json").unlink()
    assert_named_as_damaged(data_dir, directory)


def test_unreadable_description_is_named(data_dir, directory):
    (directory / "dataset_info.json").write_text("{")
    assert_named_as_damaged(data_dir, directory)


def test_missing_records_are_named(data_dir, directory):
    only(directory, "*-train.array_record-*").unlink()
    assert_named_as_damaged(data_dir, directory)


def test_flipped_bits_in_the_records_are_named(data_dir, directory):
    flip(only(directory, "*-train.array_record-*"), 100)
    assert_named_as_damaged(data_dir, directory)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 5000),
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["flipped", "cut", "empty", "gone"],
)
def test_damaged_decoded_copy_is_replaced(prepared, data_dir, directory, damage):
    copy = only(directory, "decoded-*.npz")
    whole = copy.read_bytes()
    damage(copy)
    expected = datasets.load("digits", data_dir=prepared)
    actual = datasets.load("digits", data_dir=data_dir)
    np.testing.assert_array_equal(actual.train.images, expected.train.images)
    assert only(directory, "decoded-*.npz").read_bytes() == whole


def test_decoded_copy_that_cannot_be_written_is_done_without(
    data_dir, directory, monkeypatch
):
    only(directory, "decoded-*.npz").unlink()

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(decoded.np, "savez", full)
    assert len(datasets.load("digits", data_dir=data_dir).train) == 1437
    assert not list(directory.glob("decoded-*"))


def test_losing_the_race_to_prepare_takes_what_the_winner_prepared(
    tmp_path, monkeypatch
):
    generators = digits.Digits._split_generators

    def overtaken(self, dl_manager):
        monkeypatch.undo()
        datasets.load("digits", data_dir=tmp_path)  # The other process, all of it.
        return generators(self, dl_manager)

    monkeypatch.setattr(digits.Digits, "_split_generators", overtaken)
    assert len(datasets.load("digits", data_dir=tmp_path).train) == 1437
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_held_out_examples_take_the_place_of_the_test_split(prepared):
    whole = datasets.load("digits", data_dir=prepared)
    part = whole.hold_out(100)
    np.testing.assert_array_equal(part.test.images, whole.train.images[-100:])
    np.testing.assert_array_equal(part.test.labels, whole.train.labels[-100:])
    np.testing.assert_array_equal(part.train.images, whole.train.images[:-100])
    assert part.mean == pytest.approx((part.train.images.mean(),))
    assert part.std == pytest.approx((part.train.images.std(),))


def test_nothing_held_out_leaves_the_data_set(prepared):
    whole = datasets.load("digits", data_dir=prepared)
    assert whole.hold_out(0) is whole


def test_holding_out_everything_is_refused(prepared):
    whole = datasets.load("digits", data_dir=prepared)
    with pytest.raises(ValueError, match="dataset.validation is .* fewer than"):
        whole.hold_out(len(whole.train))
