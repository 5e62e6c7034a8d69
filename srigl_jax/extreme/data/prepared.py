"""Sets of texts with labels in the form of tensorflow-datasets: made, and read.

    python -m srigl_jax.extreme.data.prepared wordnet --data_dir sets

writes sets/wordnet/1.0.0, which is read without the original files, here and by
`tfds.data_source`. Any other set is read as well that has splits train and test, whose
examples have a `text`, Text, and `labels`, a Sequence of Text or of ClassLabel, in
array_record, the format that needs no TensorFlow.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import tensorflow_datasets as tfds

from srigl_jax.data.prepared import FORMAT, data_root, is_readable
from srigl_jax.extreme.data import bioc, wordnet
from srigl_jax.extreme.data.texts import Examples, Texts, number

SPLITS = ("train", "test")
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


BUILDERS = {builder.name: builder for builder in (WordNet, GeneOntology, GeneToPaper)}


def load(directory: str | os.PathLike[str] | None) -> Texts:
    """Reads a prepared set: splits `train` and `test` of `text` and `labels`.

    Texts without labels are left out.

    Args:
      directory: of one version, such as sets/wordnet/1.0.0.

    Raises:
      ValueError: there is no such set, it is damaged, its files need TensorFlow, its
        features or splits are others, or a split has no text with labels.
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
    _check_splits(directory, builder.info.splits)
    name_of = _name_of(directory, builder.info.features)
    try:
        train, test = (_examples(builder, split, name_of) for split in SPLITS)
    except Exception as error:  # Whatever the record reader raises.
        raise ValueError(
            f"the prepared set in {directory} is incomplete or damaged "
            f"({type(error).__name__}: {error}): prepare it again"
        ) from error
    for split, examples in zip(SPLITS, (train, test), strict=True):
        if not examples:
            raise ValueError(f"{directory}: no text of split {split} has a label")
    return number(train, test)


def _check_splits(directory, splits) -> None:
    if lost := set(SPLITS) - set(splits):
        raise ValueError(
            f"{directory} has the splits {', '.join(sorted(splits)) or 'none'}, but no "
            f"{' and no '.join(sorted(lost))}: give a set that has train and test"
        )


def _name_of(directory, features) -> Callable:
    """From a label, as it is stored, to its name."""
    found = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    text, labels = found.get("text"), found.get("labels")
    label = labels.feature if isinstance(labels, tfds.features.Sequence) else None
    if isinstance(text, tfds.features.Text):
        if isinstance(label, tfds.features.ClassLabel):
            return label.int2str
        if isinstance(label, tfds.features.Text):
            return bytes.decode
    raise ValueError(
        f"{directory} has examples of {features}: give a set whose examples have a "
        "text, Text, and labels, a Sequence of Text or of ClassLabel"
    )


def _examples(builder, split, name_of) -> Examples:
    source = builder.as_data_source(split)
    found = []
    for start in range(0, len(source), PIECE):
        piece = range(start, min(start + PIECE, len(source)))
        for example in source.__getitems__(piece):
            if names := [name_of(label) for label in example["labels"]]:
                found.append((example["text"].decode(), names))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepares one of the three sets with the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m srigl_jax.extreme.data.prepared",
        description="Prepares a set of texts, and says where it is.",
    )
    parser.add_argument("name", choices=BUILDERS, help="which set")
    parser.add_argument(
        "--data_dir", help="where to; tensorflow-datasets' directory unless given"
    )
    parser.add_argument(
        "--source_dir",
        help="where the original files are; where Debian's package puts them unless "
        "given",
    )
    flags = parser.parse_args(arguments)
    builder = BUILDERS[flags.name](
        data_dir=data_root(flags.data_dir), source_dir=flags.source_dir
    )
    try:
        builder.download_and_prepare(file_format=FORMAT)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    where = f"--config.dataset.source_dir={builder.data_dir}"
    print(f"--config.dataset.name=prepared {where}")


if __name__ == "__main__":
    main()
