import numpy as np
import pytest

from srigl_jax.data import datasets


def load(**options):
    return datasets.load("synthetic", **options)


def test_shape_classes_and_examples_are_as_asked():
    loaded = load(image_shape=(12, 10, 1), classes=7, examples=50)
    assert loaded.train.images.shape == (50, 12, 10, 1)
    assert loaded.test.images.shape == (10, 12, 10, 1)
    assert loaded.train.images.dtype == np.uint8
    assert loaded.num_classes == 7


def test_examples_lie_in_memory_one_after_the_other():
    assert load(examples=20).train.images.flags.c_contiguous


def test_classes_are_equally_frequent():
    counts = np.bincount(load(classes=7, examples=50).train.labels, minlength=7)
    assert set(counts.tolist()) == {7, 8}


def test_it_is_the_same_each_time():
    first, again = load(examples=20), load(examples=20)
    np.testing.assert_array_equal(first.train.images, again.train.images)


def test_noise_differs_between_training_and_test():
    loaded = load(classes=1, examples=2)
    assert (loaded.train.images[0] != loaded.test.images[0]).any()


def test_the_nearest_mean_of_a_class_is_that_of_the_label():
    loaded = load(classes=5, examples=200)
    images = loaded.train.images.astype(np.float32)
    means = np.stack([images[loaded.train.labels == i].mean(0) for i in range(5)])
    tests = loaded.test.images.astype(np.float32)
    distances = ((tests[:, None] - means) ** 2).sum((2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(1), loaded.test.labels)


def test_pixels_do_not_wrap_around():
    images = load(classes=3, examples=300).train.images.astype(int)
    noise = images - np.median(images[::3], axis=0)[None]  # Of the first class.
    assert np.abs(noise[::3]).max() < 100


def test_validation_is_held_out_of_training():
    loaded = load(examples=50, validation=20)
    assert (loaded.num_train, loaded.num_test) == (30, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "dataset.classes is 0"),
        ({"examples": 0}, "dataset.examples is 0"),
        ({"image_shape": (4, 4)}, r"dataset.image_shape is \(4, 4\)"),
        ({"image_shape": (4, 0, 3)}, r"dataset.image_shape is \(4, 0, 3\)"),
    ],
)
def test_sizes_below_one_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)
