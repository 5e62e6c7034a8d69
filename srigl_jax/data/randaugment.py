"""RandAugment (Cubuk et al., 2020), vectorised over a batch to run inside jit.

The fourteen operations and their strengths are those of torchvision's class of that
name, with its 31 magnitudes. A choice among them, vectorised, would compute all for
every image. But each is one of three kinds, so a round is at most three passes:

- an affine map of the coordinates, the nearest pixel taken, black beyond the sides;
- a blend of the image with a plainer version of it;
- a table with a new value for each value of a channel.

The kinds that an image does not need leave it as it is, exactly. A CPU, which gains
nothing from images being worked on together, goes from one to the next and takes only
the pass that each needs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

AFFINE = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("color", "sharpness")
TABLES = (
    *("brightness", "contrast"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)
OPS = ("identity", *AFFINE, *BLENDS, *TABLES)

MAX_MAGNITUDE = 30
CHANNELS = (1, 3)


def randaugment(
    key: jax.Array, images: jax.Array, ops: int = 2, magnitude: int = 9
) -> jax.Array:
    """Applies random operations to each image, drawn with replacement.

    Args:
      key: PRNG key.
      images: uint8[B, H, W, C], of 1 or 3 channels.
      ops: How many are applied to an image, one after the other.
      magnitude: Their strength, from 0 to 30.
    """
    for round_key in jax.random.split(key, ops):
        op_key, sign_key = jax.random.split(round_key)
        chosen = jax.random.randint(op_key, [len(images)], 0, len(OPS))
        sign = jax.random.rademacher(sign_key, [len(images)], jnp.float32)
        images = apply(images, chosen, sign, magnitude)
    return images


def apply(
    images: jax.Array, chosen: jax.Array, sign: jax.Array, magnitude: int
) -> jax.Array:
    """Applies one operation to each image.

    Args:
      images: uint8[B, H, W, C], of 1 or 3 channels.
      chosen: int[B], positions in `OPS`.
      sign: f32[B], -1 or 1: the direction of the operations that have one.
      magnitude: From 0 to 30.
    """
    return jax.lax.platform_dependent(
        images,
        chosen,
        sign,
        cpu=partial(apply_in_turn, magnitude=magnitude),
        default=partial(apply_together, magnitude=magnitude),
    )


def apply_together(
    images: jax.Array, chosen: jax.Array, sign: jax.Array, magnitude: int
) -> jax.Array:
    """As `apply`, all passes for all images at once."""
    # One of the passes does something, so their order is free: XLA computes a pass
    # again for each read of it by the next, and this order has the fewest reads.
    for each in (_blend, _map_values, _move):
        images = each(images, chosen, sign, magnitude)
    return images


def apply_in_turn(
    images: jax.Array, chosen: jax.Array, sign: jax.Array, magnitude: int
) -> jax.Array:
    """As `apply`, the one pass that an image needs, image after image."""
    kinds = {_blend: BLENDS, _map_values: TABLES, _move: AFFINE}
    passes = [partial(each, magnitude=magnitude) for each in kinds]
    passes.append(lambda image, *_: image)
    needed = [[op in names for names in kinds.values()] for op in OPS]
    # Of the identity, which needs none, the last.
    which = np.argmax(np.pad(needed, [(0, 0), (0, 1)], constant_values=True), axis=1)

    def one(example):
        image, op, direction = (leaf[None] for leaf in example)
        return jax.lax.switch(jnp.asarray(which)[op[0]], passes, image, op, direction)

    return jax.lax.map(one, (images, chosen, sign))[:, 0]


def _select(chosen, results, otherwise):
    """The result of each image's operation, of {name: array} that begin with [B]."""
    shape = jnp.shape(otherwise)
    at = chosen.reshape(-1, *[1] * (len(shape) - 1))
    arrays = [jnp.broadcast_to(array, shape) for array in results.values()]
    return jnp.select([at == OPS.index(name) for name in results], arrays, otherwise)


def _factor(sign, magnitude):
    """f32[B], of a blend."""
    return 1 + sign * 0.9 * magnitude / MAX_MAGNITUDE


