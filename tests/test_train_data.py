"""Runs on data that are made up, padded, or streamed from files."""

import signal

import numpy as np
import PIL.Image
import pytest
from runs import bits, records, tiny, tiny_convnet

from srigl_jax import train as train_lib
from srigl_jax.data import StreamedDataset
from srigl_jax.train import Stopped, train


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(train_lib, "write_report", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twelve small JPEGs of two classes, bright and dark."""
    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, level in (("n0", 20), ("n1", 160)):
            (root / split / name).mkdir(parents=True)
            for i in range(count // 2):
                pixels = rng.integers(level, level + 80, (12, 14, 3), np.uint8)
                path = root / split / name / f"{i}.JPEG"
                PIL.Image.fromarray(pixels).save(path)
    return root


def streamed(folders, tmp_path, **fields):
    config = tiny_convnet(
        tmp_path,
        **{
            "dataset__name": "imagenet2012",
            "dataset__image_shape": (8, 8, 3),
            "batch_size": 4,
            "epochs": 4,
            "eval_every": 6,
            "augment__flip": True,
        }
        | fields,
    )
    config.dataset.source_dir = str(folders)
    return config


def losses(workdir):
    return [record["loss"] for record in records(workdir, "train")]


def test_a_network_learns_what_is_made_up(tmp_path):
    config = tiny(
        tmp_path,
        dataset__name="synthetic",
        dataset__image_shape=(6, 6, 3),
        dataset__examples=320,
    )
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] / 2


def test_all_augmentations_train_together(tmp_path):
    config = tiny_convnet(
        tmp_path,
        dataset__name="synthetic",
        dataset__image_shape=(8, 8, 3),
        dataset__examples=192,
        delta_t=2,
        label_smoothing=0.1,
        augment__crop_padding=2,
        augment__flip=True,
        augment__randaugment=2,
        augment__mixup=0.2,
        augment__cutmix=1.0,
    )
    train(config, tmp_path / "run")
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_digits_padded_to_another_shape_train(tmp_path):
    config = tiny(tmp_path, dataset__image_shape=(10, 10, 3), epochs=2)
    result = train(config, tmp_path / "run")
    assert tuple(result["layers"][0]["shape"]) == (300, 16)


def test_a_streamed_run_that_was_stopped_resumes_bit_for_bit(
    folders, tmp_path, monkeypatch
):
    config = streamed(folders, tmp_path)
    train(config, tmp_path / "whole")
    batches = StreamedDataset.train_batches

    def stopping(dataset, seed, batch_size, *, start, **share):
        whole = batches(dataset, seed, batch_size, start=start, **share)
        for step, batch in enumerate(whole):
            if step == 4:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(StreamedDataset, "train_batches", stopping)
        with pytest.raises(Stopped, match="after step 5 of 12"):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)
    assert records(tmp_path / "run", "eval") == records(tmp_path / "whole", "eval")


def test_images_that_cannot_be_mirrored_over_their_sides_leave_no_workdir(tmp_path):
    config = tiny(tmp_path, augment__crop_padding=8)
    with pytest.raises(ValueError, match="augment.crop_padding is 8.* 8 and 8"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
