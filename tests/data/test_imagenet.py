"""ImageNet from folders and from prepared files: what is found, and how it streams."""

import io
import itertools
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from srigl_jax.data import MissingFilesError, datasets, pictures

CLASSES = ("n01440764", "n01443537", "n02102040")
SHAPE = (8, 8, 3)


def jpeg(level: int, size=(20, 16)) -> bytes:
    """An image of one colour, which survives any crop."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, (level, level, level)).save(file, "JPEG")
    return file.getvalue()


def level(label: int, index: int) -> int:
    """Grey of an image, 10 apart, so that JPEG's rounding does not matter."""
    return 80 * label + 10 * index


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Five training and two validation images of each of three classes."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                path = root / split / name / f"{name}_{i}.JPEG"
                path.write_bytes(jpeg(level(label, i)))
    return root


@pytest.fixture
def source(folders, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(folders, tmp_path / "imagenet")


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features and splits of the stock builder, with the images above."""

    name = "imagenet2012"
    VERSION = tfds.core.Version("5.1.0")
    splits = {"train": 5, "validation": 2}

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {s: self._generate_examples(n) for s, n in self.splits.items()}

    def _generate_examples(self, count):
        for label, name in enumerate(CLASSES):
            for i in range(count):
                image = io.BytesIO(jpeg(level(label, i)))
                file_name = f"{name}_{i}.JPEG"
                yield (
                    file_name,
                    {"image": image, "label": name, "file_name": file_name},
                )


def prepare(data_dir):
    Prepared(data_dir=data_dir).download_and_prepare(file_format="array_record")
    return data_dir / "imagenet2012" / "5.1.0"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    prepare(directory)
    return directory


@pytest.fixture(params=["folders", "prepared"])
def dataset(request, folders, data_dir, tmp_path):
    if request.param == "folders":
        return load(tmp_path, folders)
    return load(data_dir)


def load(data_dir, source_dir=None, image_shape=SHAPE, **options):
    return datasets.load(
        "imagenet2012",
        data_dir=data_dir,
        source_dir=source_dir,
        image_shape=image_shape,
        **options,
    )


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def joined(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_sizes_and_classes(dataset):
    assert (dataset.num_train, dataset.num_test) == (15, 6)
    assert dataset.class_names == CLASSES
    assert dataset.image_shape == SHAPE


def test_statistics_are_imagenets(dataset):
    assert dataset.mean == pytest.approx([255 * x for x in (0.485, 0.456, 0.406)])
    assert dataset.std == pytest.approx([255 * x for x in (0.229, 0.224, 0.225)])


def test_an_epoch_holds_every_image_once_with_its_label(dataset):
    batches = take(dataset.train_batches(0, 5), 3)
    assert [batch["image"].shape for batch in batches] == [(5, *SHAPE)] * 3
    images, labels = joined(batches, "image"), joined(batches, "label")
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    levels = images[:, 4, 4, 0].astype(int)
    expected = sorted(level(label, i) for label in range(3) for i in range(5))
    np.testing.assert_allclose(sorted(levels), expected, atol=2)
    np.testing.assert_array_equal((levels + 5) // 80, labels)


def test_epochs_and_seeds_differ(dataset):
    labels = [
        joined(take(dataset.train_batches(seed, 5, start=start), 3), "label").tolist()
        for seed, start in ((0, 0), (0, 3), (1, 0))
    ]
    assert labels[0] != labels[1] != labels[2] != labels[0]


def test_batches_go_on_where_they_are_told(dataset):
    whole = take(dataset.train_batches(7, 4), 6)
    assert_same(take(dataset.train_batches(7, 4, start=4), 2), whole[4:])


def test_processes_share_each_batch(dataset):
    whole = take(dataset.train_batches(7, 6), 3)
    parts = [
        take(dataset.train_batches(7, 6, process_index=i, process_count=3), 3)
        for i in range(3)
    ]
    together = [
        {name: joined(step, name) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(together, whole)


def test_an_image_is_cropped_anew_in_each_epoch(source, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for path in (source / "train").rglob("*.JPEG"):
        PIL.Image.fromarray(noise).save(path)
    batches = take(load(tmp_path, source).train_batches(0, 15), 2)
    crops = {crop.tobytes() for crop in joined(batches, "image")}
    assert len(crops) == 30


def test_eval_batches_hold_every_image_once_in_order(folders, tmp_path):
    batches = list(load(tmp_path, folders).eval_batches(4))
    assert joined(batches, "label").tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert joined(batches, "weight").tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    levels = joined(batches, "image")[:6, 4, 4, 0].astype(int)
    expected = [level(label, i) for label in range(3) for i in range(2)]
    np.testing.assert_allclose(levels, expected, atol=2)


def test_processes_share_each_eval_batch(dataset):
    parts = [
        list(dataset.eval_batches(4, process_index=i, process_count=2))
        for i in range(2)
    ]
    assert [[len(b["label"]) for b in part] for part in parts] == [[2, 2], [2, 2]]
    whole = list(dataset.eval_batches(4))
    together = [
        {name: joined(step, name) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(together, whole)


def test_eval_images_are_central_crops(source, tmp_path):
    path = source / "val" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    PIL.Image.fromarray(noise).save(path)
    expected = pictures.central_crop(PIL.Image.open(path), 8)
    batch = next(load(tmp_path, source).eval_batches(1))
    np.testing.assert_array_equal(batch["image"][0], expected)


@pytest.mark.parametrize("kind", ["folders", "prepared"])
def test_worker_processes_give_the_same_batches(kind, folders, data_dir, tmp_path):
    place = (tmp_path, folders) if kind == "folders" else (data_dir,)
    expected = take(load(*place).train_batches(3, 5, start=2), 4)
    actual = take(load(*place, workers=2).train_batches(3, 5, start=2), 4)
    assert_same(actual, expected)


def test_batches_of_many_rows_are_in_order(folders, tmp_path):
    # More rows than are decoded in one piece.
    dataset = load(tmp_path, folders).hold_out(1)
    batch = next(dataset.eval_batches(70))
    assert batch["image"].shape[0] == 70
    assert batch["weight"].sum() == 1


def test_held_out_images_are_spread_over_the_classes(folders, tmp_path):
    dataset = load(tmp_path, folders, validation=3)
    assert (dataset.num_train, dataset.num_test) == (12, 3)
    (batch,) = dataset.eval_batches(3)
    assert batch["label"].tolist() == [0, 1, 2]
    trained = joined(take(dataset.train_batches(0, 12), 1), "image")[:, 0, 0, 0]
    held = batch["image"][:, 0, 0, 0]
    assert not set(held.tolist()) & set(trained.tolist())


def test_holding_out_everything_is_refused(folders, tmp_path):
    with pytest.raises(
        ValueError, match="dataset.validation is 15.* fewer than the 15"
    ):
        load(tmp_path, folders, validation=15)


def test_a_batch_larger_than_the_set_is_refused(dataset):
    with pytest.raises(ValueError, match="batch_size is 16.*15"):
        dataset.train_batches(0, 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(source, tmp_path, workers):
    path = source / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    batches = load(tmp_path, source, workers=workers).train_batches(0, 15)
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image"):
        next(batches)


def test_a_class_folder_without_images_is_named(source, tmp_path):
    folder = source / "val" / CLASSES[2]
    for path in folder.iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ValueError, match=f"{folder} holds no image"):
        load(tmp_path, source)


def test_a_split_without_class_folders_is_named(source, tmp_path):
    shutil.rmtree(source / "train")
    (source / "train").mkdir()
    with pytest.raises(
        ValueError, match=f"{source / 'train'} has no folder.*each class"
    ):
        load(tmp_path, source)


def test_a_missing_split_is_named(source, tmp_path):
    shutil.rmtree(source / "val")
    with pytest.raises(MissingFilesError, match=f"no directory {source / 'val'}. Name"):
        load(tmp_path, source)


def test_classes_that_differ_are_named(source, tmp_path):
    (source / "val" / CLASSES[0]).rename(source / "val" / "n09999999")
    with pytest.raises(ValueError, match=f"missing {CLASSES[0]}; surplus n09999999"):
        load(tmp_path, source)


def test_nothing_to_be_had_says_both_ways_out(tmp_path):
    with pytest.raises(MissingFilesError) as error:
        load(tmp_path)
    message = str(error.value)
    assert f"{tmp_path / 'imagenet2012'} has no prepared copy" in message
    assert "--config.dataset.source_dir=DIR" in message
    assert "--config.dataset.data_dir=DIR" in message


def test_a_copy_that_only_tensorflow_reads_is_named(tmp_path):
    directory = prepare(tmp_path)
    path = directory / "dataset_info.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"})
    )
    with pytest.raises(ValueError, match=f"{directory} was .*tfrecord.*array_record"):
        load(tmp_path)


def test_missing_records_are_named(tmp_path):
    directory = prepare(tmp_path)
    for path in directory.glob("*-train.array_record*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"{directory} is incomplete or damaged"):
        load(tmp_path)


def test_a_missing_split_of_a_prepared_copy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Prepared, "splits", {"train": 5})
    directory = prepare(tmp_path)
    with pytest.raises(ValueError, match=f"{directory} is inc.*no split validation"):
        load(tmp_path)


@pytest.mark.parametrize("shape", [(8, 9, 3), (8, 8, 1), (8, 8)])
def test_crops_are_square_and_in_colour(folders, tmp_path, shape):
    with pytest.raises(ValueError, match=r"dataset.image_shape is .*give \(N, N, 3\)"):
        load(tmp_path, folders, shape)
