"""Crops of single images."""

import io

import numpy as np
import PIL.Image
import pytest

from srigl_jax.data import pictures


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def ramp(width, height):
    """Red grows with the column, green with the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return PIL.Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_images_of_other_modes_become_rgb(mode):
    image = PIL.Image.new(mode, (5, 4))
    decoded = pictures.decode(encoded(image, "JPEG"), "x")
    assert (decoded.mode, decoded.size) == ("RGB", (5, 4))


@pytest.mark.parametrize("content", [b"", b"no image", encoded(ramp(64, 64))[:-60]])
def test_what_is_no_whole_image_is_named(content):
    with pytest.raises(ValueError, match="this one cannot be read as an image"):
        pictures.decode(content, "this one")


def test_boxes_lie_inside_and_keep_to_area_and_aspect():
    for seed in range(200):
        left, top, right, bottom = pictures.random_box(200, 150, generator(seed))
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 150
        w, h = right - left, bottom - top
        assert 0.079 < w * h / 30000 <= 1
        assert 0.74 < w / h < 1.35


def test_boxes_are_everywhere_and_of_all_sizes():
    boxes = np.array([pictures.random_box(200, 200, generator(s)) for s in range(300)])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (abs(centres.mean(0) - 100) < 5).all()
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 40000
    assert areas.min() < 0.1
    assert areas.max() > 0.9


@pytest.mark.parametrize(
    ("size", "box"),
    # No box of a permitted aspect has 8 % of these: the largest central ones.
    [((100, 2), (48, 0, 51, 2)), ((3, 100), (0, 48, 3, 52)), ((1, 1), (0, 0, 1, 1))],
)
def test_where_no_box_fits_it_is_central(size, box):
    assert pictures.random_box(*size, generator()) == box


def test_a_random_crop_is_the_scaled_box():
    image = ramp(200, 150)
    left, top, right, bottom = pictures.random_box(200, 150, generator(3))
    crop = pictures.random_resized_crop(image, 32, generator(3))
    assert crop.shape == (32, 32, 3)
    assert crop.dtype == np.uint8
    across = left + (np.arange(32) + 0.5) * (right - left) / 32 - 0.5
    down = top + (np.arange(32) + 0.5) * (bottom - top) / 32 - 0.5
    inner = slice(3, -3)  # Nearer to the sides the filter is cut off.
    np.testing.assert_allclose(crop[5, inner, 0], across[inner], atol=1)
    np.testing.assert_allclose(crop[inner, 5, 1], down[inner], atol=1)


@pytest.mark.parametrize("size", [(256, 192), (192, 256), (192, 192)])
def test_the_central_crop_is_of_the_shorter_side_scaled(size):
    # To 256/224 of 84, which is 96: half the size, and the inner 84 of 96 rows.
    crop = pictures.central_crop(ramp(*size), 84)
    assert crop.shape == (84, 84, 3)
    middle = (np.array(size) - 1) / 2
    np.testing.assert_allclose(crop[41:43, 41:43, 0].mean(), middle[0], atol=1)
    np.testing.assert_allclose(crop[41:43, 41:43, 1].mean(), middle[1], atol=1)
    step = float(crop[40, 60, 0]) - float(crop[40, 20, 0])
    assert step == pytest.approx(80, abs=1)


def test_an_image_smaller_than_the_crop_is_scaled_up():
    assert pictures.central_crop(ramp(5, 3), 32).shape == (32, 32, 3)
    assert pictures.random_resized_crop(ramp(5, 3), 32, generator()).shape[0] == 32
