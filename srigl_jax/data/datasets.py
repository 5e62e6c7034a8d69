"""Data sets by name.

What `load` returns depends on its arguments alone: the same examples in the order of
their source, with the same statistics, on every machine.
"""

import os

from srigl_jax.data import (
    cifar10,
    digits,
    fashion_mnist,
    imagenet,
    prepared,
    synthetic,
)
from srigl_jax.data.dataset import Dataset

_BUILDERS = {
    "digits": digits.Digits,
    "fashion_mnist": fashion_mnist.FashionMNIST,
    "cifar10": cifar10.Cifar10,
}
DATASETS = (*_BUILDERS, "imagenet2012", "synthetic")


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    source_dir: str | os.PathLike[str] | None = None,
    image_shape: tuple[int, ...] = (),
    validation: int = 0,
    workers: int = 0,
    classes: int = 10,
    examples: int = 2048,
) -> Dataset:
    """Loads a data set, preparing it first if this machine has not yet.

    Sets of small images lie in memory; imagenet2012 is streamed.

    Args:
      name: One of `DATASETS`.
      data_dir: Where prepared sets are kept. None means tensorflow-datasets' default:
        the environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      source_dir: Where the original files are, for a set that needs some; looked at
        only when the set is not prepared yet.
      image_shape: Height, width and channels that a network is to see; () for those of
        the data set. imagenet2012 is cropped to it, synthetic made in it, all others
        are padded.
      validation: Training examples to take the place of the test split.
      workers: Processes that decode a streamed set; 0 for threads of this process.
      classes: Of synthetic.
      examples: Training examples of synthetic.

    Returns:
      The data set. Several processes may load one at the same time.

    Raises:
      ValueError: The name is unknown, the original files are missing or damaged, the
        prepared copy is damaged, `data_dir` cannot be written, or `image_shape` or
        `validation` do not suit the set.
    """
    if name not in DATASETS:
        raise ValueError(
            f"dataset.name is {name!r}: choose one of {', '.join(DATASETS)}"
        )
    root = prepared.data_root(data_dir)
    if name == "synthetic":
        dataset = synthetic.make(image_shape or (32, 32, 3), classes, examples)
    elif name == "imagenet2012":
        dataset = imagenet.load(
            root, source_dir, image_shape or (224, 224, 3), workers=workers
        )
    else:
        dataset = prepared.load(name, _BUILDERS[name], root, source_dir)
        dataset = dataset.padded(image_shape) if image_shape else dataset
    return dataset.hold_out(validation)
