"""Encoded images to arrays of one size: the usual crops of ImageNet's recipes.

Here is what has to happen where an image is decoded, since images come in all sizes;
what works on images of one size runs on the device, in `augment`.
"""

import io
import math

import numpy as np
import PIL.Image

_AREA = (0.08, 1.0)  # Share of the image that a crop covers.
_ASPECT = (3 / 4, 4 / 3)  # Its width to its height.
_ATTEMPTS = 10
_RESIZED = 256 / 224  # Shorter side before the central crop, to the crop's.


def decode(encoded: bytes, name: str) -> PIL.Image.Image:
    """Decodes an image of any format that Pillow knows, to RGB.

    Raises:
      ValueError: `name` cannot be read as an image.
    """
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read as an image ({error}): replace or remove it"
        ) from error


def random_resized_crop(
    image: PIL.Image.Image, size: int, generator: np.random.Generator
) -> np.ndarray:
    """Cuts out a random box and scales it, as in Szegedy et al. (2015), section 6.

    The box covers 8 to 100 % of the image, with an aspect ratio from 3/4 to 4/3, drawn
    by its logarithm. Boxes that do not fit are drawn again; after ten, it is the
    largest central one of a permitted ratio.

    Returns:
      uint8[size, size, 3].
    """
    box = random_box(image.width, image.height, generator)
    return _resized(image.crop(box), (size, size))


def random_box(
    width: int, height: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws the box of `random_resized_crop`: left, top, right, bottom."""
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(*_AREA)
        aspect = math.exp(generator.uniform(*map(math.log, _ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(0, width - w + 1))
            top = int(generator.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * _ASPECT[1])))
    h = min(height, max(1, round(width / _ASPECT[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def central_crop(image: PIL.Image.Image, size: int) -> np.ndarray:
    """Scales the shorter side to 256/224 of `size`, and cuts out the centre.

    Returns:
      uint8[size, size, 3].
    """
    shorter = round(size * _RESIZED)
    width, height = image.size
    if width <= height:
        scaled = (shorter, int(shorter * height / width))
    else:
        scaled = (int(shorter * width / height), shorter)
    pixels = _resized(image, scaled)
    top, left = (round((side - size) / 2) for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def _resized(image: PIL.Image.Image, size: tuple[int, int]) -> np.ndarray:
    # Pillow's bilinear filter widens as an image shrinks, so it does not alias.
    return np.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR))
