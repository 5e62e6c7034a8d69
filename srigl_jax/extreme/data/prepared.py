"""Sets of texts with labels in the form of tensorflow-datasets: made, and read.

    from srigl_jax.extreme.data.prepared import WordNet
    WordNet(data_dir="sets").download_and_prepare(file_format="array_record")

writes sets/wordnet/1.0.0, which is read without the original files, here and by
`tfds.data_source`. Any other set of the same features is read as well, if it is in
array_record, the format that needs no TensorFlow.
"""

import os
import pathlib

import tensorflow_datasets as tfds

from srigl_jax.data.prepared import FORMAT, is_readable
from srigl_jax.extreme.data import bioc, wordnet
from srigl_jax.extreme.data.texts import Examples, Texts, number

PIECE = 4096
"""Examples read at a time."""


class TextSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose examples have a `text` and `labels`, names in no certain order.

    Attributes:
      read: from a source directory, or None, to `Texts`.
      about: what text and labels are.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "A fifth of the texts, by a hash, are the test split."}

    def __init__(
        self, *, source_dir: str | os.PathLike[str] | None = None, **options
    ) -> None:
        """Reads nothing yet.

        Args:
          source_dir: the original files; None for where Debian's package puts them.
          **options: of `tfds.core.DatasetBuilder`, `data_dir` say.
        """
        self._source_dir = source_dir
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.about,
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "labels": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            disable_shuffling=True,  # Examples keep the order of their source.
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        texts = self.read(self._source_dir)
        return {
            "train": self._generate_examples(texts.train, texts.label_names),
            "test": self._generate_examples(texts.test, texts.label_names),
        }

    def _generate_examples(self, split, label_names):
        pairs = zip(split.texts, split.positives.tolist(), strict=True)
        for i, (text, positives) in enumerate(pairs):
            names = [label_names[label] for label in positives if label >= 0]
            yield i, {"text": text, "labels": names}


class WordNet(TextSet, skip_registration=True):
    """Builder of `wordnet`."""

    name = "wordnet"
    read = staticmethod(wordnet.load)
    about = "From the definition of a synset to the synsets that its pointers name."


class GeneOntology(TextSet, skip_registration=True):
    """Builder of `go`."""

    name = "go"
    read = staticmethod(bioc.load_go)
    about = "From the definition of a term of the Gene Ontology to its direct parents."


class GeneToPaper(TextSet, skip_registration=True):
    """Builder of `genes`."""

    name = "genes"
    read = staticmethod(bioc.load_genes)
    about = "From what is known of a human gene to the articles that cite it."


def load(directory: str | os.PathLike[str] | None) -> Texts:
    """Reads a prepared set: splits `train` and `test` of `text` and `labels`.

    Args:
      directory: of one version, such as sets/wordnet/1.0.0.

    Raises:
      ValueError: there is no such set, it is damaged, its files need TensorFlow, or its
        features or splits are others.
    """
    if directory is None:
        raise ValueError(
            "prepared: name the directory of a prepared set, of one version of it: "
            "--config.dataset.source_dir=DIR"
        )
    directory = pathlib.Path(directory).expanduser()
    if not (directory / "dataset_info.json").is_file():
        raise ValueError(
            f"{directory} is no prepared set: give the directory of one version, which "
            "has a dataset_info.json"
        )
    if not is_readable(directory):
        raise ValueError(
            f"{directory} needs TensorFlow to be read: prepare it with "
            f"file_format={FORMAT!r}"
        )
    builder = tfds.builder_from_directory(directory)
    found = *sorted(builder.info.features), *sorted(builder.info.splits)
    if lost := {"text", "labels", "train", "test"} - set(found):
        raise ValueError(
            f"{directory} has {', '.join(found)}, but no "
            f"{', '.join(sorted(lost))}: give a set of splits train and test, whose "
            "examples have a text and labels"
        )
    try:
        train, test = _examples(builder, "train"), _examples(builder, "test")
    except Exception as error:  # Whatever the record reader raises.
        raise ValueError(
            f"the prepared set in {directory} is incomplete or damaged "
            f"({type(error).__name__}: {error}): prepare it again"
        ) from error
    return number(train, test)


def _examples(builder, split) -> Examples:
    source = builder.as_data_source(split)
    found = []
    for start in range(0, len(source), PIECE):
        piece = range(start, min(start + PIECE, len(source)))
        for example in source.__getitems__(piece):
            names = [name.decode() for name in example["labels"]]
            found.append((example["text"].decode(), names))
    return found
