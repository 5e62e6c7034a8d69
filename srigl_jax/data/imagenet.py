"""ImageNet-1k, or a set arranged like it, streamed from where it lies.

Either tensorflow-datasets has prepared `imagenet2012` in the data directory, or there
is a folder of class folders, `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`, in a
directory the user names. Nothing is copied or downloaded.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from srigl_jax.data import prepared
from srigl_jax.data.dataset import MissingFilesError
from srigl_jax.data.streamed import StreamedDataset

NAME = "imagenet2012"
# Of the usual recipes, in units of pixels from 0 to 255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_ENDINGS = (".jpeg", ".jpg", ".png")
_WAYS_OUT = (
    "Name a directory that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG with "
    "--config.dataset.source_dir=DIR, or one in which tensorflow-datasets has prepared "
    "imagenet2012 with file_format='array_record' with --config.dataset.data_dir=DIR"
)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassFolders:
    """The images below a directory of one folder for each class; `Records`.

    Attributes:
      root: The directory.
      files: bytes[N], paths below it. An array, since it goes to each worker.
      labels: int32[N].
    """

    root: str
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[bytes, int, str]:
        """Returns an image's file, its label, and its path."""
        path = pathlib.Path(self.root, os.fsdecode(self.files[index]))
        return path.read_bytes(), int(self.labels[index]), str(path)


@dataclasses.dataclass(frozen=True)
class PreparedRecords:
    """The images of a split that tensorflow-datasets has prepared; `Records`."""

    directory: pathlib.Path
    split: str

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(_open(self.directory, self.split))

    def __getitem__(self, index: int) -> tuple[bytes, int, str]:
        """Returns an encoded image, its label, and where it is."""
        example = _open(self.directory, self.split)[index]
        name = f"example {index} of {self.split} in {self.directory}"
        return example["image"], int(example["label"]), name


def load(
    root: pathlib.Path,
    source_dir: str | os.PathLike[str] | None,
    image_shape: tuple[int, int, int],
    *,
    workers: int = 0,
) -> StreamedDataset:
    """Finds the set; reads no image.

    Args:
      root: Where tensorflow-datasets has prepared sets.
      source_dir: With class folders; if given, `root` is not looked at.
      image_shape: Of the crops: (224, 224, 3), or other equal sides.
      workers: Processes that decode; 0 for threads of this process.

    Raises:
      ValueError: There is no set, it cannot be read without TensorFlow, or its folders
        are not as described above.
    """
    image_shape = tuple(image_shape)
    size = image_shape[0]
    if image_shape != (size, size, 3) or size < 1:
        raise ValueError(
            f"dataset.image_shape is {image_shape}, but {NAME} is cropped to squares "
            "in colour: give (N, N, 3)"
        )
    if source_dir:
        train, test, class_names = _folders(pathlib.Path(source_dir).expanduser())
    else:
        train, test, class_names = _prepared(root)
    return StreamedDataset(
        name=NAME,
        class_names=class_names,
        mean=MEAN,
        std=STD,
        train=train,
        test=test,
        size=size,
        workers=workers,
    )


def _folders(directory: pathlib.Path):
    train, names = _class_folders(directory / "train")
    test, test_names = _class_folders(directory / "val")
    if names != test_names:
        missing, surplus = set(names) - set(test_names), set(test_names) - set(names)
        raise ValueError(
            f"the classes in {directory / 'val'} are not those in "
            f"{directory / 'train'}: missing {_some(missing)}; surplus {_some(surplus)}"
        )
    return train, test, names


def _class_folders(directory: pathlib.Path) -> tuple[ClassFolders, tuple[str, ...]]:
    if not directory.is_dir():
        raise MissingFilesError(
            f"{NAME}: there is no directory {directory}. {_WAYS_OUT}"
        )
    names = tuple(sorted(e.name for e in os.scandir(directory) if e.is_dir()))
    if not names:
        raise MissingFilesError(
            f"{NAME}: {directory} has no folder, but must have one for each class, "
            f"with its images. {_WAYS_OUT}"
        )
    files, labels = [], []
    for label, name in enumerate(names):
        images = sorted(
            entry.name
            for entry in os.scandir(directory / name)
            if entry.name.lower().endswith(_ENDINGS)
        )
        if not images:
            raise ValueError(
                f"{directory / name} holds no image ({', '.join(_ENDINGS)}): each "
                "class needs one. Put its images there, or remove the folder, also in "
                "the other split"
            )
        files += [os.fsencode(f"{name}/{image}") for image in images]
        labels += [label] * len(images)
    labels = np.array(labels, np.int32)
    return ClassFolders(str(directory), np.array(files), labels), names


def _prepared(root: pathlib.Path):
    found = prepared.versions(root / NAME)
    if not found:
        raise MissingFilesError(
            f"{NAME}: source_dir is not set, and {root / NAME} has no prepared copy. "
            f"{_WAYS_OUT}"
        )
    directory = next(filter(prepared.is_readable, found), None)
    if directory is None:
        raise ValueError(
            f"{NAME} in {found[0]} was prepared in a format that only TensorFlow reads "
            "one by one, such as tfrecord. Where TensorFlow is installed, prepare it "
            "again: tfds build imagenet2012 --file_format=array_record. Or name a "
            "directory of class folders: --config.dataset.source_dir=DIR"
        )
    try:
        info = tfds.builder_from_directory(directory).info
        lacking = {"train", "validation"} - set(info.splits)
        if lacking:
            raise FileNotFoundError(f"it has no split {', '.join(sorted(lacking))}")
        train, test = (PreparedRecords(directory, s) for s in ("train", "validation"))
        for records in (train, test):
            if not len(records):
                raise FileNotFoundError(f"its split {records.split} is empty")
            for path in info.splits[records.split].filepaths:
                if not path.exists():
                    raise FileNotFoundError(f"it lacks {path.name}")
        return train, test, tuple(info.features["label"].names)
    except Exception as error:  # Whatever the readers of its files raise.
        raise ValueError(
            f"the prepared data set in {directory} is incomplete or damaged "
            f"({type(error).__name__}: {error}): prepare it again, or name a directory "
            "of class folders: --config.dataset.source_dir=DIR"
        ) from error


# Opened once in each process, since the readers cannot be sent to workers.
@functools.cache
def _open(directory: pathlib.Path, split: str):
    skip = {"image": tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(directory).as_data_source(split, decoders=skip)


def _some(names: set[str]) -> str:
    shown = sorted(names)[:5]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(shown) or "none") + more
