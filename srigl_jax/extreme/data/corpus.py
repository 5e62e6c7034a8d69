"""What a run with many labels trains on: bags of features, labels, and their names."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from srigl_jax.extreme.data import bioc, matrix, wordnet, xmc
from srigl_jax.extreme.data.features import Bags, bags
from srigl_jax.extreme.data.points import Points
from srigl_jax.extreme.data.texts import Texts


def _load_prepared(source_dir: str | os.PathLike[str] | None) -> Texts:
    # Imported here, because tensorflow-datasets takes a second.
    from srigl_jax.extreme.data import prepared

    return prepared.load(source_dir)


TEXTS = {
    "wordnet": wordnet.load,
    "go": bioc.load_go,
    "genes": bioc.load_genes,
    "prepared": _load_prepared,
}
"""Sets of texts: functions from a source directory, or None, to `Texts`."""


def _load_xmc(directory: pathlib.Path) -> tuple[Points, Points]:
    train, test = (
        xmc.load(directory / name, skip_unlabelled=True) for name in XMC_FILES
    )
    sizes = [(p.features.shape[1], p.labels) for p in (train, test)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"xmc: train.txt has {sizes[0][0]} features and {sizes[0][1]} labels, "
            f"test.txt {sizes[1][0]} and {sizes[1][1]}: they are of different sets"
        )
    return train, test


XMC_FILES = ("train.txt", "test.txt")

POINTS = {
    "xmc": (XMC_FILES, "a set of the Extreme Classification Repository", _load_xmc),
    "matrix": (
        tuple(f"{name}.npy" for name in matrix.FILES),
        "features and labels as arrays of numpy.save",
        matrix.load,
    ),
}
"""Sets of numbers: their files, what these are, and a function from their directory to
training and test `Points`."""

NAMES = (*TEXTS, *POINTS)
"""What `load` can read: `xmc` is train.txt and test.txt of the repository's format,
`matrix` the arrays that `srigl_jax.extreme.data.matrix` describes, `prepared` any set
of texts that tensorflow-datasets has prepared."""


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words that texts are read by, weighed by TF-IDF.

    Attributes:
      words: their columns are in this order.
      idf: f32[words].
    """

    words: tuple[str, ...]
    idf: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Vocabulary":
        """The words that at least two of the texts have.

        Raises:
          ValueError: there is none.
        """
        vectorizer = _vectorizer(min_df=2)
        try:
            vectorizer.fit(texts)
        except ValueError as error:
            raise ValueError(
                f"{len(texts)} training texts have no word in common: {error}"
            ) from error
        words = tuple(vectorizer.get_feature_names_out().tolist())
        return cls(words, vectorizer.idf_.astype(np.float32))

    def weigh(self, texts: Sequence[str]) -> scipy.sparse.csr_matrix:
        """TF-IDF of texts, f32[texts, words], rows of length 1; 0 without known words.

        The frequency in a text counts by its logarithm.
        """
        vectorizer = _vectorizer(vocabulary=self.words)
        vectorizer.idf_ = self.idf
        return vectorizer.transform(texts)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A set of examples with labels, ready for training.

    Attributes:
      train: features of the training examples, sparse or dense.
      train_positives: i32[examples, most], their labels, padded with -1.
      held_out: features of the examples to evaluate on.
      held_out_positives: i32[examples, most].
      split: what those are, "test" or "validation".
      frequencies: int[labels], training examples of each.
      label_names: what each label stands for.
      vocabulary: of texts; None where features are given.
      propensity: A and B of PSP@k, see `metrics.inverse_propensities`.
    """

    train: scipy.sparse.csr_matrix | np.ndarray
    train_positives: np.ndarray
    held_out: scipy.sparse.csr_matrix | np.ndarray
    held_out_positives: np.ndarray
    split: str
    frequencies: np.ndarray
    label_names: tuple[str, ...]
    vocabulary: Vocabulary | None
    propensity: tuple[float, float] = (0.55, 1.5)

    @property
    def features(self) -> int:
        """How many features there are."""
        return self.train.shape[1]

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return len(self.label_names)

    @property
    def digest(self) -> str:
        """SHA-256 of examples and labels: another one, other data.

        TF-IDF follows from its words; its last bit is the processor's.
        """
        found = hashlib.sha256()
        for features in (self.train, self.held_out):
            arrays = [features]
            if scipy.sparse.issparse(features):
                arrays = [features.indptr, features.indices]
                arrays += [features.data] if self.vocabulary is None else []
            for array in arrays:
                found.update(np.ascontiguousarray(array))
        for array in (self.train_positives, self.held_out_positives):
            found.update(np.ascontiguousarray(array, np.int32))
        words = self.vocabulary.words if self.vocabulary else ()
        found.update(json.dumps([self.split, self.label_names, words]).encode())
        return found.hexdigest()

    def bags(self, most: int) -> tuple[Bags, Bags]:
        """Training and held-out examples, of sparse features the `most` largest."""
        return bags(self.train, most), bags(self.held_out, most)

    def left_out(self, most: int) -> int:
        """How many features of the training examples are beyond the `most` largest."""
        if not scipy.sparse.issparse(self.train):
            return 0
        return int(np.maximum(np.diff(self.train.indptr) - most, 0).sum())


def load(
    name: str,
    source_dir: str | os.PathLike[str] | None = None,
    *,
    validation: int = 0,
    examples: int = 0,
    propensity_a: float = 0.55,
    propensity_b: float = 1.5,
) -> Corpus:
    """Reads a set.

    Args:
      name: one of NAMES.
      source_dir: where its files are; sets from Debian's packages know by themselves.
      validation: hold out so many training examples, of a fixed random choice, to
        evaluate on, instead of the test examples.
      examples: keep so many examples of each split; 0 for all.
      propensity_a: A of PSP@k, see `metrics.inverse_propensities`.
      propensity_b: B of it.

    Raises:
      ValueError: the set is unknown, its files are missing or damaged, or there are
        not so many examples to hold out.
    """
    if name not in NAMES:
        raise ValueError(f"dataset.name is {name!r}: choose {' or '.join(NAMES)}")
    if name in POINTS:
        data = _of_points(name, source_dir, validation, examples)
    else:
        texts = TEXTS[name](source_dir)
        data = of_texts(texts, validation=validation, examples=examples)
    return dataclasses.replace(data, propensity=(propensity_a, propensity_b))


def of_texts(texts: Texts, *, validation: int = 0, examples: int = 0) -> Corpus:
    """Weighs the words of texts by TF-IDF of those that are trained on."""
    train, held_out, split = _rows(len(texts.train), validation)
    train_texts = [texts.train.texts[i] for i in train]
    train_positives = texts.train.positives[train]
    if split == "test":
        others, positives = texts.test.texts, texts.test.positives
    else:
        others = [texts.train.texts[i] for i in held_out]
        positives = texts.train.positives[held_out]
    vocabulary = Vocabulary.of(train_texts)
    some = slice(examples or None)
    return _corpus(
        vocabulary.weigh(train_texts[some]),
        train_positives[some],
        vocabulary.weigh(others[some]),
        positives[some],
        split,
        texts.label_names,
        vocabulary,
    )


def _of_points(name, source_dir, validation, examples) -> Corpus:
    files, what, read = POINTS[name]
    directory = pathlib.Path(source_dir or ".").expanduser()
    missing = [file for file in files if not (directory / file).is_file()]
    if missing or source_dir is None:
        raise ValueError(
            f"{name}: {directory} lacks {', '.join(missing or files)}: name the "
            f"directory that holds {what}, --config.dataset.source_dir=DIR"
        )
    points, test = read(directory)
    order, numbers = _by_frequency(points)
    rows, held_out, split = _rows(len(points.positives), validation)
    others = np.arange(len(test.positives))
    if split == "validation":
        test, others = points, held_out
    rows, others = rows[: examples or None], others[: examples or None]
    return _corpus(
        points.features[rows],
        numbers[points.positives[rows]],
        test.features[others],
        numbers[test.positives[others]],
        split,
        tuple(map(str, order.tolist())),
        None,
    )


def _by_frequency(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Labels by falling frequency, and the place of each in that; -1 stays -1."""
    known = points.positives[points.positives >= 0]
    order = np.argsort(-np.bincount(known, minlength=points.labels), kind="stable")
    numbers = np.full(points.labels + 1, -1, np.int32)  # The last one is that of -1.
    numbers[order] = np.arange(points.labels)
    return order, numbers


def _rows(examples: int, validation: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Training rows, held-out rows, and the name of what is evaluated on."""
    if not 0 <= validation < examples:
        raise ValueError(
            f"dataset.validation is {validation}, of {examples} training examples: "
            "leave at least one to train on"
        )
    order = np.random.default_rng(0).permutation(examples)
    split = "validation" if validation else "test"
    return np.sort(order[validation:]), np.sort(order[:validation]), split


def _corpus(train, train_positives, held_out, positives, split, names, vocabulary):
    known = train_positives[train_positives >= 0]
    frequencies = np.bincount(known, minlength=len(names))
    return Corpus(
        train,
        train_positives,
        held_out,
        positives,
        split,
        frequencies,
        names,
        vocabulary,
    )


def _vectorizer(**options):
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **options)
