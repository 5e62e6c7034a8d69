"""The images of a prepared builder as arrays in memory, decoded once a machine.

Decoding Fashion-MNIST's 70,000 PNGs takes some ten seconds, reading back what came out
a tenth of one. So the arrays are kept beside the prepared records, in a file named by
the digest of those records: the records stay the only source of truth, and a copy that
is missing, stale, damaged or cannot be written costs time and nothing else.
"""

import hashlib
import io
import os
import pathlib
import sys
import zipfile

import numpy as np
import PIL.Image
import rich.console
import rich.progress
import tensorflow_datasets as tfds

_CHUNK = 500

Arrays = dict[str, np.ndarray]


def read(builder: tfds.core.DatasetBuilder, order: str | None = None) -> Arrays:
    """Reads the train and test splits of a prepared builder.

    Args:
      builder: Prepared as array_record, with the features "image" (uint8) and "label".
      order: The feature by whose values the examples are to be sorted, if any.

    Returns:
      `{split}_images`, uint8[N, H, W, C], and `{split}_labels`, int32[N], in the order
      of the records, or as `order` has it.
    """
    directory = pathlib.Path(builder.data_dir)
    copy = directory / f"decoded-{_digest(directory)[:16]}.npz"
    arrays = _load(copy)
    if arrays is None:
        arrays = _decode(builder, "train", order) | _decode(builder, "test", order)
        _save(copy, arrays)
    return arrays


def _decode(builder: tfds.core.DatasetBuilder, split: str, order) -> Arrays:
    # PNG is decoded here, because tensorflow-datasets picks a decoder by what happens
    # to be installed, and logs a warning when that is not OpenCV.
    skip = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=skip)
    shape = builder.info.features["image"].shape
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    places = []
    chunks = rich.progress.track(
        range(0, len(source), _CHUNK),
        description=f"Decoding {builder.name}, {split}",
        console=rich.console.Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    for start in chunks:
        keys = range(start, min(start + _CHUNK, len(source)))
        for key, example in zip(keys, source.__getitems__(keys), strict=True):
            with PIL.Image.open(io.BytesIO(example["image"])) as image:
                images[key] = np.asarray(image).reshape(shape)
            labels[key] = example["label"]
            if order:
                places.append(example[order])
    if order:
        sorting = np.argsort(places, kind="stable")
        images, labels = images[sorting], labels[sorting]
    return {f"{split}_images": images, f"{split}_labels": labels}


def _digest(directory: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.array_record-*")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load(path: pathlib.Path) -> Arrays | None:
    try:
        # Opened here, since np.load leaves a file that is no archive open. The members
        # of an npz carry a CRC, which is checked as they are read.
        with path.open("rb") as file, np.load(file) as members:
            return dict(members)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: pathlib.Path, arrays: Arrays) -> None:
    # Written aside and renamed: another process never sees half a file.
    aside = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(aside, **arrays)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
