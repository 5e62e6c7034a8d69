"""Each operation against Pillow's, on which torchvision's are built."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from PIL import ImageEnhance, ImageOps

from srigl_jax.data.randaugment import (
    OPS,
    apply,
    apply_in_turn,
    apply_together,
    randaugment,
)

HEIGHT, WIDTH = 24, 30
LEVEL = 9 / 30


def pictures(count=3, channels=3):
    """Smooth colour and some noise, in a part of the range."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.sin(x[..., None] / 5 + rng.uniform(0, 6, (count, 1, 1, channels)))
    waves += np.cos(y[..., None] / 7 + rng.uniform(0, 6, (count, 1, 1, channels)))
    noise = rng.normal(0, 10, waves.shape)
    return np.clip(120 + 45 * waves + noise, 20, 230).astype(np.uint8)


@functools.cache
def compiled():
    return jax.jit(apply, static_argnums=3)


@functools.cache
def all_applied(sign=1, magnitude=9):
    """What each operation makes of three pictures and of one colour."""
    images = np.concatenate([pictures(), np.full_like(pictures(1), 100)])
    chosen = np.repeat(np.arange(len(OPS)), 4)
    signs = np.full(len(chosen), sign, np.float32)
    out = compiled()(np.tile(images, (len(OPS), 1, 1, 1)), chosen, signs, magnitude)
    assert out.dtype == jnp.uint8
    return dict(zip(OPS, np.asarray(out).reshape(len(OPS), *images.shape), strict=True))


def applied(name, sign=1, magnitude=9):
    return all_applied(sign, magnitude)[name][:3]


def by_pillow(function, images):
    return np.stack([np.asarray(function(PIL.Image.fromarray(i))) for i in images])


def affine(*matrix):
    nearest = PIL.Image.Resampling.NEAREST
    mode = PIL.Image.Transform.AFFINE
    return lambda image: image.transform(image.size, mode, matrix, nearest)


SHEAR = 0.3 * LEVEL
MOVES = {
    "shear_x": lambda s: affine(1, s * SHEAR, 0, 0, 1, 0),
    "shear_y": lambda s: affine(1, 0, 0, s * SHEAR, 1, 0),
    "translate_x": lambda s: affine(1, 0, -s * int(150 / 331 * 30 * LEVEL), 0, 1, 0),
    "translate_y": lambda s: affine(1, 0, 0, 0, 1, -s * int(150 / 331 * 24 * LEVEL)),
    "rotate": lambda s: lambda image: image.rotate(s * 30 * LEVEL),
}
ENHANCEMENTS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
EXACT = {
    "identity": lambda image: image,
    "posterize": lambda image: ImageOps.posterize(image, 7),
    "solarize": lambda image: ImageOps.solarize(image, 255 - 255 * LEVEL),
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
}


def test_every_operation_is_compared():
    assert sorted(OPS) == sorted([*MOVES, *ENHANCEMENTS, *EXACT])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", MOVES)
def test_a_move_takes_the_pixels_that_pillow_takes(name, sign):
    images = pictures()
    expected = by_pillow(MOVES[name](sign), images)
    actual = applied(name, sign)
    assert (actual != images).any()
    assert (actual == expected).mean() > 0.99  # Pillow rounds to 1/65536 of a pixel.


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_an_enhancement_is_that_of_pillow(name, sign):
    images = pictures()
    factor = 1 + sign * 0.9 * LEVEL
    expected = by_pillow(lambda i: ENHANCEMENTS[name](i).enhance(factor), images)
    difference = applied(name, sign).astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.98


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", EXACT)
def test_an_operation_on_values_is_that_of_pillow(name, sign):
    images = pictures()
    expected = by_pillow(EXACT[name], images)
    difference = applied(name, sign).astype(int) - expected
    # Pillow's autocontrast rounds a float down, which may be one below the truth.
    assert np.abs(difference).max() <= (1 if name == "autocontrast" else 0)
    assert (difference == 0).mean() > 0.95


@pytest.mark.parametrize("name", OPS)
def test_an_image_of_one_colour_is_well_defined(name):
    values = set(all_applied()[name][3].ravel().tolist())
    assert values <= {0, 127 if name == "brightness" else 100}  # 0 beyond the sides.


@pytest.mark.parametrize("name", OPS)
def test_magnitude_0_changes_nothing_but_where_there_is_no_strength(name):
    changed = (applied(name, magnitude=0) != pictures()).any()
    assert changed == (name in ("autocontrast", "equalize"))


def test_images_in_turn_are_those_of_all_together():
    images = np.tile(pictures(1), (len(OPS), 1, 1, 1))
    chosen = np.arange(len(OPS))
    signs = np.where(chosen % 2, 1, -1).astype(np.float32)
    in_turn, together = (
        jax.jit(function, static_argnums=3)(images, chosen, signs, 9)
        for function in (apply_in_turn, apply_together)
    )
    np.testing.assert_array_equal(in_turn, together)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_in_bytes_out(channels):
    images = pictures(channels=channels)
    out = jax.jit(randaugment)(jax.random.key(0), images)
    assert (out.dtype, out.shape) == (jnp.uint8, images.shape)


def test_a_key_draws_two_operations_for_each_image():
    images = pictures(100)
    draw = jax.jit(randaugment)
    first = draw(jax.random.key(0), images)
    np.testing.assert_array_equal(first, draw(jax.random.key(0), images))
    assert (first != draw(jax.random.key(1), images)).any()
    # Of one operation, one image in 14 would be left as it is; of two, one in 196.
    assert (first == images).all((1, 2, 3)).sum() <= 3
