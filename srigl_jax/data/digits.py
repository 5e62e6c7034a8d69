"""scikit-learn's bundled handwritten digits as a tensorflow-datasets builder.

1,797 images of 8x8 pixels in ten classes, the test part of the UCI "Optical
Recognition of Handwritten Digits" set. Pixels keep their original range, 0 to 16.
Nothing is downloaded.

The set comes without a split; the one here is this library's own: with the examples
sorted by class (stably, so otherwise in file order), every fifth one from the first on
is a test example. That makes 1,437 training and 360 test examples, gives each class
the same share of both to within one example, and depends on no random generator.
"""

import os
import pathlib

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

_TEST_EVERY = 5


# Not registered: `tfds.builder` is to find only what the user asked it to.
class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of `digits`; prepares without TensorFlow as array_record."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Every fifth example of each class is a test example."}

    @staticmethod
    def find_source(
        source_dir: str | os.PathLike[str] | None, manual_dir: pathlib.Path
    ) -> None:
        """Refuses a source directory: the images come with scikit-learn.

        Raises:
          ValueError: `source_dir` is given.
        """
        del manual_dir
        if source_dir:
            raise ValueError(
                f"dataset.source_dir is {str(source_dir)!r}, but digits comes with "
                "scikit-learn and reads no files; leave dataset.source_dir unset."
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels in 0..16, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # Examples keep the order of their source.
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        # Imported here, because it takes a second and is needed once a machine.
        import sklearn.datasets

        bunch = sklearn.datasets.load_digits()
        images = bunch.images.astype(np.uint8)
        by_class = np.argsort(bunch.target, kind="stable")
        test = by_class[::_TEST_EVERY]
        train = np.setdiff1d(by_class, test)
        return {
            "train": self._generate_examples(images, bunch.target, train),
            "test": self._generate_examples(images, bunch.target, test),
        }

    def _generate_examples(self, images, labels, positions):
        for position in positions.tolist():
            image = PIL.Image.fromarray(images[position])
            yield position, {"image": image, "label": int(labels[position])}