def _move(images, chosen, sign, magnitude):
    """Pixel (x, y) becomes the one at (x + dx, y + dy), for centres of pixels."""
    count, height, width, _ = images.shape
    level = (sign * magnitude / MAX_MAGNITUDE)[:, None, None]
    y = jnp.arange(height)[:, None] + 0.5
    x = jnp.arange(width) + 0.5
    angle = jnp.deg2rad(30 * level)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    from_x, from_y = x - width / 2, y - height / 2
    nowhere = jnp.zeros((count, height, width))
    dx = {
        "shear_x": 0.3 * level * y,
        "translate_x": -jnp.trunc(150 / 331 * width * level),
        "rotate": (cos - 1) * from_x - sin * from_y,
    }
    dy = {
        "shear_y": 0.3 * level * x,
        "translate_y": -jnp.trunc(150 / 331 * height * level),
        "rotate": sin * from_x + (cos - 1) * from_y,
    }
    column = jnp.floor(x + _select(chosen, dx, nowhere)).astype(jnp.int32)
    row = jnp.floor(y + _select(chosen, dy, nowhere)).astype(jnp.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    moved = jax.vmap(lambda image, i, j: image[i, j])(images, row, column)
    return jnp.where(inside[..., None], moved, jnp.uint8(0))


def _blend(images, chosen, sign, magnitude):
    """Away from a plainer version of the image, or towards it if `sign` < 0."""
    pixels = images.astype(jnp.float32)
    plainer = {"color": _grey(images), "sharpness": _smooth(pixels)}
    plainer = _select(chosen, plainer, pixels)
    factor = _factor(sign, magnitude)[:, None, None, None]
    return _bytes(_between(plainer, pixels, factor))


def _map_values(images, chosen, sign, magnitude):
    """Replaces values of each channel by what a table of its own has for them."""
    count, _, _, channels = images.shape
    # Where each pixel's value is in an image's table: a single index is fastest.
    places = images + 256 * jnp.arange(channels)
    counts = jax.vmap(_count, (0, None))(places, 256 * channels)
    counts = counts.reshape(count, channels, 256)
    value = jnp.arange(256)
    factor = _factor(sign, magnitude)[:, None, None]
    mean = jnp.floor(jnp.mean(_grey(images), (1, 2, 3)) + 0.5)[:, None, None]
    bits = 8 - round(magnitude / (MAX_MAGNITUDE / 4))
    threshold = 255 - 255 * magnitude / MAX_MAGNITUDE
    tables = {
        "brightness": _bytes(_between(0.0, value, factor)),
        "contrast": _bytes(_between(mean, value, factor)),
        "posterize": value & (0xFF << (8 - bits)),
        "solarize": jnp.where(value < threshold, value, 255 - value),
        "autocontrast": _autocontrast(counts),
        "equalize": _equalize(counts),
    }
    same = jnp.broadcast_to(value, counts.shape)
    table = _select(chosen, tables, same).astype(jnp.uint8).reshape(count, -1)
    return jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds"))(table, places)


def _count(places, length):
    counts = jnp.zeros(length, jnp.int32)
    return counts.at[places.ravel()].add(1, mode="promise_in_bounds")


def _between(plainer, value, factor):
    return plainer + factor * (value - plainer)


def _bytes(value):
    return jnp.clip(value, 0, 255).astype(jnp.uint8)


def _grey(images):
    """Luma of ITU-R 601, rounded; f32[B, H, W, 1]."""
    if images.shape[3] == 1:
        return images.astype(jnp.float32)
    # In 16 bits behind the point, so that no machine rounds another way.
    red, green, blue = jnp.split(images.astype(jnp.int32), 3, axis=3)
    luma = 19595 * red + 38470 * green + 7471 * blue + 0x8000
    return (luma >> 16).astype(jnp.float32)


def _smooth(pixels):
    """Mean of each pixel, counted five times, and its neighbours; the rim stays."""
    if min(pixels.shape[1:3]) < 3:
        return pixels
    across = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    around = across[:, :-2] + across[:, 1:-1] + across[:, 2:]
    inner = jnp.floor((around + 4 * pixels[:, 1:-1, 1:-1]) / 13 + 0.5)
    return pixels.at[:, 1:-1, 1:-1].set(inner)


def _autocontrast(counts):
    """Stretches the values that occur to 0 to 255."""
    value = jnp.arange(256)
    occurs = counts > 0
    low = jnp.argmax(occurs, axis=-1, keepdims=True)
    high = 255 - jnp.argmax(occurs[..., ::-1], axis=-1, keepdims=True)
    # In whole numbers, so that no machine rounds another way.
    stretched = (value - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), value)


def _equalize(counts):
    """Makes the values of each channel about equally frequent."""
    occurs = counts > 0
    high = 255 - jnp.argmax(occurs[..., ::-1], axis=-1, keepdims=True)
    last = jnp.take_along_axis(counts, high, axis=-1)
    step = (counts.sum(-1, keepdims=True) - last) // 255
    below = jnp.cumsum(counts, axis=-1) - counts
    table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, jnp.arange(256))
