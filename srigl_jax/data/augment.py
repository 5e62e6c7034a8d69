"""Augmentations of a batch: pure functions of a key, vectorised, to run inside jit.

Images of one size are augmented on the device, whatever set they come from: there is
one implementation for data in memory and for streamed data, and the host's processors,
which decoding keeps busy, have nothing more to do. The training step derives the key
from the seed and the step, so a resumed run draws the same. Pixels stay uint8 until
mixing makes them float32, in the same units.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from srigl_jax.data.randaugment import CHANNELS
from srigl_jax.data.randaugment import randaugment as apply_randaugment

Augment = Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]


def make_augment(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    crop_padding: int = 0,
    flip: bool = False,
    randaugment: int = 0,
    magnitude: int = 9,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Augment | None:
    """Returns `augment(key, batch) -> batch`, or None if nothing is asked for.

    What is asked for happens in the order of the arguments. With mixup or cutmix the
    batch gets "target", f32[B, num_classes], the labels as probabilities.

    Args:
      image_shape: Height, width and channels of the images.
      num_classes: Labels are below this.
      crop_padding: As in `random_crop`.
      flip: Whether to call `random_flip`.
      randaugment: Operations on each image; see `randaugment.randaugment`.
      magnitude: Of these operations, 0 to 30.
      mixup: Parameter of the beta distribution; 0 for no mixup.
      cutmix: Likewise. Of both, if both are asked for, each batch gets one at random.

    Raises:
      ValueError: The images are too small for the crop, or have not the channels that
        randaugment needs.
    """
    if crop_padding >= min(image_shape[:2]):
        raise ValueError(
            f"augment.crop_padding is {crop_padding}, but must be below height and "
            f"width of the images, {image_shape[0]} and {image_shape[1]}, for them to "
            "be reflected"
        )
    if randaugment and image_shape[2] not in CHANNELS:
        raise ValueError(
            f"augment.randaugment is {randaugment}, but the images have "
            f"{image_shape[2]} channels: it needs {' or '.join(map(str, CHANNELS))}"
        )
    if not (crop_padding or flip or randaugment or mixup or cutmix):
        return None

    def augment(key, batch):
        crop_key, flip_key, ops_key, mix_key = jax.random.split(key, 4)
        images = batch["image"]
        if crop_padding:
            images = random_crop(crop_key, images, crop_padding)
        if flip:
            images = random_flip(flip_key, images)
        if randaugment:
            images = apply_randaugment(ops_key, images, randaugment, magnitude)
        batch = batch | {"image": images}
        if mixup or cutmix:
            weights = draw_weights(mix_key, images.shape[1:3], mixup, cutmix)
            labels = jax.nn.one_hot(batch["label"], num_classes)
            batch["image"], batch["target"] = mix(images, labels, weights)
        return batch

    return augment


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Moves each image by up to `padding` pixels along both axes.

    What comes in at the sides is the image reflected, without its outermost pixels: the
    result is a crop, at a uniformly random place, of the image so padded.

    Args:
      key: PRNG key.
      images: [B, H, W, C], of any type.
      padding: At most one less than height and width.
    """
    offsets = jax.random.randint(key, (2, len(images)), -padding, padding + 1)
    return crop_at(images, *offsets)


def crop_at(images: jax.Array, down: jax.Array, right: jax.Array) -> jax.Array:
    """Crops each image at a place of its own, beyond its sides reflected.

    Args:
      images: [B, H, W, C].
      down: int[B], row of the image that becomes the first; may be negative.
      right: int[B], likewise of columns.
    """
    _, height, width, _ = images.shape
    rows = _reflected(jnp.arange(height) + down[:, None], height)
    columns = _reflected(jnp.arange(width) + right[:, None], width)
    return jax.vmap(lambda image, i, j: image[i[:, None], j])(images, rows, columns)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image, left to right, with probability 1/2.

    Args:
      key: PRNG key.
      images: [B, H, W, C], of any type.
    """
    flips = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flips, images[:, :, ::-1], images)


def draw_weights(
    key: jax.Array, size: tuple[int, int], mixup: float, cutmix: float
) -> jax.Array:
    """Draws how much of its own image each pixel of a batch keeps.

    Args:
      key: PRNG key.
      size: Height and width.
      mixup: Parameter of `mixup_weights`, or 0.
      cutmix: Parameter of `cutmix_weights`, or 0. With both, one is chosen at random.

    Returns:
      f32[H, W], from 0 to 1.
    """
    choice_key, key = jax.random.split(key)
    if not cutmix:
        return mixup_weights(key, size, mixup)
    if not mixup:
        return cutmix_weights(key, size, cutmix)
    return jnp.where(
        jax.random.bernoulli(choice_key),
        mixup_weights(key, size, mixup),
        cutmix_weights(key, size, cutmix),
    )


def mixup_weights(key: jax.Array, size: tuple[int, int], alpha: float) -> jax.Array:
    """One weight for all pixels, from Beta(alpha, alpha) (Zhang et al., 2018).

    Returns:
      f32[H, W].
    """
    return jnp.full(size, jax.random.beta(key, alpha, alpha))


def cutmix_weights(key: jax.Array, size: tuple[int, int], alpha: float) -> jax.Array:
    """0 in a box, 1 around it (Yun et al., 2019).

    The box has the proportions of the image and, before it is cut off at the sides, a
    share of its area from Beta(alpha, alpha); its centre is uniformly random.

    Returns:
      f32[H, W].
    """
    area_key, centre_key = jax.random.split(key)
    half = jnp.sqrt(jax.random.beta(area_key, alpha, alpha)) / 2
    centres = jax.random.uniform(centre_key, (2,))
    inside = [
        jnp.abs((jnp.arange(side) + 0.5) / side - centre) < half
        for side, centre in zip(size, centres, strict=True)
    ]
    return 1 - (inside[0][:, None] & inside[1][None, :]).astype(jnp.float32)


def mix(
    images: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with the one before it; the first one, with the last.

    Args:
      images: [B, H, W, C], of any type.
      labels: f32[B, classes], probabilities.
      weights: f32[H, W], what each pixel keeps of its own image.

    Returns:
      Images, f32, and labels, of which each keeps the mean of the weights.
    """
    keep = weights[:, :, None]
    images = images.astype(jnp.float32)
    share = jnp.mean(weights)
    return (
        keep * images + (1 - keep) * jnp.roll(images, 1, axis=0),
        share * labels + (1 - share) * jnp.roll(labels, 1, axis=0),
    )


def _reflected(positions: jax.Array, length: int) -> jax.Array:
    positions = jnp.abs(positions)
    return jnp.minimum(positions, 2 * (length - 1) - positions)
