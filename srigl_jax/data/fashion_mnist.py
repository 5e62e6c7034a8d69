"""Fashion-MNIST as a tensorflow-datasets builder over the four official idx files.

70,000 grey images of 28x28 pixels in ten classes of clothing, 60,000 for training
(Xiao et al., 2017, arXiv:1708.07747). The files are never downloaded: they are taken
from a directory the user names, or from where Debian's package puts them, and must
have the official digests.
"""

import os
import pathlib

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from srigl_jax.data import idx
from srigl_jax.data.dataset import MissingFilesError

DEBIAN_DIR = "/usr/share/datasets/fashion-mnist"

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# Of the decompressed files: the compressed ones differ with the tool that made them.
SHA256 = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}


CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


# Not registered, since the stock builder has the name. The stock builder cannot
# prepare without TensorFlow (it yields numpy images), so this is not a subclass of it.
class FashionMNIST(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of `fashion_mnist`; prepares without TensorFlow as array_record.

    Its `manual_dir` is the directory of the four files; see `find_source`.
    """

    name = "fashion_mnist"
    # Not a version of the stock builder, whose prepared copy (usually tfrecord, which
    # needs TensorFlow to read) may lie in the same data directory.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The official files."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir must hold the official files, compressed or not: "
        + ", ".join(f"{name}.gz" for name in SHA256)
    )

    @staticmethod
    def find_source(
        source_dir: str | os.PathLike[str] | None,
        manual_dir: pathlib.Path | None = None,
    ) -> pathlib.Path:
        """Returns the directory that holds the four files.

        Args:
          source_dir: Where to look; None for the directory of Debian's package.
          manual_dir: Not looked at.

        Raises:
          MissingFilesError: A file is missing there, both as such and with ".gz".
        """
        del manual_dir
        directory = pathlib.Path(source_dir or DEBIAN_DIR).expanduser()
        missing = [name for name in SHA256 if _find(directory, name) is None]
        if missing:
            raise MissingFilesError(
                f"Fashion-MNIST: {directory} lacks {', '.join(missing)}. Either "
                "install Debian's package (apt-get install dataset-fashion-mnist), or "
                "name a directory that holds the four official files "
                f"({', '.join(f'{name}.gz' for name in SHA256)}): "
                "--config.dataset.source_dir=DIR"
            )
        return directory

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Grey images of 28x28 pixels of clothing in ten classes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # Examples keep the order of their source.
            homepage="https://github.com/zalandoresearch/fashion-mnist",
        )

    def _split_generators(self, dl_manager):
        # Both splits are read and checked before the first example is written.
        arrays = {split: read_split(dl_manager.manual_dir, split) for split in FILES}
        return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

    def _generate_examples(self, images, labels):
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            image = PIL.Image.fromarray(image)
            yield key, {"image": image, "label": int(label)}


def read_split(
    directory: str | os.PathLike[str], split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the two official files of a split and checks their digests.

    Args:
      directory: One that `FashionMNIST.find_source` accepts.
      split: "train" or "test".

    Returns:
      Images, uint8[N, 28, 28], and labels, uint8[N].

    Raises:
      ValueError: A file is damaged or not the official one.
    """
    images, labels = (
        idx.read(_find(pathlib.Path(directory), name), sha256=SHA256[name])
        for name in FILES[split]
    )
    return images, labels


def _find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    candidates = (directory / name, directory / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)
