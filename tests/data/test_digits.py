import numpy as np
import pytest
import sklearn.datasets

from srigl_jax.data import datasets


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def digits(data_dir):
    return datasets.load("digits", data_dir=data_dir)


def test_shapes_and_types(digits):
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")


def test_pixels_keep_their_range(digits):
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 16


def test_split_is_stratified_to_within_one_example(digits):
    train, test = (np.bincount(s.labels) for s in (digits.train, digits.test))
    assert np.all(np.abs(test - (train + test) / 5) < 1)


def test_splits_together_are_the_bundled_set(digits):
    def rows(images, labels):
        flat = images.reshape(len(images), 64).astype(int)
        return sorted(map(tuple, np.column_stack([flat, labels]).tolist()))

    ours = [
        np.concatenate([getattr(digits.train, f), getattr(digits.test, f)])
        for f in ("images", "labels")
    ]
    bunch = sklearn.datasets.load_digits()
    assert rows(*ours) == rows(bunch.images, bunch.target)


def test_examples_keep_the_order_of_their_source(digits):
    # The first of each class, 0 to 9, opens the bundled set; the first zero is the
    # first test example, so the training set goes on with the file's second zero.
    first_zero = sklearn.datasets.load_digits().images[0]
    np.testing.assert_array_equal(digits.test.images[0, ..., 0], first_zero)


def test_statistics_are_those_of_the_training_pixels(digits):
    pixels = digits.train.images.astype(np.float64)
    np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-12)


def test_arrays_are_read_only(digits):
    with pytest.raises(ValueError, match="read-only"):
        digits.train.images[0] = 0


def test_second_load_is_quiet_and_equal(digits, data_dir, capfd):
    again = datasets.load("digits", data_dir=data_dir)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.test.labels, digits.test.labels)


def test_first_load_says_where_it_prepares(tmp_path, capfd):
    datasets.load("digits", data_dir=tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"Preparing digits in {tmp_path}")
    assert err.count("\n") == 1


def test_source_dir_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset.source_dir is 'here'.*leave.*unset"):
        datasets.load("digits", data_dir=tmp_path, source_dir="here")
