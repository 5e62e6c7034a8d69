"""CIFAR-10 as a tensorflow-datasets builder over the official binary archive.

60,000 colour images of 32x32 pixels in ten classes, 50,000 for training (Krizhevsky,
2009). The archive is never downloaded: it is taken from a directory the user names, or
from tensorflow-datasets' own for such files, and must have the official digest.
"""

import hashlib
import os
import pathlib
import tarfile

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from srigl_jax.data.dataset import MissingFilesError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
SIZE = 170_052_171
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

_DIRECTORY = "cifar-10-batches-bin"
_BATCHES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORD = 1 + 3 * 32 * 32  # A label, then the planes of red, green and blue.

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


# Not registered, since the stock builder has the name. The stock builder cannot
# prepare without TensorFlow.
class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of `cifar10`; prepares without TensorFlow as array_record.

    Its `manual_dir` is the directory of the archive; see `find_source`.
    """

    name = "cifar10"
    # Not a version of the stock builder, whose prepared copy may lie beside this one.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The official binary archive."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"manual_dir must hold {ARCHIVE}, from {URL}"
    # Sorts what the stock builder shuffles into the order of the archive.
    STOCK_ORDER = "id"

    @staticmethod
    def find_source(
        source_dir: str | os.PathLike[str] | None, manual_dir: pathlib.Path
    ) -> pathlib.Path:
        """Returns the directory that holds the archive.

        Args:
          source_dir: Where to look; None for `manual_dir`.
          manual_dir: Where tensorflow-datasets has files that users put there.

        Raises:
          MissingFilesError: The archive is not there.
        """
        directory = pathlib.Path(source_dir or manual_dir).expanduser()
        if not (directory / ARCHIVE).is_file():
            raise MissingFilesError(
                f"CIFAR-10: {directory} lacks {ARCHIVE}. Download {URL} ({SIZE:,} "
                f"bytes), and put it into {manual_dir}, or name the directory that "
                "holds it: --config.dataset.source_dir=DIR"
            )
        return directory

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Colour images of 32x32 pixels in ten classes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # Examples keep the order of their source.
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager):
        # Both splits are read and checked before the first example is written.
        splits = read_archive(pathlib.Path(dl_manager.manual_dir) / ARCHIVE)
        return {split: self._generate_examples(*pair) for split, pair in splits.items()}

    def _generate_examples(self, images, labels):
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": PIL.Image.fromarray(image), "label": int(label)}


def read_archive(path: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the official archive and checks its digest.

    Returns:
      For "train" and "test": images, uint8[N, 32, 32, 3], and labels, uint8[N].

    Raises:
      ValueError: The archive is damaged or not the official one.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{path} is not the official file, or was cut off: its sha256 is {digest}, "
            f"expected {SHA256}; it has {path.stat().st_size:,} bytes, expected "
            f"{SIZE:,}. Download it again: {URL}"
        )
    try:
        with tarfile.open(path) as archive:
            return {
                split: _join([_read_batch(archive, path, name) for name in names])
                for split, names in _BATCHES.items()
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no archive that can be read: {error}") from error


def _read_batch(
    archive: tarfile.TarFile, path: pathlib.Path, name: str
) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = archive.extractfile(f"{_DIRECTORY}/{name}").read()
    except KeyError as error:
        raise ValueError(f"{path} lacks {_DIRECTORY}/{name}") from error
    if not content or len(content) % _RECORD:
        raise ValueError(
            f"{_DIRECTORY}/{name} in {path} is truncated: it has {len(content)} bytes, "
            f"not a multiple of {_RECORD}, the size of an image and its label"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() >= len(CLASS_NAMES):
        raise ValueError(
            f"{_DIRECTORY}/{name} in {path} has the label {labels.max()}, but there "
            f"are {len(CLASS_NAMES)} classes"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _join(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
