"""Crops, flips and mixtures of batches, on images small enough to work out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srigl_jax.data import augment

KEY = jax.random.key(0)


def numbered(count=4, height=5, width=6, channels=2):
    """Images in which no two pixels of one are equal."""
    size = height * width * channels
    one = np.arange(size, dtype=np.uint8).reshape(height, width, channels)
    return np.stack([one + np.uint8(i) for i in range(count)])


def batch_of(images, classes=3):
    labels = np.arange(len(images), dtype=np.int32) % classes
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels)}


def make(shape=(5, 6, 2), classes=3, **options):
    return jax.jit(augment.make_augment(shape, classes, **options))


def test_a_crop_reflects_what_lies_beyond_the_sides():
    row = np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1)
    images = np.tile(row, (3, 1, 1, 1))
    cropped = augment.crop_at(images, jnp.zeros(3, int), jnp.array([-2, 0, 3]))
    assert cropped[:, 0, :, 0].tolist() == [[2, 1, 0, 1], [0, 1, 2, 3], [3, 2, 1, 0]]


@pytest.mark.parametrize("padding", [1, 3, 4])
def test_a_crop_is_that_of_numpys_padded_image(padding):
    images = numbered(50)
    sides = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    padded = np.pad(images, sides, mode="reflect")
    offsets = np.random.default_rng(0).integers(-padding, padding + 1, (2, 50))
    cropped = augment.crop_at(images, *map(jnp.asarray, offsets))
    for image, whole, down, right in zip(cropped, padded, *offsets, strict=True):
        top, left = padding + down, padding + right
        expected = whole[top : top + 5, left : left + 6]
        np.testing.assert_array_equal(image, expected)


def test_offsets_of_crops_are_uniform_and_independent():
    # Only the pixel in the middle is set, so it shows the offset.
    images = np.zeros((4000, 5, 5, 1), np.uint8)
    images[:, 2, 2] = 1
    cropped = augment.random_crop(KEY, images, 1)[:, 1:4, 1:4, 0]
    counts = np.asarray(cropped, int).sum(0)
    assert counts.sum() == 4000
    np.testing.assert_allclose(counts, 4000 / 9, atol=5 * np.sqrt(4000 / 9))


def test_flips_mirror_whole_images_from_left_to_right():
    images = numbered(100)
    flipped = np.asarray(augment.random_flip(KEY, images))
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(flipped, images, strict=True)]
    same = [(a == b).all() for a, b in zip(flipped, images, strict=True)]
    assert np.all(np.logical_xor(mirrored, same))
    assert 30 < sum(mirrored) < 70


def test_mixing_pairs_each_example_with_the_one_before():
    images = np.array([10, 20, 40], np.uint8).reshape(3, 1, 1, 1)
    mixed, labels = augment.mix(images, jnp.eye(3), jnp.full((1, 1), 0.75))
    np.testing.assert_allclose(mixed.ravel(), [17.5, 17.5, 35])
    np.testing.assert_allclose(
        labels, [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]
    )


def test_mixup_gives_all_pixels_one_weight():
    weights = np.asarray(augment.mixup_weights(KEY, (3, 4), 0.2))
    assert weights.shape == (3, 4)
    assert len(set(weights.ravel().tolist())) == 1
    assert 0 <= weights[0, 0] <= 1


def test_weights_of_mixup_are_of_the_beta_distribution():
    draw = jax.vmap(lambda key: augment.mixup_weights(key, (1, 1), 0.2)[0, 0])
    weights = np.asarray(draw(jax.random.split(KEY, 4000)))
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert weights.var() == pytest.approx(1 / 5.6, abs=0.01)


def test_cutmix_cuts_one_box_out():
    for key in jax.random.split(KEY, 20):
        weights = np.asarray(augment.cutmix_weights(key, (9, 12), 1.0))
        assert set(weights.ravel().tolist()) <= {0.0, 1.0}
        cut = weights == 0
        rows, columns = cut.any(1), cut.any(0)
        np.testing.assert_array_equal(cut, rows[:, None] & columns)
        for side in (rows, columns):  # Without a gap.
            assert np.abs(np.diff(side.astype(int))).sum() <= 2


def test_boxes_of_cutmix_are_half_the_image_on_average_before_they_are_cut_off():
    # With Beta(1, 1) for the area, and the centre anywhere, the expected area inside
    # is 1/2 - 2 E[s^3]/4 + E[s^4]/16, where s^2 is the area: E[s^n] = 2 / (n + 2).
    draw = jax.vmap(lambda key: augment.cutmix_weights(key, (64, 64), 1.0).mean())
    kept = np.asarray(draw(jax.random.split(KEY, 4000)))
    inside = 1 / 2 - (2 / 5) / 2 + (2 / 6) / 16
    assert 1 - kept.mean() == pytest.approx(inside, abs=0.015)


def test_the_share_of_a_label_is_that_of_the_pixels():
    images = np.stack([np.full((8, 8, 1), i, np.uint8) for i in (0, 1)])
    augmented = make((8, 8, 1), 2, cutmix=1.0)
    for key in jax.random.split(KEY, 10):
        out = augmented(key, batch_of(images, 2))
        share = float((out["image"][0] == 0).mean())
        np.testing.assert_allclose(out["target"][0], [share, 1 - share], atol=1e-6)


def test_with_both_each_batch_gets_one_of_them():
    draw = jax.vmap(lambda key: augment.draw_weights(key, (6, 6), 0.2, 1.0))
    weights = np.asarray(draw(jax.random.split(KEY, 200)))
    between = ((weights > 0) & (weights < 1)).all((1, 2))
    assert 40 < between.sum() < 160
    assert np.isin(weights[~between], (0, 1)).all()


def test_targets_are_probabilities():
    out = make(mixup=0.2, cutmix=1.0)(KEY, batch_of(numbered()))
    assert out["target"].shape == (4, 3)
    np.testing.assert_allclose(out["target"].sum(-1), 1, rtol=1e-6)
    assert out["image"].dtype == jnp.float32
    assert 0 <= out["image"].min() <= out["image"].max() <= 255


@pytest.mark.parametrize(
    "options", [{"crop_padding": 2}, {"flip": True}, {"randaugment": 2}]
)
def test_pixels_stay_bytes_and_labels_stay_where_nothing_is_mixed(options):
    images = numbered(channels=1)
    out = make((5, 6, 1), **options)(KEY, batch_of(images))
    assert out["image"].dtype == jnp.uint8
    assert out["image"].shape == images.shape
    assert out.keys() == {"image", "label"}
    assert out["label"].tolist() == [0, 1, 2, 0]


ALL = {"crop_padding": 2, "flip": True, "randaugment": 2, "mixup": 0.2, "cutmix": 1.0}


def test_a_key_gives_the_same_batch_and_another_one_does_not():
    augmented = make((5, 6, 1), **ALL)
    batch = batch_of(numbered(channels=1))
    first, again = augmented(KEY, batch), augmented(KEY, batch)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    other = augmented(jax.random.key(1), batch)
    assert (other["image"] != first["image"]).any()


def test_a_batch_over_many_devices_is_augmented_as_on_one():
    mesh = jax.sharding.Mesh(jax.devices()[:4], ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    augmented = make((5, 6, 1), **ALL)
    batch = batch_of(numbered(8, channels=1))
    expected = augmented(KEY, batch)
    actual = augmented(KEY, jax.device_put(batch, spread))
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5)


def test_nothing_asked_for_is_nothing():
    assert augment.make_augment((5, 6, 2), 3, magnitude=5) is None


def test_images_too_small_to_reflect_are_refused():
    with pytest.raises(ValueError, match="augment.crop_padding is 5.* below.* 5 and 6"):
        make(crop_padding=5)


def test_channels_that_have_no_grey_are_refused():
    with pytest.raises(ValueError, match="augment.randaugment is 2.* 2 channels"):
        make(randaugment=2)
